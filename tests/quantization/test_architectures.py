"""Preparing keeps the logits of the networks people use, for any number of images, and accounts for every operation.

Random weights, small images where the architecture allows.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from qcal.models import CifarResNet
from qcal.quantization import Plan, prepare
from qcal.quantization.made_weights import MadeWeight
from qcal.quantization.operators import BATCH_NORMS, LAYERS, data_dependent, kind
from tests.quantization.networks import randomise_batch_norms

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Expected:
    """What preparing a network must find: a change of the graph or of the placement shows here.

    Args:
        quantizers: Activation quantizers.
        layers: Layers with quantized weights.
        unfolded: Batch norms that stay.
        in_float: Operations left in float, and how many.
        size: Height and width of the images.
        noise: Bound on the relative error of the w8a8 logits.
        options: Arguments of the network's constructor.
    """

    quantizers: int
    layers: int
    unfolded: int = 0
    in_float: dict[str, int] = field(default_factory=dict)
    size: int = 32
    noise: float = 0.1
    options: dict[str, Any] = field(default_factory=dict)  # Any: each network has its own


TORCHVISION: dict[str, Expected] = {
    "resnet18": Expected(30, 21),
    "resnet50": Expected(71, 54),
    "wide_resnet50_2": Expected(71, 54),
    "resnext50_32x4d": Expected(71, 54),
    "mobilenet_v2": Expected(64, 53, size=64),
    "mobilenet_v3_small": Expected(70, 54, size=64),
    "efficientnet_b0": Expected(108, 82, size=64),
    "densenet121": Expected(246, 121, 62),
    "squeezenet1_1": Expected(36, 26),
    "shufflenet_v2_x0_5": Expected(74, 57, size=64),
    "regnet_y_400mf": Expected(119, 86, size=64),
    "mnasnet0_5": Expected(64, 53, size=64),
    "vgg11_bn": Expected(12, 11),
    "googlenet": Expected(68, 58, options={"init_weights": False}),
    "inception_v3": Expected(111, 95, size=75, options={"init_weights": False}),
    "convnext_tiny": Expected(119, 59, in_float={"layer_norm": 23}),
    "swin_t": Expected(
        133, 53, in_float={"layer_norm": 29, "add": 14, "softmax": 12, "adaptive_avg_pool2d": 1}, size=64
    ),
    "vit_b_16": Expected(126, 50, in_float={"layer_norm": 25, "softmax": 12}, options={"image_size": 32}),
}

TIMM: dict[str, Expected] = {
    "resnet18": Expected(30, 21),
    "mobilenetv3_small_100": Expected(70, 54, size=64),
    "efficientnet_b0": Expected(108, 82, size=64),
    "convnext_atto": Expected(83, 41, in_float={"layer_norm": 17}),
    "vit_tiny_patch16_224": Expected(126, 50, in_float={"layer_norm": 25, "softmax": 12}, options={"img_size": 32}),
    "regnety_002": Expected(98, 71, size=64),
    "repvgg_a0": Expected(102, 45, 17),  # batch norms of its identity branches
    "mobilenetv4_conv_small": Expected(58, 47, size=64),
    "mixer_s32_224": Expected(68, 34, in_float={"layer_norm": 17, "mean": 1}, size=64, options={"img_size": 64}),
}


def _randomised(network: nn.Module) -> nn.Module:
    """Weights and statistics that matter: fresh ones are zero here and there, and a fresh batch norm does nothing.

    A class token of zeros beside image tokens of some size would drown in the steps that they share.
    """
    for name, parameter in network.named_parameters():
        if name in ("class_token", "cls_token"):
            nn.init.normal_(parameter)
    for module in network.modules():
        if isinstance(module, nn.Linear) and not bool(module.weight.any()):
            nn.init.normal_(module.weight, 0, 0.02)
    return randomise_batch_norms(network)


def _check(network: nn.Module, expected: Expected) -> None:
    images = torch.randn(5, 3, expected.size, expected.size)
    network.train()  # as it comes from its constructor, with auxiliary heads
    plan = prepare(network, images)
    assert network.training
    with torch.no_grad():
        logits: Tensor = network.eval()(images)
    for count in (1, 2, 5):
        difference = (plan.run("float", images[:count]) - logits[:count]).abs().max()
        assert difference <= 1e-4 * logits.abs().max()
    in_float = dict(Counter(operation.operation for operation in plan.float_operations))
    found = (len(plan.quantizers), len(plan.layers), len(plan.unfolded), in_float)
    assert found == (expected.quantizers, expected.layers, expected.unfolded, expected.in_float)
    _check_accounts(plan)
    plan.observe(images)
    error = (plan.run("w8a8", images) - logits).norm() / logits.norm()
    assert 0 < error <= expected.noise


def _check_accounts(plan: Plan) -> None:
    """Every layer and batch norm of the graph is in the plan, every quantizer in the graph, and every name once."""
    graph: Any = plan.network  # Any: a GraphModule
    nodes = list(graph.graph.nodes)
    layers = [node.name for node in nodes if kind(node) in LAYERS]
    in_float = [operation.name for operation in plan.float_operations if operation.operation in ("conv2d", "linear")]
    assert len(layers) == len(plan.layers) + len(in_float)
    assert {layer.node for layer in plan.layers} <= set(layers)
    assert sum(kind(node) in BATCH_NORMS for node in nodes) == len(plan.unfolded)
    modules = {node: graph.get_submodule(node.target) for node in nodes if node.op == "call_module"}
    stored = {node for node, module in modules.items() if not isinstance(module, MadeWeight)}
    assert {modules[node] for node in stored} == set(plan.quantizers)
    for names in ([q.name for q in plan.quantizers], [layer.name for layer in plan.layers]):
        assert len(set(names)) == len(names)
    # Whatever a layer reads is stored: there is a quantizer between it and any arithmetic.
    dependent = data_dependent(graph.graph)
    for node in nodes:
        if kind(node) in LAYERS:
            source = node.args[0]
            while source not in stored and source in dependent and source.op == "call_function":
                source = source.all_input_nodes[0]
            assert source in stored, f"{node} reads {source}, which nothing quantizes"
    assert all(reason for reason in [*(n.reason for n in plan.unfolded), *(o.reason for o in plan.float_operations)])


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_networks_stay_exact_and_are_fully_accounted_for(name: str) -> None:
    expected = TORCHVISION[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: nn.Module = getattr(torchvision.models, name)(num_classes=10, **expected.options)
        _check(_randomised(network), expected)


@pytest.mark.parametrize(("depth", "quantizers", "layers"), [(20, 32, 22), (56, 86, 58)])
def test_cifar_resnets_stay_exact_and_are_fully_accounted_for(depth: int, quantizers: int, layers: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = CifarResNet(depth=depth, num_classes=10)
        _check(_randomised(network), Expected(quantizers, layers))


@pytest.mark.oracle
@pytest.mark.parametrize("name", TIMM)
def test_timm_networks_stay_exact_and_are_fully_accounted_for(name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is in the dependency group `oracle`")
    expected = TIMM[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: nn.Module = timm.create_model(name, num_classes=10, **expected.options)
        _check(_randomised(network), expected)


def test_norm_before_convolution_stays_in_densenet_with_its_reason() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plan = prepare(torchvision.models.densenet121(num_classes=10), torch.randn(2, 3, 32, 32))
    assert plan.unfolded[0].name == "features.denseblock1.denselayer1.norm1"
    assert {norm.reason for norm in plan.unfolded} == {"no convolution or linear layer directly in front of it"}
