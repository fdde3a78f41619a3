from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torchvision.transforms import v2

from qcal.data import Digits
from qcal.functional.calibration import ece
from qcal.functional.confidence import confidence_from_logits, overconfidence
from qcal.functional.proper_scores import nll
from qcal.losses import FocalLoss
from qcal.models import CifarResNet
from qcal.tasks import Classifier, check_fit


def _network() -> nn.Module:
    torch.manual_seed(0)
    return CifarResNet(depth=8, num_classes=10, in_channels=1, width=4)


def _trainer(**kwargs: Any) -> Trainer:  # Any: the Trainer's own arguments
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**(defaults | kwargs))


def test_the_logged_scores_are_those_of_all_logits_at_once() -> None:
    module, data = Classifier(_network(), loss=FocalLoss(gamma=2.0)), Digits(eval_batch_size=100)
    (logged,) = _trainer().test(module, datamodule=data, verbose=False)
    batches = list(data.test_dataloader())
    target = torch.cat([y for _, y in batches])
    with torch.no_grad():
        logits = torch.cat([module.eval()(x) for x, _ in batches])
    confidence, prediction = confidence_from_logits(logits)
    correct = prediction == target
    assert logged["test/accuracy"] == pytest.approx(correct.double().mean().item())
    assert logged["test/ece"] == pytest.approx(ece(confidence, correct).item(), abs=1e-6)
    assert logged["test/overconfidence"] == pytest.approx(overconfidence(confidence, correct).item(), abs=1e-6)
    assert logged["test/nll"] == pytest.approx(nll(logits, target).item(), abs=1e-6)
    assert logged["test/loss"] == pytest.approx(FocalLoss(gamma=2.0)(logits, target).item(), abs=1e-5)


def test_training_learns_and_logs_val_scores() -> None:
    seed_everything(0, verbose=False)
    module = Classifier(_network())
    trainer = _trainer(max_epochs=4)
    trainer.fit(module, datamodule=Digits())
    metrics = trainer.callback_metrics
    assert metrics["val/accuracy"] > 0.4  # chance is 0.1
    assert {"train/loss", "val/loss", "val/nll", "val/ece", "val/overconfidence"} <= set(metrics)


def test_without_arguments_the_optimizer_is_sgd_falling_to_zero_along_a_cosine() -> None:
    trainer = _trainer(max_epochs=2)
    trainer.fit(Classifier(_network()), datamodule=Digits(train_size=128, range_estimation_size=64))
    (optimizer,) = trainer.optimizers
    assert isinstance(optimizer, SGD)
    assert optimizer.defaults["lr"] == 0.1
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


def test_the_given_optimizer_and_scheduler_are_used() -> None:
    module = Classifier(
        _network(),
        optimizer=lambda parameters: AdamW(parameters, lr=0.01),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1),
    )
    trainer = _trainer(max_epochs=2)
    trainer.fit(module, datamodule=Digits(train_size=128, range_estimation_size=64))
    (optimizer,) = trainer.optimizers
    assert isinstance(optimizer, AdamW)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)


@pytest.mark.parametrize("transform", [v2.MixUp(alpha=1.0), v2.CutMix(alpha=1.0)])
def test_mixup_and_cutmix_give_the_loss_soft_targets_in_training_only(transform: nn.Module) -> None:
    seen: list[Tensor] = []

    class Watched(nn.CrossEntropyLoss):
        def forward(self, logits: Tensor, target: Tensor) -> Tensor:
            seen.append(target)
            return super().forward(logits, target)

    module = Classifier(_network(), loss=Watched(), batch_transform=transform)
    _trainer(limit_train_batches=2, limit_val_batches=1, num_sanity_val_steps=0).fit(module, datamodule=Digits())
    assert [target.ndim for target in seen] == [2, 2, 1]
    assert torch.allclose(seen[0].sum(dim=1), torch.ones(64))
    assert bool(((seen[0] > 0) & (seen[0] < 1)).any())


def test_a_batch_transform_without_the_number_of_classes_is_refused() -> None:
    data = Digits()
    data.setup()
    with pytest.raises(MisconfigurationException, match="MixUp needs the number of classes"):
        _trainer().fit(
            Classifier(_network(), batch_transform=v2.MixUp(alpha=1.0)), data.train_dataloader(), data.val_dataloader()
        )


def test_checkpoints_hold_plain_values_and_load_with_weights_only(tmp_path: Path) -> None:
    module = Classifier(_network(), loss=FocalLoss(gamma=3.0))
    trainer = _trainer(limit_train_batches=1, limit_val_batches=1)
    trainer.fit(module, datamodule=Digits())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert "hyper_parameters" not in content
    again = Classifier.load_from_checkpoint(tmp_path / "a.ckpt", model=_network(), weights_only=True)
    assert all(
        torch.equal(one, other)
        for one, other in zip(module.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    )


def test_weights_are_loaded_into_the_model(tmp_path: Path) -> None:
    network = _network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    torch.save({f"model.{name}": value for name, value in network.state_dict().items()}, tmp_path / "weights.pt")
    module = Classifier(_network(), weights=str(tmp_path / "weights.pt"))
    assert torch.equal(module.model.get_parameter("fc.weight"), network.get_parameter("fc.weight"))


class _Broken(nn.Module):
    def __init__(self, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.change, self.network = change, _network()

    def forward(self, images: Tensor) -> object:
        return self.change(self.network(images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits: logits[:, :7], "10 classes, got 7"),
        (lambda logits: logits[:, 0], r"\(N, C\)"),
        (lambda logits: logits * float("nan"), "finite|NaN"),
        (lambda logits: (logits, logits), "tuple"),
    ],
)
def test_a_model_whose_output_does_not_fit_is_refused(change: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_fit(Classifier(_Broken(change)), Digits())


def test_the_check_leaves_model_mode_and_random_state_as_they_were() -> None:
    module = Classifier(_network())
    before, generator = {k: v.clone() for k, v in module.state_dict().items()}, torch.get_rng_state()
    check_fit(module, Digits())
    assert torch.equal(generator, torch.get_rng_state())
    assert module.training
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in before.items())
