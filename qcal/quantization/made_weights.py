"""The weights of a large network, each made when its layer reads it and dropped after.

A network with folded batch norms has weights of its own, and every setting rounds them to others. Of a small network
all of these are kept, because making them takes longer than running it on a few images. Of one whose parameters exceed
`CACHE_BYTES` none are: its layers hold what they are made of,

    weight = round(source * factor),        source: the tensor of the network it was prepared from, not a copy,

with the factor of each channel that a folded batch norm brings, and the rounding of the setting that is run. Memory
beyond the sources is that of one layer at a time.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# Up to so many bytes of weights are kept folded, and as many rounded to nearest: a grid of settings on many batches
# reuses them.
CACHE_BYTES = 1 << 27
# Numbers that are multiplied in float64 at a time.
_PORTION = 1 << 17

Rounding = Callable[[Tensor], Tensor]


class MadeWeight(nn.Module):
    """A weight that is made whenever it is read: call it to get the tensor.

    It stands in the place of a parameter, under its name. A deep copy shares the source, which is never written to.

    Args:
        source: Any floating tensor; shared, not copied.
        factor: float64 (C,) what each channel is multiplied by; None for 1.
        channel_axis: Axis of these channels.

    Attributes:
        binding: What is read for a while instead: another tensor, or what to make of the float weight; else None.

    Example:
        >>> weight = MadeWeight(torch.ones(2, 1), torch.tensor([2.0, 3.0], dtype=torch.float64))
        >>> weight().flatten().tolist()
        [2.0, 3.0]
        >>> weight.binding = torch.neg
        >>> weight().flatten().tolist()
        [-2.0, -3.0]
    """

    factor: Tensor | None

    def __init__(self, source: Tensor, factor: Tensor | None = None, channel_axis: int = 0) -> None:
        super().__init__()
        # A parameter of its own that shares the numbers: to move it does not move the one it was made from.
        self.source = nn.Parameter(source.detach(), requires_grad=False)
        self.register_buffer("factor", factor)
        self.binding: Tensor | Rounding | None = None
        self._channel_axis = channel_axis
        self._layout: torch.memory_format | None = None

    def forward(self) -> Tensor:
        """The weight as the layer is to see it."""
        if isinstance(self.binding, Tensor):
            return self.binding
        return self.float_weight() if self.binding is None else self.binding(self.float_weight())

    def float_weight(self) -> Tensor:
        """The weight without any binding."""
        weight = self._laid_out()
        return weight if self.factor is None else multiplied(weight, self.factor, channel_axis=self._channel_axis)

    def replace(self, weight: Tensor) -> None:
        """Let another tensor be the float weight from now on."""
        self.source = nn.Parameter(weight.detach(), requires_grad=False)
        self.factor, self._layout = None, None

    def __deepcopy__(self, memo: dict[int, Any]) -> "MadeWeight":  # Any: copy's own
        duplicate = MadeWeight(self.source, copy.deepcopy(self.factor, memo), self._channel_axis)
        duplicate.binding, duplicate._layout = self.binding, self._layout
        memo[id(self)] = duplicate
        return duplicate

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MadeWeight":
        """As any module is moved or cast; but another layout is remembered and given to what is made."""
        before = self._laid_out()
        moved = fn(before)
        if moved.stride() != before.stride():
            is_last = moved.dim() == 4 and moved.is_contiguous(memory_format=torch.channels_last)
            self._layout = torch.channels_last if is_last else torch.contiguous_format
        if (moved.device, moved.dtype) != (before.device, before.dtype):
            self.source = nn.Parameter(moved, requires_grad=False)
        if self.factor is not None:  # float64 whatever the network is cast to
            self.factor = self.factor.to(moved.device)
        return self

    def _laid_out(self) -> Tensor:
        source = self.source.detach()
        return source if self._layout is None else source.contiguous(memory_format=self._layout)


def multiplied(weight: Tensor, factor: Tensor, *, channel_axis: int) -> Tensor:
    """`weight * factor` of each channel, in float64 and then of the dtype and layout of `weight`; a part at a time.

    Args:
        weight: Any shape.
        factor: float64 (C,).
        channel_axis: Axis of the C channels.
    """
    result = torch.empty_like(weight)
    by_channel, made = weight.movedim(channel_axis, 0), result.movedim(channel_axis, 0)
    rows = max(1, _PORTION * len(by_channel) // max(1, weight.numel()))
    shape = [-1] + [1] * (weight.dim() - 1)
    for part, out, factors in zip(
        torch.split(by_channel, rows), torch.split(made, rows), torch.split(factor.double(), rows), strict=True
    ):
        out.copy_(part.to(torch.float64, copy=True).mul_(factors.reshape(shape)))
    return result


def is_large(network: nn.Module) -> bool:
    """Whether the parameters of a network exceed `CACHE_BYTES`, each counted once, so that its weights are made.

    Example:
        >>> is_large(nn.Linear(10, 10))
        False
    """
    return sum(parameter.nbytes for parameter in network.parameters()) > CACHE_BYTES
