"""One plan serves every setting, exactly, and changes nothing that is not its own."""

import copy
import math
from collections.abc import Iterable, Iterator
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qcal.quantization import Plan, Setting, prepare
from tests.quantization.networks import Block, Forward, TinyResNet, tiny_images, tiny_resnet


@pytest.fixture(scope="module")
def observed() -> Plan:
    """A plan of `tiny_resnet` that has seen 32 images."""
    plan = prepare(tiny_resnet(), tiny_images())
    plan.observe(tiny_images(32))
    return plan


class Simulated(nn.Module):
    """`TinyResNet` quantized by hand with torch's own kernels, to compare with."""

    def __init__(self, network: TinyResNet, weight_bits: int | None, activation_bits: int | None) -> None:
        super().__init__()
        network = copy.deepcopy(network).eval()
        for parent in network.modules():
            for name, norm in list(parent.named_children()):
                conv_name = {"bn1": "conv1", "bn2": "conv2", "1": "0"}.get(name, "")
                conv = getattr(parent, conv_name, None) if conv_name else None
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    setattr(parent, conv_name, nn.utils.fusion.fuse_conv_bn_eval(conv, norm))
                    setattr(parent, name, nn.Identity())
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear) and weight_bits is not None:
                layer.weight = nn.Parameter(self._weight(layer.weight.detach(), weight_bits))
        self.network = network
        self.activation_bits = activation_bits
        self.seen: dict[str, tuple[float, float]] = {}
        self.observing = False

    @staticmethod
    def _weight(weight: Tensor, bits: int) -> Tensor:
        most = 2 ** (bits - 1) - 1
        scale = weight.flatten(1).abs().amax(1) / most
        zeros = torch.zeros(len(scale), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -most, most)

    def _stored(self, name: str, x: Tensor) -> Tensor:
        if self.observing:
            lo, hi = self.seen.get(name, (0.0, 0.0))
            self.seen[name] = min(lo, x.min().item()), max(hi, x.max().item())
        if self.observing or self.activation_bits is None:
            return x
        lo, hi = self.seen[name]
        levels = 2**self.activation_bits - 1
        scale = torch.tensor((hi - lo) / levels).item()
        return torch.fake_quantize_per_tensor_affine(x, scale, round(-lo / scale), 0, levels)

    def _block(self, name: str, block: Block, x: Tensor) -> Tensor:
        shortcut = x if block.downsample is None else self._stored(f"{name}.d", block.downsample(x))
        h = self._stored(f"{name}.1", F.relu(block.conv1(x)))
        return self._stored(f"{name}.add", F.relu(self._stored(f"{name}.2", block.conv2(h)) + shortcut))

    def forward(self, x: Tensor) -> Tensor:
        network = self.network
        assert isinstance(network, TinyResNet)
        h = self._stored("conv1", F.relu(network.conv1(self._stored("input", x))))
        h = self._block("2", network.layer2, self._block("1", network.layer1, network.pool(h)))
        pooled = self._stored("2.add", F.adaptive_avg_pool2d(h, 1))  # rounded to the scale of what it reads
        logits: Tensor = network.fc(pooled.flatten(1))
        return logits


def _larger_images(count: int, seed: int) -> Tensor:
    """Images whose average pooling is over 3 x 3: over 2 x 2 many means lie half-way between two levels, and then the
    last bit of a scale decides.
    """
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def observed_larger() -> Plan:
    """A plan of `tiny_resnet` that has seen 32 larger images."""
    plan = prepare(tiny_resnet(), _larger_images(2, seed=1))
    plan.observe(_larger_images(32, seed=1))
    return plan


@pytest.mark.parametrize("name", ["wfpafp", "w8afp", "w2afp", "wfpa8", "wfpa3", "w8a8", "w4a8", "w3a4"])
def test_a_setting_gives_what_a_simulation_by_hand_with_torchs_kernels_gives(observed_larger: Plan, name: str) -> None:
    setting = Setting.parse(name)
    by_hand = Simulated(tiny_resnet(), setting.weight_bits, setting.activation_bits)
    with torch.no_grad():
        by_hand_float = Simulated(tiny_resnet(), None, None)
        by_hand_float.observing = True
        by_hand_float(_larger_images(32, seed=1))
        by_hand.seen = by_hand_float.seen
        expected = by_hand(_larger_images(64, seed=5))
    logits = observed_larger.run(setting, _larger_images(64, seed=5))
    # Folding rounds differently here and there, and a number on an edge may then fall into the next step: rarely.
    close = torch.isclose(logits, expected, rtol=1e-3, atol=1e-3).all(1)
    assert close.float().mean() >= (1.0 if setting.activation_bits is None else 0.95)
    assert (logits - expected).abs().max() < 0.1


def test_the_float_setting_is_the_network(observed: Plan) -> None:
    images = tiny_images(20, seed=2)
    expected = tiny_resnet()(images).detach()
    for logits in (
        observed.run("float", images),
        observed.run(Setting(None, None), images),
        observed.float_logits(images),
    ):
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_fewer_bits_are_farther_from_float(observed: Plan) -> None:
    images = tiny_images(64, seed=2)
    reference = observed.float_logits(images)
    distances = [(observed.run(f"w{b}a{b}", images) - reference).norm().item() for b in (8, 6, 4, 2)]
    assert distances == sorted(distances)
    assert 0 < distances[0] < 0.05 * reference.norm()


def test_the_logits_are_quantized_only_on_request(observed: Plan) -> None:
    images = tiny_images(64, seed=2)
    assert len(set(observed.run("w8a3", images).flatten().tolist())) > 40  # 3 bits hold 8
    quantized = observed.run("w8a3-out", images)
    assert len(set(quantized.flatten().tolist())) <= 8
    assert (quantized == 0).any()


def test_the_range_method_and_the_symmetry_make_a_difference(observed: Plan) -> None:
    images = tiny_images(8, seed=2)
    results = [observed.run(name, images) for name in ("w4a4", "w4a4-mse", "w4a4-full", "w4a4-mse-full")]
    for i, result in enumerate(results):
        assert not any(torch.equal(result, other) for other in results[:i])


def test_neither_the_batch_size_nor_the_form_of_the_images_changes_the_logits(observed: Plan) -> None:
    images = tiny_images(13, seed=2)
    whole = observed.run("w4a8", images)
    for same in (
        observed.run("w4a8", images, batch_size=4),
        observed.run("w4a8", torch.split(images, 5)),
        observed.run("w4a8", (image[None] for image in images)),
        observed.run("w4a8", images.double()),
        observed.run("w4a8", images.contiguous(memory_format=torch.channels_last)),
    ):
        assert same.shape == (13, 5)
        torch.testing.assert_close(same, whole, rtol=1e-4, atol=1e-4)


def test_many_settings_on_one_batch_are_those_run_one_by_one(observed: Plan) -> None:
    images = tiny_images(8, seed=2)
    names = ["w4a8", "float", "w8a8-mse", "W4A8", "wfpa2"]
    results = observed.run_batch(names, images)
    assert list(results) == [Setting.parse(n) for n in ("w4a8", "float", "w8a8-mse", "wfpa2")]
    for setting, logits in results.items():
        assert torch.equal(logits, observed.run(setting, images))


def test_a_grid_reads_the_images_once_and_gives_what_each_setting_gives_alone(observed: Plan) -> None:
    images = tiny_images(20, seed=2)
    read: list[int] = []

    def batches() -> Iterator[Tensor]:
        for x in torch.split(images, 6):
            read.append(len(x))
            yield x

    seen: list[int] = []
    names = ["w4a8", "float", "w8a8-mse", "W4A8"]
    grid = observed.run_grid(names, batches(), batch_size=4, progress=seen.append)
    assert (sum(read), seen) == (20, [4, 2, 4, 2, 4, 2, 2])
    assert list(grid) == [Setting.parse(n) for n in ("w4a8", "float", "w8a8-mse")]
    for setting, logits in grid.items():
        assert (logits.dtype, logits.device.type) == (torch.float32, "cpu")
        torch.testing.assert_close(logits, observed.run(setting, images), rtol=1e-4, atol=1e-4)


def test_shared_weights_are_quantized_once_and_for_both_layers() -> None:
    network = Forward(lambda m, x: m.fc(F.relu(m.fc(x))), fc=nn.Linear(4, 4))
    plan = prepare(network, torch.randn(2, 4))
    images = torch.randn(5, 4)
    layer = cast(nn.Linear, network.fc)
    quantized, bias = Simulated._weight(layer.weight.detach(), 3), layer.bias.detach()
    expected = F.linear(F.relu(F.linear(images, quantized, bias)), quantized, bias)
    torch.testing.assert_close(plan.run("w3afp", images), expected)


def test_observing_again_replaces_and_a_failed_pass_does_not() -> None:
    plan = prepare(tiny_resnet(), tiny_images())
    assert plan.statistics == {}
    plan.observe(10 * tiny_images())
    plan.observe(tiny_images())
    ranges = {name: (seen.minimum, seen.maximum) for name, seen in plan.statistics.items()}
    assert ranges["input"] == (tiny_images().min().item(), tiny_images().max().item())

    def broken() -> Iterable[Tensor]:
        yield 100 * tiny_images()
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        plan.observe(broken())
    assert {name: (seen.minimum, seen.maximum) for name, seen in plan.statistics.items()} == ranges
    assert all(quantizer.observer is None for quantizer in plan.quantizers)


def test_what_was_observed_does_not_depend_on_the_batches() -> None:
    plan = prepare(tiny_resnet(), tiny_images())
    images = tiny_images(24)
    plan.observe(images)
    whole = plan.statistics
    plan.observe(torch.split(images.flip(0), 5))
    for name, seen in plan.statistics.items():
        assert seen.num_seen == whole[name].num_seen
        assert seen.maximum == pytest.approx(whole[name].maximum, rel=1e-5)
        assert seen.exponent == whole[name].exponent
    assert torch.equal(plan.statistics["input"].counts, whole["input"].counts)


def test_what_two_processes_saw_merges_into_one_plan(observed: Plan) -> None:
    halves = [prepare(tiny_resnet(), tiny_images()) for _ in range(2)]
    for plan, images in zip(halves, torch.split(tiny_images(32), 16), strict=True):
        plan.observe(images)
    merged = {name: halves[1].statistics[name] for name in halves[1].statistics}
    for name, seen in halves[0].statistics.items():
        merged[name].merge(seen)
    images = tiny_images(8, seed=2)
    halves[0].run("w8a4-mse", images)  # fills the cache that the assignment has to empty
    halves[0].statistics = merged
    torch.testing.assert_close(halves[0].run("w8a4-mse", images), observed.run("w8a4-mse", images))


def test_statistics_of_another_network_are_refused(observed: Plan) -> None:
    statistics = dict(observed.statistics)
    statistics["layer9"] = statistics.pop("layer1.add")
    with pytest.raises(ValueError, match=r"one observer for each quantizer, got other names: layer1.add, layer9"):
        observed.statistics = statistics


def test_progress_counts_the_images() -> None:
    plan = prepare(tiny_resnet(), tiny_images())
    seen: list[int] = []
    plan.observe(tiny_images(10), batch_size=4, progress=seen.append)
    assert seen == [4, 4, 2]


def test_the_users_network_gradients_and_random_numbers_are_untouched() -> None:
    network = tiny_resnet().train()
    network(tiny_images()).sum().backward()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    rng = torch.get_rng_state()
    images = tiny_images(20)
    copies = images.clone()
    plan = prepare(network, images)
    plan.observe(images)
    plan.run("w2a2-mse", images)
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(images, copies)
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    assert all(
        torch.equal(p.grad, g) for p, g in zip(network.parameters(), gradients, strict=True) if p.grad is not None
    )
    assert all(module.training for module in network.modules())
    assert torch.is_grad_enabled()


def test_everything_works_in_inference_mode_and_its_results_outside(observed: Plan) -> None:
    images = tiny_images(8, seed=2)
    with torch.inference_mode():
        plan = prepare(tiny_resnet(), tiny_images())
        plan.observe(tiny_images(32))
        logits = plan.run("w4a8-mse", images.clone())
    assert torch.equal(logits, observed.run("w4a8-mse", images))
    assert not logits.is_inference()
    plan.observe(tiny_images(32))
    assert torch.equal(plan.run("w4a8-mse", images), logits)
    temperature = torch.ones(1, requires_grad=True)
    torch.autograd.grad((logits / temperature).sum(), temperature)  # temperature scaling does this


def test_autocast_of_the_caller_does_not_reach_the_plan(observed: Plan) -> None:
    images = tiny_images(8, seed=2)
    expected = observed.run("w8a8", images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(observed.run("w8a8", images), expected)
        plan = prepare(tiny_resnet(), tiny_images())
        plan.observe(tiny_images(32))
    assert torch.equal(plan.run("w8a8", images), expected)


def test_weights_alone_need_no_observation() -> None:
    plan = prepare(tiny_resnet(), tiny_images())
    assert plan.run("w8afp", tiny_images()).shape == (16, 5)
    with pytest.raises(ValueError, match=r"`w8a8` needs images for its ranges.*Call `plan\.observe\(images\)`"):
        plan.run("w8a8", tiny_images())


def test_unknown_engines_are_refused(observed: Plan) -> None:
    with pytest.raises(ValueError, match="`engine` must be one of 'simulate'; got 'int8'"):
        observed.run("w8a8", tiny_images(), engine="int8")  # type: ignore[arg-type]  # a wrong value is the point


BAD_IMAGES: list[tuple[str, Any, type[Exception], str]] = [  # Any: wrong types are the point
    ("size", torch.zeros(2, 3, 9, 9), ValueError, r"must have shape \('N', 3, 8, 8\) .*, got \(2, 3, 9, 9\)"),
    ("one image", torch.zeros(3, 8, 8), ValueError, r"must have shape .*got \(3, 8, 8\)"),
    ("nan", torch.full((2, 3, 8, 8), math.nan), ValueError, "`images` must be finite"),
    ("integers", torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ValueError, "must be torch.float32 .*, got torch.uint8"),
    ("none", torch.zeros(0, 3, 8, 8), ValueError, "must hold at least one image"),
    ("no batches", [], ValueError, "must hold at least one image"),
    ("labels", [(torch.zeros(2, 3, 8, 8), torch.zeros(2))], TypeError, r"got a batch of type tuple. Pass images"),
]


@pytest.mark.parametrize(("images", "error", "message"), [b[1:] for b in BAD_IMAGES], ids=[b[0] for b in BAD_IMAGES])
def test_bad_images_are_refused_by_every_door(
    observed: Plan,
    images: Any,  # as above
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        observed.run("w8a8", images)
    with pytest.raises(error, match=message):
        observed.observe(images)


def test_a_batch_size_below_one_is_refused(observed: Plan) -> None:
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        observed.run("w8a8", tiny_images(), batch_size=0)


def test_activations_that_overflow_are_refused_by_the_name_of_the_layer() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    nn.init.constant_(cast(nn.Linear, network[0]).weight, 1.0)
    plan = prepare(network, torch.randn(2, 4))
    with pytest.raises(ValueError, match="got NaN or infinity at `0`"):
        plan.observe(torch.full((2, 4), 3e38))
    with pytest.raises(ValueError, match="Logits must be finite, got NaN or infinity at `wfpafp`"):
        plan.run("float", torch.full((2, 4), 3e38))


def test_a_graph_that_insists_on_the_usual_layout_gets_it() -> None:
    network = Forward(
        lambda m, x: m.fc(m.conv(x).as_strided((x.shape[0], 256), (256, 1))),
        conv=nn.Conv2d(3, 4, 1),
        fc=nn.Linear(256, 2),
    )
    images = tiny_images(6)
    plan = prepare(network, images)
    torch.testing.assert_close(plan.run("float", images), network(images).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_a_plan_gives_the_same_on_the_gpu(observed: Plan) -> None:
    plan = prepare(tiny_resnet().cuda(), tiny_images())
    plan.observe(tiny_images(32))
    images = tiny_images(64, seed=2)
    for name in ("float", "w4afp"):
        torch.testing.assert_close(plan.run(name, images), observed.run(name, images), rtol=1e-3, atol=1e-3)
    moved = plan.to("cpu")
    assert torch.equal(moved.run("w8a8", images).argmax(1), observed.run("w8a8", images).argmax(1))
