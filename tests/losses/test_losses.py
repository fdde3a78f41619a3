"""What every loss module promises: neutral point, gradients, numerical safety, direction, targets, errors."""

import inspect
from collections.abc import Callable
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import qcal.functional.calibrating_losses
import qcal.functional.focal_losses
import qcal.functional.logit_scale_losses
import qcal.functional.smoothing_losses
from qcal import losses
from qcal.losses import (
    BrierLoss,
    ConfidenceDial,
    ConfidencePenaltyLoss,
    DCALoss,
    Direction,
    DualFocalLoss,
    FLSDLoss,
    FocalLoss,
    InverseFocalLoss,
    LabelSmoothingLoss,
    LogitNormLoss,
    MarginLabelSmoothingLoss,
    MaxSupLoss,
    MDCALoss,
    MMCELoss,
    RegimeLoss,
    TrainingTemperatureLoss,
)

CLASSES = [
    cls
    for cls in vars(losses).values()
    if inspect.isclass(cls) and issubclass(cls, RegimeLoss) and cls is not RegimeLoss
]
HARD_ONLY = (DualFocalLoss, MMCELoss, DCALoss)

# A loss for each direction that a class can push: strong enough to see it, mild enough to have a best prediction.
UNDER = [
    LabelSmoothingLoss(epsilon=0.1),
    MarginLabelSmoothingLoss(margin=1.0, penalty_weight=0.3),
    MaxSupLoss(penalty_weight=0.1),
    ConfidencePenaltyLoss(penalty_weight=0.3),
    FocalLoss(gamma=3.0),
    FLSDLoss(),
    DualFocalLoss(gamma=5.0),
    LogitNormLoss(),
    TrainingTemperatureLoss(temperature=0.5),
    ConfidenceDial(strength=-0.5),
]
OVER = [
    LabelSmoothingLoss(epsilon=-0.1),
    ConfidencePenaltyLoss(penalty_weight=-0.3),
    InverseFocalLoss(gamma=2.0),
    TrainingTemperatureLoss(temperature=2.0),
    ConfidenceDial(strength=0.5),
]
CALIBRATING = [MMCELoss(), DCALoss(), MDCALoss(), BrierLoss()]

# 100 samples of one input, whose classes are noisy: the posterior is known and certainty is wrong.
POSTERIOR = (0.7, 0.15, 0.1, 0.05)
NOISY_TARGET = torch.repeat_interleave(torch.arange(4), torch.tensor([70, 15, 10, 5]))


def some_batch(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(12, 5, generator=generator, dtype=torch.float64)
    return logits.to(dtype), torch.randint(5, (12,), generator=generator)


def extreme_batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Rows with logits of +-1e4: right, wrong, tied, level; and each class true once or more."""
    rows = [[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [1e4, 1e4, 1e4], [-1e4, -1e4, -1e4], [0.0, -1e4, 1e4], [0.0, 0.0, 0.0]]
    logits = torch.tensor(rows, dtype=dtype).repeat_interleave(3, 0)
    return logits, torch.arange(3).repeat(6)


def best_confidence(loss: RegimeLoss) -> float:
    """Top probability of the raw logits that minimise the loss on the noisy target."""
    logits = torch.tensor([1.0, 0.1, -0.1, -1.0], dtype=torch.float64, requires_grad=True)
    # Adam with a decaying step finds minima that are kinks (MMCE, DCA) or jumps (FLSD), where LBFGS stalls.
    optimizer = torch.optim.Adam([logits], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        optimizer.zero_grad()
        loss(logits.expand(len(NOISY_TARGET), 4), NOISY_TARGET).backward()
        optimizer.step()
        schedule.step()
    assert logits.argmax() == 0
    return logits.detach().softmax(0).max().item()


@pytest.fixture(params=CLASSES, ids=lambda cls: cls.__name__)
def loss_class(request: pytest.FixtureRequest) -> type[RegimeLoss]:
    cls: type[RegimeLoss] = request.param
    return cls


def test_every_name_of_the_room_is_listed() -> None:
    assert sorted(losses.__all__, key=str.lower) == sorted(
        {*(c.__name__ for c in CLASSES), "RegimeLoss", "Direction"}, key=str.lower
    )
    assert len(CLASSES) == 15


def test_at_its_neutral_arguments_a_loss_is_cross_entropy(loss_class: type[RegimeLoss]) -> None:
    neutral = loss_class(**loss_class.neutral)
    for seed in range(3):
        logits, target = some_batch(seed)
        logits.requires_grad_()
        expected = F.cross_entropy(logits, target)
        value = neutral(logits, target)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(
            *(torch.autograd.grad(v, logits)[0] for v in (value, expected)), rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize("loss", [*UNDER, *OVER, *CALIBRATING], ids=repr)
def test_away_from_its_neutral_arguments_a_loss_is_not_cross_entropy(loss: RegimeLoss) -> None:
    logits, target = some_batch()
    assert (loss(logits, target) - F.cross_entropy(logits, target)).abs() > 1e-2


def test_a_neutral_argument_is_an_argument(loss_class: type[RegimeLoss]) -> None:
    assert set(loss_class.neutral) <= set(inspect.signature(loss_class).parameters)
    assert loss_class.direction in get_args(Direction)


@pytest.mark.parametrize("loss", [*UNDER, *OVER, *CALIBRATING, FocalLoss(0.5), FocalLoss(1.0)], ids=repr)
def test_gradients_are_those_of_finite_differences(loss: RegimeLoss) -> None:
    logits, target = some_batch(dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), (logits.requires_grad_(),))
    if not isinstance(loss, HARD_ONLY):
        soft = torch.softmax(some_batch(seed=1, dtype=torch.float64)[0], 1)
        assert torch.autograd.gradcheck(lambda x: loss(x, soft), (logits,))


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("loss", [*UNDER, *OVER, *CALIBRATING, FocalLoss(0.5), DualFocalLoss(0.5)], ids=repr)
def test_extreme_logits_give_finite_losses_and_gradients(loss: RegimeLoss, dtype: torch.dtype, autocast: bool) -> None:
    logits, target = extreme_batch(dtype)
    logits.requires_grad_()
    mixed = 0.5 * (F.one_hot(target, 3) + F.one_hot(target.roll(1), 3)).float()  # as mixup makes them
    for labels in (target,) if isinstance(loss, HARD_ONLY) else (target, mixed):
        for part in [slice(None), *(slice(i, i + 1) for i in range(len(target)))]:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                value = loss(logits[part], labels[part])
            assert value.isfinite(), logits[part]
            (slope,) = torch.autograd.grad(value, logits)
            assert slope.isfinite().all(), logits[part]


@pytest.mark.parametrize("loss", [*UNDER, *OVER, *CALIBRATING], ids=repr)
def test_float32_agrees_with_float64(loss: RegimeLoss) -> None:
    for logits, target in (some_batch(), extreme_batch()):
        torch.testing.assert_close(loss(logits, target), loss(logits.double(), target).float(), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("batch", [some_batch, extreme_batch])
@pytest.mark.parametrize("loss", [*UNDER, *OVER, *CALIBRATING], ids=repr)
def test_autocast_changes_nothing(loss: RegimeLoss, batch: Callable[[], tuple[Tensor, Tensor]]) -> None:
    logits, target = batch()
    half = logits.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(half, target)
    outside = loss(logits.bfloat16().float(), target)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)
    (slope,) = torch.autograd.grad(inside, half)
    assert slope.isfinite().all()


@pytest.mark.parametrize("loss", UNDER, ids=repr)
def test_losses_that_push_under_end_below_the_posterior(loss: RegimeLoss) -> None:
    assert loss.direction in ("under", "either")
    assert best_confidence(loss) < POSTERIOR[0] - 0.02


@pytest.mark.parametrize("loss", OVER, ids=repr)
def test_losses_that_push_over_end_above_the_posterior(loss: RegimeLoss) -> None:
    assert loss.direction in ("over", "either")
    assert best_confidence(loss) > POSTERIOR[0] + 0.02


@pytest.mark.parametrize("loss", CALIBRATING, ids=repr)
def test_calibrating_losses_end_at_the_posterior(loss: RegimeLoss) -> None:
    assert loss.direction == "calibrating"
    assert best_confidence(loss) == pytest.approx(POSTERIOR[0], abs=0.005)


def test_every_direction_of_every_class_is_tested() -> None:
    sides = {
        "under": {type(x) for x in UNDER},
        "over": {type(x) for x in OVER},
        "calibrating": {type(x) for x in CALIBRATING},
    }
    for cls in CLASSES:
        expected = {"under", "over"} if cls.direction == "either" else {cls.direction}
        assert {side for side, members in sides.items() if cls in members} == expected, cls


def test_dual_focal_pushes_less_far_under_than_focal() -> None:
    assert best_confidence(FocalLoss(gamma=5.0)) < best_confidence(DualFocalLoss(gamma=5.0))


def test_the_dial_is_monotone() -> None:
    confidence = [best_confidence(ConfidenceDial(strength=s)) for s in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    assert confidence == sorted(confidence)
    assert confidence[2] == pytest.approx(POSTERIOR[0], abs=1e-3)
    assert confidence[0] < 0.45
    assert confidence[4] > 0.95


def test_a_one_hot_distribution_is_a_class_index(loss_class: type[RegimeLoss]) -> None:
    logits, target = some_batch()
    one_hot = F.one_hot(target, 5).float()
    if issubclass(loss_class, HARD_ONLY):
        with pytest.raises(TypeError, match=r"`target` must hold class indices.*without mixup and CutMix"):
            loss_class()(logits, one_hot)
    else:
        torch.testing.assert_close(loss_class()(logits, one_hot), loss_class()(logits, target), rtol=1e-6, atol=1e-7)


def test_the_order_of_the_batch_does_not_matter(loss_class: type[RegimeLoss]) -> None:
    logits, target = some_batch(dtype=torch.float64)
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss_class()(logits[order], target[order]), loss_class()(logits, target))


def test_a_constant_added_to_the_logits_does_not_matter(loss_class: type[RegimeLoss]) -> None:
    logits, target = some_batch(dtype=torch.float64)
    difference = (loss_class()(logits + 7, target) - loss_class()(logits, target)).abs()
    assert (difference > 1e-3) if loss_class is LogitNormLoss else (difference < 1e-9)


def test_nan_logits_give_a_nan_loss(loss_class: type[RegimeLoss]) -> None:
    logits, target = some_batch()
    logits[3, 2] = torch.nan
    assert loss_class()(logits, target).isnan()


@pytest.mark.parametrize("index", [-100, -1, 5])
def test_a_class_that_does_not_exist_is_an_error(loss_class: type[RegimeLoss], index: int) -> None:
    logits, target = some_batch()
    target[0] = index
    with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
        loss_class()(logits, target)


def test_shapes_are_checked_by_every_loss(loss_class: type[RegimeLoss]) -> None:
    logits, target = some_batch()
    with pytest.raises(ValueError, match=r"`logits` must have shape \(N, C\)"):
        loss_class()(logits[:, 0], target)
    with pytest.raises(ValueError, match="`target` must have shape"):
        loss_class()(logits, target[:-1])
    with pytest.raises(TypeError, match="int64"):
        loss_class()(logits, target.int())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "3", True])
def test_every_argument_is_checked_when_a_loss_is_built(loss_class: type[RegimeLoss], value: object) -> None:
    for name in inspect.signature(loss_class).parameters:
        with pytest.raises((ValueError, TypeError), match=f"`{name}` must be a number in .*, got "):
            loss_class(**{name: value})


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (LabelSmoothingLoss, {"epsilon": 1.0}),
        (MarginLabelSmoothingLoss, {"margin": -1.0}),
        (MarginLabelSmoothingLoss, {"penalty_weight": -0.1}),
        (MaxSupLoss, {"penalty_weight": -0.1}),
        (ConfidencePenaltyLoss, {"penalty_weight": -3.6}),
        (FocalLoss, {"gamma": -1.0}),
        (FLSDLoss, {"gamma": -1.0}),
        (FLSDLoss, {"gamma_below_half": -1.0}),
        (FLSDLoss, {"gamma_below_fifth": -1.0}),
        (DualFocalLoss, {"gamma": -1.0}),
        (InverseFocalLoss, {"gamma": 3.6}),
        (InverseFocalLoss, {"gamma": -1.0}),
        (TrainingTemperatureLoss, {"temperature": 0.0}),
        (LogitNormLoss, {"tau": 0.0}),
        (LogitNormLoss, {"mix": 1.1}),
        (BrierLoss, {"mix": -0.1}),
        (MMCELoss, {"penalty_weight": -1.0}),
        (MMCELoss, {"width": 0.0}),
        (DCALoss, {"penalty_weight": -1.0}),
        (MDCALoss, {"penalty_weight": -1.0}),
        (ConfidenceDial, {"strength": 1.01}),
        (ConfidenceDial, {"strength": -1.01}),
    ],
)
def test_a_value_out_of_range_is_refused_when_a_loss_is_built(
    cls: type[RegimeLoss], arguments: dict[str, float]
) -> None:
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=rf"`{name}` must be a number in [\[(].*[\])], got {value}\. \w+"):
        cls(**arguments)


def test_class_and_function_agree_on_names_and_defaults(loss_class: type[RegimeLoss]) -> None:
    rooms = (
        qcal.functional.smoothing_losses,
        qcal.functional.focal_losses,
        qcal.functional.logit_scale_losses,
        qcal.functional.calibrating_losses,
    )
    functions = {name: f for room in rooms for name, f in vars(room).items() if name.endswith("_loss")}
    squeezed = {name.replace("_", ""): f for name, f in functions.items()}
    name = loss_class.__name__.lower().removesuffix("loss") + "loss"
    ours, theirs = inspect.signature(loss_class).parameters, inspect.signature(squeezed[name]).parameters
    assert list(ours) == list(theirs)[2:]
    for key, parameter in ours.items():
        assert theirs[key].default in (inspect.Parameter.empty, parameter.default)


def test_a_loss_shows_its_arguments_and_holds_no_state(loss_class: type[RegimeLoss]) -> None:
    loss = loss_class(**loss_class.neutral)
    for name, value in loss_class.neutral.items():
        assert f"{name}={value}" in repr(loss)
    assert loss.state_dict() == {}
    assert not list(loss.parameters())


def test_a_loss_without_a_formula_says_so() -> None:
    with pytest.raises(NotImplementedError, match="RegimeLoss must define `forward"):
        RegimeLoss()(torch.zeros(1, 2), torch.tensor([0]))
