"""Accuracy against overconfidence of every training regime, on the embedded digits.

Trains the data and network of `configs/default.yaml` once per seed under every overlay of `configs/regimes/` at its
default strength, and the dial at five strengths. Runs with the same seed start from the same weights, so that a regime
is compared with cross-entropy seed by seed. Scores are of the raw logits on the test split, which nothing else sees:
no model is selected, the last epoch counts.

Writes `regimes.csv` (one line a run), `regimes.png` and `regimes.svg` to `--out` and prints a table. The exit status is
1 when the dial's overconfidence (mean over the seeds) does not rise with its strength.

    python benchmarks/regimes.py --jobs 2
"""

import argparse
import csv
import importlib.metadata
import logging
import math
import multiprocessing
import re
import statistics
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import cast, get_args

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer, seed_everything
from matplotlib.figure import Figure
from regimes_figure import Direction, Point, draw_regimes

from qcal.data import ImageDataModule
from qcal.functional.calibration import ece
from qcal.functional.confidence import accuracy, confidence_from_logits, overconfidence
from qcal.plots import style
from qcal.plots.save import save_figure
from qcal.tasks import Classifier

BASELINE = "cross_entropy"
DIAL = "dial"
STRENGTHS = (-1.0, -0.5, 0.0, 0.5, 1.0)
CONFIGS = files("qcal.configs")


@dataclass(frozen=True)
class Job:
    """One network to train: a regime, for the dial its strength, and a seed."""

    regime: str
    strength: float | None
    seed: int


@dataclass(frozen=True)
class Run(Job):
    """The scores of one trained network on the test split, as fractions."""

    accuracy: float
    overconfidence: float
    ece: float


def main() -> int:
    arguments = parse_arguments()
    csv_path = arguments.out / "regimes.csv"
    start = time.perf_counter()
    if arguments.redraw:
        runs = read_csv(csv_path)
    else:
        jobs = [Job(name, strength, seed) for seed in range(arguments.seeds) for name, strength in regimes()]
        runs = train_all(jobs, epochs=arguments.epochs, processes=arguments.jobs)
        write_csv(csv_path, runs)
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "lightning"))
        print(f"{len(runs)} networks, {arguments.epochs} epochs, {time.perf_counter() - start:.0f} s; {versions}")
    summaries = summarise(runs)
    print_table(summaries)
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    points = [summary.point for summary in summaries]
    draw_regimes(figure.add_subplot(), points, num_seeds=len(summaries[0].runs))
    for path in save_figure(figure, arguments.out, "regimes"):
        print(path)
    return check_dial(summaries)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    epochs = default_config()["trainer"]["max_epochs"]
    parser.add_argument("--epochs", type=positive, default=epochs, help=f"of each run; {epochs}, as in default.yaml")
    parser.add_argument("--seeds", type=positive, default=3, help="runs per regime, seeds 0, 1, ...; 3")
    parser.add_argument(
        "--jobs", type=positive, default=2, help="networks trained at the same time, one thread each; 2"
    )
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the CSV and the picture; docs")
    parser.add_argument("--redraw", action="store_true", help="train nothing, take the CSV that is in --out")
    return parser.parse_args()


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(
            f"must be an integer of at least 1, got {number}. Leave it out for the default."
        )
    return number


def default_config() -> dict[str, dict[str, object]]:
    return cast(dict[str, dict[str, object]], yaml.safe_load(CONFIGS.joinpath("default.yaml").read_text()))


def regimes() -> list[tuple[str, float | None]]:
    """Every overlay by name, and the dial once per strength."""
    names = sorted(entry.name.removesuffix(".yaml") for entry in CONFIGS.joinpath("regimes").iterdir())
    named: list[tuple[str, float | None]] = [(name, None) for name in names if name not in ("README.md", DIAL)]
    return named + [(DIAL, strength) for strength in STRENGTHS]


# --- Training -----------------------------------------------------------------------------------------------------


def train_all(jobs: Sequence[Job], *, epochs: int, processes: int) -> list[Run]:
    """Train in worker processes; the runs come back in the order of the jobs."""
    runs = []
    # Spawned, because forking a process that holds torch's threads is unsafe.
    with multiprocessing.get_context("spawn").Pool(processes, initializer=start_worker) as pool:
        for run in pool.imap(Training(epochs), jobs):
            runs.append(run)
            print(f"\r{len(runs)} of {len(jobs)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return runs


def start_worker() -> None:
    torch.set_num_threads(1)  # the network is so small that threads would wait for each other
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.. is deprecated")
    warnings.filterwarnings("ignore", message="The number of training batches .* is smaller")


@dataclass(frozen=True)
class Training:
    """A job in, its run out; a class, so that it can be sent to a worker."""

    epochs: int

    def __call__(self, job: Job) -> Run:
        """Train one network from scratch and score it."""
        seed_everything(job.seed, verbose=False)
        model, data = build(job)
        trainer = Trainer(
            max_epochs=self.epochs,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,  # nothing is selected by it
        )
        trainer.fit(model, datamodule=data)
        logits = torch.cat(cast(list[torch.Tensor], trainer.predict(model, data.test_dataloader())))
        target = torch.cat([y for _, y in data.test_dataloader()])
        confidence, prediction = confidence_from_logits(logits)
        correct = prediction == target
        return Run(
            **asdict(job),
            accuracy=accuracy(prediction, target).item(),
            overconfidence=overconfidence(confidence, correct).item(),
            ece=ece(confidence, correct).item(),
        )


def build(job: Job) -> tuple[Classifier, ImageDataModule]:
    """The classifier and data of `default.yaml` with the regime's overlay, as the command line would build them."""
    config = default_config()
    overlay = yaml.safe_load(CONFIGS.joinpath(f"regimes/{job.regime}.yaml").read_text())
    if job.strength is not None:
        overlay["model"]["loss"]["init_args"]["strength"] = job.strength
    parser = ArgumentParser()
    parser.add_class_arguments(Classifier, "model")
    parser.add_subclass_arguments(ImageDataModule, "data")
    parsed = parser.parse_object({"data": config["data"], "model": config["model"] | overlay["model"]})
    built = parser.instantiate_classes(parsed)
    return built.model, built.data


# --- Results ------------------------------------------------------------------------------------------------------


def write_csv(path: Path, runs: Iterable[Run]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Run)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(run) for run in runs)


def read_csv(path: Path) -> list[Run]:
    with path.open(newline="") as file:
        return [
            Run(
                row["regime"],
                float(row["strength"]) if row["strength"] else None,
                int(row["seed"]),
                *(float(row[name]) for name in ("accuracy", "overconfidence", "ece")),
            )
            for row in csv.DictReader(file)
        ]


@dataclass(frozen=True)
class Summary:
    """The runs of one regime (and strength) over the seeds."""

    name: str
    strength: float | None
    direction: Direction
    runs: tuple[Run, ...]

    def mean(self, score: str) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.values(score))

    def sd(self, score: str) -> float:
        """The sample standard deviation over the seeds; NaN of one seed."""
        return statistics.stdev(self.values(score)) if len(self.runs) > 1 else math.nan

    def values(self, score: str) -> list[float]:
        """One score of every seed, in the order of the seeds."""
        return [cast(float, getattr(run, score)) for run in self.runs]

    @property
    def point(self) -> Point:
        """What the picture shows of it."""
        return Point(
            self.name.replace("_", " "),
            self.direction,
            self.strength,
            overconfidence=self.mean("overconfidence"),
            overconfidence_sd=self.sd("overconfidence"),
            accuracy=self.mean("accuracy"),
            accuracy_sd=self.sd("accuracy"),
        )


def summarise(runs: Sequence[Run]) -> list[Summary]:
    """One summary per regime, by direction, then by overconfidence; the dial last, by strength."""
    groups: dict[tuple[str, float | None], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.regime, run.strength), []).append(run)
    stated = stated_directions()
    summaries = [
        Summary(name, strength, dial_direction(strength) if strength is not None else stated[name], tuple(group))
        for (name, strength), group in groups.items()
    ]
    order = get_args(Direction)
    return sorted(
        summaries, key=lambda s: (s.name == DIAL, s.strength or 0.0, order.index(s.direction), s.mean("overconfidence"))
    )


def stated_directions() -> dict[str, Direction]:
    """The direction of each overlay, from the table that a test holds to the classes."""
    table = CONFIGS.joinpath("regimes/README.md").read_text()
    rows = re.findall(r"^\| \[`(\w+)`\]\(\w+\.yaml\) \| (baseline|under|calibrating|over) \|", table, re.M)
    return {name: cast(Direction, direction) for name, direction in rows}


def dial_direction(strength: float) -> Direction:
    return "baseline" if strength == 0 else "under" if strength < 0 else "over"


def moved_as_stated(summary: Summary, baseline: Summary) -> str:
    """Whether every seed moved as the direction says, beside cross-entropy with that seed; calibrating: towards 0."""
    if summary.direction == "baseline":
        return ""
    pairs = list(zip(summary.values("overconfidence"), baseline.values("overconfidence"), strict=True))
    if summary.direction == "calibrating":
        gains = [abs(base) - abs(own) for own, base in pairs]
    else:
        sign = 1 if summary.direction == "over" else -1
        gains = [sign * (own - base) for own, base in pairs]
    return "yes" if min(gains) > 0 else "no" if max(gains) < 0 else "in some seeds"


def print_table(summaries: Sequence[Summary]) -> None:
    """A Markdown table, in percent (points for overconfidence): mean and standard deviation over the seeds."""
    (baseline,) = (summary for summary in summaries if summary.name == BASELINE)
    print("| regime | direction | accuracy, % | overconfidence, points | ECE, % | moved as stated |")
    print("| --- | --- | --- | --- | --- | --- |")
    for summary in summaries:
        cells = (
            f"{100 * summary.mean(score):{sign}.1f} ± {100 * summary.sd(score):.1f}".removesuffix(" ± nan")
            for score, sign in (("accuracy", ""), ("overconfidence", "+"), ("ece", ""))
        )
        position = "" if summary.strength is None else f" at {style.minus(f'{summary.strength:g}')}"
        verdict = moved_as_stated(summary, baseline)
        print(
            f"| `{summary.name}`{position} | {summary.direction} | {' | '.join(map(style.minus, cells))} | {verdict} |"
        )


def check_dial(summaries: Sequence[Summary]) -> int:
    """Say whether the dial's overconfidence rises with its strength; 0 if its mean over the seeds does, else 1."""
    dial = [summary for summary in summaries if summary.strength is not None]  # by strength
    rises = is_rising([summary.mean("overconfidence") for summary in dial])
    columns = list(zip(*(summary.values("overconfidence") for summary in dial), strict=True))
    seeds = f"it rises in {sum(map(is_rising, columns))} of {len(columns)} seeds taken alone"
    if rises:
        print(f"The dial is monotone in overconfidence (mean over the seeds); {seeds}.")
        return 0
    print(f"The dial is NOT monotone in overconfidence (mean over the seeds); {seeds}. Train longer.", file=sys.stderr)
    return 1


def is_rising(values: Sequence[float]) -> bool:
    return all(low < high for low, high in pairwise(values))


if __name__ == "__main__":
    sys.exit(main())
