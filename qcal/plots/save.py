"""Write a picture to disk: whole or not at all, and the same bytes for the same picture."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from qcal.atomic import replacing

PNG_DPI = 150
# Without these a file would hold the version of matplotlib or the time of writing.
_METADATA: dict[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}
# Element names in an SVG are hashes; without a fixed salt they are random.
_SVG_SALT = "qcal"


def save_figure(fig: Figure, folder: str | Path, name: str) -> list[Path]:
    """Write `fig` as `<folder>/<name>.png` (150 dots per inch) and `<folder>/<name>.svg`.

    Each file is written beside its place and then moved there, so that nobody finds half a picture.

    Args:
        fig: The picture.
        folder: Where to; made when missing.
        name: File name without ending.

    Returns:
        The paths of the PNG and of the SVG.

    Raises:
        ValueError: `name` is empty or names another folder.
        OSError: The folder cannot be written.

    Example:
        >>> import tempfile
        >>> [path.name for path in save_figure(Figure(), tempfile.mkdtemp(), "empty")]
        ['empty.png', 'empty.svg']
    """
    if not name or Path(name).name != name:
        raise ValueError(f"`name` must be a file name without ending, got {name!r}. Put the folder into `folder`.")
    paths = []
    for ending, metadata in _METADATA.items():
        path = Path(folder) / f"{name}.{ending}"
        with replacing(path) as temporary, matplotlib.rc_context({"svg.hashsalt": _SVG_SALT}):
            fig.savefig(temporary, format=ending, dpi=PNG_DPI, metadata=metadata)
        paths.append(path)
    return paths
