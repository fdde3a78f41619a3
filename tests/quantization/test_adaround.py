"""Learned rounding: up or down for every weight, better than nearest for every layer."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qcal.functional.affine import signed_bounds
from qcal.quantization.adaround import AdaRoundOptions, RoundedLayer, adaround
from qcal.quantization.operators import get_tensor
from qcal.quantization.placement import Placement
from qcal.quantization.specs import WeightSpec
from qcal.quantization.weights import quantize_weight, weight_scale
from tests.quantization.networks import prepared, tiny_images, tiny_resnet

QUICK = AdaRoundOptions(iterations=300, batch_size=16, learning_rate=0.03)


def _adaround(
    graph: GraphModule, placement: Placement, spec: WeightSpec | None, images: Tensor, options: AdaRoundOptions = QUICK
) -> tuple[dict[str, Tensor], list[RoundedLayer]]:
    reports: list[RoundedLayer] = []
    specs = [spec] * len(placement.layers)
    return adaround(graph, placement, specs, images, options=options, progress=reports.append), reports


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize("symmetry", ["restricted", "full"])
def test_every_weight_is_rounded_up_or_down_on_the_grid_of_nearest_rounding(symmetry: str, granularity: str) -> None:
    graph, placement = prepared(tiny_resnet(), tiny_images())
    spec = WeightSpec(3, symmetry=symmetry, granularity=granularity)  # type: ignore[arg-type] # str from parametrize
    weights, reports = _adaround(graph, placement, spec, tiny_images(32))
    assert weights.keys() == {layer.target for layer in placement.layers}
    assert [report.name for report in reports] == [layer.name for layer in placement.layers]
    assert sum(report.flipped > 0 for report in reports) >= 4
    for layer in placement.layers:
        weight = get_tensor(graph, layer.target)
        scale = weight_scale(weight, spec).reshape(-1, *[1] * (weight.dim() - 1))
        levels = weights[layer.target] / scale
        assert (levels - levels.round()).abs().max() < 1e-4
        lowest, highest = signed_bounds(3, spec.symmetry)
        steps = (weight / scale).clamp(lowest, highest)
        assert bool(((levels - steps).abs() < 1 + 1e-4).all())
        assert weights[layer.target].stride() == weight.stride()
        assert not weights[layer.target].requires_grad


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4)),
    "strided": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, bias=False), nn.ReLU(), nn.Flatten()),
    "dilated": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, dilation=2, padding=1), nn.ReLU6(), nn.Flatten()),
    "grouped": lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Hardswish(), nn.Flatten()),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 2, stride=2), nn.ReLU(), nn.Flatten()),
    "sequences": lambda: nn.Sequential(nn.Flatten(2), nn.Linear(64, 4), nn.GELU(), nn.Flatten()),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_every_kind_make_less_error_than_with_nearest_rounding(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = LAYERS[name]()
    images = tiny_images(64).abs()  # with a mean, so that rounding errors add up
    graph, placement = prepared(network, images)
    weights, (report,) = _adaround(graph, placement, WeightSpec(3), images)
    assert not report.keeps_nearest
    assert report.learned_error < 0.9 * report.nearest_error
    # The reported errors are those of the layer with its activation function: here the network.
    target = placement.layers[0].target
    nearest = quantize_weight(get_tensor(graph, target), WeightSpec(3), channel_axis=placement.layers[0].channel_axis)
    expected = graph(images)
    for weight, error in ((weights[target], report.learned_error), (nearest, report.nearest_error)):
        changed, _ = prepared(network, images)
        changed.get_submodule(target.rpartition(".")[0]).weight = nn.Parameter(weight, requires_grad=False)
        assert (changed(images) - expected).square().mean().item() == pytest.approx(error, rel=1e-4)


def test_the_rounding_of_a_small_layer_is_near_the_best_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 1, bias=False))
    # All are nearest to the level below, so that nearest rounding adds their errors up. Of the size of a real layer's:
    # the term that decides between up and down has a fixed weight beside the error.
    scale = 0.1
    weight = scale * torch.tensor([[3.0, 0.4, 1.4, 0.3, 2.4, 1.3]])
    network[0].weight = nn.Parameter(weight)
    x = torch.randn(256, 6, generator=generator) + 2
    graph, placement = prepared(network, x)
    spec = WeightSpec(3)
    weights, (report,) = _adaround(graph, placement, spec, x, AdaRoundOptions(1000, learning_rate=0.03))
    candidates = torch.stack([(weight[0] / scale).floor() + torch.tensor(up) for up in product((0.0, 1.0), repeat=6)])
    candidates = candidates.clamp(-3, 3) * scale
    errors = ((candidates - weight) @ x.T).square().mean(1)
    assert report.learned_error <= 1.5 * errors.min()
    assert report.learned_error < 0.5 * report.nearest_error
    learned = weights[placement.layers[0].target][0]
    assert any(torch.allclose(learned, candidate) for candidate in candidates)


def test_later_layers_make_up_for_earlier_ones() -> None:
    graph, placement = prepared(tiny_resnet(), tiny_images())
    images = tiny_images(64)
    specs: list[WeightSpec | None] = [WeightSpec(2), *[None] * (len(placement.layers) - 1)]
    only_first = adaround(graph, placement, specs, images, options=QUICK)
    assert only_first.keys() == {placement.layers[0].target}
    _, reports = _adaround(graph, placement, WeightSpec(2), images)
    # With rounded weights before it even the last layer's float weights would make an error: both are of that input.
    assert all(report.learned_error <= report.nearest_error for report in reports if not report.keeps_nearest)
    assert reports[-1].learned_error < reports[-1].nearest_error


def test_where_learning_is_worse_nearest_is_kept_and_reported() -> None:
    graph, placement = prepared(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), tiny_images())
    spec = WeightSpec(8)
    reckless = AdaRoundOptions(iterations=3, batch_size=1, learning_rate=100.0)
    weights, (report,) = _adaround(graph, placement, spec, tiny_images(64), reckless)
    assert report.keeps_nearest
    assert report.learned_error > report.nearest_error
    target = placement.layers[0].target
    assert torch.equal(weights[target], quantize_weight(get_tensor(graph, target), spec))


def test_the_result_depends_on_the_seed_alone_and_leaves_the_callers_random_numbers() -> None:
    graph, placement = prepared(tiny_resnet(), tiny_images())
    before = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, _ = _adaround(graph, placement, WeightSpec(3), tiny_images(32))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    with torch.inference_mode():
        second, _ = _adaround(graph, placement, WeightSpec(3), tiny_images(32))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other, _ = _adaround(graph, placement, WeightSpec(3), tiny_images(32), AdaRoundOptions(300, 16, 0.03, seed=1))
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert all(torch.equal(tensor, before[name]) for name, tensor in graph.state_dict().items())
    assert all(tensor.grad is None for tensor in graph.state_dict(keep_vars=True).values())


def test_layers_that_share_their_weights_are_rounded_once() -> None:
    from torch.nn.functional import relu

    from tests.quantization.networks import Forward

    network = Forward(lambda m, x: m.a(relu(m.a(x))).flatten(1), a=nn.Conv2d(3, 3, 3))
    graph, placement = prepared(network, tiny_images())
    weights, reports = _adaround(graph, placement, WeightSpec(3), tiny_images(32))
    assert len(placement.layers) == 2
    assert len(weights) == len(reports) == 1


def test_beta_is_off_at_first_and_then_falls_from_its_first_value_to_its_last() -> None:
    options = AdaRoundOptions(iterations=100)
    betas = [options.beta_at(step) for step in range(100)]
    assert betas[:20] == [None] * 20
    falling = [beta for beta in betas if beta is not None]
    assert falling[0] == 20.0
    assert falling[40] == pytest.approx(11.0)
    assert falling[-1] == pytest.approx(2.0, abs=0.02)
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"iterations": 0}, "`iterations` must be at least 1, got 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "`learning_rate` must be a positive number, got 0.0"),
        ({"regularization": float("nan")}, "`regularization` must be a positive number, got nan"),
        ({"warm_start": 1.0}, r"`warm_start` must be in \[0, 1\), got 1.0"),
    ],
)
def test_bad_options_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaRoundOptions(**fields)  # type: ignore[arg-type] # wrong on purpose


def test_no_image_and_a_wrong_number_of_specs_are_refused() -> None:
    graph, placement = prepared(tiny_resnet(), tiny_images())
    with pytest.raises(ValueError, match="`images` must hold at least one image, got none"):
        _adaround(graph, placement, WeightSpec(4), tiny_images(0))
    with pytest.raises(ValueError, match="`specs` must have one entry for each of 7 layers, got 1"):
        adaround(graph, placement, [None], tiny_images())
