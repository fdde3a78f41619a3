"""Run batches in pieces that fit: out of memory halves the piece and tries again."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key")

# What allocators of the CPU say; CUDA has a class of its own.
_CPU_MESSAGES = ("can't allocate memory", "not enough memory", "Cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device.

    Example:
        >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
        True
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _CPU_MESSAGES)


class FittingBatches:
    """Calls a function on whole batches, or on pieces of them once one did not fit.

    Attributes:
        largest: Images in a piece that is tried; None while whole batches fit.

    Example:
        >>> def double(images):
        ...     if len(images) > 2:
        ...         raise MemoryError
        ...     return {"twice": 2 * images}
        >>> batches = FittingBatches()
        >>> batches.run(double, torch.arange(5))["twice"], batches.largest
        (tensor([0, 2, 4, 6, 8]), 2)
    """

    def __init__(self) -> None:
        self.largest: int | None = None

    def run(self, function: Callable[[Tensor], Mapping[Key, Tensor]], images: Tensor) -> dict[Key, Tensor]:
        """Results of `function` for all rows of `images`, put together.

        Args:
            function: From rows of images to tensors with as many rows.
            images: `(N, ...)`, N > 0.

        Raises:
            Exception: Whatever `function` raises; out of memory only if a single image does not fit.
        """
        while True:
            size = min(self.largest or len(images), len(images))
            try:
                pieces = [function(piece) for piece in torch.split(images, size)]
                return {key: torch.cat([piece[key] for piece in pieces]) for key in pieces[0]}
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or size == 1:
                    raise
            # Out here the error, and with its frames what filled the memory, is gone.
            self.largest = (size + 1) // 2
            if images.device.type == "cuda":
                torch.cuda.empty_cache()
