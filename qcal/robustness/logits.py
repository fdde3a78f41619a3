"""The logits of a study: labels, float logits and those of every setting, on the same images in the same order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
from torch import Tensor

FLOAT = "float"
"""Name of the float network beside the settings'."""
FLOAT32 = "float32"
"""Name of the float network in float32, where it was trained, and is compared, in another precision."""


@dataclass(frozen=True, eq=False)  # eq: comparing tensors element by element has no truth value
class Logits:
    """Logits of one network on one set of images, on the CPU.

    Attributes:
        target: `(N,)` int64.
        float: `(N, C)` float32 of the float network, in the precision it was trained in.
        settings: Per setting's short form (`w4a8`), `(N, C)` float32, in the order of the grid.
        float32: `(N, C)` of the float network in float32, where it was trained in another precision; else None.
    """

    target: Tensor
    float: Tensor
    settings: dict[str, Tensor]
    float32: Tensor | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.target)


@dataclass
class BatchLogits:
    """Logits batch by batch, as they are gathered: on one device, or on several of which each has every n-th batch.

    Attributes:
        target: Labels of each batch.
        parts: Logits of each batch, by name.
    """

    target: list[Tensor] = field(default_factory=list)
    parts: dict[str, list[Tensor]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.target)

    def add(self, target: Tensor, logits: Mapping[str, Tensor]) -> None:
        """One more batch."""
        self.target.append(target)
        for name, value in logits.items():
            self.parts.setdefault(name, []).append(value)

    def logits(self) -> Logits:
        """All batches put together; a setting that ended before the others is left out.

        Raises:
            ValueError: There is none.
        """
        if not self.target:
            raise ValueError("No image was measured: the loader gave no batch. Pass one with at least one image.")
        joined = {name: torch.cat(parts) for name, parts in self.parts.items() if len(parts) == len(self)}
        plain, half = joined.pop(FLOAT), joined.pop(FLOAT32, None)
        return Logits(torch.cat(self.target), plain, joined, half)


def interleave(shares: Sequence[BatchLogits]) -> BatchLogits:
    """Put shares together of which share r of n holds the batches r, r + n, r + 2n, ... in their order.

    Example:
        >>> shares = [BatchLogits(), BatchLogits()]
        >>> for share, labels in zip((shares[0], shares[1], shares[0]), ([0, 1], [2, 3], [4]), strict=True):
        ...     share.add(torch.tensor(labels), {"float": torch.zeros(len(labels), 2)})
        >>> interleave(shares).logits().target
        tensor([0, 1, 2, 3, 4])
    """
    joined = BatchLogits()
    joined.target = _in_turn([share.target for share in shares])
    for name in dict.fromkeys(name for share in shares for name in share.parts):
        joined.parts[name] = _in_turn([share.parts.get(name, []) for share in shares])
    return joined


def _in_turn(lists: Sequence[list[Tensor]]) -> list[Tensor]:
    return [value for turn in zip_longest(*lists) for value in turn if value is not None]
