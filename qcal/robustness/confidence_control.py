"""The control: confidence that is moved after training moves no swap.

Xia et al. 2021 compare networks that were trained to different confidence, and find that it goes with swaps. A
temperature after training moves confidence, too, but no prediction: divided into the last layer, it scales the logits
and, as quantizers of weights scale with what they quantize, the quantized logits by the same factor. Swaps stay where
they are. So if swaps differ between networks trained to different confidence, it is not confidence as such that makes
them, but what training did to reach it. Here this is measured, in float head and quantized head alike.

References:
    Xia, Ha, Azevedo, Maji: An Underexplored Dilemma between Confidence and Calibration in Quantized Neural Networks,
    2021, arXiv 2111.08163.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qcal.functional.confidence import confidence_from_logits
from qcal.functional.swaps import lowest_argmax, top_is_tied
from qcal.quantization import PlacementName, Setting
from qcal.robustness.change_words import in_percent
from qcal.robustness.logits import Logits
from qcal.robustness.study import Batches, run_study
from qcal.robustness.temperature_fold import find_last_layer, fold_temperature

__all__ = ["APPLIED", "ControlPoint", "TemperatureControl", "control_answer", "temperature_control"]

APPLIED = "applied after training"
"""The name of the network whose temperature is moved, beside the names of those trained otherwise."""

_NEAR_TIE = 1e-5  # of the largest logit: what float arithmetic in another order may do


@dataclass(frozen=True)
class ControlPoint:
    """One network at one temperature and one setting.

    Attributes:
        network: `APPLIED`, or the name of a network that was trained otherwise.
        temperature: What its last layer was divided by; 1 for those trained otherwise.
        setting: Short form of the setting.
        accuracy: Of the quantized network.
        float_confidence: Mean confidence of the float network.
        mean_confidence: Mean confidence of the quantized network.
        float_overconfidence: Mean confidence - accuracy of the float network.
        overconfidence: The same of the quantized network.
        swap_rate: Share of predictions whose argmax differs between the two.
        ties: Share of images whose top quantized logit is shared by several classes.
        moved: Images of which the float or the quantized prediction is another than at T = 1; None for other networks.
        moved_at_tie: Those of them where the two classes tie, at one of the two temperatures: the order of classes, or
            rounding, decided.
    """

    network: str
    temperature: float
    setting: str
    accuracy: float
    float_confidence: float
    mean_confidence: float
    float_overconfidence: float
    overconfidence: float
    swap_rate: float
    ties: float
    moved: int | None
    moved_at_tie: int | None


@dataclass(frozen=True)
class TemperatureControl:
    """What temperatures after training moved; see `temperature_control`.

    Attributes:
        last_layer: The layer that was divided.
        num_images: Images compared.
        points: Network by network, temperature by temperature, setting by setting.
    """

    last_layer: str
    num_images: int
    points: tuple[ControlPoint, ...]


def temperature_control(
    network: nn.Module,
    settings: Setting | str | Sequence[Setting | str],
    *,
    data: Batches,
    range_estimation: Batches,
    temperatures: Sequence[float] = (0.5, 1.0, 2.0),
    trained: Mapping[str, nn.Module] | None = None,
    last_layer: str | None = None,
    placement: PlacementName = "graph",
    device: torch.device | str = "cpu",
) -> TemperatureControl:
    """Quantize a network with temperatures folded into its last layer, and count what moves.

    For every temperature the network is copied, divided, observed and quantized anew. Powers of two change no bit of a
    prediction; others may round a logit to the neighbouring level of a quantized output, which can only move a
    prediction whose classes tie on one side; `moved_at_tie` counts these.

    Args:
        network: Maps images `(N, ...)` to logits `(N, C)`; not changed.
        settings: One or several settings or short forms; with the head in float (`w4a8-keep=last`), scaled with its
            weights (`w4a8`) and with its output quantized (`w4a8-out`), all three are covered.
        data: Batches `(images, target)` to compare on, in a fixed order; read once for every network.
        range_estimation: Batches `(images, target)` from the training set, likewise.
        temperatures: Positive; 1 is among them, as what the others are compared with.
        trained: Name to a network that was trained to another confidence, for contrast.
        last_layer: Name of the layer that makes the logits; None finds it in the traced graph.
        placement: Which tensors are quantized; see `qcal.quantization.prepare`.
        device: Where to run.

    Returns:
        The control; `control_answer` puts it into a sentence.

    Raises:
        ValueError: no settings or temperatures, none of them 1 or one not positive; data that cannot be read again or
            changes order; a last layer that does not scale the logits; whatever `run_study` refuses.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
        >>> batches = [(torch.randn(50, 1, 6, 6), torch.arange(50) % 3)]
        >>> control = temperature_control(network, ["w2a4"], data=batches, range_estimation=batches)
        >>> len({point.swap_rate for point in control.points}), [point.moved for point in control.points]
        (1, [0, 0, 0])
    """
    several = [settings] if isinstance(settings, Setting | str) else settings
    grid = [Setting.parse(setting) for setting in several]
    _check(temperatures, trained, data, range_estimation)
    images = _first_images(range_estimation).to(device)
    layer = find_last_layer(network, images, placement=placement) if last_layer is None else last_layer

    def study(variant: nn.Module) -> Logits:
        return run_study(
            variant, grid, data=data, range_estimation=range_estimation, placement=placement, device=device
        ).compared

    studies = {
        applied: study(fold_temperature(network, applied, images, layer=layer))
        for applied in dict.fromkeys(temperatures)
    }
    reference = studies[1.0]
    points = [point for applied, each in studies.items() for point in _points(APPLIED, applied, each, reference)]
    for name, other in (trained or {}).items():
        points += _points(name, 1.0, study(other), None)
    return TemperatureControl(layer, len(reference.target), tuple(points))


def control_answer(control: TemperatureControl) -> str:
    """What moved, in one sentence of figures: confidence, swaps, and what training otherwise did to both."""
    applied = [point for point in control.points if point.network == APPLIED]
    temperatures = [point.temperature for point in applied]
    confidence = [point.mean_confidence for point in applied]
    moved = sum(point.moved or 0 for point in applied)
    at_tie = sum(point.moved_at_tie or 0 for point in applied)
    runs = control.num_images * sum(point.temperature != 1 for point in applied)
    sentence = (
        f"Temperatures from {min(temperatures):g} to {max(temperatures):g}, applied after training, moved the mean "
        f"confidence of the quantized network between {in_percent(min(confidence))} and {in_percent(max(confidence))} "
        f"%, and "
        f"{moved} of {runs:,} predictions"
    )
    sentence += f" ({at_tie} of them where two classes tie)" if moved else ""
    at_one = [point for point in applied if point.temperature == 1]
    sentence += f"; at T = 1, {', '.join(f'{in_percent(p.swap_rate)} % swap at {p.setting}' for p in at_one)}"
    for name in dict.fromkeys(point.network for point in control.points if point.network != APPLIED):
        others = [point for point in control.points if point.network == name]
        changes = ", ".join(f"{in_percent(point.swap_rate)} % at {point.setting}" for point in others)
        mean = in_percent(others[0].float_confidence)
        sentence += f"; {name}, trained to a float confidence of {mean} %, swaps {changes}"
    return f"{sentence}."


def _points(name: str, temperature: float, study: Logits, reference: Logits | None) -> Iterator[ControlPoint]:
    """A point a setting; compared with the study at T = 1, if there is one."""
    if reference is not None and not torch.equal(study.target, reference.target):
        raise ValueError(
            "`data` must give the same images in the same order each time, got other labels at temperature "
            f"{temperature:g}. Turn off shuffling and random augmentation."
        )
    target, before = study.target, lowest_argmax(study.float)
    float_confidence = confidence_from_logits(study.float)[0].double().mean().item()
    float_accuracy = (before == target).double().mean().item()
    for setting, logits in study.settings.items():
        after = lowest_argmax(logits)
        confidence = confidence_from_logits(logits)[0].double().mean().item()
        accuracy = (after == target).double().mean().item()
        moved, at_tie = (None, None) if reference is None else _moved(study, reference, setting)
        yield ControlPoint(
            network=name,
            temperature=float(temperature),
            setting=setting,
            accuracy=accuracy,
            float_confidence=float_confidence,
            mean_confidence=confidence,
            float_overconfidence=float_confidence - float_accuracy,
            overconfidence=confidence - accuracy,
            swap_rate=(before != after).double().mean().item(),
            ties=top_is_tied(logits).double().mean().item(),
            moved=moved,
            moved_at_tie=at_tie,
        )


def _moved(study: Logits, reference: Logits, setting: str) -> tuple[int, int]:
    """How many images are predicted otherwise than in the reference, in float or quantized, and how many by a tie."""
    moved = torch.zeros_like(study.target, dtype=torch.bool)
    unexplained = torch.zeros_like(moved)
    pairs = (
        (study.float, reference.float),
        (study.settings[setting], reference.settings[setting]),
    )
    for here, there in pairs:
        now, then = lowest_argmax(here), lowest_argmax(there)
        differs = now != then
        tied = _nearly_tie(here, now, then) | _nearly_tie(there, now, then)
        moved |= differs
        unexplained |= differs & ~tied
    return int(moved.sum()), int((moved & ~unexplained).sum())


def _nearly_tie(logits: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Whether two classes' logits are equal but for rounding, `(N,)` bool."""
    lead = logits.gather(1, one[:, None]) - logits.gather(1, other[:, None])
    return lead.abs().squeeze(1) <= _NEAR_TIE * logits.abs().amax(dim=1)


def _check(
    temperatures: Sequence[float], trained: Mapping[str, nn.Module] | None, data: Batches, range_estimation: Batches
) -> None:
    if 1 not in temperatures:
        raise ValueError(
            f"`temperatures` must hold 1, with which the others are compared, got {list(temperatures)}. Add 1.0."
        )
    if trained and APPLIED in trained:
        raise ValueError(f"`trained` must not name a network {APPLIED!r}, got it. Say how the network was trained.")
    for name, batches in (("data", data), ("range_estimation", range_estimation)):
        if isinstance(batches, Iterator):
            raise ValueError(
                f"`{name}` must be readable once for every network, got {type(batches).__name__}, which is used up by "
                "one reading. Pass a list of batches or a DataLoader."
            )


def _first_images(batches: Batches) -> Tensor:
    first = next(iter(batches), None)
    if first is None:
        raise ValueError("`range_estimation` gave no batch. Pass a loader over training images.")
    return first[0][:2]
