"""A run's folder and its loggers."""

import logging
import netrc
import os
import socket
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import ParseResult, urlparse

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from qcal.sweep.run_state import OWN_FILES

log = logging.getLogger(__name__)

RUNS = "runs"


@dataclass(frozen=True)
class RunOptions:
    """Where a run leaves its files.

    Args:
        name: Name of the run, here and in Weights & Biases; data, model, regime, seed and time when not given.
        dir: Folder of the run; `runs/<name>` when not given. It must be new, unless a run is resumed with
            `--ckpt_path`.
    """

    name: str | None = None
    dir: str | None = None


@dataclass(frozen=True)
class WandbOptions:
    """Tracking in Weights & Biases; a CSV file is written beside it in any case.

    Args:
        mode: `auto` is online if you are logged in and the server answers, else offline; `offline` runs are uploaded
            later with `wandb sync`. The variable WANDB_MODE decides for `auto` when it is set.
        project: Project the run belongs to.
        entity: User or team; your default one when not given.
        group: Runs that belong together, for example a sweep.
        tags: Labels to filter runs by.
        notes: Free text.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "qcal"
    entity: str | None = None
    group: str | None = None
    tags: list[str] | None = None
    notes: str | None = None


def choose_run_folder(options: RunOptions, description: str, *, resumed: bool) -> tuple[str, Path]:
    """The run's name and folder; nothing is made yet.

    Args:
        options: What the user asked for.
        description: What an unnamed run is called by, before the time.
        resumed: The run goes on in a folder that may exist.

    Returns:
        Name and folder.

    Raises:
        ValueError: The folder holds a run already.
    """
    name = options.name or f"{description}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = Path(options.dir) if options.dir else Path(RUNS) / name
    if not options.dir and not options.name:
        number = 1
        while folder.exists():  # a second run within the same second
            number += 1
            folder = Path(RUNS) / f"{name}-{number}"
    holds_run = folder.is_dir() and not all(entry.name.startswith(OWN_FILES) for entry in folder.iterdir())
    if folder.is_file() or (holds_run and not resumed):
        raise ValueError(
            f"{folder} holds a run already. Choose another `--run.name` or `--run.dir`, or go on with that run: "
            f"`fit --run.dir {folder} --ckpt_path {folder / 'checkpoints' / 'last.ckpt'}`."
        )
    return name, folder


def make_loggers(
    name: str, folder: Path, options: WandbOptions, config: dict[str, Any]
) -> list[Logger]:  # Any: nested plain values
    """CSV in the run's folder, first, so that checkpoints go there too; and Weights & Biases unless it is disabled.

    Args:
        name: The run's name.
        folder: The run's folder.
        options: For Weights & Biases.
        config: The whole config, which its run shows.

    Returns:
        The loggers; no file is written before the trainer starts.
    """
    csv = CSVLogger(save_dir=folder, name="", version="")
    mode = _wandb_mode(options)
    if mode == "disabled":
        return [csv]
    from wandb import Settings  # here, because it takes seconds and disabled runs do not need it

    wandb = WandbLogger(
        name=name,
        save_dir=str(folder),
        project=options.project,
        entity=options.entity,
        group=options.group,
        tags=options.tags,
        notes=options.notes,
        config=config,
        mode=mode,
        dir=str(folder),
        # Offline there is no page to point to: the command says at the end where the run is and how to upload it.
        settings=Settings(silent=mode == "offline"),
    )
    return [csv, wandb]


def _wandb_mode(options: WandbOptions) -> str:
    if options.mode != "auto":
        return options.mode
    asked = os.environ.get("WANDB_MODE", "")
    if asked in ("online", "offline", "disabled"):
        return asked
    return "online" if _is_logged_in() and _server_answers() else "offline"


def _is_logged_in() -> bool:
    """Whether a key is at hand, where wandb looks for it; without one it would ask, and wait."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    named = os.environ.get("NETRC")
    candidates = [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]
    file = next((path for path in candidates if path.is_file()), None)
    if file is None:
        return False
    try:
        return netrc.netrc(file).authenticators(_server().hostname or "") is not None
    except netrc.NetrcParseError as error:
        log.warning("%s cannot be read (%s): the run stays offline.", file, error)
        return False


def _server_answers(timeout: float = 3.0) -> bool:
    """Whether the server can be reached at all; wandb itself would wait for minutes."""
    server = _server()
    try:
        with socket.create_connection(
            (server.hostname or "", server.port or (443 if server.scheme == "https" else 80)), timeout=timeout
        ):
            return True
    except OSError:
        return False


def _server() -> ParseResult:
    return urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
