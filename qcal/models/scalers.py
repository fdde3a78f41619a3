"""Recalibration as modules: one goes behind a network, is fitted on held-out logits, and is saved with the rest."""

import warnings

import torch
from torch import Tensor, nn

from qcal.functional.temperature import TemperatureFit, fit_temperature
from qcal.functional.vector_scaling import VectorScalingFit, fit_vector_scaling

__all__ = ["TemperatureScaler", "VectorScaler"]


class TemperatureScaler(nn.Module):
    """Divide logits by one temperature: `z / T`. Confidence moves; no prediction changes.

    T is a float32 buffer, 1 until `fit`, so that a state dict carries it. It is fitted in float64; the exact number is
    in what `fit` returns. `.half()` rounds the buffer with the rest of the module.

    Example:
        >>> scaler = TemperatureScaler()
        >>> fit = scaler.fit(torch.tensor([[2.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1]))
        >>> scaler(torch.tensor([[2.0, 0.0]])).softmax(dim=1)
        tensor([[0.7500, 0.2500]])

    References:
        Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017, section 4.2.
    """

    temperature: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.ones(()))

    def fit(self, logits: Tensor, target: Tensor) -> TemperatureFit:
        """Set T to the optimum on `logits` `(N, C)` and `target` `(N,)`, samples held out from training and testing.

        Where there is no optimum (every prediction right, or logits at chance) T stays as it is, with a warning.

        Raises:
            TypeError: wrong types.
            ValueError: as `qcal.functional.temperature.fit_temperature`.
        """
        fit = fit_temperature(logits, target)
        if fit.at_bound is None:
            self.temperature.fill_(fit.temperature)
        else:
            warnings.warn(
                f"TemperatureScaler keeps its temperature {self.temperature:.6g}: {fit.message}", stacklevel=2
            )
        return fit

    def forward(self, logits: Tensor) -> Tensor:
        """`logits / T`, same shape and type."""
        return logits / self.temperature

    def extra_repr(self) -> str:
        """The temperature, for `print(model)`."""
        return f"temperature={self.temperature:.6g}"


class VectorScaler(nn.Module):
    """Scale and shift the logit of each class: `w * z + b`. Predictions can change.

    `w` (1 until `fit`) and `b` (0) are float32 buffers of length C, so that a state dict carries them.

    Args:
        num_classes: C >= 2.

    Example:
        >>> scaler = VectorScaler(num_classes=2)
        >>> scaler(torch.tensor([[2.0, 0.0]]))
        tensor([[2., 0.]])

    References:
        Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017, section 4.2.
    """

    scale: Tensor
    bias: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(
                f"`num_classes` must be at least 2, got {num_classes}. Pass the number of logits per sample."
            )
        self.register_buffer("scale", torch.ones(num_classes))
        self.register_buffer("bias", torch.zeros(num_classes))

    def fit(self, logits: Tensor, target: Tensor) -> VectorScalingFit:
        """Set `w` and `b` to the optimum on `logits` `(N, C)` and `target` `(N,)`, samples held out from training.

        Without convergence they stay as they are, with a warning.

        Raises:
            TypeError: wrong types.
            ValueError: as `qcal.functional.vector_scaling.fit_vector_scaling`; another number of classes.
        """
        self._check_width(logits)
        fit = fit_vector_scaling(logits, target)
        if fit.converged:
            self.scale.copy_(fit.scale)
            self.bias.copy_(fit.bias)
        else:
            warnings.warn(f"VectorScaler keeps its scale and bias: {fit.message}", stacklevel=2)
        return fit

    def forward(self, logits: Tensor) -> Tensor:
        """`w * logits + b`, `(N, C)` in the type of the logits."""
        self._check_width(logits)
        return logits * self.scale.to(logits.dtype) + self.bias.to(logits.dtype)

    def extra_repr(self) -> str:
        """The number of classes, for `print(model)`."""
        return f"num_classes={len(self.scale)}"

    def _check_width(self, logits: Tensor) -> None:
        if logits.ndim != 2 or logits.shape[1] != len(self.scale):
            raise ValueError(
                f"`logits` must have shape (N, {len(self.scale)}), got {tuple(logits.shape)}. "
                "Build the scaler with the network's number of classes."
            )
