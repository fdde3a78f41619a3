"""What a run says that ends before its time for no fault of its own: the disk is full, or the user stopped it."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qcal.usage import BrokenOffError

__all__ = ["is_full_disk", "telling_how_to_go_on"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_STOPPED = 130  # as shells give it for Ctrl-C


def is_full_disk(error: OSError) -> bool:
    """Whether nothing was left to write into: the disk is full, or a quota is used up.

    Example:
        >>> is_full_disk(OSError(errno.ENOSPC, "No space left on device")), is_full_disk(FileNotFoundError())
        (True, False)
    """
    return error.errno in _FULL


@contextmanager
def telling_how_to_go_on(folder: Path, last_checkpoint: Path, *, was_stopped: Callable[[], bool]) -> Iterator[None]:
    """Turn the end of a run by a full disk or by Ctrl-C into a message with what is kept and how to go on.

    Args:
        folder: The run's folder.
        last_checkpoint: Where the run keeps the network of its last epoch; it need not exist.
        was_stopped: Whether an exit of the process, asked for within, was the user's doing.

    Raises:
        BrokenOffError: The disk is full, or the user stopped the run. Any other error or exit passes as it is.

    Example:
        >>> with telling_how_to_go_on(Path("runs/a"), Path("runs/a/checkpoints/last.ckpt"), was_stopped=lambda: False):
        ...     raise OSError(errno.ENOSPC, "No space left on device")
        Traceback (most recent call last):
        qcal.usage.BrokenOffError: The disk is full ([Errno 28] No space left on device), so the run in runs/a ...
    """
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        how = _how(folder, last_checkpoint, first="Free space, then ")
        raise BrokenOffError(f"The disk is full ({error}), so the run in {folder} stopped. {how}") from error
    except SystemExit as error:
        if not was_stopped():
            raise
        how = _how(folder, last_checkpoint, first="")
        raise BrokenOffError(f"The run in {folder} was stopped. {how}", exit_code=_STOPPED) from error


def _how(folder: Path, checkpoint: Path, *, first: str) -> str:
    if not checkpoint.is_file():
        do = f"{first}move {folder} away and start again"
        return f"It had kept no checkpoint. {do[0].upper()}{do[1:]}, or choose another `--run.dir`."
    config = folder / "config.yaml"
    do = f"{first}go on with `fit -c {config} --run.dir {folder} --ckpt_path {checkpoint}`"
    return (
        f"Its last whole checkpoint is {checkpoint}. {do[0].upper()}{do[1:]}; if training had ended, measure with "
        f"`test -c {config} --ckpt_path {checkpoint}`."
    )
