r"""Forecast of swaps: how probable it is that noise of a measured size moves an image's largest logit to another class.

The model. Quantized logits are `q = a f + b + r`: the float logits f shrunk by a factor a, moved by a bias b of each
class, and disturbed by Gaussian noise r with covariance S, the same for all images. All three are estimated on images
that are held out (`qcal.functional.noise_model`). A class j overtakes the predicted class p when its lead
`D_j = q_p - q_j` falls below 0; with

    m_j = a (f_p - f_j) + b_p - b_j,     s_j^2 = S_pp + S_jj - 2 S_pj,     z_j = m_j / s_j

the probability of that alone is `Phi(-z_j)`, exactly. With two classes this is P(swap).

With more, P(swap) is one minus the probability that every lead stays positive, an integral over as many dimensions as
there are rivals. The leads share the noise of p, so they are correlated: adding up their probabilities, or treating
them as independent, says too much. Here they share one common Gaussian factor with a weight `rho` that is chosen for
each image as the correlation of the leads of its two nearest rivals (smallest z), clipped to [0, 0.98]:

    P(swap) = 1 - E_t[ prod_j Phi((z_j + sqrt(rho) t) / sqrt(1 - rho)) ],     t ~ N(0, 1)

(`qcal.functional.lead_integral`, which is within 4e-5 of the integral). This is exact for one and for two rivals (if
their leads are not negatively correlated), and for any number when the noise of the classes is independent and of equal
size (then every correlation is 1/2). Otherwise it is an approximation: rivals beyond the second are taken to be as
correlated as the first two.

Rivals with `z > 5` are left out, which neglects less than 3e-7 for each. Most images of a fine setting have no other:
the lead of their two largest logits tells so, and their logits are not read at all. What is left is kept as one list of
rivals an image.

References:
    C. W. Dunnett, M. Sobel: Approximations to the Probability Integral and Certain Percentage Points of a Multivariate
    Analogue of Student's t-Distribution, Biometrika 42, 1955 (the one-factor form of the integral).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qcal.functional.lead_integral import RivalLists, any_lead_falls, rival_tables, upper_tail
from qcal.functional.noise_model import NoiseModel, estimate_noise
from qcal.functional.prediction_summary import PredictionSummary, row_blocks, summarise_predictions
from qcal.functional.score_inputs import check_rows

__all__ = ["NoiseModel", "SwapProbability", "estimate_noise", "swap_probability"]

_FARTHEST = 5.0  # standard deviations of a lead; see the module
_MOST_SHARED = 0.98
_MOST_RIVALS = 1 << 20  # rivals kept before they are integrated: 20 MB


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


def swap_probability(
    float_logits: Tensor, noise: NoiseModel, *, predictions: PredictionSummary | None = None
) -> SwapProbability:
    """P(swap) of each image under a model of the noise, and what the swap is expected to do; see the module.

    Args:
        float_logits: `(N, C)` floating and finite, of images the noise was not estimated on.
        noise: From `estimate_noise`, with as many classes.
        predictions: `summarise_predictions(float_logits)`, to be made once for many models of noise; None makes it.

    Returns:
        The probabilities, as a `SwapProbability`; on the CPU. They are computed in float32 (float64 for float64
        logits).

    Raises:
        TypeError: Logits that are not floating.
        ValueError: Another shape, values that are not finite, noise of another number of classes, or a summary of
            another table.

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
    if predictions is None:
        predictions = summarise_predictions(float_logits)
    elif predictions.num_classes != num_classes or len(predictions.prediction) != len(float_logits):
        raise ValueError(
            f"`predictions` must be of the logits {tuple(float_logits.shape)}, got a summary of "
            f"{len(predictions.prediction)} images and {predictions.num_classes} classes. Pass "
            "`summarise_predictions(float_logits)`."
        )
    return _Forecaster(float_logits, noise, predictions).forecast()


@dataclass(frozen=True)
class _Rivals:
    """Near rivals of some images, one list an image.

    Attributes:
        image: `(R,)` int64, row of the table of logits.
        lists: Where each image's list is.
        z: `(K,)`, of all lists.
        logit: `(K,)`.
        rival: `(K,)` int64, class.
    """

    image: Tensor
    lists: RivalLists
    z: Tensor
    logit: Tensor
    rival: Tensor


class _Forecaster:
    """The forecast of one table of logits under one noise; all on the device of the logits."""

    def __init__(self, float_logits: Tensor, noise: NoiseModel, predictions: PredictionSummary) -> None:
        device, dtype = float_logits.device, predictions.confidence.dtype
        self.logits, self.noise = float_logits.detach(), noise
        self.prediction = predictions.prediction.to(device)
        self.margin = predictions.logit_margin.to(device)
        self.confidence = predictions.confidence.to(device)
        self.log_norm = predictions.top_logit.to(device) - self.confidence.log()
        self.bias = noise.bias.to(dtype)
        self.variance = noise.lead_variance.to(dtype)
        self.std = self.variance.sqrt()
        self.inverse_std = self.std.reciprocal().nan_to_num_(posinf=0.0)
        # Pairs of classes whose difference has no noise; on the diagonal are all.
        self.has_still = int((self.variance <= 0).sum()) > len(self.variance)
        # Kept for all blocks: to be given fresh pages for each costs more than the arithmetic.
        block = next(row_blocks(*float_logits.shape))
        self.tables = torch.empty(3, block.stop, float_logits.shape[1], dtype=dtype, device=device)

    def forecast(self) -> SwapProbability:
        swap, after = torch.zeros_like(self.confidence), torch.zeros_like(self.confidence)
        for rivals in self._rivals():
            for table in rival_tables(rivals.lists):
                image, z = rivals.image[table.image], table.fill(rivals.z, torch.inf)
                shared = self._shared(self.prediction[image], z, table.fill(rivals.rival, 0))
                swap[image] = any_lead_falls(z, shared)
                alone = upper_tail(z)
                right = alone * (table.fill(rivals.logit, -torch.inf) - self.log_norm[image]).exp_()
                tiny = torch.finfo(alone.dtype).tiny
                after[image] = right.sum(dim=0) / alone.sum(dim=0).clamp(min=tiny)
        return SwapProbability(*(column.double().cpu() for column in (swap, self.confidence, after)))

    def _may_swap(self) -> Tensor:
        """Images whose nearest rival may have z < 5, by the lead of the runner-up, the largest bias and spread."""
        if self.noise.scale <= 0:  # then the order of the classes is another
            return torch.arange(len(self.margin), device=self.margin.device)
        least = self.noise.scale * self.margin + (self.bias - self.bias.amax())[self.prediction]
        return (least <= _FARTHEST * self.std.amax(dim=1)[self.prediction]).nonzero().squeeze(1)

    def _rivals(self) -> Iterator[_Rivals]:
        """Near rivals of all images, in portions of bounded size."""
        images = self._may_swap()
        parts: list[tuple[Tensor, ...]] = []
        for block in row_blocks(len(images), self.logits.shape[1]):
            parts.append(self._near(images[block]))
            if sum(len(part[2]) for part in parts) > _MOST_RIVALS:
                yield _joined(parts)
                parts = []
        if parts:
            yield _joined(parts)

    def _near(self, image: Tensor) -> tuple[Tensor, ...]:
        """Of some images: which have near rivals and how many; and of these z, logit and class."""
        prediction = self.prediction[image]
        place = prediction[:, None]
        rows, lead, distance = (table[: len(image)] for table in self.tables)
        if self.logits.dtype == rows.dtype:
            torch.index_select(self.logits, 0, image, out=rows)
        else:
            rows.copy_(self.logits.index_select(0, image))
        torch.sub(-self.bias, rows, alpha=self.noise.scale, out=lead)
        lead -= lead.gather(1, place)
        torch.index_select(self.inverse_std, 0, prediction, out=distance).mul_(lead)
        if self.has_still:
            # Without noise a rival overtakes surely or never; of equals the lowest class stays.
            sure = torch.where(lead < 0, -torch.inf, torch.inf)
            distance.copy_(torch.where(self.variance[prediction] <= 0, sure, distance))
        distance.scatter_(1, place, torch.inf)
        near = _places(distance < _FARTHEST)
        row = near.div(rows.shape[1], rounding_mode="floor")
        count = torch.bincount(row, minlength=len(rows))
        has_any = count > 0
        z, logit = (table.view(-1).index_select(0, near) for table in (distance, rows))
        return image[has_any], count[has_any], z, logit, near - row * rows.shape[1]

    def _shared(self, prediction: Tensor, z: Tensor, rival: Tensor) -> Tensor:
        """Per image, the correlation of the leads of its two nearest rivals, clipped; 0 where there are not two."""
        if len(z) == 1:
            return torch.zeros_like(z[0])
        nearest, first = z.min(dim=0, keepdim=True)
        following, second = z.scatter(0, first, torch.inf).min(dim=0, keepdim=True)
        has_two = (nearest.isfinite() & following.isfinite()).squeeze(0)
        i, j = (rival.gather(0, index).squeeze(0) for index in (first, second))
        s, p = self.noise.covariance, prediction
        shared = (s[p, p] - s[p, i] - s[p, j] + s[i, j]) / (self.std[p, i] * self.std[p, j])
        return torch.where(has_two, shared.nan_to_num(0.0).clamp(0, _MOST_SHARED), 0).to(z.dtype)


def _joined(parts: list[tuple[Tensor, ...]]) -> _Rivals:
    image, count, z, logit, rival = (torch.cat(column) for column in zip(*parts, strict=True))
    return _Rivals(image, RivalLists(count.cumsum(0) - count, count), z, logit, rival)


def _places(mask: Tensor) -> Tensor:
    """Where a mask is true, as places in the flat table."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))  # three times as fast as torch's nonzero
    return mask.view(-1).nonzero().squeeze(1)
