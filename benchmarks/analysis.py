"""How long the analysis of swaps takes beside reading the logits, and how much memory it needs.

Logits of ImageNet's size are made up and written to a temporary folder: of the compared images, and of images held out
to measure the noise on, as a study's record has them. Then two jobs are timed, each in a process of its own, which also
tells its peak memory:

- `read`: every table is read, and its softmax taken;
- `analyse`: every table is read, and every setting analysed against the float logits by `analyse_swaps`, the forecast
  of swaps from the held-out images included.

Both read the same files from the system's cache, in the same order; the float logits come first. `--files npy` (the
harder comparison) has one plain `.npy` a table; `--files npz` has the compressed `logits.npz` that a study writes, read
one array at a time. Each of `--repeats` rounds runs both jobs in turn; the median of the rounds' ratios is given, and
their range. Measure on an idle machine: with more threads than free cores, threads wait for each other at every one of
many small operations.

What the logits are like. Classes resemble each other (a common factor of 64 dimensions beside independent parts), the
label stands out by an amount that differs from image to image, and the eight classes most like it stand out less: the
float network has about 75 % right, its mean confidence is near that, and its margins reach from near ties to many times
the noise. The noise goes in the same 64 directions and in independent ones, has a size and a bias of its own for each
class, and shrinks the logits; its SQNR runs evenly from 33 dB (w8a8) to 9 dB (a w4a8 that loses much) over the
settings. What came out is printed: accuracy, confidence, and swaps of each setting.

    PYTHONPATH=. python benchmarks/analysis.py --threads 2 --files npz  # 1.11 (1.05 to 1.42), peak 3.46 GiB
    PYTHONPATH=. python benchmarks/analysis.py --threads 2  # 2.68 (1.90 to 3.91), peak 1.68 GiB
    PYTHONPATH=. python benchmarks/analysis.py --threads 2 --held-out 0
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from qcal.robustness import analyse_swaps, float_reference, forecast, swap_analysis

Parameters, Result = ParamSpec("Parameters"), TypeVar("Result")

WARM_UP_ROWS = 512
SQNR_DB = (33.0, 9.0)  # of the finest and of the coarsest setting
SHRINKING = (1.0, 0.9)
COMMON = 64  # dimensions in which classes resemble each other
ALIKE = 8
HELD = "held_"
STEPS = {
    "float_reference": "the float network, once",
    "read_quantized": "predictions and noise",
    "swap_shares": "shares, bootstrap",
    "swap_curve": "swap curves",
    "foresight": "AUROC, decompositions",
    "estimate_noise": "noise model (held out)",
    "swap_probability": "P(swap)",
}


def main() -> None:
    arguments = parse()
    if arguments.job:
        run_job(arguments)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        print(
            f"{arguments.rows} x {arguments.classes} float32 logits, {arguments.settings} settings, "
            f"{arguments.held_out} held-out images, .{arguments.files}; {platform.machine()}, {arguments.threads} "
            f"threads, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}"
        )
        write_logits(Path(folder), arguments)
        rounds = [{job: start_job(job, folder) for job in ("read", "analyse")} for _ in range(arguments.repeats)]
    report(rounds)


def report(rounds: list[dict[str, dict[str, Any]]]) -> None:  # Any: JSON
    for job in ("read", "analyse"):
        found = {name: [each[job][name] for each in rounds] for name in ("seconds", "processor", "peak_gib")}
        print(
            f"{job:8} {spread(found['seconds'])} s, {spread(found['processor'])} s of processors, peak "
            f"{max(found['peak_gib']):.2f} GiB"
        )
    print(f"analyse / read: {spread([each['analyse']['seconds'] / each['read']['seconds'] for each in rounds])}")
    middle = sorted((each["analyse"] for each in rounds), key=lambda found: found["seconds"])[len(rounds) // 2]
    rest = middle["seconds"] - sum(middle["steps"].values())
    for name, seconds in {**middle["steps"], "everything else": rest}.items():
        print(f"    {STEPS.get(name, name):26} {seconds:6.2f} s  {seconds / middle['seconds']:4.0%}")
    print(f"    float accuracy {middle['accuracy']:.1%}, mean confidence {middle['confidence']:.1%}")
    print(f"    swapped: {', '.join(f'{share:.1%}' for share in middle['swapped'])}")


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000, help="compared images")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--settings", type=int, default=10)
    parser.add_argument("--held-out", type=int, default=10_000, help="images for the forecast; 0 leaves it out")
    parser.add_argument("--files", choices=("npy", "npz"), default="npy", help="plain tables, or a study's record")
    parser.add_argument("--threads", type=int, default=2, help="torch's CPU threads")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary folder goes")
    parser.add_argument("--job", choices=("read", "analyse"), help=argparse.SUPPRESS)
    return parser.parse_args()


def write_logits(folder: Path, arguments: argparse.Namespace) -> None:
    """Write `target`, and `float`, `held_float` and a pair of tables a setting."""
    generator = torch.Generator().manual_seed(0)
    shape = (arguments.rows + arguments.held_out, arguments.classes)
    head = torch.randn(COMMON, shape[1], generator=generator) / COMMON**0.5
    target = torch.randint(shape[1], shape[:1], generator=generator)
    logits = float_logits(target, head, generator)
    tables = {"target": target[: arguments.rows].numpy(), **split("float", logits, arguments.rows)}
    for setting in range(arguments.settings):
        place = setting / max(1, arguments.settings - 1)
        sqnr, scale = (first + place * (last - first) for first, last in (SQNR_DB, SHRINKING))
        noisy = disturb(logits, head, sqnr, generator).add_(logits, alpha=scale)
        tables |= split(f"setting{setting}", noisy, arguments.rows)
        if arguments.files == "npy":
            save_plain(folder, tables)
    if arguments.files == "npz":
        np.savez_compressed(folder / "logits.npz", **tables)


def float_logits(target: Tensor, head: Tensor, generator: torch.Generator) -> Tensor:
    rows, classes = len(target), head.shape[1]
    logits = 1.6 * torch.randn(rows, COMMON, generator=generator) @ head
    logits += 1.2 * torch.randn(rows, classes, generator=generator)
    likeness = (head.T @ head).fill_diagonal_(-torch.inf)
    alike = likeness.topk(min(ALIKE, classes - 1), dim=1).indices[target]
    amount = (5.5 + 2.5 * torch.randn(alike.shape, generator=generator)) * torch.linspace(1, 0.3, alike.shape[1])
    logits.scatter_add_(1, alike, amount)
    return logits.scatter_add_(1, target[:, None], 11.6 + 4 * torch.randn(rows, 1, generator=generator))


def disturb(logits: Tensor, head: Tensor, sqnr: float, generator: torch.Generator) -> Tensor:
    """Noise of a given signal-to-noise ratio in dB, beside which comes the shrinking."""
    rows, classes = logits.shape
    size = 0.6 + 0.8 * torch.rand(classes, generator=generator)
    noise = torch.randn(rows, COMMON, generator=generator) @ head
    noise += torch.randn(rows, classes, generator=generator) * size
    noise += 0.3 * torch.randn(classes, generator=generator)
    return noise.mul_(logits.norm() / noise.norm() * 10 ** (-sqnr / 20))


def split(name: str, logits: Tensor, rows: int) -> dict[str, np.ndarray]:
    return {name: logits[:rows].numpy(), HELD + name: logits[rows:].numpy()}


def save_plain(folder: Path, tables: dict[str, np.ndarray]) -> None:
    while tables:
        name, table = tables.popitem()
        np.save(folder / f"{name}.npy", table)


def start_job(job: str, folder: str) -> dict[str, Any]:  # Any: JSON
    """Run a job in a process of its own, with this one's options."""
    command = [sys.executable, __file__, *sys.argv[1:], "--job", job, "--folder", folder]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(finished.stderr)
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


def run_job(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    warm_up()
    load = loader(arguments)
    seconds: dict[str, float] = {}
    begin, begin_cpu = time.perf_counter(), time.process_time()
    found = read(load, arguments) if arguments.job == "read" else analyse(load, arguments, seconds)
    found |= {"seconds": time.perf_counter() - begin, "processor": time.process_time() - begin_cpu, "steps": seconds}
    found["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kilobytes on Linux
    print(json.dumps(found))


def warm_up() -> None:
    """Load every library that either job needs, on a few rows."""
    logits = torch.randn(WARM_UP_ROWS, 10)
    torch.softmax(logits, dim=1)
    held_out = (torch.randn(WARM_UP_ROWS, 10), torch.randn(WARM_UP_ROWS, 10))
    target = torch.zeros(WARM_UP_ROWS, dtype=torch.long)
    analyse_swaps(logits, logits + torch.randn_like(logits), target, held_out=held_out)


def loader(arguments: argparse.Namespace) -> Callable[[str], Tensor]:
    folder: Path = arguments.folder
    if arguments.files == "npz":
        record = np.load(folder / "logits.npz")
        return lambda name: torch.from_numpy(record[name])
    return lambda name: torch.from_numpy(np.load(folder / f"{name}.npy"))


def read(load: Callable[[str], Tensor], arguments: argparse.Namespace) -> dict[str, Any]:
    for name in ("float", *settings(arguments)):
        for prefix in ("", HELD) if arguments.held_out else ("",):
            torch.softmax(load(prefix + name), dim=1)
    return {}


def analyse(load: Callable[[str], Tensor], arguments: argparse.Namespace, seconds: dict[str, float]) -> dict[str, Any]:
    load = timed(load, "reading the files", seconds)
    make_reference = timed(float_reference, "float_reference", seconds)
    for module, names in ((swap_analysis, list(STEPS)[1:5]), (forecast, list(STEPS)[5:])):
        time_steps(module, names, seconds)
    target, plain = load("target"), load("float")
    reference = make_reference(plain, target)
    held = load(f"{HELD}float") if arguments.held_out else None
    swapped = []
    for name in settings(arguments):
        held_out = None if held is None else (held, load(HELD + name))
        found = analyse_swaps(plain, load(name), target, held_out=held_out, reference=reference)
        swapped.append(found.shares.swapped.share)
    confidence = reference.predictions.confidence.mean().item()
    return {"swapped": swapped, "accuracy": reference.right.double().mean().item(), "confidence": confidence}


def time_steps(module: ModuleType, names: list[str], seconds: dict[str, float]) -> None:
    """Let a module's own calls of some functions be timed."""
    for name in names:
        setattr(module, name, timed(getattr(module, name), name, seconds))


def timed(function: Callable[Parameters, Result], name: str, seconds: dict[str, float]) -> Callable[Parameters, Result]:
    @wraps(function)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        begin = time.perf_counter()
        result = function(*args, **kwargs)
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - begin
        return result

    return wrapped


def settings(arguments: argparse.Namespace) -> list[str]:
    return [f"setting{setting}" for setting in range(arguments.settings)]


if __name__ == "__main__":
    main()
