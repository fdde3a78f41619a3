"""Exporting computes the same, leaves the network alone and refuses what is no classifier."""

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qcal.quantization.graph import check_agreement, example_batch, export_graph, float_copy, unwrap
from tests.quantization.networks import Forward, TinyResNet, tiny_images, tiny_resnet


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_graph_takes_any_number_of_images(count: int) -> None:
    network, images = tiny_resnet(), tiny_images(count)
    graph = export_graph(network, tiny_images(3))
    torch.testing.assert_close(graph(images), network(images), rtol=0, atol=0)


def test_one_example_image_is_enough() -> None:
    network = tiny_resnet()
    graph = export_graph(network, tiny_images(1))
    assert graph(tiny_images(5)).shape == (5, 5)


def _fingerprint(network: nn.Module) -> tuple[object, ...]:
    tensors = {name: (t.clone(), t.requires_grad, t.dtype) for name, t in network.state_dict(keep_vars=True).items()}
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}
    modes = {name: (module.training, sorted(vars(module))) for name, module in network.named_modules()}
    return tensors, gradients, modes


def test_the_network_is_left_as_it_was() -> None:
    network = tiny_resnet().train()
    network.layer1.eval()
    network.fc.requires_grad_(False)
    network(tiny_images()).sum().backward()
    before, rng = _fingerprint(network), torch.get_rng_state()
    export_graph(network, tiny_images())
    after = _fingerprint(network)
    for old, new in zip(before, after, strict=True):
        assert isinstance(old, dict)
        assert isinstance(new, dict)
        assert list(old) == list(new)
        for key in old:
            if isinstance(old[key], tuple) and isinstance(old[key][0], Tensor):
                assert torch.equal(old[key][0], new[key][0])
                assert old[key][1:] == new[key][1:]
            elif isinstance(old[key], Tensor):
                assert torch.equal(old[key], new[key])
            else:
                assert old[key] == new[key]
    assert torch.equal(torch.get_rng_state(), rng)


def test_an_attribute_set_in_forward_stays_the_users() -> None:
    def remember(self: Any, x: Tensor) -> Tensor:  # Any: layers by name
        self.last = self.fc(x)
        doubled: Tensor = self.last * 2
        return doubled

    network = Forward(remember, fc=nn.Linear(4, 3))
    kept = network(torch.randn(2, 4))
    value = cast(Tensor, network.last)
    export_graph(network, torch.randn(2, 4))
    assert network.last is value
    assert torch.equal(kept, value * 2)
    copy.deepcopy(network.fc)


def test_the_graph_shares_no_storage_with_the_network() -> None:
    network, images = tiny_resnet(), tiny_images()
    graph = export_graph(network, images)
    before = graph(images)
    with torch.no_grad():
        for p in [*network.parameters(), *network.buffers()]:
            p.zero_()
    assert torch.equal(graph(images), before)
    assert not any(p.requires_grad for p in graph.parameters())


def test_a_network_in_training_mode_is_exported_in_eval_mode() -> None:
    network, images = tiny_resnet(), tiny_images()
    expected = network(images)
    graph = export_graph(network.train(), images)
    torch.testing.assert_close(graph(images), expected, rtol=0, atol=0)


def test_exporting_works_inside_inference_mode() -> None:
    network = tiny_resnet()
    with torch.inference_mode():
        images = tiny_images()
        graph = export_graph(network, images)
    assert graph(tiny_images()).shape == (16, 5)


# The "eager" backend spares the test the import of the compiler.
WRAPPERS = {
    "compile": lambda network: torch.compile(network, backend="eager"),
    "compile method": lambda network: (network.compile(backend="eager"), network)[1],
    "data parallel": nn.DataParallel,
    "averaged": torch.optim.swa_utils.AveragedModel,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=list(WRAPPERS))
def test_wrappers_come_off(wrap: Callable[[nn.Module], nn.Module]) -> None:
    network, images = tiny_resnet(), tiny_images()
    graph = export_graph(wrap(network), images)
    torch.testing.assert_close(graph(images), network(images))


def test_a_compiled_child_is_unwrapped_in_the_copy_only() -> None:
    network = tiny_resnet()
    compiled: Any = torch.compile(network.layer1, backend="eager")  # Any: torch.compile says a function
    network.layer1 = compiled
    duplicate = float_copy(network)
    assert network.layer1 is compiled
    assert unwrap(compiled) is not compiled
    assert not hasattr(duplicate.layer1, "_orig_mod")


def test_half_precision_weights_are_computed_in_float32() -> None:
    network, images = tiny_resnet().bfloat16(), tiny_images()
    graph = export_graph(network, images)
    assert graph(images).dtype == torch.float32
    assert network.fc.weight.dtype == torch.bfloat16


def _branches(self: Any, x: Tensor) -> Tensor:  # Any: layers by name
    logits: Tensor = self.fc(x)
    return logits if x.mean() > 0 else -logits


# Name, forward (Any: its layers by name and what it returns), error, message.
REFUSED: list[tuple[str, Callable[[Any, Tensor], Any], type[Exception], str]] = [
    (
        "tuple",
        lambda m, x: (m.fc(x), x),
        TypeError,
        r"must return logits, a Tensor of shape \(N, C\); Forward returns tu",
    ),
    ("dict", lambda m, x: {"logits": m.fc(x)}, TypeError, r"Forward returns dict. Wrap it"),
    ("vector", lambda m, x: m.fc(x)[:, 0], ValueError, r"floating logits of shape \(N, C\), got \(2,\)"),
    ("classes", lambda m, x: m.fc(x).argmax(1, keepdim=True), ValueError, r"got \(2, 1\) torch.int64 for 2 images"),
    ("nan", lambda m, x: m.fc(x) * float("nan"), ValueError, "must return finite logits, got NaN or infinity"),
    ("branch", _branches, ValueError, "must be exportable with torch.export for any batch size, but Forward is not"),
    ("fixed batch", lambda m, x: m.fc(x).view(2, 3), ValueError, "must be exportable .* for any batch size"),
    ("random", lambda m, x: m.fc(x) + torch.rand(3), ValueError, "must agree with `model` within 0.0001"),
]


@pytest.mark.parametrize(("function", "error", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_is_no_exportable_classifier_is_refused(
    function: Callable[[Any, Tensor], Any],  # Any: as in REFUSED
    error: type[Exception],
    message: str,
) -> None:
    network = Forward(function, fc=nn.Linear(4, 3))
    rng = torch.get_rng_state()
    with pytest.raises(error, match=message):
        export_graph(network, torch.ones(2, 4))
    assert torch.equal(torch.get_rng_state(), rng)


def test_only_a_module_is_a_model() -> None:
    with pytest.raises(TypeError, match=r"`model` must be a torch.nn.Module, got function"):
        export_graph(F.relu, torch.ones(2, 4))  # type: ignore[arg-type]  # a wrong type is the point


def test_an_example_must_be_a_batch_of_images() -> None:
    network = TinyResNet()
    with pytest.raises(TypeError, match=r"`example_input` must be a Tensor of images .*, got list. Pass the images"):
        export_graph(network, [tiny_images(), torch.zeros(2)])  # type: ignore[arg-type]  # as above
    for bad in (torch.zeros(0, 3, 8, 8), torch.zeros(3)):
        with pytest.raises(ValueError, match="`example_input` must be a batch of images"):
            export_graph(network, bad)


def test_an_example_is_cut_to_two_images_in_float32_and_copied() -> None:
    images = tiny_images(9).double()
    example = example_batch(images, TinyResNet())
    assert example.shape == (2, 3, 8, 8)
    assert example.dtype == torch.float32
    single = example_batch(images[:1], TinyResNet())
    assert torch.equal(single[0], single[1])
    assert example_batch(tiny_images().to(torch.uint8), TinyResNet()).dtype == torch.uint8


def test_agreement_is_relative_and_nan_never_agrees() -> None:
    check_agreement(torch.tensor([[1000.05]]), torch.tensor([[1000.0]]), of="It")
    for bad in (1001.0, float("nan")):
        with pytest.raises(ValueError, match=r"It must agree with `model` within 0\.0001 of its largest logit"):
            check_agreement(torch.tensor([[bad]]), torch.tensor([[1000.0]]), of="It")


def test_weights_that_are_not_finite_are_named() -> None:
    network = tiny_resnet()
    with torch.no_grad():
        network.layer1.conv2.weight[0, 0, 0, 0] = float("nan")
        network.layer2.bn1.running_var[1] = float("inf")  # type: ignore[index]  # a tensor, as torch declares it loosely
    message = r"finite weights, got NaN or infinity in 'layer1\.conv2\.weight', 'layer2\.bn1\.running_var'\. Did"
    with pytest.raises(ValueError, match=message):
        export_graph(network, tiny_images(2))


def test_a_mask_of_infinities_is_no_weight() -> None:
    network = Forward(lambda m, x: m.fc(torch.where(m.mask < 0, 0.0, x)), fc=nn.Linear(4, 2))
    network.register_buffer("mask", torch.tensor([0.0, float("-inf"), 0.0, 0.0]))
    assert export_graph(network, torch.randn(2, 4))(torch.randn(3, 4)).shape == (3, 2)
