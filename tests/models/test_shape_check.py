from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qcal.models import check_logits


class Returning(nn.Module):
    """A network whose output is a given function of its input."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)


class Restless(nn.Module):
    """Draws random numbers and changes its buffers, in place and by another tensor, even in evaluation mode."""

    count: Tensor
    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("last", torch.zeros(1))
        self.norm = nn.BatchNorm1d(4)
        self.frozen = nn.BatchNorm1d(4).eval()

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.last = torch.rand(1)
        return torch.as_tensor(self.norm(self.frozen(x)) + torch.randn_like(x))


@pytest.mark.parametrize("num_classes", [2, 4])
def test_enough_finite_logits_pass(num_classes: int) -> None:
    check_logits(nn.Linear(3, 4), torch.zeros(2, 3), num_classes)
    check_logits(nn.Linear(3, 4), torch.zeros(1, 3), num_classes)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda x: (x, x), r"one tensor of logits \(N, C\), got a tuple\. Wrap it"),
        (lambda x: {"logits": x}, r"one tensor .*got a dict\. Wrap it"),
        (lambda x: x.argmax(dim=1), r"logits \(N, C\), here \(2, 4\), got shape \(2,\)\. Pool and flatten"),
        (lambda x: x[:, :, None, None], r"got shape \(2, 4, 1, 1\)\. Pool and flatten"),
        (lambda x: x[:1], r"got shape \(1, 4\)\. Pool and flatten"),
        (lambda x: x.long(), r"floating-point logits, got torch\.int64\. Return the last layer's output"),
        (lambda x: x[:, :3], r"each of the data's 4 classes, got 3\. Set its `num_classes` to 4"),
        (lambda x: x / 0, r"finite logits, got NaN or infinity for 2 of 2 images\. Check the weights"),
        (lambda x: x.log(), r"finite logits, got NaN or infinity for 1 of 2 images\. Check the weights"),
        (
            lambda x: x @ x,
            r"Returning must accept a batch .* shape \(2, 4\), got the error: .*mat1.*\. Choose a network",
        ),
    ],
)
def test_each_misfit_has_its_own_message(output: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_logits(Returning(output), torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 0]]), num_classes=4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_not_finite_are_not_blamed_on_the_network(value: float) -> None:
    with pytest.raises(ValueError, match=r"images must be finite, got NaN or infinity in 1 of 3 values\. Look"):
        check_logits(nn.Linear(3, 4), torch.tensor([[0.0, value, 0.0]]), num_classes=4)


def test_running_out_of_memory_is_not_called_a_misfit() -> None:
    def exhausted(x: Tensor) -> object:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        check_logits(Returning(exhausted), torch.zeros(1, 4), num_classes=4)


@pytest.mark.parametrize("num_classes", [4, 5], ids=["passing", "raising"])
def test_nothing_is_changed(num_classes: int) -> None:
    model = Restless().train()
    model.frozen.eval()
    modes = [part.training for part in model.modules()]
    buffers = {name: (value, value.clone()) for name, value in model.named_buffers()}
    random_state = torch.get_rng_state()
    if num_classes == 5:
        with pytest.raises(ValueError, match="5 classes"):
            check_logits(model, torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), num_classes)
    else:
        check_logits(model, torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), num_classes)
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, value in model.named_buffers():
        tensor, before = buffers[name]
        assert value is tensor, name
        assert torch.equal(value, before), name
    assert all(p.grad is None for p in model.parameters())


def test_everything_is_restored_when_the_network_fails() -> None:
    def fail(x: Tensor) -> object:
        torch.rand(1)
        raise KeyError("mine")

    model, random_state = Returning(fail).train(), torch.get_rng_state()
    with pytest.raises(KeyError, match="mine"):
        check_logits(model, torch.zeros(1, 4), num_classes=4)
    assert model.training
    assert torch.equal(torch.get_rng_state(), random_state)


def test_dropout_and_batch_norm_run_in_evaluation_mode() -> None:
    modes = []
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4))
    model[1].register_forward_hook(lambda *_: modes.append(model[0].training or model[1].training))
    check_logits(model, torch.zeros(1, 4), num_classes=4)  # a batch of one would fail in training mode
    assert modes == [False]
