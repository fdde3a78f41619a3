"""How long one ECE update takes, in units of the softmax of the same logits; beside torchmetrics.

Each of `--repeats` rounds times, one after another: `torch.softmax(logits, 1)`, the update of qcal's
`ExpectedCalibrationError`, and the update of torchmetrics' `MulticlassCalibrationError` (with its checks off, which is
its faster way). Printed are the median over rounds of each time and of each round's ratio, so that a change of clock
speed between rounds cancels; and the fastest time of each with their ratio, which a busy machine measures better. The
logits are those of a network that is right on two samples in three: many predictions equal the target, as in use.

    python benchmarks/ece_update.py --threads 2
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torchmetrics.classification import MulticlassCalibrationError

from qcal.metrics import ExpectedCalibrationError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="torch's CPU threads")
    parser.add_argument("--repeats", type=int, default=51, help="rounds; the median is printed")
    parser.add_argument("--samples", type=int, default=8192, help="rows of logits")
    parser.add_argument("--classes", type=int, default=1000, help="columns of logits")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    logits, target = example(arguments.samples, arguments.classes)
    ours = ExpectedCalibrationError()
    theirs = MulticlassCalibrationError(num_classes=arguments.classes, n_bins=15, validate_args=False)

    def their_update() -> None:
        theirs.update(logits, target)
        theirs.reset()  # it keeps every sample

    work: dict[str, Callable[[], object]] = {
        "softmax": lambda: torch.softmax(logits, dim=1),
        "qcal": lambda: ours.update(logits, target),
        "torchmetrics": their_update,
    }
    times = measure(work, arguments.repeats)
    print(f"torch {torch.__version__}, {arguments.threads} threads, logits {tuple(logits.shape)} float32")
    for name, column in times.items():
        ratio = statistics.median(own / base for own, base in zip(column, times["softmax"], strict=True))
        print(
            f"{name:>13}: median {1e3 * statistics.median(column):7.2f} ms, {ratio:5.2f} x softmax;"
            f" fastest {1e3 * min(column):7.2f} ms, {min(column) / min(times['softmax']):5.2f} x softmax"
        )


def example(num_samples: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `(N, C)` and targets `(N,)`, two in three of them predicted right."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(num_samples, num_classes, generator=generator)
    target = torch.randint(num_classes, (num_samples,), generator=generator)
    right = torch.arange(num_samples) % 3 > 0
    target[right] = logits.argmax(dim=1)[right]
    return logits, target


def measure(work: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each piece of work in each round, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(repeats + 1):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
