"""Batches that must be `(images, target)`, for callbacks that read no others."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


class Pairs:
    """A loader's batches, each read as `(images, target)`.

    Args:
        loader: Gives the batches.
        name: Of the loader, for messages.
    """

    # Any: a batch can be anything until it is read.
    def __init__(self, loader: Iterable[Any], name: str) -> None:
        self.loader, self.name = loader, name

    def __len__(self) -> int:
        """Number of batches; a TypeError if the loader does not know it."""
        return len(self.loader)  # type: ignore[arg-type]  # iterable data sets have no length: the error is the answer

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from (_as_pair(batch, self.name) for batch in self.loader)


def _as_pair(batch: Any, name: str) -> tuple[Tensor, Tensor]:
    """Any: the batch is what is checked here."""
    if (
        isinstance(batch, (list, tuple))
        and len(batch) >= 2
        and isinstance(batch[0], Tensor)
        and isinstance(batch[1], Tensor)
    ):
        images, target = batch[0], batch[1]
        if target.ndim == 1 and not target.is_floating_point() and target.dtype != torch.bool:
            return images, target
    seen = (
        [f"{type(part).__name__}{tuple(part.shape) if isinstance(part, Tensor) else ''}" for part in batch]
        if isinstance(batch, (list, tuple))
        else type(batch).__name__
    )
    raise ValueError(
        f"A batch of the {name} loader must be `(images, target)` with integer class indices `(N,)`, got {seen}. "
        "Wrap the data set to give pairs."
    )
