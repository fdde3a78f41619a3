"""What a step does to images before a network gets them, written as Python: `.float().div(255).unsqueeze(1)`.

Only what is the same for every batch can be written: casts, moved and added axes, and arithmetic with plain numbers.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

FLATTENED = ".flatten(1)"
"""What makes `(N, C)` of logits `(N, C, 1, 1)` or `(N, 1, C)`."""

_NAMES = (
    *("float", "double", "half", "bfloat16", "contiguous"),
    *("unsqueeze", "squeeze", "permute", "transpose", "swapaxes", "movedim", "flatten", "repeat", "expand"),
    *("add", "sub", "mul", "div"),
)
_METHODS: Mapping[object, str] = {
    getattr(place, name): name for name in _NAMES for place in (torch, Tensor) if hasattr(place, name)
}
_TYPES = {torch.float32: "float", torch.float64: "double", torch.float16: "half", torch.bfloat16: "bfloat16"}
_CALL = re.compile(r"\.(\w+)\(((?:[^()]|\([^()]*\))*)\)")
_CALLS = re.compile(rf"(?:{_CALL.pattern})+$")

# Any: arguments of a function as torch calls it.


def written(function: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """The call of a function on `args[0]` as a method call; None if it cannot be written, or not for every batch.

    Example:
        >>> written(torch.Tensor.div, (torch.zeros(2, 3), 255), {}), written(torch.Tensor.relu, (torch.zeros(2),), {})
        ('.div(255)', None)
    """
    if function is Tensor.to:
        return _written_cast([*args[1:], *kwargs.values()])
    name = _METHODS.get(function)
    if name is None or not args or not all(_is_plain(value) for value in (*args[1:], *kwargs.values())):
        return None
    if not _keeps_rows(name, args):
        return None
    arguments = [*(repr(_listed(value)) for value in args[1:]), *(f"{k}={_listed(v)!r}" for k, v in kwargs.items())]
    return f".{name}({', '.join(arguments)})"


def is_change(function: object) -> bool:
    """Whether it is one of the functions whose calls can be written."""
    return function is Tensor.to or function in _METHODS


def split(path: str) -> tuple[str, str]:
    """A path and the changes at its end.

    Example:
        >>> split("batch['image'].float().div(255)")
        ("batch['image']", '.float().div(255)')
    """
    found = _CALLS.search(path)
    return (path[: found.start()], found[0]) if found else (path, "")


def changed(tensor: Tensor, changes: str) -> Tensor:
    """A tensor after changes.

    Example:
        >>> changed(torch.full((2, 3), 255), ".float().div(255).unsqueeze(1)").shape
        torch.Size([2, 1, 3])
    """
    for name, arguments in _CALL.findall(changes):
        if name not in _NAMES:
            raise ValueError(f"A path may end in calls of {', '.join(_NAMES)}, got {name}.")
        call = ast.parse(f"f({arguments})", mode="eval").body
        assert isinstance(call, ast.Call)
        positional = [ast.literal_eval(value) for value in call.args]
        named = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
        tensor = getattr(tensor, name)(*positional, **named)
    return tensor


def _written_cast(arguments: Sequence[Any]) -> str | None:
    """Of `.to(device, dtype, ...)` the type; a device and a memory format change no number."""
    types = [_TYPES.get(value) for value in arguments if isinstance(value, torch.dtype)]
    if any(isinstance(value, Tensor) for value in arguments) or None in types:
        return None
    return f".{types[0]}()" if types else ".contiguous()"


def _keeps_rows(name: str, args: Sequence[Any]) -> bool:
    """Whether a batch of any size keeps its rows; keywords for axes are not looked into and taken to be none."""
    given = args[1] if len(args) == 2 and isinstance(args[1], list | tuple) else args[1:]
    if name in ("add", "sub", "mul", "div") or not hasattr(args[0], "ndim"):
        return True
    axes = [axis % max(args[0].ndim + (name == "unsqueeze"), 1) for axis in given]
    if name in ("permute", "expand", "repeat"):
        return bool(given) and given[0] == {"permute": 0, "expand": -1, "repeat": 1}[name]
    return 0 not in axes and (bool(axes) or name not in ("squeeze", "flatten"))


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(type(part) is int for part in value)
    return type(value) in (int, float, bool)


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value
