"""What a watch over one step saw: the parts of the batch, the calls of submodules, and what losses read."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

Plain = bool | int | float | str | None


@dataclass(frozen=True)
class Argument:
    """A tensor that a submodule was called with.

    Attributes:
        place: Position or keyword.
        leaf: Path of the part of the batch that it is; None if it is none.
        producer: Index of the earlier call that returned it; None if there is none.
        flat: Whether it was flattened to `(N, ...)` -> `(N, F)` on its way.
        inside: Path of it in a container that was passed; empty if it was passed itself.
    """

    place: int | str
    leaf: str | None
    producer: int | None
    flat: bool
    inside: str = ""


@dataclass
class Call:
    """One call of a submodule.

    Attributes:
        name: Dotted; empty for the LightningModule itself.
        kind: Its class.
        ancestors: Indices of the calls it happened in, outermost first.
        arguments: The tensors it was called with.
        options: Its keywords that are plain values.
        reads_labels: Whether labels are among them.
        outputs: Floating tensors `(N,)` and `(N, C)` anywhere in what it returned.
    """

    name: str
    kind: str
    ancestors: tuple[int, ...]
    arguments: list[Argument] = field(default_factory=list)
    options: tuple[tuple[str, Plain], ...] = ()
    reads_labels: bool = False
    outputs: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Reading:
    """Something read logits: a loss function, a loss module, a metric, or a (log-)softmax on its own.

    Attributes:
        by: Its name.
        logits: What it read.
        target: The labels it read; None if it read none.
        sure: Whether it is a loss, so that what it read are the logits.
    """

    by: str
    logits: Tensor
    target: Tensor | None
    sure: bool


@dataclass
class Observation:
    """What a watch saw.

    Attributes:
        leaves: The tensors of the batch, by path.
        originals: What can be images among them as it was before the step, which may write to its batch.
        calls: In the order in which they began.
        readings: Losses first.
        predictions: `(N, C)` tensors whose largest entry a row was looked for, by a metric or `argmax`.
        remarks: In words: what loss functions read that is no `(N, C)`, and what could not be watched.
        is_blind: Whether the whole module is compiled, so that nothing could be watched.
    """

    leaves: Mapping[str, Tensor]
    originals: Mapping[str, Tensor] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    predictions: list[Tensor] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    is_blind: bool = False
