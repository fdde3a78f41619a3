"""A Weights & Biases run of the command line: begun without waiting, gone on with when resumed, its best kept."""

import json
import logging
import os
import secrets
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment  # type: ignore[attr-defined]  # exported without saying so
from lightning.pytorch.utilities.rank_zero import rank_zero_only  # type: ignore[attr-defined]  # exported without saying so

from qcal.atomic import replacing
from qcal.callbacks.wandb_artifacts import Uploads, log_checkpoint_artifact
from qcal.callbacks.wandb_logging import define_metrics

log = logging.getLogger(__name__)

IDENTITY_FILE = "wandb_run.json"
"""In the run's folder: id and name of its Weights & Biases run."""
INIT_TIMEOUT = 30.0
"""Seconds to wait for the server at the start; wandb itself waits for 90."""
FINISH_TIMEOUT = 600.0
"""Seconds to wait for uploads at the end; wandb itself waits for ever. What is not uploaded stays on disk."""
_REGIMES = "regimes"
_LONGEST_TAG = 64


class RunLogger(WandbLogger):
    """Lightning's logger, for a run that has a folder.

    Args:
        folder: Of the run; who it is in Weights & Biases is kept there.
        identity: Who that is.
        goes_on: Whether the folder holds an earlier part of it.
        epoch_metrics: Metrics that are drawn over epochs; all others over steps.
        uploads: Whether the best checkpoint becomes an artifact.
        may_go_offline: Whether a server that does not start the run leaves it offline, with a warning; else that is an
            error, before anything is trained.
        **settings: As `lightning.pytorch.loggers.WandbLogger`; any, because they are passed on.

    Raises:
        ConnectionError: From `experiment`: the server did not start the run, and it may not go offline.
    """

    def __init__(
        self,
        folder: Path,
        identity: "Identity",
        *,
        goes_on: bool = False,
        epoch_metrics: Sequence[str] = (),
        uploads: Uploads | None = None,
        may_go_offline: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(save_dir=str(folder), dir=str(folder), id=identity.id, name=identity.name, **settings)
        self._wandb_init.pop("anonymous", None)  # Lightning passes it, and wandb warns that it has no effect any more
        self._folder, self._goes_on, self._epoch_metrics = folder, goes_on, tuple(epoch_metrics)
        self._uploads = uploads or Uploads(())
        self._may_go_offline = may_go_offline
        self._best: ModelCheckpoint | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of wandb (Any, as it may be one of its stand-ins); begun when it is first asked for, in rank 0."""
        if self._experiment is None:
            run = self._begin()
            define_metrics(run, self._epoch_metrics, "epoch")
            keep_identity(self._folder, Identity(str(run.id), str(run.name)))
            # Offline nothing else remembers them, and a second study must not be taken for the first.
            known = set(run.summary.keys())
            earlier = earlier_studies(self._folder) if self._goes_on else {}
            run.summary.update({key: count for key, count in earlier.items() if key not in known})
        return self._experiment

    def _begin(self) -> Any:  # Any: as `experiment`
        from wandb import Settings, teardown  # here, as in Lightning's logger: it takes seconds
        from wandb.errors import CommError

        try:
            return super().experiment
        except (CommError, TimeoutError) as error:
            if not self._may_go_offline:
                raise ConnectionError(
                    f"Weights & Biases did not start the run: {error}. Check key and network, or pass "
                    "`--wandb.mode offline` and upload the run later with `wandb sync`."
                ) from error
            log.warning("Weights & Biases did not start the run (%s): it stays offline.", error)
        teardown()  # the attempt still holds the run's id
        self._wandb_init |= {"mode": "offline", "settings": Settings(silent=True)}
        return super().experiment

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Remember which callback keeps the best: the first that compares."""
        super().after_save_checkpoint(checkpoint_callback)
        if self._best is None and checkpoint_callback.monitor is not None:
            self._best = checkpoint_callback

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Put the best score into the summary, upload its checkpoint if that is wanted, and end the run."""
        super().finalize(status)
        try:
            if status == "success" and self._best is not None and self._best.best_model_path:
                self._keep_best(self._best)
            # Not left to the end of the process: one that a strategy has forked ends without it, and writes nothing.
            if self._experiment is not None:
                self._experiment.finish(exit_code=int(status != "success"))
        except Exception as error:  # of a server or a disk: training has ended well
            log.error("The run's end was not logged to Weights & Biases: %s", error, exc_info=error)

    def _keep_best(self, best: ModelCheckpoint) -> None:
        score = None if best.best_model_score is None else best.best_model_score.item()
        if score is not None:
            self.experiment.summary.update({f"best/{best.monitor}": score})
        metadata = {"monitor": best.monitor, "mode": best.mode, "score": score}
        log_checkpoint_artifact(self.experiment, Path(best.best_model_path), metadata, self._uploads)


@dataclass(frozen=True)
class Identity:
    """Who a run is in Weights & Biases.

    Attributes:
        id: Unique in its project.
        name: For people.
    """

    id: str
    name: str


def find_identity(folder: Path, name: str, *, goes_on: bool = False) -> Identity:
    """Who the run in a folder is: who the part of it was that it goes on from, or someone new.

    WANDB_RUN_ID goes before both; an agent sets it.

    Args:
        folder: Of the run; it need not exist.
        name: Of a new run.
        goes_on: Whether it goes on; one that was killed and begins anew would turn the axes of the old one back.

    Example:
        >>> found = find_identity(Path("a folder that is not there"), "mine")
        >>> len(found.id), found.name
        (8, 'mine')
    """
    kept, asked = folder / IDENTITY_FILE, os.environ.get("WANDB_RUN_ID")
    if goes_on and kept.is_file():
        known = Identity(**json.loads(kept.read_text(encoding="utf-8")))
        return Identity(asked or known.id, known.name)
    return Identity(asked or "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8)), name)


def keep_identity(folder: Path, identity: Identity) -> None:
    """Leave it where `find_identity` finds it when the run goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / IDENTITY_FILE) as path:
        path.write_text(json.dumps(asdict(identity)) + "\n", encoding="utf-8")


def earlier_studies(folder: Path) -> dict[str, int]:
    """How many studies lie in a run's folder, as the run's summary counts them: `ptq/studies`, one a loader."""
    records = [path.relative_to(folder).parts[1:-1] for path in folder.glob("ptq*/**/records.json")]
    return dict(Counter("/".join(("ptq", *loader, "studies")) for loader in records))


def describing_tags(config: Mapping[str, Any], config_files: Sequence[Path]) -> list[str]:
    """Regime, model and data set, as they were asked for.

    Args:
        config: The whole config (Any: nested plain values).
        config_files: That were given; the last one in a folder `regimes` names the regime. Without one it is the loss,
            and what mixes the batch.

    Returns:
        The tags, each of 64 characters at most.

    Example:
        >>> network = {"class_path": "qcal.models.CifarResNet", "init_args": {"depth": 20}}
        >>> config = {"model": {"model": network, "loss": None}, "data": {"class_path": "qcal.data.CIFAR10"}}
        >>> describing_tags(config, [Path("configs/regimes/focal.yaml")])
        ['regime:focal', 'model:CifarResNet20', 'data:CIFAR10']
        >>> describing_tags(config, [])[0]
        'regime:CrossEntropyLoss'
    """
    model = config["model"]
    regimes = [file.stem for file in config_files if file.parent.name == _REGIMES][-1:]
    if not regimes:
        mixing = model.get("batch_transform")
        regimes = [_class_name(model.get("loss")) or "CrossEntropyLoss", *([_class_name(mixing)] if mixing else [])]
    arguments = model["model"].get("init_args") or {}
    network = str(arguments.get("name") or f"{_class_name(model['model'])}{arguments.get('depth', '')}")
    tags = [*(f"regime:{regime}" for regime in regimes), f"model:{network}", f"data:{_class_name(config['data'])}"]
    return [tag[:_LONGEST_TAG] for tag in tags]


def _class_name(part: Mapping[str, Any] | None) -> str:  # Any: as above
    return str(part["class_path"]).rpartition(".")[2] if part else ""
