"""What an engine keeps of all runs: their states, how far they are, and `sweep.json`."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from statistics import fmean

from qcal.atomic import replacing
from qcal.sweep.display import Display, Row, View
from qcal.sweep.progress import Going, as_time, epochs_done, remaining_seconds
from qcal.sweep.resolution import Run
from qcal.sweep.run_state import RunState, now

FILE = "sweep.json"


@dataclass(frozen=True)
class SweepDescription:
    """What `sweep.json` says beside the runs.

    Attributes:
        name: The sweep's name.
        file: The sweep file.
        engine: `local` or `ray`.
        jobs: Runs at one time; None where Ray decides.
        command: The command line of the sweep.
        started: When it began, UTC.
    """

    name: str
    file: str
    engine: str
    jobs: int | None
    command: list[str]
    started: str = field(default_factory=now)


class Overview:
    """The states of all runs, told to a display and written to `sweep.json` whenever one changes.

    Args:
        runs: All runs of the sweep.
        folder: The sweep's folder.
        description: For `sweep.json`.
        display: Whom to tell.
    """

    def __init__(self, runs: Sequence[Run], folder: Path, description: SweepDescription, display: Display) -> None:
        self.runs = {run.name: run for run in runs}
        self.folder = folder
        self.states = {run.name: RunState(run.name, "waiting", [], run.config_hash, run.config) for run in runs}
        self._description, self._display = description, display
        self.started = description.started
        self._begin = time.monotonic()
        self._began: dict[str, float] = {}
        self._took: dict[str, list[float]] = {}
        self._unwritable = False

    def update(self, state: RunState) -> None:
        """Note a run's state, and say so if its status or its attempt is new."""
        before = self.states[state.name]
        self.states[state.name] = state
        # Another attempt is news too: Ray starts again what a lost node held.
        if (state.status, state.attempts) == (before.status, before.attempts):
            return
        if state.status == "running":
            self._began.setdefault(state.name, time.monotonic())
        self._tell(state)
        self.write()

    def skip(self, name: str) -> None:
        """Note that a run was finished before."""
        self.update(replace(self.states[name], status="finished"))

    def write(self, *, finished: bool = False) -> None:
        """Write `sweep.json`; where that fails, say so once: each run's own file holds its state."""
        runs = [
            {"name": state.name, "status": state.status, "config_hash": state.config_hash, "reason": state.reason}
            for state in self.states.values()
        ]
        content = {**asdict(self._description), "finished": now() if finished else None, "runs": runs}
        try:
            with replacing(self.folder / FILE) as path:
                path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            if not self._unwritable:
                self._display.tell(f"{FILE} could not be written ({error}); the sweep goes on.")
            self._unwritable = True

    def show(self, jobs: int) -> None:
        """Show how things stand.

        Args:
            jobs: Runs at one time, for the remaining time.
        """
        rows = [self._row(state) for state in self.of("running")]
        going = [
            Going(self.runs[row.name].base, row.elapsed, row.done / row.total if row.total else None) for row in rows
        ]
        took = {base: fmean(seconds) for base, seconds in self._took.items()}
        waiting = [self.runs[state.name].base for state in self.of("waiting")]
        self._display.show(
            View(
                rows=rows,
                counts=dict(Counter(state.status for state in self.states.values())),
                total=len(self.runs),
                elapsed=time.monotonic() - self._begin,
                remaining=remaining_seconds(going, waiting, took, jobs),
                failures=[state.name for state in self.of("failed")],
            )
        )

    def of(self, *statuses: str) -> list[RunState]:
        """The states with one of these statuses, in the sweep's order."""
        return [state for state in self.states.values() if state.status in statuses]

    def _row(self, state: RunState) -> Row:
        run = self.runs[state.name]
        done = epochs_done(self.folder / run.name / "metrics.csv") or 0
        elapsed = time.monotonic() - self._began[run.name]
        took = self._took.get(run.base)
        remaining = remaining_seconds(
            [Going(run.base, elapsed, done / run.max_epochs if run.max_epochs else None)],
            [],
            {run.base: fmean(took)} if took else {},
            1,
        )
        studied = run.max_epochs is not None and done >= run.max_epochs
        return Row(run.name, done, run.max_epochs, elapsed, remaining, state.device or "", studied)

    def _tell(self, state: RunState) -> None:
        clock = f"{datetime.now():%H:%M:%S}"
        ended = len(self.runs) - len(self.of("waiting", "running"))
        count = f"[{ended}/{len(self.runs)}]"
        if state.status == "running":
            again = f" (attempt {state.attempts})" if state.attempts > 1 else ""
            self._display.tell(f"{clock} {count} started   {state.name}{again}")
        elif state.status == "finished" and state.name in self._began:
            seconds = time.monotonic() - self._began[state.name]
            self._took.setdefault(self.runs[state.name].base, []).append(seconds)
            self._display.tell(f"{clock} {count} finished  {state.name} in {as_time(seconds)}")
        elif state.status == "finished":
            self._display.tell(f"{clock} {count} skipped   {state.name}: its record is complete")
        else:
            self._display.tell(f"{clock} {count} {state.status:9} {state.name}: {state.reason}")
