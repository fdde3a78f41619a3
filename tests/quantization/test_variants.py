"""The plain and the equalized network of a plan see the same images in one pass, and each has ranges of its own."""

import logging
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from qcal.quantization import Plan, prepare
from qcal.quantization.equalization import equalize
from qcal.quantization.graph import plain_mode
from qcal.quantization.network import PreparedNetwork, graph_of
from qcal.quantization.observers import RangeObserver
from tests.quantization.networks import tiny_images, tiny_resnet

RANGES = ("w8a4-cle", "w8a4-cle-ema", "w8a4-cle-pct99", "w8a4-cle-mse", "w8a4-cle-kl", "w8a4-cle-sym")


def _plan(*, equalized: bool = True, sample_size: int = 0) -> Plan:
    plan = prepare(tiny_resnet(), tiny_images())
    plan.observe(tiny_images(50), equalized=equalized, batch_size=16, sample_size=sample_size)
    return plan


def _alone(plan: Plan) -> dict[str, RangeObserver]:
    """What the equalized network sees when it is observed by itself."""
    placement = plan._variants.plain.placement
    graph, _ = equalize(graph_of(plan.network), placement)
    network = PreparedNetwork(graph, placement.in_copy(graph), plan._reader)
    with plain_mode(plan.device), network.observed() as observers:
        for x in plan._reader.batches(tiny_images(50), 16):
            graph(x)
    return observers


def test_equalized_ranges_are_those_of_the_equalized_network_observed_alone() -> None:
    plan = _plan()
    assert plan.equalized_statistics.keys() == plan.statistics.keys()
    for name, expected in _alone(plan).items():
        state = plan.equalized_statistics[name].state_dict()
        assert all(torch.equal(tensor, state[field]) for field, tensor in expected.state_dict().items()), name
    # Inside a pair activations have another scale; this is what would be lost with the ranges of the plain network.
    plain, equalized = (seen["layer1.conv1"].maximum for seen in (plan.statistics, plan.equalized_statistics))
    assert abs(plain - equalized) > 1e-3 * plain  # far beyond float rounding


def test_observing_the_equalized_network_changes_nothing_for_the_plain_one() -> None:
    both, plain = _plan(), _plan(equalized=False)
    for name, expected in plain.statistics.items():
        state = both.statistics[name].state_dict()
        assert all(torch.equal(tensor, state[field]) for field, tensor in expected.state_dict().items()), name
    assert plain.equalized_statistics == {}


def test_the_images_are_read_once_for_all_settings() -> None:
    plan = prepare(tiny_resnet(), tiny_images())
    reads: list[int] = []
    told: list[int] = []

    def batches() -> Iterator[Tensor]:
        for x in torch.split(tiny_images(50), 16):
            reads.append(len(x))
            yield x

    plan.observe(batches(), equalized=True, sample_size=0, progress=told.append)
    logits = plan.run_grid(["w8a8", "w3a8-cle", *RANGES], tiny_images(8, seed=5))
    assert reads == told == [16, 16, 16, 2]
    assert plan.equalized_statistics["input"].num_batches == 4
    results = list(logits.values())
    assert not any(torch.equal(results[i], results[j]) for i in range(len(results)) for j in range(i))


def test_a_plan_that_did_not_observe_the_equalized_network_says_how() -> None:
    plan = _plan(equalized=False, sample_size=48)
    message = r"`w4a8-cle` needs the ranges of the equalized network, .* Call `plan\.observe\(images, equalized=True\)`"
    for run in (
        lambda: plan.run("w4a8-cle", tiny_images(4)),
        lambda: plan.make_ready(["w4a8-cle"]),
        lambda: plan.sensitivity(tiny_images(4), setting="w4a8-cle"),
    ):
        with pytest.raises(ValueError, match=message):
            run()
    plan.observe(tiny_images(50), equalized=True)
    assert plan.run("w4a8-cle", tiny_images(4)).shape == (4, 5)
    plan.observe(tiny_images(50))  # replaces all that was observed
    with pytest.raises(ValueError, match=message):
        plan.run("w4a8-cle", tiny_images(4))


def test_equalized_weights_alone_need_no_images() -> None:
    plan = prepare(tiny_resnet(), tiny_images())
    assert not torch.equal(plan.run("w3afp-pt-cle", tiny_images()), plan.run("w3afp-pt", tiny_images()))


def test_a_failed_pass_leaves_the_ranges_of_both_networks() -> None:
    plan, images = _plan(), tiny_images(8, seed=5)
    expected = plan.run_grid(["w8a4", "w8a4-cle"], images)

    def broken() -> Iterator[Tensor]:
        yield 100 * tiny_images()
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        plan.observe(broken(), equalized=True)
    for setting, logits in plan.run_grid(["w8a4", "w8a4-cle"], images).items():
        assert torch.equal(logits, expected[setting])


def test_what_two_processes_saw_of_the_equalized_network_merges() -> None:
    whole, images = prepare(tiny_resnet(), tiny_images()), tiny_images(8, seed=5)
    whole.observe(tiny_images(32), equalized=True)
    halves = [prepare(tiny_resnet(), tiny_images()) for _ in range(2)]
    for plan, part in zip(halves, torch.split(tiny_images(32), 16), strict=True):
        plan.observe(part, equalized=True)
    first, second = halves
    merged = [dict(first.statistics), dict(first.equalized_statistics)]
    for ours, theirs in zip(merged, (second.statistics, second.equalized_statistics), strict=True):
        for name, seen in theirs.items():
            ours[name].merge(seen)
    first.statistics = merged[0]
    with pytest.raises(ValueError, match="needs the ranges of the equalized network"):
        first.run("w8a4-cle-mse", images)  # those of one process were dropped with the plain ones
    first.equalized_statistics = merged[1]
    torch.testing.assert_close(first.run("w8a4-cle-mse", images), whole.run("w8a4-cle-mse", images))
    with pytest.raises(ValueError, match=r"`equalized_statistics` must hold one observer for each quantizer"):
        first.equalized_statistics = {"layer9": RangeObserver()}


def test_a_plan_without_a_graph_refuses_to_observe_an_equalized_network() -> None:
    plan = prepare(tiny_resnet(), tiny_images(), placement="modules")
    with pytest.raises(ValueError, match=r"`equalized` must be False for a plan without a graph"):
        plan.observe(tiny_images(), equalized=True)


def test_a_plan_that_moves_keeps_the_ranges_of_the_equalized_network() -> None:
    plan, images = _plan(), tiny_images(8, seed=5)
    expected = plan.run("w4a4-cle", images)
    assert torch.equal(plan.to("cpu").run("w4a4-cle", images), expected)
    assert len(plan.equalized_pairs) == 2


def test_equalization_reports_its_pairs_and_keeps_the_float_network() -> None:
    plan, images = _plan(), tiny_images(8, seed=5)
    before = plan.float_logits(images)
    logits = plan.run("w3a8-pt-cle", images)
    assert [(pair.first, pair.second) for pair in plan.equalized_pairs] == [
        ("layer1.conv1", "layer1.conv2"),
        ("layer2.conv1", "layer2.conv2"),
    ]
    assert not torch.equal(logits, plan.run("w3a8-pt", images))
    assert torch.equal(plan.float_logits(images), before)


def test_equalization_without_a_pair_says_that_it_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    images = torch.randn(6, 4)
    plan = prepare(nn.Sequential(nn.Linear(4, 2)), images)
    with caplog.at_level(logging.WARNING):
        plan.observe(images, equalized=True)
        logits = plan.run("w4a8-cle", images)
    assert "Equalization found no two layers" in caplog.text
    assert torch.equal(logits, plan.run("w4a8", images))
