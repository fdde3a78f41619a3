"""The network that is quantized: a copy of a part of the user's module, called as `images -> (N, C) logits`.

Names of parameters stay those of the user's `state_dict`, so that a record speaks of the layers they know.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qcal.callbacks.batches import pack, read
from qcal.callbacks.observation import Plain

SELF = "self"
"""The LightningModule itself, where submodules are named."""
FLATTEN = "flatten"
"""A step that flattens to `(N, F)`, unless a submodule has this name."""

REGISTRIES = ("_modules", "_parameters", "_buffers")


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
        hooks: Whether copies keep the project's own hooks, because what is returned depends on them.
    """

    steps: tuple[str, ...]
    input: str = "batch[0]"
    keyword: str = ""
    inside: str = ""
    options: tuple[tuple[str, Plain], ...] = ()
    made_by: str = ""
    hooks: bool = False

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
        return self == Way(self.steps[:1], self.input, hooks=self.hooks) and self.steps != (SELF,)


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
        for registry in REGISTRIES:
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
            if step == FLATTEN and not has_module(self._root[0], step):
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


def has_module(root: nn.Module, name: str) -> bool:
    """Whether a module has a submodule of this (undotted) name."""
    return isinstance(getattr(root, name, None), nn.Module)
