"""Images on their way into a prepared network: checked, where and how its graph reads them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageReader:
    """What a prepared network asks of its images.

    Args:
        shape: Of one image.
        dtype: Of the tensor the graph reads: float32, or the integer type it was exported with.
        device: Where the graph is.
        layout: Memory layout of a batch.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    layout: torch.memory_format

    def batches(self, images: Tensor | Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
        """Batches of at most `batch_size` images, each as `read` returns it, from a tensor or from other batches.

        Raises:
            TypeError: a batch that is not a tensor.
            ValueError: no images at all, `batch_size` < 1, or images that `read` refuses.
        """
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        count = 0
        for batch in [images] if isinstance(images, Tensor) else images:
            for x in torch.split(batch, batch_size) if isinstance(batch, Tensor) else [self.read(batch)]:
                if len(x) > 0:
                    yield self.read(x)
                    count += len(x)
        if count == 0:
            raise ValueError("`images` must hold at least one image, got none. Is the data set or its split empty?")

    def read(self, x: Tensor) -> Tensor:
        """One batch of images, checked, on the device and in the type and layout of the graph.

        Raises:
            TypeError: not a tensor.
            ValueError: images of another shape or kind of number, NaN or infinity.
        """
        if not isinstance(x, Tensor):
            raise TypeError(
                f"`images` must be a Tensor (N, ...) or batches of them, got a batch of type {type(x).__name__}. "
                "Pass images without labels: `(x for x, _ in loader)`."
            )
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"`images` must have shape {('N', *self.shape)} as `example_input` had, got {tuple(x.shape)}. "
                "Resize them, or prepare a plan for this size."
            )
        if x.is_floating_point() != self.dtype.is_floating_point:
            raise ValueError(f"`images` must be {self.dtype} as `example_input` was, got {x.dtype}.")
        if not bool(torch.isfinite(x).all()):
            raise ValueError("`images` must be finite, got NaN or infinity. Check their normalisation.")
        return x.detach().to(self.device, self.dtype).contiguous(memory_format=self.layout)


class Sample:
    """Keeps the first images of those that pass, on the CPU.

    Args:
        size: How many at most.

    Example:
        >>> sample = Sample(3)
        >>> [len(x) for x in sample.watch([torch.zeros(2, 1), torch.ones(2, 1)])]
        [2, 2]
        >>> sample.images.flatten().tolist()
        [0.0, 0.0, 1.0]
    """

    def __init__(self, size: int) -> None:
        self._left = size
        self._parts: list[Tensor] = []

    def watch(self, batches: Iterable[Tensor], progress: Callable[[int], None] | None = None) -> Iterator[Tensor]:
        """The batches as they come; `progress` is told the number of images of each after it was used."""
        for x in batches:
            if self._left > 0:
                self._parts.append(x[: self._left].cpu().contiguous())
                self._left -= len(self._parts[-1])
            yield x
            if progress is not None:
                progress(len(x))

    @property
    def images(self) -> Tensor | None:
        """What was kept, (N, ...); None if nothing was."""
        return torch.cat(self._parts) if self._parts else None
