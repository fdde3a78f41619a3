"""The processes that a study is shared out between, as far as it needs to know them: who each is and how they agree."""

from collections.abc import Callable
from typing import Protocol, TypeVar

Value = TypeVar("Value")


class Peers(Protocol):
    """This process among those that run the same study; every method is to be called in all of them alike."""

    @property
    def rank(self) -> int:
        """Of this process, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def together(self, function: Callable[[], Value]) -> Value:
        """Call a function in every process; if it fails in one it fails in all."""

    def gather_everywhere(self, value: Value) -> list[Value]:
        """The value of every process, in the order of their ranks, in every process."""


class Alone:
    """One process by itself.

    Example:
        >>> Alone().together(lambda: 2), Alone().gather_everywhere(3)
        (2, [3])
    """

    rank = 0
    size = 1

    def together(self, function: Callable[[], Value]) -> Value:
        """What the function returns."""
        return function()

    def gather_everywhere(self, value: Value) -> list[Value]:
        """The value."""
        return [value]
