"""Rules of placement: which tensors of a graph are stored as integers, one set for each way of placing.

- `graph` (default): what an int8 backend would store, and nothing twice.
- `xia2021`: as the code behind the paper does, to compare with it. Stored are the input, the output of every
  convolution and linear layer (after a ReLU that alone reads it) and of every residual add (before its ReLU), and
  nothing else. By an oversight that code does not fold the batch norm of projection shortcuts. So a shortcut's
  convolution is quantized in front of its batch norm, whose output goes into the residual add in float.

That the authors' adds are stored before their ReLU was told from the noise on the logits of ResNet20 at w8a8 with
min-max ranges: a signal-to-noise ratio of 25.5 dB in their results, 25.6 and 25.8 dB here for two draws of augmented
images, and 26.6 dB with the add and its ReLU as one.

References:
    Xia, Ha, Azevedo, Maji, An Underexplored Dilemma between Confidence and Calibration in Quantized Neural Networks,
    ICBINB workshop at NeurIPS 2021.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from torch.fx import Node

from qcal.quantization.operators import ACTIVATIONS, AVERAGES, BATCH_NORMS, LAYERS, MERGES, PRODUCTS, aten, kind

PlacementName = Literal["graph", "xia2021", "modules"]


@dataclass(frozen=True)
class Rules:
    """Which tensors of a graph are stored.

    Args:
        stores: Operations whose output is stored.
        fuses: Functions that are computed before the store where they alone read the output of one of `fuses_after`.
        fuses_after: See `fuses`.
        functions: Functions whose output is stored where they are not fused.
        averages: Operations whose output is rounded to the scale of the stored tensor that they read.
        readers_of_integers: Operations that multiply integers: whatever they read is stored.
        keeps_norm: Why a batch norm that could be folded is not; None folds it.
        left_out: Why arithmetic that other rules quantize is in float under these.
    """

    stores: frozenset[object]
    fuses: frozenset[object]
    fuses_after: frozenset[object]
    functions: frozenset[object]
    averages: frozenset[object]
    readers_of_integers: frozenset[object]
    keeps_norm: Callable[[Node], str | None]
    left_out: str


def projection_shortcut(norm: Node) -> str | None:
    """Why the authors' code leaves this batch norm: it normalises a projection shortcut; None for all others.

    A projection shortcut reads what another layer reads too, and its output goes into a residual add and nowhere else.
    """
    layer = norm.args[0]
    if not isinstance(layer, Node) or kind(layer) not in LAYERS or not isinstance(layer.args[0], Node):
        return None
    reads_a_block_input = any(kind(other) in LAYERS and other is not layer for other in layer.args[0].users)
    if reads_a_block_input and [kind(reader) for reader in norm.users] == [aten.add]:
        return "the authors' code leaves the batch norm of projection shortcuts (placement xia2021)"
    return None


def rules_of(placement: str) -> Rules:
    """The rules of a placement by graph.

    Raises:
        ValueError: `placement` is no name of one.
    """
    check_placement(placement)
    return _RULES["graph" if placement == "modules" else placement]


def check_placement(placement: str) -> None:
    """Raise ValueError unless `placement` is the name of one."""
    if placement not in get_args(PlacementName):
        names = ", ".join(map(repr, get_args(PlacementName)))
        raise ValueError(f"`placement` must be one of {names}; got {placement!r}.")


_RULES: dict[str, Rules] = {
    "graph": Rules(
        stores=frozenset(LAYERS | MERGES | BATCH_NORMS),
        fuses=frozenset(ACTIVATIONS),
        fuses_after=frozenset(LAYERS | MERGES | BATCH_NORMS),
        functions=frozenset(ACTIVATIONS),
        averages=frozenset(AVERAGES),
        readers_of_integers=frozenset(LAYERS | PRODUCTS),
        keeps_norm=lambda norm: None,
        left_out="no integer form",
    ),
    "xia2021": Rules(
        stores=frozenset(LAYERS | {aten.add}),
        fuses=frozenset({aten.relu}),
        fuses_after=frozenset(LAYERS),
        functions=frozenset(),
        averages=frozenset(),
        readers_of_integers=frozenset(),
        keeps_norm=projection_shortcut,
        left_out="not quantized by the authors' code (placement xia2021)",
    ),
}
