"""Which weights are measured: the last, their averages, or the best checkpoint's; and that the record says which."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.callbacks.weight_averaging import EMAWeightAveraging
from torch import Tensor

from qcal.callbacks import PostTrainingQuantization
from qcal.robustness import read_logits
from tests.callbacks.lightning_runs import Lit, fit, images_and_labels, loader, make_trainer


class _Worse(Callback):
    """The second epoch spoils the weights."""

    def on_train_epoch_start(self, trainer: Any, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            for parameter in pl_module.parameters():
                parameter.data.mul_(-20.0)


def _logits(module: LightningModule) -> Tensor:
    images, _ = images_and_labels(21, seed=1)
    module.eval()
    with torch.no_grad():
        return torch.cat([module(part) for part in torch.split(images, 8)])


def _measured(folder: Path) -> Tensor:
    return read_logits(folder / "ptq" / "logits.npz").float


def test_the_last_weights_are_the_default(tmp_path: Path) -> None:
    callback = PostTrainingQuantization(["w8a8"], on_error="raise")
    module = fit(make_trainer(tmp_path, callback))
    assert callback.record is not None
    assert callback.record.context["weights"] == "last"
    assert torch.equal(_measured(tmp_path), _logits(module))


def test_the_best_checkpoint_is_measured_and_the_module_keeps_its_own(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path / "checkpoints", monitor="val_loss", filename="best")
    callback = PostTrainingQuantization(["w8a8"], weights="best", on_error="raise")
    trainer = make_trainer(tmp_path, callback, _Worse(), best, max_epochs=2, enable_checkpointing=True)
    module = fit(trainer)
    assert callback.record is not None
    assert callback.record.context["weights"].startswith("best checkpoint, val_loss = ")
    assert callback.record.context["weights"].endswith("best.ckpt")
    last = _logits(module)
    assert not torch.equal(_measured(tmp_path), last)
    module.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
    assert torch.equal(_measured(tmp_path), _logits(module))


def test_best_without_a_callback_that_knows_it_is_refused_before_training(tmp_path: Path) -> None:
    unmonitored = ModelCheckpoint(tmp_path / "checkpoints")
    trainer = make_trainer(
        tmp_path, PostTrainingQuantization(["w8a8"], weights="best"), unmonitored, enable_checkpointing=True
    )
    with pytest.raises(MisconfigurationException, match=r"needs a ModelCheckpoint\(monitor=...\).*got none"):
        fit(trainer)
    assert trainer.global_step == 0


def test_averaged_weights_are_measured_as_lightning_leaves_them(tmp_path: Path) -> None:
    callback = PostTrainingQuantization(["w8a8"], on_error="raise")
    averaging = EMAWeightAveraging(decay=0.5)
    module = fit(make_trainer(tmp_path, callback, averaging, max_epochs=2))
    assert callback.record is not None
    assert callback.record.context["weights"] == "last, averaged by EMAWeightAveraging"
    assert torch.equal(_measured(tmp_path), _logits(module))


def test_stochastic_weight_averaging_is_stated(tmp_path: Path) -> None:
    callback = PostTrainingQuantization(["w8a8"], on_error="raise")
    module = fit(make_trainer(tmp_path, callback, StochasticWeightAveraging(0.01, swa_epoch_start=1), max_epochs=3))
    assert callback.record is not None
    assert callback.record.context["weights"] == "last, averaged by StochasticWeightAveraging"
    assert torch.equal(_measured(tmp_path), _logits(module))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # its own ModelCheckpoint is not needed here
def test_a_tested_checkpoint_is_named(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path / "checkpoints", filename="last")
    fit(make_trainer(tmp_path, saving, enable_checkpointing=True))
    callback = PostTrainingQuantization(["w8a8"], on_error="raise", range_estimation=loader(24, seed=0))
    path = str(tmp_path / "checkpoints" / "last.ckpt")
    make_trainer(tmp_path, callback).test(Lit(), loader(21, seed=1), ckpt_path=path, verbose=False)
    assert callback.record is not None
    assert callback.record.context["weights"] == f"checkpoint {path}"
