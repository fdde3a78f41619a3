"""The network that is quantized: a copy of a part of the user's module, called as `images -> (N, C) logits`.

Names of parameters stay those of the user's `state_dict`, so that a record speaks of the layers they know.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from qcal.callbacks.batches import pack, read
from qcal.callbacks.watch import Plain

SELF = "self"
"""The LightningModule itself, where submodules are named."""
FLATTEN = "flatten"
"""A step that flattens to `(N, F)`, unless a submodule has this name."""

_REGISTRIES = ("_modules", "_parameters", "_buffers")


@dataclass(frozen=True)
class Way:
    """A way from a part of the batch to what holds the logits; plain values, so that it can be written down.

    Attributes:
        steps: Submodules that are called in sequence: dotted names, `self` or `flatten`.
        input: Path of the images in the batch: `batch[0]`, `batch['image']`.
        keyword: By which the first submodule takes them; the first position when empty.
        inside: Path of the images in the container that the first submodule takes, such as `['image']`; empty if it
            takes them alone.
        options: Further keywords of the first submodule, as it was called.
        made_by: Submodule whose output is taken instead of what the last step returns; none when empty.
    """

    steps: tuple[str, ...]
    input: str = "batch[0]"
    keyword: str = ""
    inside: str = ""
    options: tuple[tuple[str, Plain], ...] = ()
    made_by: str = ""

    def __str__(self) -> str:
        """The submodules, and the one inside them whose output is taken."""
        return f"{self.made_by} inside {self.module}" if self.made_by else self.module

    @property
    def module(self) -> str:
        """The steps as the argument `network` spells them."""
        return "+".join(self.steps)

    @property
    def is_bare(self) -> bool:
        """Whether it is one submodule that takes images alone and whose output is taken as it is."""
        return self == Way(self.steps[:1], self.input) and self.steps != (SELF,)


class ImagesToLogits(nn.Module):
    """Goes a way and takes the logits out of what it ends at.

    Args:
        root: Holds the submodules under the names they have in the user's module.
        way: Which to call, and how.
        key: Path of the logits in what was returned, such as `['logits']`.
        function: Applied to what was returned, before `key`.
        is_binary: Whether there is one logit z, which stands for the two logits `[0, z]`.

    Example:
        >>> root = nn.ModuleDict({"body": nn.Flatten(), "head": nn.Linear(4, 1)})
        >>> ImagesToLogits(root, Way(("body", "head")), is_binary=True)(torch.zeros(3, 1, 2, 2)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        root: nn.Module,
        way: Way,
        *,
        key: str = "",
        function: Callable[[Any], Any] | None = None,
        is_binary: bool = False,
    ) -> None:
        super().__init__()
        # One registry for both: names are those of `root`, and what is moved or replaced in one is so in the other.
        for registry in _REGISTRIES:
            self.__dict__[registry] = root.__dict__[registry]
        self._root = (root,)  # in a tuple, so that it is not registered
        self._way, self._key, self._function, self._is_binary = way, key, function, is_binary

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(N, C)` of images `(N, ...)`."""
        logits: Tensor = read(self.output(images), self._key)
        if not self._is_binary:
            return logits
        positive = logits.reshape(-1)
        return torch.stack([torch.zeros_like(positive), positive], dim=1)

    def output(self, images: Tensor) -> Any:  # Any: whatever the user's module returns
        """What the module returns, before the logits are taken out of it."""
        if not self._way.made_by:
            return self._finish(self._run(images))
        made: list[Any] = []
        if self._way.made_by in dict(self._root[0].named_modules()):
            handle = self._module(self._way.made_by).register_forward_hook(lambda _m, _i, output: made.append(output))
            try:
                self._run(images)
            finally:
                handle.remove()
        if not made:
            raise ValueError(f"`logits` names {self._way.made_by!r}, but {self._way.module} does not call it.")
        return self._finish(made[-1])

    def _finish(self, output: Any) -> Any:
        return output if self._function is None else self._function(output)

    def _run(self, images: Tensor) -> Any:
        value: Any = images.clone()  # a stranger's forward may write to it, and the caller runs the same images again
        if "_device" in vars(self._root[0]):  # Lightning's own note of where its module is
            self._root[0].__dict__["_device"] = images.device
        for index, step in enumerate(self._way.steps):
            if step == FLATTEN and not _has(self._root[0], step):
                value = value.flatten(1)
            elif index == 0:
                packed, way = pack(value, self._way.inside), self._way
                positional, named = ((), {way.keyword: packed}) if way.keyword else ((packed,), {})
                value = self._module(step)(*positional, **named, **dict(way.options))
            else:
                value = self._module(step)(value)
        return value

    def _module(self, name: str) -> nn.Module:
        return self._root[0] if name == SELF else self._root[0].get_submodule(name)


def copy_parts(pl_module: nn.Module, way: Way) -> nn.Module:
    """Copies of the submodules of a way under the names they have, in a module that holds nothing else.

    A copy of the LightningModule itself (`self`) shares with it the trainer and everything else that is no module,
    parameter or buffer; what it would log goes nowhere.

    Args:
        pl_module: The user's module; unchanged.
        way: What is called.

    Raises:
        AttributeError: There is no such submodule.
    """
    if SELF in way.steps:
        return _copy_lightning_module(pl_module, {})
    root = nn.Module()
    # The user's module itself stays where a submodule points to it by some other way than registration.
    memo: dict[int, Any] = {id(pl_module): pl_module, **_shared(pl_module), **_computed(pl_module)}
    for name in dict.fromkeys(way.steps):
        if name != FLATTEN or _has(pl_module, name):
            _place(root, name, copy.deepcopy(pl_module.get_submodule(name), memo))
    _take_out_of_compile(root)
    return root


def _copy_lightning_module(pl_module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy that does not drag along the trainer, its loops, loggers and data."""
    duplicate = type(pl_module).__new__(type(pl_module))
    duplicate.__dict__.update(pl_module.__dict__)
    memo.update({id(pl_module): duplicate, **_shared(pl_module), **_computed(pl_module)})
    for name, value in pl_module.__dict__.items():
        if name in _REGISTRIES or _holds_modules(value):
            duplicate.__dict__[name] = copy.deepcopy(value, memo)
        elif isinstance(value, list | dict | set):
            duplicate.__dict__[name] = copy.copy(value)
        elif isinstance(value, MethodType) and value.__self__ is pl_module:
            duplicate.__dict__[name] = MethodType(value.__func__, duplicate)
    _forget_compiled_steps(duplicate)
    for verb in ("log", "log_dict"):
        duplicate.__dict__[verb] = _say_nothing
    duplicate.__dict__["__deepcopy__"] = partial(_copy_lightning_module, duplicate)
    _take_out_of_compile(duplicate)
    return duplicate.eval()


def _forget_compiled_steps(lightning_module: nn.Module) -> None:
    """Lightning sets a compiled module's `forward` and steps on the instance; in a copy they would run the original."""
    if lightning_module.__dict__.get("_compiler_ctx"):
        for verb in ("forward", "training_step", "validation_step", "test_step", "predict_step"):
            lightning_module.__dict__.pop(verb, None)
        lightning_module.__dict__["_compiler_ctx"] = None


def _take_out_of_compile(root: nn.Module) -> None:
    """Put the modules that `torch.compile` wrapped in the place of their wrappers."""
    for parent in list(root.modules()):
        for name, child in parent.named_children():
            inner = getattr(child, "_orig_mod", None)
            if isinstance(inner, nn.Module):
                parent._modules[name] = inner


def _holds_modules(value: object) -> bool:
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(isinstance(part, nn.Module) for part in held)


def _say_nothing(*_args: object, **_kwargs: object) -> None:
    """In the place of `log`: what a copy computes is none of the user's metrics."""


def _shared(pl_module: nn.Module) -> dict[int, Any]:
    """Memo of what a copy shares: whatever the LightningModule itself points to, above all its trainer."""
    plain = (nn.Module, Tensor, list, dict, set, tuple)
    return {id(value): value for value in vars(pl_module).values() if not isinstance(value, plain)}


def _computed(pl_module: nn.Module) -> dict[int, Any]:
    """Memo of tensors with a history (a remembered activation), which cannot be copied; their values can."""
    return {
        id(value): value.detach().clone()
        for module in pl_module.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        if not isinstance(getattr(root, parent, None), nn.Module):
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(last, module)


def _has(root: nn.Module, name: str) -> bool:
    return isinstance(getattr(root, name, None), nn.Module)
