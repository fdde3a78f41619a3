"""The point of a graph where an int8 backend would store a tensor: it watches, quantizes, or lets through."""

from dataclasses import dataclass

from torch import Tensor, nn

from qcal.functional.affine import (
    affine_scale_zero_point,
    fake_quantize,
    signed_bounds,
    symmetric_scale,
    unsigned_bounds,
)
from qcal.quantization.observers import RangeObserver


@dataclass(frozen=True)
class Grid:
    """The levels `(q - zero_point) * scale` for q from `quant_min` to `quant_max` (see `qcal.functional.affine`)."""

    scale: float
    zero_point: int
    quant_min: int
    quant_max: int

    @classmethod
    def over(cls, lo: float, hi: float, bits: int) -> "Grid":
        """The unsigned affine grid of a range.

        Example:
            >>> Grid.over(-1.0, 2.0, bits=2)
            Grid(scale=1.0, zero_point=1, quant_min=0, quant_max=3)
        """
        scale, zero_point = affine_scale_zero_point(lo, hi, bits)
        return cls(float(scale), int(zero_point), *unsigned_bounds(bits))

    @classmethod
    def symmetric(cls, largest: float, bits: int) -> "Grid":
        """The signed symmetric grid whose outermost levels are `-largest` and `largest`.

        Example:
            >>> Grid.symmetric(2.0, bits=2)
            Grid(scale=2.0, zero_point=0, quant_min=-1, quant_max=1)
        """
        return cls(float(symmetric_scale(largest, bits)), 0, *signed_bounds(bits))


class Quantizer(nn.Module):
    """Fake-quantizes what passes while it has a `grid`, shows it to its `observer` while it has one, else does nothing.

    Args:
        name: The layer whose output passes, as the user's `state_dict` spells it.
        shape: Shape of one image's share of the tensor.
        is_output: Whether what passes becomes the logits.
        inplace: Whether the tensor that passes is nobody else's and may be overwritten. False (default) copies.

    Raises:
        ValueError: NaN or infinity passes an observer; the message names the quantizer.
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        is_output: bool = False,
        inplace: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.shape = shape
        self.is_output = is_output
        self.grid: Grid | None = None
        self.observer: RangeObserver | None = None
        self._inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        """`x` of any shape, quantized if a grid is set."""
        if self.observer is not None:
            self._observe(self.observer, x)
        if self.grid is None:
            return x
        grid = self.grid
        return fake_quantize(x, grid.scale, grid.zero_point, grid.quant_min, grid.quant_max, inplace=self._inplace)

    def extra_repr(self) -> str:
        """What tells it apart in the printed graph."""
        return f"{self.name!r}, shape={self.shape}, is_output={self.is_output}"

    def _observe(self, observer: RangeObserver, x: Tensor) -> None:
        if not isinstance(x, Tensor):  # a recurrent layer returns several, whatever the graph was typed to say
            raise ValueError(
                f"`{self.name}` returns several tensors ({type(x).__name__}), which no setting can quantize as one. "
                "Prepare a part of the network without it, or quantize at module boundaries: placement='modules'."
            )
        try:
            observer.update(x)
        except ValueError:
            raise ValueError(
                f"Activations must be finite to estimate their range, got NaN or infinity at `{self.name}`. "
                "Check the images and the weights of that layer."
            ) from None
