"""Equalized networks compute what they did, and their channels use their ranges alike."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.fx import GraphModule

from qcal.quantization.equalization import EqualizedPair, equalize
from qcal.quantization.operators import get_tensor
from qcal.quantization.placement import Placement
from tests.quantization.networks import Forward, prepared, randomise_batch_norms, tiny_images, tiny_resnet


def _spread(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give the output channels of every layer weights of very different sizes; return the network."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                sizes = torch.rand(len(module.weight), generator=generator) * 4 - 2
                module.weight.mul_((10**sizes).reshape(-1, *[1] * (module.weight.dim() - 1)))
    return network


def _equalized(network: nn.Module, images: Tensor) -> tuple[GraphModule, GraphModule, Placement, list[EqualizedPair]]:
    """The graph, its equalized copy, the placement and the pairs; both must compute the same."""
    graph, placement = prepared(network.eval(), images)
    expected = graph(images)
    equalized, pairs = equalize(graph, placement)
    assert torch.equal(graph(images), expected)
    torch.testing.assert_close(equalized(images), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    return graph, equalized, placement, list(pairs)


def _names(pairs: list[EqualizedPair]) -> list[tuple[str, str]]:
    return [(pair.first, pair.second) for pair in pairs]


CHAINS: dict[str, tuple[Callable[[], nn.Module], list[tuple[str, str]]]] = {
    "relu": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(80, 2)),
        [("0", "2"), ("2", "4")],
    ),
    "depthwise with relu6": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 1),
            nn.ReLU6(),
            nn.Conv2d(6, 6, 3, groups=6, stride=2),
            nn.ReLU6(),
            nn.Conv2d(6, 4, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        ),
        [("0", "2"), ("2", "4"), ("4", "7")],
    ),
    "groups": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 1), nn.LeakyReLU(0.1), nn.Conv2d(8, 12, 3, groups=4), nn.Flatten(), nn.Linear(432, 2)
        ),
        [("0", "2"), ("2", "4")],
    ),
    "depth multiplier": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=4), nn.Flatten()),
        [("0", "2")],
    ),
    "pooling and padding": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 1),
            nn.MaxPool2d(2),
            nn.ZeroPad2d(1),
            nn.PReLU(4),
            nn.AvgPool2d(2),
            nn.Conv2d(4, 2, 2),
            nn.Flatten(),
        ),
        [("0", "5")],
    ),
    "flatten before a clamp": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Hardtanh(-0.3, 0.7), nn.Linear(144, 5)),
        [("0", "3")],
    ),
    "transposed": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(3, 4, 2),
            nn.ReLU6(),
            nn.ConvTranspose2d(4, 5, 2, stride=2),
            nn.Flatten(),
            nn.Linear(1620, 2),
        ),
        [("0", "2"), ("2", "4")],
    ),
    "sequences": (
        lambda: nn.Sequential(
            nn.Flatten(2), nn.Linear(64, 5), nn.ReLU6(), nn.Linear(5, 4), nn.Flatten(), nn.Linear(12, 2)
        ),
        [("1", "3")],
    ),
    "rows": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.ReLU6(), nn.Linear(5, 4)),
        [("1", "3")],
    ),
    "mean over positions": (
        lambda: Forward(lambda m, x: m.b(F.relu(m.a(x)).mean((-1, -2))), a=nn.Conv2d(3, 4, 3), b=nn.Linear(4, 2)),
        [("a", "b")],
    ),
    "view by the number of images": (
        lambda: Forward(
            lambda m, x: (lambda h: m.b(h.view(h.size(0), -1)))(m.a(x)), a=nn.Conv2d(3, 4, 3), b=nn.Linear(144, 2)
        ),
        [("a", "b")],
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_pairs_are_found_and_scaled_without_a_change_of_the_logits(name: str) -> None:
    make, expected = CHAINS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = _spread(make())
    _, equalized, placement, pairs = _equalized(network, tiny_images())
    assert _names(pairs) == expected
    assert all(bool((pair.scale > 0).all()) and float(pair.scale.log().abs().max()) > 0.1 for pair in pairs)
    assert equalized(tiny_images(3)).shape[0] == 3
    assert placement.in_copy(equalized).layers == placement.layers


NO_PAIRS: dict[str, nn.Module] = {
    "GELU does not scale": nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 2, 6), nn.Flatten()),
    "softmax over positions": Forward(
        lambda m, x: m.b(m.a(x).softmax(1).mean((2, 3))), a=nn.Conv2d(3, 4, 3), b=nn.Linear(4, 2)
    ),
    "two readers": Forward(
        lambda m, x: (lambda h: (m.b(h) + m.c(h)).flatten(1))(F.relu(m.a(x))),
        a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 2, 6), c=nn.Conv2d(4, 2, 6),
    ),
    "an add between": Forward(
        lambda m, x: m.b(m.a(x) + x).flatten(1), a=nn.Conv2d(3, 3, 3, padding=1), b=nn.Conv2d(3, 2, 8)
    ),
    "shared weights": Forward(lambda m, x: m.a(F.relu(m.a(x))).flatten(1), a=nn.Conv2d(3, 3, 3)),
    "channels become positions": Forward(
        lambda m, x: m.b(m.a(x).flatten(2)).flatten(1), a=nn.Conv2d(3, 4, 3), b=nn.Linear(36, 2)
    ),
    "the mean over channels": Forward(
        lambda m, x: m.b(m.a(x).mean(1).flatten(1)), a=nn.Conv2d(3, 4, 3), b=nn.Linear(36, 2)
    ),
    "padding with ones": nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConstantPad2d(1, 1.0), nn.Conv2d(4, 2, 8), nn.Flatten()),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_PAIRS)
def test_what_does_not_scale_channel_by_channel_is_left_alone(name: str) -> None:
    graph, equalized, placement, pairs = _equalized(_spread(NO_PAIRS[name]), tiny_images())
    assert pairs == []
    assert all(torch.equal(get_tensor(graph, la.target), get_tensor(equalized, la.target)) for la in placement.layers)


def test_residual_networks_are_equalized_inside_their_blocks() -> None:
    _, _, _, pairs = _equalized(tiny_resnet(), tiny_images())
    assert _names(pairs) == [("layer1.conv1", "layer1.conv2"), ("layer2.conv1", "layer2.conv2")]


def test_ranges_of_a_pair_are_equal_afterwards_and_their_product_is_kept() -> None:
    network = _spread(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 6), nn.Flatten()))
    graph, equalized, _, _ = _equalized(network, tiny_images())

    def ranges(module: GraphModule) -> tuple[Tensor, Tensor]:
        first, second = get_tensor(module, "0.weight"), get_tensor(module, "2.weight")
        return first.abs().amax((1, 2, 3)), second.abs().amax((0, 2, 3))

    (r1, r2), (new1, new2) = ranges(graph), ranges(equalized)
    torch.testing.assert_close(new1, (r1 * r2).sqrt(), rtol=1e-5, atol=0)
    torch.testing.assert_close(new2, (r1 * r2).sqrt(), rtol=1e-5, atol=0)


def test_a_depthwise_chain_converges_to_the_cube_root_of_its_ranges() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        make, _ = CHAINS["depthwise with relu6"]
        network = nn.Sequential(*list(_spread(make()).children())[:5], nn.Flatten())
    graph, equalized, _, _ = _equalized(network, tiny_images())

    def ranges(module: GraphModule) -> list[Tensor]:
        first, depthwise, last = (get_tensor(module, f"{name}.weight").abs() for name in ("0", "2", "4"))
        return [first.amax((1, 2, 3)), depthwise.amax((1, 2, 3)), last.amax((0, 2, 3))]

    product = torch.stack(ranges(graph)).prod(0)
    for found in ranges(equalized):
        torch.testing.assert_close(found, product ** (1 / 3), rtol=2e-3, atol=0)


def test_dead_channels_keep_their_weights_and_are_counted() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU6(), nn.Conv2d(6, 4, 6), nn.Flatten())
    first, second = network[0], network[2]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    with torch.no_grad():
        first.weight[0] = 0  # no weights, but a bias that counts
        first.weight[1] *= 1e-30  # what weight decay leaves
        second.weight[:, 2] = 0  # never read
        assert first.bias is not None
        first.bias.fill_(0.5)
    graph, equalized, _, pairs = _equalized(network, tiny_images())
    assert pairs[0].num_dead == 3
    assert pairs[0].scale[:3].tolist() == [1.0, 1.0, 1.0]
    assert torch.equal(get_tensor(graph, "0.weight")[:3], get_tensor(equalized, "0.weight")[:3])
    assert bool(torch.isfinite(equalized(tiny_images())).all())


def test_the_graph_is_left_alone_and_the_copy_shares_nothing_with_it() -> None:
    graph, placement = prepared(tiny_resnet(), tiny_images())
    before = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    code = graph.code
    equalized, _ = equalize(graph, placement)
    for tensor in equalized.state_dict().values():
        tensor.zero_()
    assert graph.code == code
    assert all(torch.equal(tensor, before[name]) for name, tensor in graph.state_dict().items())
    assert graph.state_dict().keys() == before.keys()


def test_clamps_reach_what_they_reached_in_every_channel() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.Conv2d(4, 2, 6), nn.Flatten())
    _spread(network)
    images = 100 * tiny_images()
    graph, _ = prepared(network.eval(), images)
    assert int((network[:2](images) == 6).sum()) > 0
    _, equalized, _, pairs = _equalized(network, images)
    assert "aten.hardtanh" in graph.code  # as ReLU6 is exported
    assert "aten.hardtanh" not in equalized.code
    highest = next(tensor for name, tensor in equalized.named_buffers() if name.endswith("highest"))
    torch.testing.assert_close(highest.flatten(), (6 / pairs[0].scale).float())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_pairs"), [("mobilenet_v2", 37), ("resnet18", 8)])
def test_torchvision_networks_stay_exact(name: str, num_pairs: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = randomise_batch_norms(getattr(torchvision.models, name)())
        images = torch.randn(4, 3, 64, 64)
    _, _, _, pairs = _equalized(network, images)
    assert len(pairs) == num_pairs
