"""What there is to do for a run, read off its folder."""

from pathlib import Path
from typing import Literal

from qcal.sweep.config_hash import differences
from qcal.sweep.resolution import Run
from qcal.sweep.run_state import LAST_CHECKPOINT, OWN_FILES, has_record, read_state

Action = Literal["start", "resume", "restart", "skip", "changed"]

# Where folders go that make way for a new run: one level deeper, so that `SWEEP/*/ptq` finds current runs alone.
KEPT = "kept"


def decide(run: Run, folder: Path) -> Action:
    """What to do for a run.

    Args:
        run: The run as it is now.
        folder: Its folder, which need not exist.

    Returns:
        - `start`: nothing of it is there;
        - `skip`: its record is complete, and of the same config;
        - `resume`: it broke, and has a last checkpoint to go on from;
        - `restart`: it broke before its first checkpoint;
        - `changed`: what is there is of another config, or of no sweep.

    Example:
        >>> decide(Run("a", "default", (), {}, "0123", 15), Path("nowhere"))
        'start'
    """
    if not folder.is_dir() or all(entry.name.startswith(OWN_FILES) for entry in folder.iterdir()):
        return "start"
    state = read_state(folder)
    if state is None or state.config_hash != run.config_hash:
        return "changed"
    if has_record(folder):
        return "skip"
    return "resume" if (folder / LAST_CHECKPOINT).is_file() else "restart"


def describe_change(run: Run, folder: Path, *, limit: int = 4) -> str:
    """What is different about a run that `decide` calls changed.

    Args:
        run: The run as it is now.
        folder: Its folder.
        limit: How many keys are named.

    Returns:
        One line.
    """
    state = read_state(folder)
    if state is None:
        return "its folder holds files, but no `run.json` of a sweep"
    lines = differences(state.config, run.config)
    more = f"; and {len(lines) - limit} more" if len(lines) > limit else ""
    return "; ".join(lines[:limit]) + more


def move_aside(folder: Path) -> Path:
    """Keep a run's folder under another name, out of the way.

    Args:
        folder: The run's folder, in the sweep's.

    Returns:
        Where it is now: `SWEEP/kept/RUN-1`, or the next number that is free.

    Raises:
        OSError: It cannot be moved.
    """
    kept = folder.parent / KEPT
    kept.mkdir(exist_ok=True)
    number = 1
    while (kept / f"{folder.name}-{number}").exists():
        number += 1
    return folder.rename(kept / f"{folder.name}-{number}")


def keep_from_being_overwritten(folder: Path) -> None:
    """Rename what a resumed run would delete or take for its own: the metrics so far, and a record's beginnings.

    Args:
        folder: The folder of a run without a complete record.

    Raises:
        OSError: A file cannot be renamed.
    """
    for name in ("metrics.csv", "ptq"):
        path = folder / name
        number = 1
        while (kept := folder / f"{path.stem}-before-resume-{number}{path.suffix}").exists():
            number += 1
        if path.exists():
            path.rename(kept)
