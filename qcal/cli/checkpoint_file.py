"""Checkpoints that are whole or not there, on whichever disk they lie."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from qcal.atomic import replacing

__all__ = ["WholeCheckpoints"]


class WholeCheckpoints(TorchCheckpointIO):
    """Write each checkpoint beside its place, then put it there in one step.

    Lightning writes to the folder for temporary files and moves the result. Where that is another disk, to move is to
    copy, over the checkpoint of the epoch before: a full disk or a kill in between left half a `last.ckpt`, and nothing
    to go on from.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "last.ckpt"
        >>> WholeCheckpoints().save_checkpoint({"epoch": 3}, path)
        >>> torch.load(path, weights_only=True)["epoch"]
        3
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:  # Any: as in the base class
        """Write a checkpoint.

        Args:
            checkpoint: What `torch.save` takes.
            path: The file; an address with `://` is left to the base class.
            storage_options: Refused by the base class.

        Raises:
            OSError: It cannot be written; a file that was there is as it was.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        # To memory first: while torch writes a file itself, a full disk is a RuntimeError without a number.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with replacing(path) as temporary:
            temporary.write_bytes(content.getbuffer())
