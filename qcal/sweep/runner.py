"""From checked runs to an exit code: what there is to do, the sweep's folder, the engine, the summary."""

import errno
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from qcal.sweep.continuation import KEPT, Action, decide, describe_change
from qcal.sweep.display import make_display
from qcal.sweep.lock import FOLDER, lock
from qcal.sweep.overview import FILE, Overview, SweepDescription
from qcal.sweep.resolution import Run
from qcal.sweep.run_state import FILE as RUN_FILE
from qcal.sweep.run_state import LOG
from qcal.usage import UsageError

# In the reason of a run that had no room, whoever put it there.
_FULL = os.strerror(errno.ENOSPC)
# Works through runs, tells the overview, and returns whether it came to the end.
Engine = Callable[[Sequence[Run], Overview], bool]


@dataclass(frozen=True)
class Plan:
    """What there is to do.

    Attributes:
        folder: The sweep's folder.
        runs: All runs, in order.
        actions: What to do for each, by name.
        others: Names of further runs of the sweep, which are left as they are.
    """

    folder: Path
    runs: tuple[Run, ...]
    actions: dict[str, Action]
    others: frozenset[str] = frozenset()

    def todo(self) -> list[Run]:
        """The runs that are not complete."""
        return [run for run in self.runs if self.actions[run.name] != "skip"]


def plan(runs: Sequence[Run], folder: Path, *, rerun_changed: bool = False, others: Collection[str] = ()) -> Plan:
    """Look at the folder of every run.

    Args:
        runs: The runs of the sweep.
        folder: The sweep's folder, which need not exist.
        rerun_changed: Runs whose config has changed are started anew; their folders are kept under another name.
        others: Names of further runs of the sweep, which are left as they are.

    Returns:
        What there is to do; nothing has been written.

    Raises:
        UsageError: The folder is no sweep's, or a run has changed and `rerun_changed` is not given.
    """
    _check_folder(folder)
    actions = {run.name: decide(run, folder / run.name) for run in runs}
    changed = [run for run in runs if actions[run.name] == "changed"]
    if changed and not rerun_changed:
        lines = "\n".join(f"  {run.name}: {describe_change(run, folder / run.name)}" for run in changed)
        raise UsageError(
            f"{len(changed)} of {len(runs)} runs in {folder} have changed since they were started; nothing was done:\n"
            f"{lines}\nStart them anew with `--rerun-changed` (their old folders are kept in {folder / KEPT}), "
            "use another folder with `--dir`, or undo the change."
        )
    return Plan(folder, tuple(runs), actions, frozenset(others))


def run_sweep(todo: Plan, engine: Engine, description: SweepDescription, console: Console) -> int:
    """Do what there is to do.

    Args:
        todo: The plan.
        engine: What works through the runs.
        description: For `sweep.json`.
        console: Where to show it.

    Returns:
        0 if every run is finished, 1 if one failed, 130 if the user stopped the sweep.

    Raises:
        UsageError: Another sweep works in the folder, or the engine cannot begin.
    """
    held = _lock_sweep(todo.folder)
    try:
        with make_display(console) as display:
            overview = Overview(todo.runs, todo.folder, description, display)
            overview.write()
            for run in todo.runs:
                if todo.actions[run.name] == "skip":
                    overview.skip(run.name)
            came_to_end = engine(todo.todo(), overview)
            overview.write(finished=came_to_end)
    finally:
        os.close(held)
    return _summarise(overview, came_to_end, console, todo.others)


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise UsageError(f"`--dir` must be a folder, got the file {folder}. Choose another.")
    # Only runs, and no file of the sweep: the disk was full, or the sweep was killed in its first moment.
    ours = (folder / FILE).exists() or any(folder.glob(f"*/{RUN_FILE}"))
    if folder.is_dir() and not ours and any(entry.name != FOLDER for entry in folder.iterdir()):
        raise UsageError(
            f"{folder} holds files, but no {FILE}: it is no sweep's folder. Choose another `--dir` (or another `name:` "
            "in the sweep file), or move it away."
        )


def _lock_sweep(folder: Path) -> int:
    try:
        held = lock(folder / FOLDER / "sweep.lock")
    except OSError as error:
        raise UsageError(f"The sweep's folder {folder} cannot be written: {error}. Choose another `--dir`.") from error
    if held is None:
        raise UsageError(f"Another sweep works in {folder}. Wait until it has ended, or choose another `--dir`.")
    return held


def _summarise(overview: Overview, came_to_end: bool, console: Console, left: Collection[str]) -> int:
    def tell(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    failed, finished = overview.of("failed"), overview.of("finished")
    tell(f"{len(finished)} of {len(overview.runs)} runs are finished; their records: {overview.folder}/*/ptq")
    for state in failed:
        tell(f"failed: {state.name}: {state.reason}")
        if (log := overview.folder / state.name / LOG).exists():
            tell(f"        what it said: {log}")
    if not came_to_end:
        tell("Stopped. The same command goes on: finished runs are skipped, others resume from their last checkpoint.")
        return 130
    if failed:
        first = "Free space on the disk; then the" if any(_FULL in (state.reason or "") for state in failed) else "The"
        tell(f"{len(failed)} failed. {first} same command tries again, from the last checkpoint.")
    if left:
        tell(f"{len(left)} other runs of the sweep were left as they are; the same command without `--only` runs them.")
    others = _strangers(overview, left)
    if others:
        tell(f"Folders of runs that the sweep file no longer has: {', '.join(others)}. They stay as they are.")
    return 1 if failed else 0


def _strangers(overview: Overview, left: Collection[str]) -> list[str]:
    names = {entry.parent.name for entry in overview.folder.glob(f"*/{RUN_FILE}")}
    return sorted(names - set(overview.runs) - set(left))
