"""A study's files, and a checkpoint, as versioned artifacts of a Weights & Biases run.

Artifacts cost their owner storage, and a checkpoint may be nobody's business: what is uploaded is said by `Uploads`. In
a project that only attached a callback it is the record, if it is small, and nothing else.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from qcal.robustness import Record

log = logging.getLogger(__name__)

UploadKind = Literal["record", "logits", "checkpoint"]
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Uploads:
    """What becomes an artifact.

    Args:
        kinds: Any of `record` (`records.json`, `records.csv`, `analysis.json` and the pictures as PNG), `logits`
            (`logits.npz`) and `checkpoint` (the best one; only the command line of qcal uploads it).
        limit_mb: An artifact of more megabytes (10^6 bytes) stays in the run's folder, and a warning says so.

    Raises:
        ValueError: An unknown kind, or a limit that is not positive.

    Example:
        >>> Uploads().kinds, Uploads(("record", "logits"), limit_mb=50).allows("logits", 60_000_000)
        (('record',), False)
    """

    kinds: tuple[UploadKind, ...] = ("record",)
    limit_mb: float = 10.0

    def __post_init__(self) -> None:
        """Refuse what does not exist."""
        unknown = [kind for kind in self.kinds if kind not in get_args(UploadKind)]
        if unknown:
            raise ValueError(
                f"Uploads must be among {', '.join(map(repr, get_args(UploadKind)))}, got "
                f"{', '.join(map(repr, unknown))}. Leave out what is not listed; an empty list uploads nothing."
            )
        if not self.limit_mb > 0:
            raise ValueError(
                f"`limit_mb` of uploads must be a positive number of megabytes, got {self.limit_mb!r}. An empty list "
                "of kinds uploads nothing."
            )

    def allows(self, kind: UploadKind, size: int) -> bool:
        """Whether an artifact of this kind and of `size` bytes is uploaded."""
        return kind in self.kinds and size <= self.limit_mb * MEGABYTE


# Any: a run of wandb, whose package is imported only where it is used.
def log_study_artifacts(run: Any, record: Record, folder: Path, uploads: Uploads, *, loader: str = "") -> None:
    """Log a study's files: the record as `qcal-record-<run id>`, the logits as `qcal-logits-<run id>`.

    A second study of the same run becomes the next version of the same artifacts.

    Args:
        run: Of wandb.
        record: What was measured; its provenance becomes the artifacts' metadata.
        folder: Where the files are.
        uploads: Which of them are wanted.
        loader: Name of the loader, where there are several; it ends the artifacts' names.
    """
    pictures = sorted((folder / "figures").glob("*.png"))
    texts = [folder / name for name in ("records.json", "records.csv", "analysis.json")]
    files = {"record": [*texts, *pictures], "logits": [folder / "logits.npz"]}
    kinds: tuple[UploadKind, ...] = ("record", "logits")
    for kind in kinds:
        name = _named("qcal", kind, run.id, loader)
        provenance = _provenance(record)
        # The files are final: no later study writes over them. So they need not be copied until they are uploaded.
        _log(run, kind, name, f"qcal-{kind}", files[kind], provenance, uploads, root=folder, policy="immutable")


def log_checkpoint_artifact(run: Any, path: Path, metadata: Mapping[str, Any], uploads: Uploads) -> None:
    """Log a checkpoint as `model-<run id>`, with the alias `best`. Any: plain values beside it."""
    # Copied, because a resumed run may write a better one over it before an offline run is uploaded.
    name = _named("model", run.id)
    _log(run, "checkpoint", name, "model", [path], metadata, uploads, root=path.parent, policy="mutable", alias="best")


def _log(
    run: Any,
    kind: UploadKind,
    name: str,
    artifact_type: str,
    files: Iterable[Path],
    metadata: Mapping[str, Any],
    uploads: Uploads,
    *,
    root: Path,
    policy: Literal["mutable", "immutable"],
    alias: str | None = None,
) -> None:
    if kind not in uploads.kinds:
        return
    present = [file for file in files if file.is_file()]
    size = sum(file.stat().st_size for file in present)
    if not uploads.allows(kind, size):
        log.warning(
            "The %s in %s is %.1f MB, more than the %g MB that are uploaded to Weights & Biases at most: it stays "
            "there. Raise the limit (`--wandb.upload_limit_mb`, or `limit_mb` of `Uploads`), or leave it out of what "
            "is uploaded.",
            *(kind, root, size / MEGABYTE, uploads.limit_mb),
        )
        return
    import wandb  # here, because only a project that logs to it needs it

    artifact = wandb.Artifact(name, type=artifact_type, metadata=dict(metadata))
    for file in present:
        artifact.add_file(str(file), name=file.relative_to(root).as_posix(), policy=policy)
    run.log_artifact(artifact, aliases=["latest", *([alias] if alias else [])])


def _named(*parts: str) -> str:
    """A name of the characters that artifacts may have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(part for part in parts if part))


def _provenance(record: Record) -> dict[str, Any]:
    """Which weights, images and settings the files speak of."""
    context = record.context
    kept = ("created", "network", "weights", "weights_sha256", "seed", "epochs", "num_images", "versions", "data")
    return {
        **{name: context[name] for name in kept if name in context},
        "schema_version": record.schema_version,
        "settings": list(record.settings),
    }
