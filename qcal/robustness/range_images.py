"""The images that activation ranges are estimated from, which may have to be read more than once."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Batches = Iterable[tuple[Tensor, Tensor]]
Progress = Callable[[str, int, int], None]


class RangeImages:
    """The range estimation images, from the first batch on; read again from the start when called again.

    Args:
        first: The first batch, which has been read already.
        rest: Those after it.
        batches: All of them, to be read again.
        device: Where the images go.
        progress: Called as `progress("observe", done, total)` at each batch.

    Attributes:
        seen: Images that were given out since the last start.
        batch_size: Images in the first batch.

    Example:
        >>> batches = [(torch.zeros(2, 1), torch.zeros(2)), (torch.ones(1, 1), torch.ones(1))]
        >>> images = RangeImages(batches[0], batches[1:], batches, torch.device("cpu"), None)
        >>> [len(x) for x in images()], [len(x) for x in images()], images.seen
        ([2, 1], [2, 1], 3)
    """

    def __init__(
        self,
        first: tuple[Tensor, Tensor],
        rest: Iterable[tuple[Tensor, Tensor]],
        batches: Batches,
        device: torch.device,
        progress: Progress | None,
    ) -> None:
        self.seen, self.batch_size = 0, len(first[0])
        self._first, self._rest, self._batches = first, rest, batches
        self._device, self._progress = device, progress
        self._is_read = False

    def __call__(self) -> Iterable[Tensor]:
        """The images of each batch."""
        if self._is_read:
            again = iter(self._batches)
            self._first, self._rest = next(again), again
        self._is_read, self.seen = True, 0
        total = num_batches(self._batches)
        yield self._count(self._first, 1, total)
        for done, batch in enumerate(self._rest, start=2):
            yield self._count(batch, done, total)

    def _count(self, batch: tuple[Tensor, Tensor], done: int, total: int) -> Tensor:
        self.seen += len(batch[0])
        if self._progress:
            self._progress("observe", done, total)
        return batch[0].to(self._device)


def num_batches(batches: Batches) -> int:
    """Number of batches, 0 where it is not known before they are read."""
    try:
        return len(batches)  # type: ignore[arg-type]  # a loader may have a length or not
    except TypeError:
        return 0
