"""How long one ECE update takes, in units of the softmax of the same logits; beside torchmetrics.

Timed are `torch.softmax(logits, 1)`, the update of qcal's `ExpectedCalibrationError`, the update of torchmetrics'
`MulticlassCalibrationError` (with its checks off, which is its faster way), and the least that an update made of torch
operators has to do: softmax into a table that is used again for each slice, and the largest entry of each row. Each is
timed in two states of the machine:

- repeated: the same work ran just before, so code and logits are where it left them. This is the cost of the work.
- in turn: the others ran in between, and the caches hold what they left. This is nearer to use between two batches of a
  network; there the many small operators of an update wait for their own code, and the order of the rows matters.

Printed are the median over `--repeats` rounds of each time and of each round's ratio, so that a change of clock speed
between rounds cancels; and the fastest time. On a busy machine the ratios are too large: each of the parallel regions
of an update waits for a core that another process has. The logits are those of a network that is right on two samples
in three: many predictions equal the target, as in use.

    python benchmarks/ece_update.py --threads 2

Measured on two cores of an AMD EPYC (Zen 5, 1 MB of second-level cache each), torch 2.15. In the quietest run,
repeated: the least 1.18, qcal 1.25; in turn: the least 1.31, qcal 1.36; torchmetrics 4.3 to 5. In others on that shared
machine, repeated: the least 1.21 to 1.31, qcal 1.32 to 1.44. So the goal of 1.2 is met by the least at best, and by
qcal not. The parts, repeated: softmax in slices 1.03 to 1.11; with reading and masking the target's entries and finding
the largest of the others (among integers, which is cheaper) 1.20 to 1.33; the rest, about 0.1, is the metric's own
calls and 25 operators on one number a sample (ties, checks, bins). torch has no operator that gives a softmax and where
it is largest in one pass: `argmax` alone costs 1.35, `logsumexp` 2.6, `log_softmax` 1.1.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError

from qcal.functional.top_label import row_slices
from qcal.metrics import ExpectedCalibrationError

Work = dict[str, Callable[[], object]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="torch's CPU threads")
    parser.add_argument("--repeats", type=int, default=51, help="rounds; the median is printed")
    parser.add_argument("--samples", type=int, default=8192, help="rows of logits")
    parser.add_argument("--classes", type=int, default=1000, help="columns of logits")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    work = updates(*example(arguments.samples, arguments.classes))
    print(
        f"torch {torch.__version__}, {arguments.threads} threads, "
        f"logits ({arguments.samples}, {arguments.classes}) float32"
    )
    for state, warm_up in (("repeated", True), ("in turn", False)):
        print(state)
        report(measure(work, arguments.repeats, warm_up=warm_up))


def example(num_samples: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Logits `(N, C)` and targets `(N,)`, two in three of them predicted right."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(num_samples, num_classes, generator=generator)
    target = torch.randint(num_classes, (num_samples,), generator=generator)
    right = torch.arange(num_samples) % 3 > 0
    target[right] = logits.argmax(dim=1)[right]
    return logits, target


def updates(logits: Tensor, target: Tensor) -> Work:
    """What is timed; the first is the unit."""
    ours = ExpectedCalibrationError()
    theirs = MulticlassCalibrationError(num_classes=logits.shape[1], n_bins=15, validate_args=False)

    def their_update() -> None:
        theirs.update(logits, target)
        theirs.reset()  # it keeps every sample

    def least() -> None:
        slices = row_slices(logits)
        table, largest = torch.empty_like(slices[0]), logits.new_empty(len(slices[0]))
        for part in slices:
            torch.softmax(part, dim=1, out=table[: len(part)])
            torch.amax(table[: len(part)], dim=1, out=largest[: len(part)])

    return {
        "softmax": lambda: torch.softmax(logits, dim=1),
        "least": least,
        "qcal": lambda: ours.update(logits, target),
        "torchmetrics": their_update,
    }


def measure(work: Work, repeats: int, *, warm_up: bool) -> dict[str, list[float]]:
    """Seconds of each piece of work in each round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(repeats + 1):
        for name, run in work.items():
            if warm_up:
                run()
            start = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def report(times: dict[str, list[float]]) -> None:
    unit = next(iter(times.values()))
    for name, column in times.items():
        ratio = statistics.median(own / base for own, base in zip(column, unit, strict=True))
        print(
            f"{name:>13}: median {1e3 * statistics.median(column):7.2f} ms, {ratio:5.2f} x softmax;"
            f" fastest {1e3 * min(column):7.2f} ms, {min(column) / min(unit):5.2f} x softmax"
        )


if __name__ == "__main__":
    main()
