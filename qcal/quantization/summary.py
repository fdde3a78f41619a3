"""A prepared plan as a table for people."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from qcal.quantization.fold import Unfolded
from qcal.quantization.observers import RangeObserver
from qcal.quantization.placement import Placement, StoredTensor
from qcal.quantization.resolve import Specs
from qcal.quantization.specs import ActivationSpec, WeightSpec


def describe(
    placement: Placement,
    statistics: Mapping[str, RangeObserver],
    unfolded: Sequence[Unfolded],
    weights: Mapping[str, Tensor],
    specs: Specs | None = None,
) -> str:
    """Every quantizer of activations and of weights with its shape and extremes, then what stays in float and why.

    Args:
        placement: What was placed.
        statistics: What was observed at each quantizer, by its name; may be empty.
        unfolded: Batch norms that stay.
        weights: Float weights by where the network keeps them (`Layer.target`).
        specs: A setting on this network; None (default) leaves the column of bits out.

    Example:
        >>> from qcal.quantization.placement import FloatOperation, Layer
        >>> from qcal.quantization.quantizer import Quantizer
        >>> observer = RangeObserver()
        >>> observer.minimum, observer.maximum = -1.0, 2.0
        >>> stored = StoredTensor(Quantizer("input", (3, 8, 8)), None, ("fc",), False, averages=("pool",))
        >>> softmax = FloatOperation("softmax", "softmax", "no integer form")
        >>> placement = Placement((stored,), (Layer("fc", "fc.weight", 0, "fc.bias", "linear"),), (softmax,))
        >>> specs = Specs((WeightSpec(4),), (ActivationSpec(8),))
        >>> print(describe(placement, {"input": observer}, [], {"fc.weight": torch.tensor([[0.5, -2.0]])}, specs))
        activations of   shape  minimum  maximum  bits
        input            3x8x8  -1       2        8
        pool (as input)  -      -1       2        8
        weights of       shape  minimum  maximum  bits
        fc               1x2    -2       0.5      4
        placement "graph": 1 activation quantizer, 1 layer with quantized weights
        in float: softmax (softmax): no integer form
    """
    header = ("shape", "minimum", "maximum", "bits")
    rows: list[tuple[str, ...]] = [("activations of", *header)]
    for index, tensor in enumerate(placement.stored):
        rows += _activation_rows(tensor, statistics, None if specs is None else specs.activations[index])
    rows.append(("weights of", *header))
    for index, layer in enumerate(placement.layers):
        rows.append(_weight_row(layer.name, weights[layer.target], None if specs is None else specs.weights[index]))
    lines = _table([row[:-1] for row in rows] if specs is None else rows)
    counts = f"{_count(placement.stored, 'activation quantizer')}, {_count(placement.layers, 'layer')}"
    lines.append(f'placement "{placement.name}": {counts} with quantized weights')
    lines += [f"not folded: {norm.name}: {norm.reason}" for norm in unfolded]
    lines += [f"in float: {op.name} ({op.operation}): {op.reason}" for op in placement.float_operations]
    return "\n".join(lines)


def _activation_rows(
    tensor: StoredTensor, statistics: Mapping[str, RangeObserver], spec: ActivationSpec | None
) -> list[tuple[str, ...]]:
    """The row of a quantizer, and one for each average that it quantizes too."""
    quantizer = tensor.quantizer
    seen = statistics.get(quantizer.name)
    rest = ("-", "-", _bits(spec)) if seen is None else (_short(seen.minimum), _short(seen.maximum), _bits(spec))
    name = f"{quantizer.name} (logits)" if quantizer.is_output else quantizer.name
    averages = [(f"{average} (as {quantizer.name})", "-", *rest) for average in tensor.averages]
    return [(name, _size(quantizer.shape), *rest), *averages]


def _weight_row(name: str, weight: Tensor, spec: WeightSpec | None) -> tuple[str, ...]:
    lowest, highest = (value.item() for value in torch.aminmax(weight))
    return (name, _size(weight.shape), _short(lowest), _short(highest), _bits(spec))


def _bits(spec: ActivationSpec | WeightSpec | None) -> str:
    return "float" if spec is None else str(spec.bits)


def _short(value: float) -> str:
    return f"{value:.4g}"


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
