"""A prepared plan as a table for people."""

from collections.abc import Mapping, Sequence

from qcal.quantization.fold import Unfolded
from qcal.quantization.observers import RangeObserver
from qcal.quantization.place import FloatOperation, Layer
from qcal.quantization.quantizer import Quantizer


def describe(
    quantizers: Sequence[Quantizer],
    statistics: Mapping[str, RangeObserver],
    layers: Sequence[Layer],
    unfolded: Sequence[Unfolded],
    float_operations: Sequence[FloatOperation],
) -> str:
    """Every quantizer with its shape and the extremes seen, then what stays in float and why.

    Example:
        >>> observer = RangeObserver()
        >>> observer.minimum, observer.maximum = -1.0, 2.0
        >>> print(describe([Quantizer("input", (3, 8, 8))], {"input": observer}, [Layer("fc", "fc.weight", 0)], [], []))
        quantizer  shape  minimum  maximum
        input      3x8x8  -1       2
        1 activation quantizer, 1 layer with quantized weights
    """
    rows = [("quantizer", "shape", "minimum", "maximum")]
    for quantizer in quantizers:
        seen = statistics.get(quantizer.name)
        extremes = ("-", "-") if seen is None else (f"{seen.minimum:.4g}", f"{seen.maximum:.4g}")
        name = f"{quantizer.name} (logits)" if quantizer.is_output else quantizer.name
        rows.append((name, "x".join(map(str, quantizer.shape)), *extremes))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append(f"{_count(quantizers, 'activation quantizer')}, {_count(layers, 'layer')} with quantized weights")
    lines += [f"not folded: {norm.name}: {norm.reason}" for norm in unfolded]
    lines += [f"in float: {op.name} ({op.operation}): {op.reason}" for op in float_operations]
    return "\n".join(lines)


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
