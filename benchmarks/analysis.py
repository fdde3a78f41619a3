"""How long the analysis of swaps takes beside reading the logits, and how much memory it needs.

Logits of ImageNet's size are made up and written to a temporary folder, one uncompressed `.npy` a setting, float32.
Then two jobs are timed, each in a process of its own, which also tells its peak memory:

- `read`: `np.load` of every file, and the softmax of the whole array;
- `analyse`: `np.load` of every file, and `analyse_swaps` against the float logits.

Both read the same files from the system's cache, in the same order; the float logits are the first of them. Each of
`--repeats` rounds runs both jobs, in turn; the minimum of each is compared. With more threads than free cores, threads
wait for each other at every one of many small operations: measure on an idle machine, or with one thread.

`--held-out` gives the forecast that many further images (their files count as the job's own). The float network's
logits resemble a trained one's: a few classes stand out of the others.

    PYTHONPATH=. python benchmarks/analysis.py --threads 2
    PYTHONPATH=. python benchmarks/analysis.py --threads 2 --held-out 5000
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from qcal.robustness import analyse_swaps, float_reference

WARM_UP_ROWS = 512
NOISE = (0.1, 1.5)  # standard deviation of the finest and of the coarsest setting's noise
SHRINKING = (1.0, 0.85)


def main() -> None:
    arguments = parse()
    if arguments.job:
        run_job(arguments)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        write_logits(Path(folder), arguments)
        print(
            f"{arguments.rows} x {arguments.classes} float32 logits, {arguments.settings} settings, uncompressed .npy, "
            f"{arguments.held_out} held-out images; {platform.machine()}, {arguments.threads} threads, "
            f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f}"
        )
        best: dict[str, dict[str, float]] = {}
        for _ in range(arguments.repeats):
            for job in ("read", "analyse"):
                found = start_job(job, folder)
                kept = best.setdefault(job, found)
                best[job] = {name: min(value, kept[name]) for name, value in found.items()}
    for job, found in best.items():
        print(
            f"{job:8} {found['seconds']:7.2f} s, {found['processor']:.2f} s of processors, peak "
            f"{found['peak_gib']:.2f} GiB"
        )
    wall, processor = (best["analyse"][clock] / best["read"][clock] for clock in ("seconds", "processor"))
    print(f"analyse / read: {wall:.2f} ({processor:.2f} of processor time)")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000, help="compared images")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--settings", type=int, default=10)
    parser.add_argument("--held-out", type=int, default=0, help="images for the forecast; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=2, help="torch's CPU threads")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the minimum counts")
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary folder goes")
    parser.add_argument("--job", choices=("read", "analyse"), help=argparse.SUPPRESS)
    return parser.parse_args()


def write_logits(folder: Path, arguments: argparse.Namespace) -> None:
    """Write `target`, and `float`, `held_float` and a pair of files a setting."""
    generator = torch.Generator().manual_seed(0)
    shape = (arguments.rows + arguments.held_out, arguments.classes)
    target = torch.randint(arguments.classes, shape[:1], generator=generator)
    logits = 1.5 * torch.randn(shape, generator=generator)
    # The label and four look-alikes stand out, by amounts that differ from image to image.
    logits.scatter_add_(1, target[:, None], 9 + 3 * torch.randn(shape[0], 1, generator=generator))
    alike = torch.randint(arguments.classes, (shape[0], 4), generator=generator)
    logits.scatter_add_(1, alike, 5 + 2 * torch.randn(shape[0], 4, generator=generator))
    np.save(folder / "target.npy", target[: arguments.rows].numpy())
    save(folder, "float", logits, arguments.rows)
    for setting in range(arguments.settings):
        place = setting / max(1, arguments.settings - 1)
        std, scale = (first + place * (last - first) for first, last in (NOISE, SHRINKING))
        save(
            folder, f"setting{setting}", scale * logits + std * torch.randn(shape, generator=generator), arguments.rows
        )


def save(folder: Path, name: str, logits: torch.Tensor, rows: int) -> None:
    np.save(folder / f"{name}.npy", logits[:rows].numpy())
    np.save(folder / f"held_{name}.npy", logits[rows:].numpy())


def start_job(job: str, folder: str) -> dict[str, float]:
    """Run a job in a process of its own, with this one's options."""
    command = [sys.executable, __file__, *sys.argv[1:], "--job", job, "--folder", folder]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(finished.stderr)
    found: dict[str, float] = json.loads(finished.stdout)
    return found


def run_job(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    folder: Path = arguments.folder
    warm_up()
    begin, begin_cpu = time.perf_counter(), time.process_time()
    if arguments.job == "read":
        read(folder, arguments)
    else:
        analyse(folder, arguments)
    seconds, processor = time.perf_counter() - begin, time.process_time() - begin_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kilobytes on Linux
    print(json.dumps({"seconds": seconds, "processor": processor, "peak_gib": peak}))


def warm_up() -> None:
    """Load every library that either job needs, on a few rows."""
    logits = torch.randn(WARM_UP_ROWS, 10)
    torch.softmax(logits, dim=1)
    analyse_swaps(logits, logits + torch.randn_like(logits), torch.zeros(WARM_UP_ROWS, dtype=torch.long))


def read(folder: Path, arguments: argparse.Namespace) -> None:
    for name in names(arguments):
        torch.softmax(load(folder, name), dim=1)


def analyse(folder: Path, arguments: argparse.Namespace) -> None:
    target = torch.from_numpy(np.load(folder / "target.npy"))
    float_logits = load(folder, "float")
    reference = float_reference(float_logits, target)
    held_float = load(folder, "held_float")
    for name in names(arguments)[1:]:
        held_out = (held_float, load(folder, f"held_{name}")) if arguments.held_out else None
        analysis = analyse_swaps(float_logits, load(folder, name), target, held_out=held_out, reference=reference)
        assert analysis.num_images == arguments.rows


def load(folder: Path, name: str) -> torch.Tensor:
    return torch.from_numpy(np.load(folder / f"{name}.npy"))


def names(arguments: argparse.Namespace) -> list[str]:
    return ["float", *(f"setting{setting}" for setting in range(arguments.settings))]


if __name__ == "__main__":
    main()
