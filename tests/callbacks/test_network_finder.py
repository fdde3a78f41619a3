"""What is found from a step: no Trainer, only a module, a batch and what a project's step does with them."""

import re
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from qcal.callbacks.attachment import Attachment
from qcal.callbacks.images_to_logits import Way
from qcal.callbacks.network_finder import NetworkFinder
from tests.support.step_networks import NUM_CLASSES, Probabilities
from tests.support.steps import FOUND, REFUSED, find, make_batch, make_module


@pytest.mark.parametrize("style", FOUND)
def test_what_the_loss_read_is_followed_back_to_the_batch(style: str) -> None:
    step, kind, expected = FOUND[style]
    module = make_module(kind)
    finder = find(step, module)
    assert finder.failure is None
    assert finder.attachment is not None
    defaults = {"input": "batch['x']", "target": "batch['y']", "output": "logits"}
    for name, value in (defaults | expected).items():
        assert _said(finder.attachment, name) == value, name


def _said(attachment: Attachment, name: str) -> object:
    return getattr(attachment if hasattr(attachment, name) else attachment.way, name)


@pytest.mark.parametrize("style", REFUSED)
def test_what_cannot_be_followed_is_refused_with_what_was_seen(style: str) -> None:
    step, kind, message = REFUSED[style]
    finder = find(step, make_module(kind))
    assert finder.attachment is None
    with pytest.raises(ValueError, match=message):
        finder.build(make_module(kind))


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({"network": "two.0"}, {"module": "two.0", "found_by": "`network='two.0'` was passed"}),
        ({"network": "backbone+flatten+head"}, {"module": "backbone+flatten+head"}),
        ({"network": "self", "logits": "net.fc"}, {"module": "self", "made_by": "net.fc"}),
        ({"logits": "net.fc"}, {"module": "self", "made_by": "net.fc"}),
        ({"logits": "torch.log"}, {"module": "self", "function": "torch.log", "output": "log_probs"}),
        ({"logits": torch.log}, {"function": "log", "output": "log_probs"}),
        (
            {"batch_to_inputs": lambda b: (b["x"], b["y"]), "logits": "torch.log"},
            {"input": "batch_to_inputs(batch)[0]"},
        ),
    ],
)
def test_an_argument_overrides_what_was_seen(wishes: dict[str, Any], expected: dict[str, str]) -> None:
    module = make_module(Probabilities)
    finder = find(REFUSED["probabilities"][0], module, **wishes)
    assert finder.failure is None
    assert finder.attachment is not None
    for name, value in expected.items():
        assert _said(finder.attachment, name) == value, name
    images, target = finder.reader()(make_batch())
    logits = finder.build(module)(images)
    assert logits.shape == (6, NUM_CLASSES)
    assert torch.equal(target, make_batch()["y"])
    if "logits" in wishes:
        torch.testing.assert_close(logits.softmax(1), module(images))


@pytest.mark.parametrize(("logits", "target"), [("net.fc", "batch['y']"), ("colours.fc", "batch['colour']")])
def test_of_several_predictions_the_named_one_is_studied_with_its_own_labels(logits: str, target: str) -> None:
    module = make_module()
    finder = find(REFUSED["several labels"][0], module, logits=logits)
    assert finder.attachment is not None
    assert finder.attachment.target == target
    network = getattr(module, logits.removesuffix(".fc"))
    torch.testing.assert_close(finder.build(module)(make_batch()["x"]), network(make_batch()["x"]))


def test_what_an_argument_names_has_to_give_logits() -> None:
    finder = find(FOUND["submodule"][0], network="backbone")
    assert "Logits (N, C) were expected for 6 images, got Tensor(6, 4, 1, 1)" in str(finder.failure)
    finder = find(REFUSED["labels made in the step"][0], network="net")
    assert "cross_entropy read labels that are no part of it" in str(finder.failure)
    assert "Pass `batch_to_inputs=`" in str(finder.failure)
    finder = find(FOUND["submodule"][0], network="net", logits="head")
    assert "`logits` names 'head', but net does not call it" in str(finder.failure)


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ("images changed in the step", "net was called with something that is no part of it"),
        ("images changed in place in the step", r"net gave something else in the step than it gives for batch\['x'\]"),
    ],
)
def test_a_named_network_is_not_given_other_images_than_in_the_step(style: str, message: str) -> None:
    assert re.search(message, str(find(REFUSED[style][0], network="net").failure))
    found = find(REFUSED[style][0], network="net", batch_to_inputs=lambda b: (b["x"] / b["x"].max(), b["y"]))
    assert found.failure is None


@pytest.mark.parametrize(("network", "target"), [("net", "batch['y']"), ("colours", "batch['colour']")])
def test_a_named_network_has_the_labels_of_its_own_loss(network: str, target: str) -> None:
    finder = find(REFUSED["several labels"][0], network=network)
    assert finder.attachment is not None
    assert finder.attachment.target == target


def test_a_batch_function_that_fails_is_told_and_the_step_goes_on() -> None:
    finder = find(FOUND["submodule"][0], batch_to_inputs=lambda b: (b["image"], b["label"]))
    assert "`batch_to_inputs` failed on the first batch with KeyError: 'image'" in str(finder.failure)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # projects script their networks all the same
def test_torchscript_is_refused_before_it_is_trained() -> None:
    module = make_module()
    module.add_module("net", torch.jit.script(module.net))
    finder = find(FOUND["normalises in forward"][0], module)
    assert str(finder.failure) == "self holds TorchScript, which cannot be quantized. Script it when it is trained."


def test_without_a_watch_the_usual_places_are_tried() -> None:
    module = make_module()
    finder = NetworkFinder()
    finder.assume(module, make_batch() | {"colour": torch.zeros(())})
    assert finder.attachment is not None
    assert finder.attachment.way == Way(("self",), "batch['x']")
    assert finder.attachment.target == "batch['y']"
    finder = NetworkFinder()
    finder.assume(make_module(Probabilities), make_batch())
    assert "returns probabilities" in str(finder.failure)
    finder = NetworkFinder()
    finder.assume(module, make_batch()["x"])
    assert "The batch is Tensor(6, 3, 8, 8) float32. Pass `batch_to_inputs=`" in str(finder.failure)


def test_only_one_batch_is_watched() -> None:
    module, finder = make_module(), find(FOUND["submodule"][0])
    finder.start(module, make_batch(), is_discarded=True)
    assert not any(part._forward_hooks for part in module.modules())
    finder.reset()
    assert not finder.is_done


def test_whole_numbers_that_the_step_casts_are_cast() -> None:
    module = make_module()
    batch = make_batch() | {"x": torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)}
    for function in (None, lambda b: (b["x"], b["y"])):
        finder = NetworkFinder(batch_to_inputs=function)
        finder.start(module, batch, is_discarded=True)
        F.cross_entropy(module.net(batch["x"].float()), batch["y"])
        finder.finish(module, batch)
        assert finder.attachment is not None
        images, _ = finder.reader()(batch)
        torch.testing.assert_close(finder.build(module)(images), module.net(batch["x"].float()))
