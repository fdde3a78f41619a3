"""Losses that change the scale of the logits before the softmax they are trained through.

The network is trained as if its logits were smaller or larger than they are; what it returns afterwards are the raw
logits, so the softmax that users take of them is over- or underconfident by that scale. The confidence dial is this
family with one signed knob.
"""

import torch.nn.functional as F
from torch import Tensor

from qcal.functional.loss_inputs import Interval, checked_logits, cross_entropy

__all__ = [
    "DIAL_BASE",
    "MIX",
    "STRENGTH",
    "TAU",
    "TEMPERATURE",
    "confidence_dial_loss",
    "logit_norm_loss",
    "training_temperature_loss",
]

# Temperatures 1/4 to 4: a network trained with cross-entropy is rarely overconfident by more than a temperature of 2.5,
# so that the lower end stays clearly under it.
DIAL_BASE = 4.0

TEMPERATURE = Interval(
    "temperature", low=0.0, open_low=True, advice="Use 1 for cross-entropy, 0.25 to 4 to move confidence."
)
TAU = Interval(
    "tau", low=0.0, open_low=True, advice="The smaller it is, the further the loss can go down; Wei et al. use 0.04."
)
MIX = Interval(
    "mix",
    low=0.0,
    high=1.0,
    advice="It is the loss's share beside cross-entropy: 0 is cross-entropy, 1 this loss alone.",
)
STRENGTH = Interval(
    "strength",
    low=-1.0,
    high=1.0,
    advice="Use -1 for clearly underconfident, 0 for cross-entropy, 1 for overconfident.",
)


def training_temperature_loss(logits: Tensor, target: Tensor, *, temperature: float) -> Tensor:
    """Return cross-entropy of the logits divided by a temperature, times that temperature.

        L = T * CE(softmax(l / T), y)

    For a fixed posterior q the best raw logits are T log q, so the softmax of the raw logits is proportional to q^T.
    T < 1 pushes confidence under the posterior's, T > 1 over it, without changing which class leads.

    The factor T keeps the gradient at the logits, softmax(l / T) - y, of cross-entropy's size whatever T is. Without it
    (or with T^2, as in distillation) a learning rate tuned for cross-entropy is too small at one end and too large at
    the other: a small CNN on the embedded digits (8 epochs of SGD, T = 4, 3 seeds) reached 58 % accuracy without the
    factor and 86 % with it. Values of L at different temperatures do not compare; their negative log-likelihoods do.

    Args:
        logits: `(N, C)`, any floating type; computed in float32 or better.
        target: `(N,)` int64, or `(N, C)` distributions.
        temperature: T > 0; 1 is cross-entropy.

    Returns:
        0-dim loss.

    Raises:
        ValueError: `temperature` is not positive, or shapes do not fit.
        TypeError: types do not fit.

    Example:
        >>> import torch
        >>> round(training_temperature_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), temperature=2.0).item(), 4)
        0.6265

    References:
        Agarwala et al., Temperature check: theory and practice for training models with softmax-cross-entropy losses,
            TMLR 2023 (their beta is 1 / T).
    """
    temperature = TEMPERATURE.check(temperature)
    return temperature * cross_entropy(checked_logits(logits, target) / temperature, target)


def logit_norm_loss(logits: Tensor, target: Tensor, *, tau: float, mix: float = 1.0) -> Tensor:
    """Return cross-entropy of the logits scaled to length 1 / tau (LogitNorm).

        L = mix * CE(softmax(l / (tau |l|)), y) + (1 - mix) * CE(softmax(l), y)

    with the Euclidean length |l| of a sample's logits. The first term does not depend on |l|, so nothing drives it up.
    Where that term is at its best, the softmax of the raw logits is proportional to q^(tau |l|) for posterior q:
    confidence is pushed under as long as |l| < 1 / tau.

    Departure from the paper: `mix`, which the paper does not have (its loss is mix = 1), gives the regime a neutral
    point. Logits that are exactly 0 have no direction; their length is taken as 1e-7 and the gradient is finite but
    very large, so do not start from an all-zero last layer.

    Args:
        logits: `(N, C)`, any floating type; computed in float32 or better.
        target: `(N,)` int64, or `(N, C)` distributions.
        tau: Inverse length that the logits are scaled to, > 0.
        mix: Share of the normalized term in [0, 1]; 0 is cross-entropy.

    Returns:
        0-dim loss.

    Raises:
        ValueError: a hyper-parameter is out of range, or shapes do not fit.
        TypeError: types do not fit.

    Example:
        >>> import torch
        >>> round(logit_norm_loss(torch.tensor([[3.0, 4.0]]), torch.tensor([0]), tau=0.1).item(), 4)
        2.1269

    References:
        Wei et al., Mitigating neural network overconfidence with logit normalization, ICML 2022.
    """
    tau, mix = TAU.check(tau), MIX.check(mix)
    logits = checked_logits(logits, target)
    normalized = cross_entropy(F.normalize(logits, dim=1, eps=1e-7) / tau, target)
    return normalized if mix == 1.0 else mix * normalized + (1.0 - mix) * cross_entropy(logits, target)


def confidence_dial_loss(logits: Tensor, target: Tensor, *, strength: float) -> Tensor:
    """Return a loss that moves confidence by one signed number: under at -1, cross-entropy at 0, over at +1.

        L = T * CE(softmax(l / T), y),    T = 4^strength

    Why training temperature: for any posterior q the trained softmax is proportional to q^T, whose largest entry rises
    strictly with T while the leading class stays; the loss is convex in the logits, bounded below, and its gradient at
    the logits is bounded alike at every strength. The other signed families lack one of these. With a small CNN on the
    embedded digits, negative label smoothing (epsilon -0.3, no lower bound) had logits of size 1e5 after 25 epochs of
    SGD, and a negative confidence penalty (-2, not convex) was at 24 % accuracy after 8 epochs of AdamW. For a network
    stopped before it converged, monotony is an observation, not a theorem.

    What it does not do: as far as training only rescales the logits, it rescales their quantization error too, and
    leaves the swaps as they are. So the dial separates confidence as such from the other things (margins, features)
    that the named regimes change along with it.

    Args:
        logits: `(N, C)`, any floating type; computed in float32 or better.
        target: `(N,)` int64, or `(N, C)` distributions.
        strength: In [-1, 1]; 0 is cross-entropy.

    Returns:
        0-dim loss.

    Raises:
        ValueError: `strength` is outside [-1, 1], or shapes do not fit.
        TypeError: types do not fit.

    Example:
        >>> import torch
        >>> round(confidence_dial_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), strength=0.5).item(), 4)
        0.6265

    References:
        As `training_temperature_loss`; the base 4 is ours.
    """
    return training_temperature_loss(logits, target, temperature=DIAL_BASE ** STRENGTH.check(strength))
