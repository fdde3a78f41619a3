"""A record on the console: a progress bar while it is made, a table when it is done."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from qcal.robustness import Comparison, Record

_STAGES = {
    "observe": "Estimating activation ranges",
    "adaround": "AdaRound, layer by layer",
    "recalibration": "Running the grid on the recalibration split",
    "noise": "Running the grid on training images",
    "evaluate": "Running the grid",
}
_COLUMNS = (
    "accu-\nracy",
    "error\nchange",
    "swap-\nped",
    "harm-\nful",
    "bene-\nficial",
    "damage\n/ swap",
    "\nECE",
    "over-\nconf.",
    "\nNLL",
)


class StudyProgress:
    """A progress bar per stage of a study; pass it as `run_study(progress=...)`.

    Args:
        enabled: False shows nothing, for trainers without a progress bar.
        console: Where another progress bar is shown at this moment; rich nests the two if they share it.
    """

    def __init__(self, *, enabled: bool = True, console: Console | None = None) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, disable=not enabled, console=console)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        """Start showing."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing, also after an error."""
        self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` batches of `stage` are done; a total of 0 is unknown."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(_STAGES.get(stage, stage), total=total or None)
        self._bars.update(self._tasks[stage], completed=done)


def settings_table(record: Record) -> Table:
    """The settings of a record beside the float network, in percent, as a rich table that fits 80 columns."""
    caption = f"percent of {record.context['num_images']:,} images"
    table = Table(title="Post-training quantization", caption=caption, box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("setting", overflow="fold")  # names of layers in a setting can be long
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    scores = record.float_scores
    if scores is None:
        return table
    confidence = [_percent(scores.ece), _signed(scores.overconfidence), f"{scores.nll:.3f}"]
    table.add_row("float", _percent(scores.accuracy), *[""] * 5, *confidence)
    for name, comparison in record.settings.items():
        table.add_row(name, *_row(comparison))
    return table


def print_record(record: Record, folder: Path, *, answers: Sequence[str] = (), console: Console | None = None) -> None:
    """Print the table, what it means, and where the files are.

    Args:
        record: What was measured.
        folder: Where its files are.
        answers: Sentences of the analysis.
        console: Where a progress bar is shown at this moment, so that the two do not write over each other.
    """
    console = console or Console()
    console.print(settings_table(record))
    for answer in answers:
        console.print(answer, highlight=False)
    files = {"Record": "records.json", "Table": "records.csv", "Analysis": "analysis.json", "Pictures": "figures"}
    places = {name: folder / file for name, file in files.items()}
    console.print("\n".join(f"{name:8} {path}" for name, path in places.items()), soft_wrap=True, highlight=False)


def _row(comparison: Comparison) -> list[str]:
    c = comparison
    damage = "-" if c.damage_per_swap is None else f"{c.damage_per_swap:+.2f}"
    swaps = [_signed(c.error_change), _percent(c.swap_rate), _percent(c.harmful), _percent(c.beneficial), damage]
    return [_percent(c.accuracy), *swaps, _percent(c.ece), _signed(c.overconfidence), f"{c.nll:.3f}"]


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _signed(share: float) -> str:
    return f"{100 * share:+.2f}"
