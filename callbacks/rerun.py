"""Run a copy of a part of somebody's module again on the images of the step that was watched."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from qcal.callbacks.batches import walk
from qcal.callbacks.changes import FLATTENED, changed, split
from qcal.callbacks.copies import copy_parts
from qcal.callbacks.images_to_logits import ImagesToLogits, Way
from qcal.callbacks.observation import Observation
from qcal.callbacks.watchable import agrees, holds_logits

# Any: whatever a stranger's module returns.


class Rerun:
    """Goes ways again.

    Args:
        pl_module: The user's module, as it was in the step; unchanged.
        observation: What was seen.
        function: The user's, from an output to logits.
        context: Precision that the step ran in.
    """

    def __init__(
        self,
        pl_module: nn.Module,
        observation: Observation,
        function: Callable[[Any], Any] | None = None,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._pl_module, self._observation, self._function, self._context = pl_module, observation, function, context

    def images(self, way: Way) -> Tensor:
        """As they were before the step; a copy, because the network may write to it."""
        path, changes = split(way.input)
        images = self._observation.originals.get(path, self._observation.leaves[path]).clone()
        return changed(images, changes)

    def output(self, way: Way, *, plain: bool = False, seed: int | None = None) -> Any:
        """What a way returns; the exception where a stranger's module raises one: it is not called like this.

        `plain` leaves the user's function out; a `seed` shows whether numbers are drawn.
        """
        function, images = None if plain else self._function, self.images(way)
        with self._quietly():
            if seed is not None:
                torch.manual_seed(seed)
            try:
                return ImagesToLogits(self._copy(way, images), way, function=function).output(images)
            except Exception as error:
                return error

    def place(self, way: Way, logits: Tensor) -> tuple[str | None, str]:
        """Where in the output of a way the logits are that were read; None, and why, if they are not there."""
        output = self.output(way)
        if isinstance(output, Exception):
            return None, f"{way} failed: {first_line(output)}"
        for path, part in walk(output):
            if isinstance(part, Tensor) and holds_logits(part) and agrees(part, logits):
                return path + FLATTENED * (part.ndim > 2), ""
        once, again = (_floats(self.output(way, seed=seed)) for seed in (0, 1))
        if all(torch.equal(one, other) for one, other in zip(once, again, strict=False)):
            return None, f"{way} returned something else when it was run again"
        return None, f"{way} returns something else each time it is run (dropout that stays on?)"

    def _copy(self, way: Way, images: Tensor) -> nn.Module:
        root = copy_parts(self._pl_module, way).eval()
        # Changes nothing where the step has just run; after training the module is elsewhere, or in half precision.
        return root.to(images.device, images.dtype) if images.is_floating_point() else root.to(images.device)

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """As the step ran, but without a trace in gradients and random numbers. Nothing may be raised inside."""
        with isolate_rng(), torch.no_grad(), self._context():
            yield


def first_line(error: Exception) -> str:
    """An exception in short."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _floats(output: Any) -> list[Tensor]:
    return [part for _, part in walk(output) if isinstance(part, Tensor) and part.is_floating_point()]
