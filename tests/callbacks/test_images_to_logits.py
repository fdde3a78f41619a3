import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qcal.callbacks.network_finder import NetworkFinder
from qcal.callbacks.watch import Watch
from tests.support.step_networks import NUM_CLASSES, Module, Net
from tests.support.steps import FOUND, Batch, Step, find, make_batch, make_module


def consumed(step: Step, module: Module, batch: Batch) -> Tensor:
    """What the loss read, by a watch alone."""
    watch = Watch(module, batch)
    watch.start()
    try:
        step(module, batch)
    finally:
        observation = watch.stop()
    return observation.readings[0].logits


@pytest.mark.parametrize(
    "style",
    [
        "submodule",
        "normalises in forward",
        "keywords",
        "whole batch",
        "whole pair by keyword",
        "sequence",
        "log-probabilities",
    ],
)
def test_the_network_that_is_built_gives_what_the_loss_read(style: str) -> None:
    step, kind, _ = FOUND[style]
    module = make_module(kind)
    network = find(step, module).build(module)
    batch = {**make_batch(), "x": torch.randn(4, 3, 8, 8)} | {"y": torch.tensor([0, 1, 2, 3])}
    torch.testing.assert_close(network(batch["x"]), consumed(step, module, batch))
    assert copy.deepcopy(network)(batch["x"]).shape == (4, NUM_CLASSES)


def test_a_binary_head_is_two_classes() -> None:
    module = make_module()
    finder = find(FOUND["binary"][0], module)
    images, target = finder.reader()(make_batch())
    logits = finder.build(module)(images)
    torch.testing.assert_close(logits[:, 1:], module.binary(images))
    torch.testing.assert_close(logits.softmax(1)[:, 1:], module.binary(images).sigmoid())
    assert torch.equal(target, make_batch()["sick"].long())
    assert finder.attachment is not None
    assert "two classes with logits [0, z]" in finder.attachment.line(module)
    assert "two classes with logits [0, z]" in str(finder.attachment.described()["meaning"])


def test_a_network_that_writes_to_its_images_gets_its_own() -> None:
    step, kind, _ = FOUND["normalises in place"]
    module, images = make_module(kind), make_batch()["x"]
    network = find(step, module).build(module)
    torch.testing.assert_close(network(images), network(images))
    assert torch.equal(images, make_batch()["x"])
    torch.testing.assert_close(network(images), module(images.clone()))


class _World:
    def __deepcopy__(self, memo: object) -> "_World":
        raise AssertionError("the trainer was copied")


class _Wired(Module):
    """Points at its trainer, logs in forward, remembers an activation, and holds its network in a list besides."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.25))
        self.remembered: Tensor | None = None
        self.nets: list[Net] = [self.net]
        self.calls = [0]

    def forward(self, x: Tensor) -> Tensor:
        self.log("in_forward", x.mean())
        self.calls.append(int(self.current_epoch))
        self.remembered = self.nets[0](x - self.mean.to(self.device))
        return self.remembered


def test_a_copy_of_the_module_leaves_trainer_logs_and_memories_alone() -> None:
    module: Any = make_module(_Wired)
    world = _World()
    world.current_epoch = 7  # type: ignore[attr-defined]  # as a trainer has
    module._trainer = world
    module.__dict__["log"] = lambda *_a, **_k: None
    batch, finder = make_batch(), NetworkFinder()
    finder.start(module, batch, is_discarded=True)
    F.cross_entropy(module(batch["x"]), batch["y"])
    del module.__dict__["log"]
    finder.finish(module, batch)
    remembered, calls = module.remembered, list(module.calls)
    assert finder.attachment is not None
    network = copy.deepcopy(finder.build(module))
    network.load_state_dict({name: value + 1 for name, value in network.state_dict().items()})
    assert not torch.allclose(network(batch["x"]), module.net(batch["x"] - 0.25))
    assert "mean" in dict(network.named_buffers())
    assert finder.build(module)(batch["x"]).allclose(module.net(batch["x"] - 0.25))
    assert module.remembered is remembered
    assert module.calls == calls
    assert "net.fc.weight" in network.state_dict()
