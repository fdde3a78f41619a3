"""What the user said about their network, and the error that asks them to say more."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

OVERRIDE = (
    "Pass `network=`, the submodule that maps images to logits (or several in sequence, as "
    "`network='backbone+head'`), `logits=`, the submodule or function that gives the logits, or `batch_to_inputs=`, a "
    "function from the batch to `(images, target)` as the network gets them."
)


@dataclass(frozen=True)
class Wishes:
    """What the user said, to be taken as it is.

    Attributes:
        network: As `Way.module`.
        made_by: Submodule whose output are the logits.
        function: From an output to logits.
        function_name: Of `function`.
        reads_batch: Whether `batch_to_inputs` was given, so that the parts of the batch are its results.
    """

    network: str | None = None
    made_by: str = ""
    function: Callable[[Any], Any] | None = None
    function_name: str = ""
    reads_batch: bool = False

    @property
    def makes_logits(self) -> str:
        """The submodule whose output is taken, as far as it was named."""
        return self.made_by or (self.network or "").split("+")[-1]


class NotFoundError(ValueError):
    """There is no network, or no labels, with what was seen and the way out."""
