"""What a run says, and how it goes on, when the disk or the user's share of it is full."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qcal.usage import BrokenOffError

__all__ = ["is_full_disk", "telling_of_full_disk"]

_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full_disk(error: OSError) -> bool:
    """Whether nothing was left to write into: the disk is full, or a quota is used up.

    Example:
        >>> is_full_disk(OSError(errno.ENOSPC, "No space left on device")), is_full_disk(FileNotFoundError())
        (True, False)
    """
    return error.errno in _FULL


@contextmanager
def telling_of_full_disk(folder: Path, last_checkpoint: Path) -> Iterator[None]:
    """Turn the error of a full disk into a message with what is kept and how to go on.

    Args:
        folder: The run's folder.
        last_checkpoint: Where the run keeps the network of its last epoch; it need not exist.

    Raises:
        BrokenOffError: The disk is full. Any other error passes as it is.

    Example:
        >>> with telling_of_full_disk(Path("runs/a"), Path("runs/a/checkpoints/last.ckpt")):
        ...     raise OSError(errno.ENOSPC, "No space left on device")
        Traceback (most recent call last):
        qcal.usage.BrokenOffError: The disk is full ([Errno 28] No space left on device), so the run in runs/a ...
    """
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        how = _with_checkpoint(folder, last_checkpoint) if last_checkpoint.is_file() else _from_the_beginning(folder)
        raise BrokenOffError(f"The disk is full ({error}), so the run in {folder} stopped. {how}") from error


def _with_checkpoint(folder: Path, checkpoint: Path) -> str:
    config = folder / "config.yaml"
    return (
        f"Its last whole checkpoint is {checkpoint}. Free space, then go on with `fit -c {config} --run.dir {folder} "
        f"--ckpt_path {checkpoint}`; if training had ended, measure with `test -c {config} --ckpt_path {checkpoint}`."
    )


def _from_the_beginning(folder: Path) -> str:
    return f"It had kept no checkpoint. Free space, move {folder} away and start again, or choose another `--run.dir`."
