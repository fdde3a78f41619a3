"""Without a graph a batch norm is folded only where a run shows that it may be, and stays with its reason elsewhere."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qcal.quantization.graph import float_copy
from qcal.quantization.module_fold import fold_modules
from qcal.quantization.module_kinds import BATCH_NORMS
from qcal.quantization.module_trace import trace
from tests.quantization.networks import Forward, randomise_batch_norms, tiny_images, tiny_resnet


@torch.no_grad()
def _folded(network: nn.Module, images: Tensor) -> tuple[nn.Module, list[str], list[str]]:
    """The folded copy, the batch norms that stay in it and their reasons; it must compute what the network does."""
    duplicate = float_copy(network)
    unfolded = fold_modules(duplicate, images, trace(duplicate, images.clone()))
    left = [name for name, module in duplicate.named_modules() if isinstance(module, BATCH_NORMS)]
    assert left == [norm.name for norm in unfolded]
    torch.testing.assert_close(duplicate(images.clone()), network.eval()(images.clone()), rtol=1e-4, atol=1e-5)
    return duplicate, left, [norm.reason for norm in unfolded]


def test_a_residual_network_folds_completely() -> None:
    assert _folded(tiny_resnet(), tiny_images())[1] == []


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layer", [nn.Conv2d, nn.ConvTranspose2d])
def test_layers_with_and_without_a_bias_fold(layer: Callable[..., nn.Module], bias: bool) -> None:
    network = nn.Sequential(layer(3, 4, 3, bias=bias), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    network(tiny_images())
    assert _folded(randomise_batch_norms(network), tiny_images())[1] == []


def test_a_fold_that_is_undone_leaves_the_layer_without_a_bias() -> None:
    network = Forward(
        lambda m, x: (lambda h: m.norm(h) + h)(m.conv(x)).mean((2, 3)),
        conv=nn.Conv2d(3, 3, 3, bias=False),
        norm=nn.BatchNorm2d(3),
    )
    duplicate, left, _ = _folded(randomise_batch_norms(network), tiny_images())
    assert left == ["norm"]
    assert duplicate.get_submodule("conv").bias is None


# Batch norms that have to stay: forward, and the reason.
STAYS: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {  # Any: layers by name
    "norm before conv": (lambda m, x: m.conv(F.relu(m.norm(x))), "no convolution or linear layer directly in front"),
    "function between": (lambda m, x: m.norm(F.relu(m.conv(x))), "no convolution or linear layer directly in front"),
    "in-place function between": (lambda m, x: m.norm(F.relu_(m.conv(x))), "changes the logits: the tensor between"),
    "read elsewhere": (lambda m, x: (lambda h: m.norm(h) + h)(m.conv(x)), "changes the logits: the tensor between"),
    "shared conv": (lambda m, x: m.norm(m.conv(m.conv(x))), "conv is called several times"),
    "shared norm": (lambda m, x: m.norm(m.conv(m.norm(x))), "it is called several times"),
    "its tensors are used": (lambda m, x: m.norm(m.conv(x)) * m.norm.weight[0], "breaks the forward pass: 'Identity'"),
    "not called": (lambda m, x: F.batch_norm(m.conv(x), m.norm.running_mean, m.norm.running_var), "it is not called"),
}


@pytest.mark.parametrize(("function", "reason"), STAYS.values(), ids=list(STAYS))
def test_a_batch_norm_that_cannot_be_folded_stays_with_its_reason(
    function: Callable[[Any, Tensor], Tensor],  # Any: layers by name
    reason: str,
) -> None:
    norms = {"norm": nn.BatchNorm2d(3), "norm2": nn.BatchNorm2d(3)}
    network = Forward(
        lambda m, x: m.fc(function(m, m.norm2(m.conv2(x))).mean((2, 3))),
        conv=nn.Conv2d(3, 3, 3, padding=1),
        conv2=nn.Conv2d(3, 3, 1, bias=False),
        fc=nn.Linear(3, 2),
        **norms,
    )
    _, left, reasons = _folded(randomise_batch_norms(network), tiny_images())
    assert left == ["norm"]  # the other one is folded all the same
    assert reason in reasons[0]
