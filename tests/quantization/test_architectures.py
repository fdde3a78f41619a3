"""Preparing keeps the logits of the networks people use, and says what it could not quantize."""

import pytest
import torch
import torchvision
from torch import nn

from qcal.quantization import prepare

pytestmark = pytest.mark.slow

# Name -> (activation quantizers, layers with quantized weights, batch norms that stay, arithmetic left in float).
NETWORKS: dict[str, tuple[int, int, int, set[str]]] = {
    "resnet18": (30, 21, 0, {"adaptive_avg_pool2d"}),
    "mobilenet_v2": (64, 53, 0, {"adaptive_avg_pool2d"}),
    "mobilenet_v3_small": (70, 54, 0, {"adaptive_avg_pool2d"}),
    "efficientnet_b0": (108, 82, 0, {"adaptive_avg_pool2d"}),
    "densenet121": (246, 121, 62, {"adaptive_avg_pool2d", "avg_pool2d"}),
    "squeezenet1_1": (36, 26, 0, {"adaptive_avg_pool2d"}),
    "shufflenet_v2_x0_5": (74, 57, 0, {"mean"}),
    "vgg11_bn": (12, 11, 0, {"adaptive_avg_pool2d"}),
    "swin_t": (107, 53, 0, {"layer_norm", "matmul", "softmax", "adaptive_avg_pool2d"}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_torchvision_networks_stay_exact_and_are_fully_accounted_for(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: nn.Module = getattr(torchvision.models, name)()
        for module in network.modules():
            if (
                isinstance(module, nn.BatchNorm2d)
                and module.running_mean is not None
                and module.running_var is not None
            ):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2.0)
        images = torch.randn(5, 3, 64, 64)
    plan = prepare(network, images)
    with torch.no_grad():
        expected = network.eval()(images)
    assert (plan.run("float", images) - expected).abs().max() <= 1e-4 * expected.abs().max()
    in_float = {operation.operation for operation in plan.float_operations}
    assert (len(plan.quantizers), len(plan.layers), len(plan.unfolded), in_float) == NETWORKS[name]
    plan.observe(images)
    assert (plan.run("w8a8", images) - expected).norm() <= 0.1 * expected.norm()
