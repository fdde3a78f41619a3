"""A run notes the modules that were called, what they read and returned, and the arithmetic between them."""

import torch
import torch.nn.functional as F
from torch import nn

from qcal.quantization.module_trace import first_tensor, trace
from tests.quantization.networks import Forward, tiny_images, tiny_resnet


@torch.no_grad()
def test_calls_are_noted_in_their_order_with_the_very_tensors() -> None:
    network, images = tiny_resnet(), tiny_images(2)
    seen = trace(network, images)
    names = [call.name for call in seen.calls]
    assert names[:3] == ["conv1", "bn1", "pool"]
    assert names[-2:] == ["dropout", "fc"]
    assert seen.calls[1].read is seen.calls[0].returned
    assert seen.calls[-1].returned is seen.output
    # The functional ReLU keeps the integers that it reads.
    assert seen.operations == [("layer1", "add"), ("layer2", "add"), ("", "mean")]


@torch.no_grad()
def test_no_hook_is_left_behind_even_if_the_run_fails() -> None:
    def fail(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("broken")

    network = Forward(fail, fc=nn.Linear(2, 2))
    try:
        trace(network, torch.zeros(1, 2))
    except RuntimeError as error:
        assert str(error) == "broken"  # noqa: PT017  # what is left behind is the point
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@torch.no_grad()
def test_moving_numbers_and_integers_is_no_arithmetic() -> None:
    network = Forward(lambda m, x: m.fc(F.pad(x.reshape(2, 8).t().t(), (0, 0))[:, torch.arange(8)]), fc=nn.Linear(8, 2))
    assert trace(network, torch.randn(2, 2, 4)).operations == []


def test_the_first_tensor_of_nested_results_is_found() -> None:
    x = torch.zeros(1)
    assert first_tensor((None, {"logits": [x]})) is x
    assert first_tensor((1, "a", None)) is None
