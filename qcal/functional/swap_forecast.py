r"""Forecast of swaps: how probable it is that noise of a measured size moves an image's largest logit to another class.

The model. Quantized logits are `q = a f + b + r`: the float logits f shrunk by a factor a, moved by a bias b of each
class, and disturbed by Gaussian noise r with covariance S, the same for all images. All three are estimated on images
that are held out. A class j overtakes the predicted class p when its lead `D_j = q_p - q_j` falls below 0; with

    m_j = a (f_p - f_j) + b_p - b_j,     s_j^2 = S_pp + S_jj - 2 S_pj,     z_j = m_j / s_j

the probability of that alone is `Phi(-z_j)`, exactly. With two classes this is P(swap).

With more, P(swap) is one minus the probability that every lead stays positive, an integral over as many dimensions as
there are rivals. The leads share the noise of p, so they are correlated: adding up their probabilities, or treating
them as independent, says too much. Here they share one common Gaussian factor with a weight `rho` that is chosen for
each image as the correlation of the leads of its two nearest rivals (smallest z), clipped to [0, 0.98]:

    P(swap) = 1 - E_t[ prod_j Phi((z_j + sqrt(rho) t) / sqrt(1 - rho)) ],     t ~ N(0, 1)

by Gauss-Hermite quadrature. This is exact for one and for two rivals (if their leads are not negatively correlated),
and for any number when the noise of the classes is independent and of equal size (then every correlation is 1/2).
Otherwise it is an approximation: rivals beyond the second are taken to be as correlated as the first two. Rivals with
`z > 5` are left out, which neglects less than 3e-7 for each.

References:
    C. W. Dunnett, M. Sobel: Approximations to the Probability Integral and Certain Percentage Points of a Multivariate
    Analogue of Student's t-Distribution, Biometrika 42, 1955 (the one-factor form of the integral).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qcal.functional.prediction_summary import row_blocks
from qcal.functional.score_inputs import check_rows, lift_half, raise_if_bad_rows
from qcal.functional.swaps import lowest_argmax

__all__ = ["NoiseModel", "SwapProbability", "estimate_noise", "swap_probability"]

_FARTHEST = 5.0  # standard deviations of a lead; see the module
_MOST_SHARED = 0.98
_NODES = 24


@dataclass(frozen=True)
class NoiseModel:
    """Quantization as noise on C logits, `q = scale * f + bias + r`; see `estimate_noise`.

    Attributes:
        scale: Common factor of the float logits.
        bias: `(C,)` float64.
        covariance: `(C, C)` float64, of `r`.
        num_images: Held-out images it was estimated from.
    """

    scale: float
    bias: Tensor
    covariance: Tensor
    num_images: int

    @property
    def lead_variance(self) -> Tensor:
        """Variance of the difference of two classes' noise, `(C, C)` float64: `S_ii + S_jj - 2 S_ij`."""
        own = self.covariance.diagonal()
        return (own[:, None] + own[None, :] - 2 * self.covariance).clamp(min=0)


@dataclass(frozen=True)
class SwapProbability:
    """What a `NoiseModel` says of each image, before any label is seen; see `swap_probability`.

    Attributes:
        swap: `(N,)` float64 in [0, 1], P(the prediction changes).
        right_before: `(N,)` float64, P(the float prediction is right): its confidence.
        right_after_swap: `(N,)` float64, P(the new prediction is right | it changed): the float probability of the
            classes that may overtake, weighted by how probably each does; 0 where none can.
    """

    swap: Tensor
    right_before: Tensor
    right_after_swap: Tensor

    @property
    def harmful(self) -> Tensor:
        """P(right before, swapped), `(N,)`."""
        return self.swap * self.right_before

    @property
    def beneficial(self) -> Tensor:
        """P(wrong before, swapped, right after), `(N,)`."""
        return self.swap * self.right_after_swap


def estimate_noise(float_logits: Tensor, quant_logits: Tensor) -> NoiseModel:
    """Estimate factor, bias and covariance of quantization noise, from images that are not to be forecast.

    The factor is that of least squares with a free bias for each class, on rows less their own mean (softmax and argmax
    do not see it). The covariance is that of the residuals about their class means, over M - 1.

    Args:
        float_logits: `(M, C)` floating and finite, M >= 2. The relative error of a standard deviation is about
            `1 / sqrt(2 M)`: 2 % from 1,000 images.
        quant_logits: `(M, C)` of the same images.

    Returns:
        The model.

    Raises:
        TypeError: Logits that are not floating.
        ValueError: Shapes do not fit, fewer than two images, or values that are not finite.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 5 * torch.randn(4000, 3, generator=generator)
        >>> noise = estimate_noise(logits, 0.8 * logits + 0.5 * torch.randn(4000, 3, generator=generator))
        >>> round(noise.scale, 2), [round(v, 1) for v in noise.lead_variance[0].tolist()]
        (0.8, [0.0, 0.5, 0.5])
    """
    check_rows(float_logits, "float_logits")
    check_rows(quant_logits, "quant_logits")
    if float_logits.shape != quant_logits.shape or len(float_logits) < 2:
        raise ValueError(
            "Held-out logits must be two tables of one shape (M, C) with M >= 2, got "
            f"{tuple(float_logits.shape)} and {tuple(quant_logits.shape)}. Run both networks on some hundred images "
            "that are not compared."
        )
    for logits in (float_logits, quant_logits):
        raise_if_bad_rows(logits.sum(dim=1, dtype=torch.float64))
    num_images, num_classes = float_logits.shape
    before_mean, after_mean = (logits.mean(dim=0, dtype=torch.float64) for logits in (float_logits, quant_logits))
    scale = _scale(float_logits, quant_logits, before_mean, after_mean)
    bias = after_mean - scale * before_mean
    covariance = torch.zeros(num_classes, num_classes, dtype=torch.float64, device=float_logits.device)
    for block in row_blocks(num_images, num_classes):
        # Small numbers by now: float32 products lose nothing that matters, and blocks are added in float64.
        rest = lift_half(quant_logits[block]) - scale * lift_half(float_logits[block]) - bias.to(torch.float32)
        covariance += rest.T @ rest
    return NoiseModel(scale, bias, covariance / (num_images - 1), num_images)


def _scale(float_logits: Tensor, quant_logits: Tensor, before_mean: Tensor, after_mean: Tensor) -> float:
    product = square = 0.0
    for block in row_blocks(*float_logits.shape):
        before, after = (
            (rows - rows.mean(dim=1, keepdim=True)).double()
            for rows in (
                lift_half(float_logits[block]) - before_mean.float(),
                lift_half(quant_logits[block]) - after_mean.float(),
            )
        )
        product += (before * after).sum().item()
        square += before.square().sum().item()
    return product / square if square > 0 else 1.0  # float logits that never vary say nothing about a factor


def swap_probability(float_logits: Tensor, noise: NoiseModel) -> SwapProbability:
    """P(swap) of each image under a model of the noise, and what the swap is expected to do; see the module.

    Args:
        float_logits: `(N, C)` floating and finite, of images the noise was not estimated on.
        noise: From `estimate_noise`, with as many classes.

    Returns:
        The probabilities, as a `SwapProbability`; on the CPU.

    Raises:
        TypeError: Logits that are not floating.
        ValueError: Another shape, values that are not finite, or noise of another number of classes.

    Example:
        >>> noise = NoiseModel(1.0, torch.zeros(2).double(), 0.5 * torch.eye(2).double(), 100)
        >>> forecast = swap_probability(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), noise)
        >>> [round(p, 4) for p in forecast.swap.tolist()]  # Phi(-1) and Phi(-3)
        [0.1587, 0.0013]
    """
    check_rows(float_logits, "float_logits")
    num_classes = float_logits.shape[1]
    if len(noise.bias) != num_classes:
        raise ValueError(
            f"`noise` must be of {num_classes} classes as the logits, got {len(noise.bias)}. Estimate it on held-out "
            "logits of the same networks."
        )
    variance = noise.lead_variance.float()
    inverse_std = variance.rsqrt().nan_to_num(posinf=0.0)
    still = variance <= 0  # pairs of classes whose difference has no noise, the diagonal among them
    parts = []
    for block in row_blocks(*float_logits.shape):
        rows = lift_half(float_logits[block].detach())
        parts.append(_forecast_rows(rows, noise, inverse_std, still))
    swap, before, after, row_sum = (torch.cat(column).double().cpu() for column in zip(*parts, strict=True))
    raise_if_bad_rows(row_sum)  # finite exactly when every logit of the row is
    return SwapProbability(swap, before, after)


def _forecast_rows(rows: Tensor, noise: NoiseModel, inverse_std: Tensor, still: Tensor) -> tuple[Tensor, ...]:
    prediction = lowest_argmax(rows).clamp(max=rows.shape[1] - 1)  # of a row with NaN no class is the largest
    place = prediction[:, None]
    expected = noise.scale * rows + noise.bias.to(rows.dtype)
    lead = expected.gather(1, place) - expected
    distance = lead * inverse_std[prediction]
    if int(still.sum()) > len(still):
        # Without noise a rival overtakes surely or never; of equals the lowest class stays.
        distance = torch.where(still[prediction], torch.where(lead < 0, -torch.inf, torch.inf), distance)
    distance.scatter_(1, place, torch.inf)
    log_norm = rows.logsumexp(dim=1)
    row, rival = (distance < _FARTHEST).nonzero(as_tuple=True)
    z = distance[row, rival]
    alone = torch.special.ndtr(-z)
    swap = _any_falls(row, z, _shared_factor(row, rival, z, prediction, noise), len(rows))
    right = alone * (rows[row, rival] - log_norm[row]).exp()
    total = alone.new_zeros(len(rows)).index_add_(0, row, alone)
    after = alone.new_zeros(len(rows)).index_add_(0, row, right) / total.clamp(min=torch.finfo(total.dtype).tiny)
    confidence = (rows.gather(1, place).squeeze(1) - log_norm).exp().clamp(max=1)
    return swap, confidence, after, rows.sum(dim=1)


def _shared_factor(row: Tensor, rival: Tensor, z: Tensor, prediction: Tensor, noise: NoiseModel) -> Tensor:
    """Per image, the correlation of the leads of its two nearest rivals, clipped; 0 where there are not two."""
    nearest, first = _nearest(row, rival, z, len(prediction))
    _, second = _nearest(row, rival, torch.where(rival == first[row], torch.inf, z), len(prediction))
    has_two = nearest.isfinite() & (first >= 0) & (second >= 0)
    p, i, j = (torch.where(has_two, index, 0) for index in (prediction, first, second))
    s, variance = noise.covariance, noise.lead_variance
    shared = (s[p, p] - s[p, i] - s[p, j] + s[i, j]) / (variance[p, i] * variance[p, j]).sqrt()
    return torch.where(has_two, shared.nan_to_num(0.0).clamp(0, _MOST_SHARED), 0).to(z.dtype)


def _nearest(row: Tensor, rival: Tensor, z: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Per image, the smallest z and the (lowest) class that has it; +inf and -1 where there is none."""
    smallest = z.new_full((num_rows,), torch.inf).scatter_reduce_(0, row, z, "amin")
    has_it = (z == smallest[row]) & (z < torch.inf)
    none = torch.iinfo(rival.dtype).max
    found = rival.new_full((num_rows,), none).scatter_reduce_(0, row[has_it], rival[has_it], "amin")
    return smallest, torch.where(found == none, -1, found)


def _any_falls(row: Tensor, z: Tensor, shared: Tensor, num_rows: int) -> Tensor:
    """`1 - E_t[prod_j Phi((z_j + sqrt(rho) t) / sqrt(1 - rho))]` of each image, `(num_rows,)`."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    own, common = (1 - shared).rsqrt(), (shared / (1 - shared)).sqrt()
    scaled, shift = z * own[row], common[row]
    falls = z.new_zeros(num_rows, dtype=torch.float64)
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        stays = torch.special.log_ndtr(scaled + shift * node)
        log_all = z.new_zeros(num_rows).index_add_(0, row, stays)
        falls += weight / math.sqrt(2 * math.pi) * -torch.expm1(log_all.double())
    return falls.clamp(0, 1)
