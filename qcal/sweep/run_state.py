"""What is known of a run, in `run.json` in its folder."""

import json
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from qcal.atomic import replacing

FILE = "run.json"
LOG = "run.log"
# What a sweep writes into a run's folder before the run begins (the last is `run.json` for a moment): no run yet.
OWN_FILES = (FILE, LOG, ".run-")
LAST_CHECKPOINT = "checkpoints/last.ckpt"
RECORD = "ptq/records.json"

Status = Literal["waiting", "running", "finished", "failed", "interrupted"]


@dataclass(frozen=True)
class RunState:
    """A run's state; `run.json` holds these keys.

    Attributes:
        name: The run's name.
        status: `running` also stands there when whoever held the run was killed.
        command: The command line of the last attempt.
        config_hash: Of `config`.
        config: What makes its figures, so that a later difference can be named.
        attempts: How many processes were started for it, over all sweeps.
        started: When the last attempt began, UTC.
        finished: When it ended; None while it runs.
        exit_code: Of the last process; negative for a signal.
        reason: Why it failed, in one line or a few.
        host: Where the last attempt ran.
        pid: Process of the last attempt.
        device: What `CUDA_VISIBLE_DEVICES` was, if the sweep or Ray chose it.
    """

    name: str
    status: Status
    command: list[str]
    config_hash: str
    config: dict[str, Any]
    attempts: int = 0
    started: str | None = None
    finished: str | None = None
    exit_code: int | None = None
    reason: str | None = None
    host: str | None = None
    pid: int | None = None
    device: str | None = None


def now() -> str:
    """The time, UTC, to the second, as in `2026-11-25T10:00:00+00:00`."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_state(state: RunState, folder: Path) -> None:
    """Write `run.json`, whole or not at all.

    Args:
        state: What is known.
        folder: The run's folder; made when missing.

    Raises:
        OSError: It cannot be written; an older one is then as it was.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_state(RunState("a", "running", ["fit"], "0123", {}, attempts=2), folder)
        >>> read_state(folder).attempts
        2
    """
    with replacing(folder / FILE) as path:
        path.write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")


def read_state(folder: Path) -> RunState | None:
    """Read `run.json`.

    Args:
        folder: The run's folder.

    Returns:
        What is known, or None where no sweep has left a file that can be read.
    """
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        known = {field.name for field in fields(RunState)}
        return RunState(**{key: value for key, value in content.items() if key in known})
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError, json.JSONDecodeError, TypeError, AttributeError):
        # Whatever it is, it is not ours: `decide` then leaves the folder alone and says so.
        return None


def has_record(folder: Path) -> bool:
    """Whether a run left its complete record (the last file that the study writes, whole or not at all)."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError, json.JSONDecodeError):
        return False
    return isinstance(content, dict) and "schema_version" in content
