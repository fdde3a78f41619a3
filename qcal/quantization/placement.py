"""What was placed in a network: its layers with quantizable weights, its stored tensors, and what stays in float."""

from dataclasses import dataclass, replace

from torch import nn

from qcal.quantization.quantizer import Quantizer
from qcal.quantization.rules import PlacementName


@dataclass(frozen=True)
class Layer:
    """A layer whose weights can be quantized.

    Args:
        name: Qualified name of the layer.
        target: Where the graph keeps its weight; two layers may share it.
        channel_axis: Axis of the output channels in that weight.
        bias: Where the graph keeps its bias (C,), which no other layer and nothing else reads. A layer that the user
            built without one has a bias of zeros.
        node: Name of its node in the graph, which a copy of the graph keeps.
    """

    name: str
    target: str
    channel_axis: int
    bias: str
    node: str


@dataclass(frozen=True)
class FloatOperation:
    """Arithmetic that no setting quantizes.

    Args:
        name: Qualified name of the operation.
        operation: What it does, such as `adaptive_avg_pool2d`.
        reason: Why it stays in float.
    """

    name: str
    operation: str
    reason: str


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that an int8 backend would store as integers.

    Args:
        quantizer: What quantizes it.
        producer: Name of the `Layer` that makes it; None for the images, merges and functions of several readers.
        readers: Names of the `Layer`s that read it, directly or through operations that keep its scale.
        read_elsewhere: Whether anything else reads it: a merge, arithmetic in float, the output.
        averages: Names of the averages of it that are rounded to its scale, by the same quantizer.
    """

    quantizer: Quantizer
    producer: str | None
    readers: tuple[str, ...]
    read_elsewhere: bool
    averages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Placement:
    """What `place_quantizers` did, in the order of the graph.

    Args:
        stored: The tensors that are quantized.
        layers: The layers whose weights are quantized.
        float_operations: What stays in float, with the reason.
        name: Which way of placing it was.
    """

    stored: tuple[StoredTensor, ...]
    layers: tuple[Layer, ...]
    float_operations: tuple[FloatOperation, ...]
    name: PlacementName = "graph"

    @property
    def quantizers(self) -> tuple[Quantizer, ...]:
        """The quantizers of the stored tensors; their names are unique."""
        return tuple(tensor.quantizer for tensor in self.stored)

    def in_copy(self, network: nn.Module) -> "Placement":
        """The same placement in a deep copy of the network it was made in: with the quantizers of the copy.

        Raises:
            ValueError: `network` has other quantizers.
        """
        theirs = {module.name: module for module in network.modules() if isinstance(module, Quantizer)}
        if set(theirs) != {quantizer.name for quantizer in self.quantizers}:
            raise ValueError(
                f"`network` must be a deep copy of the one this placement was made in, with its {len(self.stored)} "
                f"quantizers; got {len(theirs)} of partly other names. Copy the prepared network itself."
            )
        return replace(self, stored=tuple(replace(t, quantizer=theirs[t.quantizer.name]) for t in self.stored))
