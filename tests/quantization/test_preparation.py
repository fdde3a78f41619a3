"""Preparing keeps the device of a network and, off the CPU, the layout of its weights."""

import pytest
import torch

from qcal.quantization import prepare
from qcal.quantization.preparation import _is_channels_last
from qcal.quantization.rules import PlacementName
from tests.quantization.networks import tiny_images, tiny_resnet


def test_on_a_cpu_images_of_convolutions_have_their_channels_last() -> None:
    plan = prepare(tiny_resnet(), tiny_images())
    assert plan.image_layout is torch.channels_last
    assert _is_channels_last(plan.network)


def test_a_layout_is_told_by_the_weights_of_convolutions() -> None:
    network = tiny_resnet()
    assert not _is_channels_last(network)
    assert _is_channels_last(network.to(memory_format=torch.channels_last))


@pytest.mark.gpu
@pytest.mark.parametrize("placement", ["graph", "modules"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_on_a_gpu_the_layout_of_the_network_is_kept(placement: PlacementName, layout: torch.memory_format) -> None:
    network = tiny_resnet().cuda().to(memory_format=layout)
    prepared = prepare(network, tiny_images(), placement=placement)
    assert prepared.device.type == "cuda"
    assert prepared.image_layout is layout
    assert all(tensor.device.type == "cuda" for tensor in prepared.network.state_dict().values())
    images = tiny_images(5).cuda().contiguous(memory_format=layout)
    with torch.no_grad():
        torch.testing.assert_close(prepared.network(images), network(images), rtol=1e-4, atol=1e-4)
