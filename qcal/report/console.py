"""A record on the console: a progress bar while it is made, a table when it is done."""

from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from qcal.robustness import Comparison, Record

_STAGES = {"observe": "Estimating activation ranges", "evaluate": "Running the grid"}


class StudyProgress:
    """A progress bar per stage of a study; pass it as `run_study(progress=...)`.

    Args:
        enabled: False shows nothing, for trainers without a progress bar.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self._bars = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), disable=not enabled)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        """Start showing."""
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop showing, also after an error."""
        self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` batches of `stage` are done; a total of 0 is unknown."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(_STAGES.get(stage, stage), total=total or None)
        self._bars.update(self._tasks[stage], completed=done)


def settings_table(record: Record) -> Table:
    """The settings of a record beside the float network, in percent, as a rich table."""
    table = Table(title="Post-training quantization", caption=f"percent of {record.context['num_images']:,} images; damage per swap = error change / swapped")
    table.add_column("setting", no_wrap=True)
    for name in ("accuracy", "error change", "swapped", "harmful", "beneficial", "neutral", "damage per swap", "ECE", "overconfidence", "NLL"):
        table.add_column(name, justify="right")
    scores = record.float_scores
    table.add_row("float", _percent(scores.accuracy), *[""] * 6, _percent(scores.ece), _signed(scores.overconfidence), f"{scores.nll:.3f}")
    for name, comparison in record.settings.items():
        table.add_row(name, *_row(comparison))
    return table


def print_record(record: Record, folder: Path) -> None:
    """Print the table and where the files are."""
    console = Console()
    console.print(settings_table(record))
    console.print(f"Record   {folder / 'records.json'}\nTable    {folder / 'records.csv'}\nPictures {folder / 'figures'}", soft_wrap=True, highlight=False)


def _row(comparison: Comparison) -> list[str]:
    c = asdict(comparison)
    damage = "-" if c["damage_per_swap"] is None else f"{c['damage_per_swap']:+.3f}"
    shares = [_percent(c[name]) for name in ("swap_rate", "harmful", "beneficial", "neutral")]
    return [_percent(c["accuracy"]), _signed(c["error_change"]), *shares, damage, _percent(c["ece"]), _signed(c["overconfidence"]), f"{c['nll']:.3f}"]


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _signed(share: float) -> str:
    return f"{100 * share:+.2f}"
