"""Quantizing at module boundaries, without a graph: same settings, same record, and nothing silent."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qcal.quantization import Plan, prepare
from qcal.quantization.operators import get_tensor
from tests.quantization.networks import Forward, tiny_images, tiny_resnet


def _plan(network: nn.Module, images: Tensor | None = None) -> Plan:
    """A plan that has seen the images, and computes what the network does when nothing is quantized."""
    images = tiny_images() if images is None else images
    plan = prepare(network, images, placement="modules")
    plan.observe(images)
    with torch.no_grad():
        torch.testing.assert_close(plan.run("float", images), network.eval()(images.clone()), rtol=1e-4, atol=1e-5)
    return plan


def _names(plan: Plan) -> list[str]:
    return [quantizer.name for quantizer in plan.quantizers]


def test_a_residual_network_is_folded_and_quantized_at_its_layers() -> None:
    network = tiny_resnet()
    plan = _plan(network)
    layers = ["conv1", "layer1.conv1", "layer1.conv2", "layer2.conv1", "layer2.conv2", "layer2.downsample.0", "fc"]
    assert _names(plan) == ["input", *layers]
    assert [layer.name for layer in plan.layers] == layers
    assert [q.name for q in plan.quantizers if q.is_output] == ["fc"]
    assert [q.shape for q in plan.quantizers][:2] == [(3, 8, 8), (4, 8, 8)]
    assert plan.unfolded == ()
    assert plan.placement == "modules"
    assert [(op.name, op.operation) for op in plan.float_operations] == [
        ("layer1.add", "add"),
        ("layer2.add", "add"),
        ("mean", "mean"),
    ]


def test_the_weights_at_a_setting_are_those_of_the_graph() -> None:
    network, images = tiny_resnet(), tiny_images()
    graph = prepare(network, images)
    torch.testing.assert_close(_plan(network).run("w4afp", images), graph.run("w4afp", images))


def test_every_setting_of_a_graph_runs_and_is_undone() -> None:
    network, images = tiny_resnet(), tiny_images()
    plan = _plan(network)
    before = plan.run("float", images)
    errors = [(plan.run(f"w{b}a{b}-mse-full-out", images) - before).norm().item() for b in (8, 6, 4, 2)]
    assert errors == sorted(errors)
    assert 0 < errors[0] < 0.1 * before.norm().item()
    assert torch.equal(plan.run("float", images), before)


def test_the_network_is_left_as_it_was() -> None:
    network = tiny_resnet().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    prepare(network, tiny_images(), placement="modules")
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_images_are_left_alone_by_a_forward_that_writes_to_them() -> None:
    network = Forward(lambda m, x: m.fc(x.mul_(2)), fc=nn.Linear(4, 2))
    images = torch.randn(3, 4)
    before = images.clone()
    _plan(network, images)
    assert torch.equal(images, before)


def test_a_placement_is_found_again_in_a_deep_copy_whose_hooks_use_its_own_quantizers() -> None:
    plan = _plan(tiny_resnet())
    duplicate = copy.deepcopy(plan.network)
    found = plan._variants.plain.placement.in_copy(duplicate)
    assert not set(found.quantizers) & set(plan.quantizers)
    seen: list[str] = []
    for quantizer in found.quantizers:
        quantizer.register_forward_hook(lambda module, args, output: seen.append(module.name))
    duplicate(tiny_images())
    assert seen == _names(plan)


def test_layers_that_are_not_called_and_arithmetic_between_modules_are_reported() -> None:
    network = Forward(
        lambda m, x: F.linear(torch.cat([F.gelu(m.a(x)), x], 1), m.b.weight) / 2, a=nn.Linear(4, 4), b=nn.Linear(8, 3)
    )
    plan = _plan(network, torch.randn(6, 4))
    assert [layer.name for layer in plan.layers] == ["a"]
    reported = {op.name: (op.operation, op.reason) for op in plan.float_operations}
    assert reported["b"] == ("Linear", "its forward is not called on `example_input`")
    between = "computed between modules, placed without a graph"
    assert {op for op, reason in reported.values() if reason == between} == {"gelu", "cat", "mm", "div"}
    assert _names(plan) == ["input", "a", "output"]


def test_activation_modules_other_than_relu_are_stored_and_other_modules_reported() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 2)
    )
    plan = _plan(network)
    assert _names(plan) == ["input", "0", "2", "3", "6"]
    assert [(op.name, op.operation, op.reason) for op in plan.float_operations] == [
        ("4", "AvgPool2d", "no integer form")
    ]


def test_attention_has_quantized_projections_and_says_that_its_inside_is_float() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True, bias=False)
    network = Forward(lambda m, x: m.fc(m.attention(x, x, x)[0].mean(1)), attention=attention, fc=nn.Linear(8, 2))
    images = torch.randn(6, 5, 8)
    plan = _plan(network, images)
    assert [layer.name for layer in plan.layers] == ["attention.in_proj", "attention.out_proj", "fc"]
    assert get_tensor(plan.network, plan.layers[0].bias).shape == (24,)
    assert _names(plan) == ["input", "attention", "fc"]
    assert ("attention", "attention") in [(op.name, op.operation) for op in plan.float_operations]
    for setting in ("w4afp", "wfpa4"):
        assert (plan.run(setting, images) - plan.run("float", images)).abs().max() > 0


def test_attention_to_something_of_another_width_keeps_its_input_projections_and_says_so() -> None:
    attention = nn.MultiheadAttention(8, 2, kdim=4, vdim=4, batch_first=True)
    layers = {"attention": attention, "fc": nn.Linear(8, 2)}
    network = Forward(lambda m, x: m.fc(m.attention(x, x[..., :4], x[..., :4])[0].mean(1)), **layers)
    plan = _plan(network, torch.randn(6, 5, 8))
    assert [layer.name for layer in plan.layers] == ["attention.out_proj", "fc"]
    assert "projections of other widths that share one bias" in [op.reason for op in plan.float_operations]


def test_a_weight_that_is_computed_from_parameters_is_quantized_as_the_tensor_it_is() -> None:
    network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.ReLU(), nn.Linear(3, 2))
    plan = _plan(network, torch.randn(6, 4))
    assert [layer.name for layer in plan.layers] == ["0", "2"]


class _Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias)


def test_a_layer_with_a_forward_of_its_own_keeps_its_weight_and_says_so() -> None:
    plan = _plan(nn.Sequential(_Standardised(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)))
    assert [layer.name for layer in plan.layers] == ["3"]
    assert ("0", "it computes its weight in its forward pass") in [(op.name, op.reason) for op in plan.float_operations]
    assert "0 computes its weight" in plan.unfolded[0].reason


def test_freezing_a_parametrized_weight_leaves_the_users_parametrized() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    _plan(nn.Sequential(layer), torch.randn(6, 4))
    assert nn.utils.parametrize.is_parametrized(layer, "weight")
    layer(torch.randn(2, 4)).sum().backward()
    assert layer.parametrizations.weight.original0.grad is not None


def test_a_layer_called_twice_has_one_quantizer_and_one_bias() -> None:
    network = Forward(lambda m, x: m.head(m.fc(m.fc(x))), fc=nn.Linear(4, 4), head=nn.Linear(4, 2))
    plan = _plan(network, torch.randn(6, 4))
    assert _names(plan) == ["input", "fc", "head"]
    assert [layer.name for layer in plan.layers] == ["fc", "head"]


def test_logits_that_are_changed_after_the_last_layer_have_their_own_quantizer() -> None:
    multiplied = Forward(lambda m, x: m.fc(x) * 3, fc=nn.Linear(4, 2))
    in_place = Forward(lambda m, x: m.fc(x).mul_(3), fc=nn.Linear(4, 2))
    for network in (multiplied, in_place):
        assert _names(_plan(network, torch.randn(6, 4))) == ["input", "fc", "output"]
    reshaped = Forward(lambda m, x: m.fc(x).reshape(-1, 2), fc=nn.Linear(4, 2))
    assert [q.is_output for q in _plan(reshaped, torch.randn(6, 4)).quantizers] == [False, True]


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="must have a convolution or linear layer to quantize, found none that its"):
        prepare(nn.Flatten(), torch.randn(2, 4), placement="modules")


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`model` must be a torch.nn.Module, got function"):
        prepare(F.relu, torch.randn(2, 4), placement="modules")  # type: ignore[arg-type]  # a wrong type is the point


@pytest.mark.parametrize("setting", ["w4a8-cle", "w4a8-ada", "w4afp-bc"])
def test_weight_methods_are_refused_without_a_graph_before_anything_runs(setting: str) -> None:
    images = torch.randn(6, 4)
    plan = prepare(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), images, placement="modules")
    plan.observe(images)
    with pytest.raises(ValueError, match=f"`{setting}` names a weight method .* Prepare it with placement='graph'"):
        plan.make_ready(["w8a8", setting])
