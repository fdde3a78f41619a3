"""A run's folder and its loggers."""

import logging
import netrc
import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import ParseResult, urlparse

from lightning.pytorch.loggers import CSVLogger, Logger

from qcal.callbacks.wandb_artifacts import UploadKind, Uploads
from qcal.cli.wandb_run import FINISH_TIMEOUT, INIT_TIMEOUT, RunLogger, find_identity
from qcal.sweep.run_state import LAST_CHECKPOINT, OWN_FILES

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
        group: Runs that belong together, for example a sweep; that of a Weights & Biases sweep when not given.
        tags: Labels to filter runs by. `regime:...`, `model:...` and `data:...` come before them, but for those kinds
            that are among them.
        notes: Free text.
        job_type: Kind of run, to filter by; the subcommand (`fit`, `test`) when not given.
        upload: What becomes a versioned artifact: any of `record` (figures and pictures of the study), `logits` and
            `checkpoint` (the best).
        upload_limit_mb: An artifact of more megabytes stays in the run's folder, and a warning says so.

    Raises:
        ValueError: A tag that Weights & Biases would refuse, or a limit that is not positive.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "qcal"
    entity: str | None = None
    group: str | None = None
    tags: list[str] | None = None
    notes: str | None = None
    job_type: str | None = None
    upload: list[UploadKind] = field(default_factory=lambda: ["record", "logits", "checkpoint"])
    upload_limit_mb: float = 200.0

    def __post_init__(self) -> None:
        """Refuse now what the server would refuse later."""
        wrong = [tag for tag in self.tags or [] if not 1 <= len(tag) <= 64]
        if wrong:
            raise ValueError(
                f"`tags` must each have 1 to 64 characters, got {wrong[0]!r}. Shorten it, or write it into `notes`."
            )
        _ = self.uploads

    @property
    def uploads(self) -> Uploads:
        """What becomes an artifact."""
        return Uploads(tuple(self.upload), self.upload_limit_mb)


@dataclass(frozen=True)
class RunDescription:
    """What Weights & Biases is told of a run besides its config.

    Attributes:
        job_type: Kind of run.
        tags: Labels, each with its kind and a colon before it.
        epoch_metrics: Metrics that are drawn over epochs.
        goes_on: Whether it begins where an earlier part in the same folder left off.
    """

    job_type: str = "fit"
    tags: Sequence[str] = ()
    epoch_metrics: Sequence[str] = ()
    goes_on: bool = False


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
        last = folder / LAST_CHECKPOINT
        rest = (
            f"or go on with that run: `fit --run.dir {folder} --ckpt_path {last}`."
            if last.is_file()
            else "or move that folder away: it has no checkpoint to go on from."
        )
        raise ValueError(f"{folder} holds a run already. Choose another `--run.name` or `--run.dir`, {rest}")
    return name, folder


def make_loggers(
    name: str,
    folder: Path,
    options: WandbOptions,
    config: dict[str, Any],  # Any: nested plain values
    description: RunDescription = RunDescription(),
) -> list[Logger]:
    """CSV in the run's folder, first, so that checkpoints go there too; and Weights & Biases unless it is disabled.

    Args:
        name: The run's name.
        folder: The run's folder.
        options: For Weights & Biases.
        config: The whole config, which its run shows.
        description: What else its run shows.

    Returns:
        The loggers; no file is written before the trainer starts.
    """
    csv = CSVLogger(save_dir=folder, name="", version="")
    mode = _wandb_mode(options)
    if mode == "disabled":
        return [csv]
    wandb = RunLogger(
        folder,
        find_identity(folder, name, goes_on=description.goes_on),
        goes_on=description.goes_on,
        epoch_metrics=description.epoch_metrics,
        uploads=options.uploads,
        may_go_offline=options.mode == "auto" and not os.environ.get("WANDB_MODE"),
        project=options.project,
        entity=options.entity,
        group=options.group or _group_of_environment(),
        job_type=options.job_type or os.environ.get("WANDB_JOB_TYPE") or description.job_type,
        tags=_joined_tags(description.tags, options.tags),
        notes=options.notes,
        config=config,
        mode=mode,
        settings=_settings(mode),
    )
    return [csv, wandb]


def _settings(mode: str) -> Any:  # Any: `wandb.Settings`, whose package takes seconds to import
    from wandb import Settings

    # Offline there is no page to point to: the command says at the end where the run is and how to upload it.
    settings = Settings(silent=mode == "offline", init_timeout=INIT_TIMEOUT)
    if "finish_timeout" in Settings.model_fields:  # not in the oldest wandb that works
        settings.finish_timeout = FINISH_TIMEOUT
    return settings


def _group_of_environment() -> str | None:
    """What wandb is told by its own variables: a group, or the sweep whose agent runs this."""
    sweep = os.environ.get("WANDB_SWEEP_ID")
    return os.environ.get("WANDB_RUN_GROUP") or (f"sweep-{sweep}" if sweep else None)


def _joined_tags(describing: Sequence[str], asked: Sequence[str] | None) -> list[str]:
    """The run's own tags, but of kinds that are asked for, then those asked for and those of WANDB_TAGS, each once."""
    variable = [tag.strip() for tag in os.environ.get("WANDB_TAGS", "").split(",")]
    given = [tag for tag in (*(asked or ()), *variable) if tag]
    kinds = {tag.partition(":")[0] for tag in given if ":" in tag}
    return list(dict.fromkeys([*(tag for tag in describing if tag.partition(":")[0] not in kinds), *given]))


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
    """Whether the server can be reached at all, within `timeout` seconds; wandb itself would wait for minutes."""
    server, answers = _server(), threading.Event()
    address = (server.hostname or "", server.port or (443 if server.scheme == "https" else 80))

    def ask() -> None:
        try:
            socket.create_connection(address, timeout=timeout).close()
        except OSError:
            return
        answers.set()

    # Beside this thread, because no timeout holds for looking the name up, which without a network may take long.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(timeout)
    return answers.is_set()


def _server() -> ParseResult:
    return urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
