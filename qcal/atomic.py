"""Write files so that whoever looks, whenever, finds the old one or the whole new one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends well.

    Args:
        path: The file to write; its folder is made when missing.

    Yields:
        Where to write instead: same folder, same suffix (figure writers choose the format by it).

    Raises:
        OSError: The folder or the file cannot be written; `path` is then as it was.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replacing(folder / "answer.txt") as temporary:
        ...     _ = temporary.write_text("42")
        >>> [p.name for p in folder.iterdir()], (folder / "answer.txt").read_text()
        (['answer.txt'], '42')
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        # mkstemp makes the file readable by its owner alone; the result shall have the rights of any new file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
