"""Weights and ranges beside torch's own observers, on every layer and every quantizer of ResNet20."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.ao.quantization.observer import HistogramObserver, MinMaxObserver, PerChannelMinMaxObserver

from qcal.functional.affine import fake_quantize
from qcal.quantization import Grid, Plan, RangeObserver, prepare
from qcal.quantization.mse_range import mse_range
from tests.quantization.paper_network import resnet20_and_images
from tests.support.recorded_layers import RecordedLayers

NUM_QUANTIZERS = 32
NUM_LAYERS = 22
NUM_ONE_SIDED = 19  # after ReLU
# Relative, of scales in float32. Torch subtracts and divides there, each step rounding by up to 2^-24; qcal in float64.
SCALE_ROUNDING = 2.0**-22

# The scale of an "mse" range over that of torch's histogram range: (least, most). Measured on 32, 64, 96, 160 and 256
# images, with the paper's weights and with random ones: 0.906 to 1.021, and after ReLU 1.009 to 1.287.
TWO_SIDED, AFTER_RELU = (0.88, 1.06), (0.99, 1.35)
# The error of qcal's range over that of torch's. Measured likewise: 0.49 to 1.0002.
LEAST_ERROR, MOST_ERROR = 0.4, 1.002


@dataclass(frozen=True)
class Seen:
    """A plan after observation, and the numbers that passed each of its quantizers then, in the order of the graph.

    An average passes the quantizer of what it averages too, as torch's backends share an observer between the two.
    """

    plan: Plan
    images: Tensor
    tensors: dict[str, Tensor]


@pytest.fixture(scope="module")
def seen(request: pytest.FixtureRequest) -> Seen:
    network, images = resnet20_and_images(request, count=96)
    plan = prepare(network, images)
    parts: dict[str, list[Tensor]] = {quantizer.name: [] for quantizer in plan.quantizers}
    hooks = [
        quantizer.register_forward_hook(lambda q, args, _: parts[q.name].append(args[0].flatten().clone()))
        for quantizer in plan.quantizers
    ]
    plan.observe(images, batch_size=32)
    for hook in hooks:
        hook.remove()
    return Seen(plan, images, {name: torch.cat(batches) for name, batches in parts.items()})


def grids(plan: Plan, setting: str, images: Tensor) -> dict[str, Grid | None]:
    """The grid each quantizer works with while the plan runs at a setting."""
    used: dict[str, Grid | None] = {}
    hooks = [q.register_forward_hook(lambda q, *_: used.update({q.name: q.grid})) for q in plan.quantizers]
    plan.run(setting, images)
    for hook in hooks:
        hook.remove()
    return used


@pytest.mark.parametrize("bits", range(2, 9))
def test_full_range_weights_are_bit_for_bit_those_of_torchs_per_channel_observer(seen: Seen, bits: int) -> None:
    with RecordedLayers() as in_float:
        seen.plan.run("float", seen.images[:2])
    with RecordedLayers() as quantized:
        seen.plan.run(f"w{bits}afp-full", seen.images[:2])
    assert len(in_float.calls) == len(quantized.calls) == len(seen.plan.layers) == NUM_LAYERS
    for layer, before, after in zip(seen.plan.layers, in_float.calls, quantized.calls, strict=True):
        lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        observer = PerChannelMinMaxObserver(
            dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=lowest, quant_max=highest
        )
        observer(before.weight)
        scale, zero_point = observer.calculate_qparams()
        theirs = torch.fake_quantize_per_channel_affine(before.weight, scale, zero_point.int(), 0, lowest, highest)
        assert torch.equal(after.weight, theirs), layer.name
        assert not torch.equal(after.weight, before.weight), layer.name


def test_minmax_ranges_are_those_of_torchs_observer_at_every_quantizer(seen: Seen) -> None:
    used = grids(seen.plan, "w8a8-out", seen.images[:2])
    assert list(used) == list(seen.tensors)
    assert len(used) == NUM_QUANTIZERS
    for name, x in seen.tensors.items():
        observer = MinMaxObserver(dtype=torch.quint8, qscheme=torch.per_tensor_affine)
        for batch in torch.split(x, 32):
            observer(batch)
        statistics, grid = seen.plan.statistics[name], used[name]
        assert (statistics.minimum, statistics.maximum) == (observer.min_val.item(), observer.max_val.item()), name
        scale, zero_point = observer.calculate_qparams()
        assert grid is not None
        assert grid.scale == pytest.approx(scale.item(), rel=SCALE_ROUNDING, abs=0), name
        assert (grid.zero_point, grid.quant_min, grid.quant_max) == (zero_point.item(), 0, 255), name


def test_activations_on_torchs_grid_are_those_of_torchs_kernel(seen: Seen) -> None:
    for name, x in seen.tensors.items():
        observer = MinMaxObserver(dtype=torch.quint8, qscheme=torch.per_tensor_affine)
        observer(x)
        scale, zero_point = (t.item() for t in observer.calculate_qparams())
        theirs = torch.fake_quantize_per_tensor_affine(x, scale, int(zero_point), 0, 255)
        assert torch.equal(fake_quantize(x, scale, int(zero_point), 0, 255), theirs), name


def test_mse_ranges_agree_with_torchs_histogram_observer_and_never_make_a_larger_error(seen: Seen) -> None:
    """The errors are measured on the tensors themselves, so neither search is judged by its own approximation.

    Torch spreads each bin's count evenly over the bin. After ReLU, where half the numbers are exactly 0 and cost
    nothing, it therefore charges for them by the width of a step and cuts the range too short. And its search stops at
    the first step that is worse, where qcal's tries the whole range.
    """
    used = grids(seen.plan, "w8a8-mse-out", seen.images[:2])
    for name, x in seen.tensors.items():
        observer = HistogramObserver(dtype=torch.quint8, qscheme=torch.per_tensor_affine)
        for batch in torch.split(x, 32):
            observer(batch)
        theirs, ours = _grid(observer), used[name]
        assert ours is not None
        least, most = TWO_SIDED if bool((x < 0).any()) else AFTER_RELU
        assert least <= ours.scale / theirs.scale <= most, name
        assert LEAST_ERROR <= _error(x, ours) / _error(x, theirs) <= MOST_ERROR, name


def test_without_the_zeros_of_relu_the_two_searches_agree_there_too(seen: Seen) -> None:
    """What the docstring above says of the zeros, checked: the difference goes with them."""
    one_sided = {name: x for name, x in seen.tensors.items() if not bool((x < 0).any())}
    assert len(one_sided) == NUM_ONE_SIDED
    for name, x in one_sided.items():
        theirs, ours = HistogramObserver(dtype=torch.quint8, qscheme=torch.per_tensor_affine), RangeObserver()
        for portion in torch.chunk(x[x > 0], 3):
            theirs(portion)
            ours.update(portion)
        least, most = TWO_SIDED
        assert least <= Grid.over(*mse_range(ours, bits=8), bits=8).scale / _grid(theirs).scale <= most, name


def _grid(observer: HistogramObserver) -> Grid:
    scale, zero_point = observer.calculate_qparams()
    return Grid(scale.item(), int(zero_point.item()), 0, 255)


def _error(x: Tensor, grid: Grid) -> float:
    """Mean squared quantization error of a tensor, in float64."""
    rounded = fake_quantize(x, grid.scale, grid.zero_point, grid.quant_min, grid.quant_max)
    return (rounded.double() - x.double()).square().mean().item()
