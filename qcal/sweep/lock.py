"""A lock that lives as long as some process that holds it, and no longer."""

import fcntl
import os
import time
from pathlib import Path

FOLDER = ".locks"


def lock(path: Path, *, wait: bool = False) -> int | None:
    """Take a lock.

    It is held by the file handle: processes that inherit it hold the lock too, and it is free when the last one ends,
    however it ends. So a run whose sweep was killed still holds its lock, and no second one works in its folder.

    Args:
        path: The lock's file; made when missing.
        wait: Wait until it is free; otherwise give up at once.

    Returns:
        The file handle, to be closed by `os.close`; None when someone else holds the lock.

    Raises:
        OSError: The file cannot be made, or its file system has no locks.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.lock"
        >>> held = lock(path)
        >>> print(lock(path))
        None
        >>> os.close(held)
        >>> os.close(lock(path))
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return handle
            except BlockingIOError:
                if not wait:
                    os.close(handle)
                    return None
            # Asked again and again, not waited for in the kernel: a signal must get through.
            time.sleep(0.2)
    except OSError:
        os.close(handle)
        raise


def lock_of_run(folder: Path) -> Path:
    """The lock of the run in `folder`: beside it, because the folder itself may be moved."""
    return folder.parent / FOLDER / f"{folder.name}.lock"
