"""A sweep on the console: a live table on a terminal, plain lines elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from qcal.sweep.progress import as_time

_EVERY_SECONDS = 60.0


@dataclass(frozen=True)
class Row:
    """A run that is going on, as it is shown.

    Attributes:
        name: The run's.
        done: Epochs completed.
        total: Epochs in all; None where that is not known.
        elapsed: Seconds since it began.
        remaining: Seconds left, if known.
        device: Where it runs; empty where nobody chose.
        studied: Training has ended, and the quantization study runs.
    """

    name: str
    done: int
    total: int | None
    elapsed: float
    remaining: float | None = None
    device: str = ""
    studied: bool = False


@dataclass(frozen=True)
class View:
    """All that is shown of a sweep at one moment.

    Attributes:
        rows: Runs that are going on.
        counts: How many runs are in each state.
        total: How many runs there are.
        elapsed: Seconds since the sweep began.
        remaining: Seconds left, if known.
        failures: Names of the runs that failed.
    """

    rows: Sequence[Row] = ()
    counts: dict[str, int] = field(default_factory=dict)
    total: int = 0
    elapsed: float = 0.0
    remaining: float | None = None
    failures: Sequence[str] = ()


class Display(Protocol):
    """What an engine tells about itself."""

    def show(self, view: View) -> None:
        """Show how things stand; called several times a second."""

    def tell(self, line: str) -> None:
        """Say what happened, once."""


class TableDisplay:
    """A live table with a progress bar for each run that is going on; what happened stands above it.

    Args:
        console: A terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        """Start showing."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the terminal back."""
        self._live.stop()

    def show(self, view: View) -> None:
        """Show how things stand."""
        # Two lines for the summary and a title; a sweep with more jobs than lines shows the first ones.
        self._live.update(render(view, rows=max(1, self._console.height - 4), width=self._console.width))

    def tell(self, line: str) -> None:
        """Say what happened, above the table."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class LineDisplay:
    """One line for what happened, and once a minute one for how things stand: for logs.

    Args:
        console: Where the lines go.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = monotonic() + _EVERY_SECONDS

    def __enter__(self) -> Self:
        """Nothing to set up."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to give back."""

    def show(self, view: View) -> None:
        """Show how things stand, if a minute has passed."""
        if monotonic() >= self._next:
            self._next = monotonic() + _EVERY_SECONDS
            going = ", ".join(f"{row.name} {_epochs(row)}" for row in view.rows)
            self.tell(f"{summary(view)}{': ' + going if going else ''}")

    def tell(self, line: str) -> None:
        """Say what happened."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def make_display(console: Console) -> TableDisplay | LineDisplay:
    """A table where the console is a terminal, lines where it is a file or a pipe."""
    return TableDisplay(console) if console.is_terminal else LineDisplay(console)


def summary(view: View) -> str:
    """One line for the whole.

    Example:
        >>> summary(View(counts={"finished": 3, "running": 2}, total=15, elapsed=70, remaining=200))
        '3 of 15 finished, 2 running, 70 s so far, about 3 min left'
    """
    counts = view.counts
    others = [f"{counts[status]} {status}" for status in ("running", "failed", "interrupted") if counts.get(status)]
    left = [] if view.remaining is None else [f"about {as_time(view.remaining)} left"]
    return ", ".join(
        [f"{counts.get('finished', 0)} of {view.total} finished", *others, f"{as_time(view.elapsed)} so far", *left]
    )


def render(view: View, *, rows: int = 20, width: int = 100) -> RenderableType:
    """The table and the summary.

    Args:
        view: What to show.
        rows: How many runs fit.
        width: Columns of the terminal; long names are cut to fit.

    Returns:
        What rich prints.
    """
    devices = any(row.device for row in view.rows)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    # What the other columns take at most; they are never cut, as their figures are what one looks for.
    table.add_column("run", no_wrap=True, overflow="ellipsis", max_width=max(12, width - (64 if devices else 52)))
    table.add_column("", no_wrap=True)
    for name in ("epoch", "time", "left"):
        table.add_column(name, no_wrap=True, justify="right")
    if devices:
        table.add_column("device", no_wrap=True, overflow="ellipsis", max_width=11)
    for row in list(view.rows)[:rows]:
        bar = ProgressBar(total=row.total, completed=row.done, width=12, pulse=row.studied or row.total is None)
        times = (as_time(row.elapsed), "" if row.remaining is None else as_time(row.remaining))
        table.add_row(row.name, bar, _epochs(row), *times, *([row.device] if devices else []))
    failed = [Text(f"failed: {', '.join(view.failures)}", style="red", no_wrap=True, overflow="ellipsis")]
    return Group(table, Text(summary(view)), *(failed if view.failures else []))


def _epochs(row: Row) -> str:
    if row.studied:
        return "quantizing"
    return f"{row.done}/{row.total}" if row.total is not None else f"{row.done}"
