"""Where images and labels are in a batch: paths such as `batch['image']`, the usual places, and what to say otherwise.

A batch is whatever a project's loader gives. Its tensors are named by the Python expression that reads them, so that a
record or a message can be checked by hand.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from qcal.callbacks.changes import changed, split

IMAGE_NAMES = ("image", "images", "x", "pixel_values", "img", "imgs", "input", "inputs")
TARGET_NAMES = ("label", "labels", "y", "target", "targets", "class", "cls", "label_id")

BatchReader = Callable[[Any], tuple[Tensor, Tensor]]
"""From a batch (Any: whatever the loader gives) to images `(N, ...)` and target `(N,)`."""

_STEP = re.compile(r"""\[(?P<item>-?\d+|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\]|\.(?P<name>\w+)""")
_DEPTH = 4
_PASS_NETWORK = "Pass `network=`, a submodule that takes images alone."
UNKNOWN = -1
"""In the place of a label that was not read."""
FLOAT = ".float()"
"""The end of the path of whole numbers that the step casts; see `changes` for what else a path may end in."""


def leaves(batch: Any) -> dict[str, Tensor]:  # Any: a batch can be anything
    """Every tensor of a batch by its path, in the order of the batch.

    Example:
        >>> list(leaves({"image": torch.zeros(2, 3), "meta": (torch.zeros(2), "file")}))
        ["batch['image']", "batch['meta'][0]"]
    """
    return {f"batch{path}": part for path, part in walk(batch) if isinstance(part, Tensor)}


def walk(value: Any, path: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, Any]]:
    """All parts of a nested value that hold no further parts, each with its path. Any: see `leaves`."""
    inside = list(parts(value)) if depth > 0 else []
    if not inside:
        yield path, value
    for step, part in inside:
        yield from walk(part, path + step, depth - 1)


def parts(value: Any) -> Iterator[tuple[str, Any]]:
    """The direct parts of a container with the step that reads each; nothing for what is no container."""
    if isinstance(value, Tensor | str | bytes | torch.nn.Module | type):
        return
    if isinstance(value, Mapping):
        yield from ((f"[{_plain(key)!r}]", part) for key, part in value.items() if isinstance(key, str | int))
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from ((f".{name}", getattr(value, name)) for name in value._fields)
    elif isinstance(value, list | tuple):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif is_dataclass(value):
        yield from ((f".{field.name}", getattr(value, field.name)) for field in fields(value))
    elif type(value).__module__ != "builtins" and any(
        isinstance(p, Tensor) for p in getattr(value, "__dict__", {}).values()
    ):
        yield from ((f".{name}", part) for name, part in vars(value).items() if name.isidentifier())


def _plain(key: str | int) -> str | int:
    """The key without the class that a data set may have given it, which would print as no literal."""
    return key[:] if isinstance(key, str) else int(key)


def read(value: Any, path: str) -> Any:
    """Follow a path (without its first word, `batch` or `output`) into a nested value.

    Raises:
        LookupError: The value has no such part.

    Example:
        >>> read({"image": [1, 2]}, "['image'][1]")
        2
    """
    tail, changes = split(path)
    for step in _STEP.finditer(tail):
        name, item = step["name"], step["item"]
        try:
            value = getattr(value, name) if name else value[ast.literal_eval(item)]
        except (AttributeError, TypeError, KeyError, IndexError) as error:
            raise LookupError(f"There is no {path} in {describe(value)}.") from error
    return changed(value, changes) if changes else value


def pack(images: Tensor, path: str) -> Any:
    """A container that holds `images` at a path and nothing else: a dictionary, or a tuple of at least two.

    Any: the reverse of `read`.

    Example:
        >>> pack("images", "['inputs'][0]")
        {'inputs': ('images', None)}
    """
    packed: Any = images
    for step in reversed(list(_STEP.finditer(path))):
        if step["item"] is None:
            raise ValueError(f"A batch cannot be built for a module that reads {path} of it. {_PASS_NETWORK}")
        item = ast.literal_eval(step["item"])
        packed = {item: packed} if isinstance(item, str) else (*[None] * item, packed, *[None] * (1 - item))
    return packed


def reader(images_path: str, target_path: str) -> BatchReader:
    """Read a batch at two paths, such as `batch[0]` and `batch[1]`."""

    def read_pair(batch: Any) -> tuple[Tensor, Tensor]:
        try:
            images = read(batch, images_path.removeprefix("batch"))
            target = read(batch, target_path.removeprefix("batch"))
        except LookupError as error:
            raise ValueError(unreadable(batch, f"{images_path} and {target_path} were expected")) from error
        return checked_pair((images, target), batch)

    return read_pair


def image_reader(images_path: str) -> BatchReader:
    """Read a batch at one path: images, and `UNKNOWN` for each label, which such a batch need not have."""

    def read_images(batch: Any) -> tuple[Tensor, Tensor]:
        try:
            images = read(batch, images_path.removeprefix("batch"))
        except LookupError as error:
            raise ValueError(unreadable(batch, f"{images_path} was expected")) from error
        return _unlabelled(images, batch)

    return read_images


def custom_image_reader(function: Callable[[Any], Any], *, changes: str = "") -> BatchReader:
    """The images of a user's `batch_to_inputs`, and what the step then does to them; labels are not looked at."""

    def read_images(batch: Any) -> tuple[Tensor, Tensor]:
        pair = function(batch)
        images, target = _unlabelled(pair[0] if isinstance(pair, tuple | list) and pair else pair, batch)
        return changed(images, changes), target

    return read_images


def _unlabelled(images: Any, batch: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(images, Tensor) or images.ndim < 2:
        raise ValueError(unreadable(batch, f"images (N, ...) were expected, got {describe(images)}"))
    unknown = torch.full((len(images),), UNKNOWN, device=images.device)
    return images.float() if images.is_floating_point() else images, unknown


def custom_reader(function: Callable[[Any], Any], *, changes: str = "") -> BatchReader:
    """A user's `batch_to_inputs`, with its result checked, and what the step then does to the images."""

    def read_pair(batch: Any) -> tuple[Tensor, Tensor]:
        images, target = checked_pair(function(batch), batch)
        return changed(images, changes), target

    return read_pair


def checked_pair(pair: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Images in float32 (or the integers they are) and labels `(N,)` int64. Any: both are what is checked.

    Raises:
        ValueError: Not two tensors with the same number of rows, or labels that are no class indices.
    """
    if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(part, Tensor) for part in pair)):
        raise ValueError(unreadable(batch, f"`(images, target)` was expected, got {describe(pair)}"))
    images, target = pair
    labels = most_probable(target)
    if labels is None or images.ndim < 2 or len(images) != len(labels):
        raise ValueError(
            unreadable(batch, f"images (N, ...) and class indices (N,) were expected, got {describe(tuple(pair))}")
        )
    return images.float() if images.is_floating_point() else images, labels


def as_labels(target: Tensor) -> Tensor | None:
    """Class indices `(N,)` int64 from `(N,)` or `(N, 1)` whole numbers or one-hot rows `(N, C)`; None if neither."""
    if target.ndim == 2 and target.shape[1] == 1:
        target = target[:, 0]
    if target.ndim == 1:
        whole = not target.is_floating_point() or bool((target == target.round()).all())
        return target.long() if whole else None
    if target.ndim == 2:
        one_hot = ((target == 0) | (target == 1)).all() & (target.sum(dim=1) == 1).all()
        return target.argmax(dim=1) if bool(one_hot) else None
    return None


def most_probable(target: Tensor) -> Tensor | None:
    """Class indices as `as_labels` has them, or those of the largest of each row of probabilities; None if neither.

    Mixed images and votes of several annotators come with such rows.

    Example:
        >>> most_probable(torch.tensor([[0.1, 0.9], [0.6, 0.4]]))
        tensor([1, 0])
    """
    labels = as_labels(target)
    if labels is None and target.ndim == 2 and target.shape[1] > 1 and target.is_floating_point():
        is_sure = (target >= 0).all() & ((target.sum(dim=1) - 1).abs() < 1e-3).all()
        labels = target.argmax(dim=1) if bool(is_sure) else None
    return labels


def usual_paths(batch: Any) -> tuple[str, str] | None:
    """Paths of images and labels by the usual names and places; None if neither tells.

    Names come first (`image`, `label` and their like, at any depth), then `(x, y, ...)`, then the only tensor that can
    be images beside the only one that can be labels.

    Example:
        >>> usual_paths((torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]), ["a", "b"]))
        ('batch[0]', 'batch[1]')
    """
    found = leaves(batch)
    images = {path: leaf for path, leaf in found.items() if leaf.ndim >= 2 and not _is_labels(leaf)}
    labels = {path: leaf for path, leaf in found.items() if _is_labels(leaf)}
    image = _only(_named(images, IMAGE_NAMES)) or _only(_under(images, "batch[0]")) or _only(list(images))
    target = _only(_named(labels, TARGET_NAMES)) or _only(_under(labels, "batch[1]")) or _only(list(labels))
    if image is None or target is None or len(images[image]) != len(labels[target]):
        return None
    return image, target


def unreadable(batch: Any, why: str) -> str:
    """The message for a batch that cannot be read: what was given, and the argument to pass."""
    return (
        f"No images and labels can be read from this batch: {why}. The batch is {describe(batch)}. "
        "Pass `batch_to_inputs=`, a function (or its dotted import path) from a batch to `(images, target)`, for "
        "example `lambda batch: (batch['image'], batch['label'])`."
    )


def describe(value: Any, depth: int = _DEPTH) -> str:
    """Types, shapes, dtypes and keys of a nested value, on one line.

    Example:
        >>> describe({"image": torch.zeros(2, 3), "name": ["a", "b"]})
        "dict{'image': Tensor(2, 3) float32, 'name': list[str, str]}"
    """
    if isinstance(value, Tensor):
        return f"Tensor{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    inside = list(parts(value)) if depth > 0 else []
    if not inside:
        return type(value).__name__
    shown = [_label(step) + describe(part, depth - 1) for step, part in inside[:8]]
    if len(inside) > 8:
        shown.append(f"... {len(inside) - 8} more")
    opening, closing = "{}" if isinstance(value, Mapping) else "[]"
    return f"{type(value).__name__}{opening}{', '.join(shown)}{closing}"


def import_function(path: str) -> Callable[..., Any]:
    """The function a dotted path names, as configs write it.

    Raises:
        ValueError: There is no such function.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"`{path}` must be the dotted import path of a function, but: {error}.") from error
    if not callable(found):
        raise ValueError(f"`{path}` must be the dotted import path of a function, got {type(found).__name__}.")
    function: Callable[..., Any] = found
    return function


def _label(step: str) -> str:
    if step.startswith("."):
        return f"{step[1:]}: "
    key = step[1:-1]
    return "" if key.isdigit() else f"{key}: "


def _is_labels(leaf: Tensor) -> bool:
    return not leaf.is_floating_point() and (leaf.ndim == 1 or (leaf.ndim == 2 and leaf.shape[1] == 1))


def _named(found: Mapping[str, Tensor], names: tuple[str, ...]) -> list[str]:
    """Paths whose last word is the first of `names` that occurs."""
    words = {path: re.findall(r"\w+", path)[-1].lower() for path in found}
    for name in names:
        matching = [path for path, word in words.items() if word == name]
        if matching:
            return matching
    return []


def _under(found: Mapping[str, Tensor], place: str) -> list[str]:
    return [path for path in found if path.startswith(place)]


def _only(paths: list[str]) -> str | None:
    return paths[0] if len(paths) == 1 else None
