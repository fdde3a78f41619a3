"""Say in whose line an export failed: that of the user's forward, not those of torch underneath it."""

import traceback
from pathlib import Path

import torch
from torch import Tensor, nn

_TORCH = Path(torch.__file__).parent
_OURS = Path(__file__).parent
_STANDARD_LIBRARY = Path(traceback.__file__).parent


def failed_line(error: BaseException) -> str | None:
    """The innermost line of the traceback that is neither torch's nor ours: file, number, function and code.

    Example:
        >>> try:
        ...     _ = nn.Linear(3, 2)(torch.ones(2, 4))
        ... except RuntimeError as error:
        ...     print(failed_line(error))
        line 2 of <doctest ...>, in <module>: `_ = nn.Linear(3, 2)(torch.ones(2, 4))`
    """
    lines = [
        f"line {frame.lineno} of {frame.filename}, in {frame.name}: `{frame.line}`"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.line and _is_users(Path(frame.filename))
    ]
    return lines[-1] if lines else None


def _is_users(file: Path) -> bool:
    """Whether a file is neither torch's nor ours nor Python's own (installed packages may lie below Python's)."""
    is_python = file.is_relative_to(_STANDARD_LIBRARY) and "site-packages" not in file.parts
    return not (is_python or file.is_relative_to(_TORCH) or file.is_relative_to(_OURS))


def explain_export_error(network: nn.Module, example: Tensor, error: Exception) -> str:
    """What stopped the export of `network`, where, and the way out.

    An export can fail without a line: a batch size written into the forward is noticed only at the end. Then the
    network itself is asked, with one image more than in `example`.
    """
    cause = _first_line(error)
    line = failed_line(error)
    if line is None:
        line, eager_cause = _line_for_another_batch(network, example)
        cause = eager_cause or cause
    where = f" It stopped at {line}." if line is not None else ""
    return (
        "`model` must be exportable with torch.export for any batch size, but "
        f"{type(network).__name__} is not: {cause}{'' if cause.endswith('.') else '.'}{where} Rewrite that without "
        'control flow that depends on the values or the number of images, or pass `placement="modules"`, which '
        "quantizes at the boundaries of modules and needs no export."
    )


def _line_for_another_batch(network: nn.Module, example: Tensor) -> tuple[str | None, str | None]:
    """Where and why `network` fails on one image more; None, None if it does not."""
    try:
        network(torch.cat([example, example[:1]]))
    except Exception as error:  # whatever a stranger's forward raises tells where the number of images is written in
        return failed_line(error), f"for {len(example) + 1} images, {_first_line(error)}"
    return None, None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
