import copy
import csv
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from torch import Tensor
from torch.utils.data import DataLoader

from qcal.callbacks import temperature_scaling
from qcal.callbacks.temperature_scaling import TemperatureScaling
from qcal.data import Digits
from qcal.functional.calibration import ece
from qcal.functional.confidence import confidence_from_logits
from qcal.functional.proper_scores import nll
from qcal.functional.temperature import TemperatureFit, fit_temperature
from qcal.models import CifarResNet
from qcal.tasks import Classifier
from tests.support.equality import assert_equal
from tests.support.wandb_file import read_run

KEY = "TemperatureScaling"


def _classifier() -> Classifier:
    seed_everything(0, verbose=False)
    return Classifier(CifarResNet(depth=8, num_classes=10, in_channels=1, width=4))


def _data() -> Digits:
    return Digits(train_size=128, val_size=40, recalibration_size=90, range_estimation_size=64)


def _trainer(folder: Path, *callbacks: Callback, **kwargs: Any) -> Trainer:  # Any: the Trainer's own arguments
    every_epoch = ModelCheckpoint(folder / "checkpoints", filename="{epoch}", save_top_k=-1, save_last=True)
    defaults: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": CSVLogger(folder, name="", version=""),
        "default_root_dir": folder,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "callbacks": [*callbacks, every_epoch],
    }
    return Trainer(**(defaults | kwargs))


def _fitted(folder: Path, **kwargs: Any) -> tuple[TemperatureScaling, Classifier]:  # Any: the Trainer's own arguments
    callback, module = TemperatureScaling(network="model"), _classifier()
    _trainer(folder, callback, **kwargs).fit(module, datamodule=_data())
    return callback, module


def _recalibration_logits(weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """By a loop of its own, on a data module of its own."""
    module, data = _classifier(), _data()
    module.load_state_dict(weights)
    data.setup("fit")
    module.eval()
    with torch.no_grad():
        pairs = [(module(images), target) for images, target in data.recalibration_dataloader()]
    return torch.cat([logits for logits, _ in pairs]), torch.cat([target for _, target in pairs])


def _checkpoint(folder: Path, name: str = "last") -> dict[str, Any]:  # Any: what a checkpoint nests
    loaded: dict[str, Any] = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return loaded


class _Raises(Callback):
    def __init__(self, error: BaseException, *, at_step: int = 1) -> None:
        self.error, self.at_step = error, at_step

    def on_train_batch_end(self, trainer: Trainer, *_args: object) -> None:
        if trainer.global_step == self.at_step:
            raise self.error


def test_the_temperature_is_the_optimum_on_the_recalibration_split_of_the_trained_network(tmp_path: Path) -> None:
    callback, module = _fitted(tmp_path)
    logits, target = _recalibration_logits(module.state_dict())
    expected = fit_temperature(logits, target)
    assert expected.at_bound is None
    assert callback.temperature == pytest.approx(expected.temperature, rel=1e-6)
    assert callback.temperature != pytest.approx(1, abs=0.01)
    assert callback.result is not None
    assert (callback.result.split, callback.result.num_images) == ("recalibration", 90)


def test_value_and_scores_before_and_after_are_logged_once(tmp_path: Path) -> None:
    callback, module = _fitted(tmp_path)
    logits, target = _recalibration_logits(module.state_dict())
    with (tmp_path / "metrics.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if row.get("temperature/value")]
    scaled = logits / callback.temperature
    expected = {"temperature/value": callback.temperature, "temperature/at_bound": 0.0}
    for name, values in (("before", logits), ("after", scaled)):
        confidence, prediction = confidence_from_logits(values)
        expected[f"temperature/ece_{name}"] = ece(confidence, prediction == target).item()
        expected[f"temperature/nll_{name}"] = nll(values, target).item()
    assert {key: float(value) for key, value in row.items() if key.startswith("temperature/")} == pytest.approx(
        expected, abs=1e-6
    )
    assert expected["temperature/nll_after"] < expected["temperature/nll_before"]
    assert int(row["step"]) == 4


def test_a_weights_and_biases_run_holds_them_in_one_row_and_in_its_summary(
    tmp_path: Path, offline_wandb: WandbLogger
) -> None:
    callback, _ = _fitted(tmp_path, logger=offline_wandb)
    wandb.finish()
    run = read_run(tmp_path)
    assert callback.result is not None
    figures = callback.result.figures()
    (row,) = [row for row in run.history if "temperature/value" in row]
    assert {key: value for key, value in row.items() if key.startswith("temperature/")} == figures
    assert row["trainer/global_step"] == 4
    assert {key: run.summary[key] for key in figures} == figures


@pytest.mark.parametrize("name", ["last", "epoch=0", "epoch=1"])
def test_each_checkpoint_holds_the_temperature_of_the_weights_in_it(name: str, tmp_path: Path) -> None:
    _fitted(tmp_path)
    checkpoint = _checkpoint(tmp_path, name)
    logits, target = _recalibration_logits(checkpoint["state_dict"])
    expected = fit_temperature(logits, target).temperature
    assert checkpoint["callbacks"][KEY]["fit"]["temperature"] == pytest.approx(expected, rel=1e-6)


def test_a_new_callback_gets_the_temperature_from_a_checkpoint(tmp_path: Path) -> None:
    trained, module = _fitted(tmp_path)
    restored = TemperatureScaling(network="model")
    path = str(tmp_path / "checkpoints" / "last.ckpt")
    _trainer(tmp_path, restored).test(
        _classifier(), datamodule=_data(), ckpt_path=path, weights_only=True, verbose=False
    )
    assert restored.result == trained.result
    logits = torch.randn(4, 10)
    assert torch.equal(restored.predict(logits), trained.predict(logits))
    assert module.training  # as fit leaves it


def test_a_finished_run_that_is_resumed_keeps_its_temperature(tmp_path: Path) -> None:
    trained, _ = _fitted(tmp_path)
    resumed = TemperatureScaling(network="model")
    path = str(tmp_path / "checkpoints" / "last.ckpt")
    _trainer(tmp_path, resumed).fit(_classifier(), datamodule=_data(), ckpt_path=path, weights_only=True)
    assert resumed.result == trained.result


def test_weights_are_fitted_once_however_many_files_hold_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[int] = []

    def spy(logits: Tensor, target: Tensor) -> TemperatureFit:
        fitted.append(len(target))
        return fit_temperature(logits, target)

    monkeypatch.setattr(temperature_scaling, "fit_temperature", spy)
    _fitted(tmp_path)  # four files of two epochs, and the end of training
    assert fitted == [90, 90]


def test_a_later_checkpoint_carries_the_temperature_only_of_weights_it_was_fitted_on(tmp_path: Path) -> None:
    callback, module = TemperatureScaling(), _classifier()
    trainer = _trainer(tmp_path, callback)
    trainer.fit(module, datamodule=_data())
    trainer.save_checkpoint(tmp_path / "checkpoints" / "same.ckpt")
    assert _checkpoint(tmp_path, "same")["callbacks"][KEY]["fit"]["temperature"] == callback.temperature
    with torch.no_grad():
        next(module.parameters()).mul_(2)
    trainer.save_checkpoint(tmp_path / "checkpoints" / "other.ckpt")
    assert KEY not in _checkpoint(tmp_path, "other")["callbacks"]


def test_with_weight_averaging_it_is_the_temperature_of_the_averaged_weights(tmp_path: Path) -> None:
    callback, module = TemperatureScaling(network="model"), _classifier()
    _trainer(tmp_path, EMAWeightAveraging(decay=0.5), callback).fit(module, datamodule=_data())
    checkpoint = _checkpoint(tmp_path)
    assert not torch.equal(
        checkpoint["state_dict"]["model.fc.weight"], checkpoint["current_model_state"]["model.fc.weight"]
    )
    expected = fit_temperature(*_recalibration_logits(checkpoint["state_dict"])).temperature
    assert checkpoint["callbacks"][KEY]["fit"]["temperature"] == pytest.approx(expected, rel=1e-6)
    assert callback.temperature == pytest.approx(expected, rel=1e-6)


def test_it_is_refused_before_weight_averaging(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, TemperatureScaling(), EMAWeightAveraging())
    with pytest.raises(MisconfigurationException, match=r"must come after EMAWeightAveraging .* Move it behind"):
        trainer.fit(_classifier(), datamodule=_data())


def test_calibrated_probabilities_are_the_softmax_of_scaled_logits(tmp_path: Path) -> None:
    callback, module = _fitted(tmp_path)
    logits = 5 * torch.randn(6, 10)
    assert torch.allclose(callback.predict(logits), (logits / callback.temperature).softmax(dim=1))
    assert callback.predict(logits.bfloat16()).dtype == torch.float32
    images, _ = next(iter(_data().recalibration_dataloader()))
    module.train()
    module.model.get_submodule("bn1").eval()  # a frozen layer
    modes = [part.training for part in module.modules()]
    weights = copy.deepcopy(module.state_dict())
    probs = callback.predict_probs(module, images)
    assert modes == [part.training for part in module.modules()]
    assert_equal(weights, module.state_dict())
    module.eval()
    with torch.no_grad():
        assert torch.allclose(probs, callback.predict(module(images)))


def test_without_a_temperature_nothing_is_predicted() -> None:
    with pytest.raises(RuntimeError, match=r"no temperature yet, got None. Run `Trainer.fit`"):
        TemperatureScaling().predict(torch.zeros(2, 10))


def _run(folder: Path, *callbacks: Callback) -> tuple[LightningModule, dict[str, Any]]:
    module = _classifier()
    _trainer(folder, *callbacks).fit(module, datamodule=_data())
    python, numpy, generator = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  # the state a user's code may rely on
    state = {"python": python, "numpy": numpy[1].tolist(), "torch": generator, "checkpoint": _checkpoint(folder)}  # type: ignore[index]  # the legacy tuple, as asked for
    return module, state


@pytest.mark.parametrize("fails", [False, True])
def test_training_and_random_state_are_bit_for_bit_those_of_a_run_without_it(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, before = _run(tmp_path / "without")
    if fails:
        monkeypatch.setattr(temperature_scaling, "fit_temperature", _draw_and_fail)
    scaled, after = _run(tmp_path / "with", TemperatureScaling())
    assert (KEY in after["checkpoint"]["callbacks"]) is not fails
    assert before["python"] == after["python"]
    assert before["numpy"] == after["numpy"]
    assert torch.equal(before["torch"], after["torch"])
    assert_equal(plain.state_dict(), scaled.state_dict())
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "loops"):
        assert_equal(before["checkpoint"][part], after["checkpoint"][part])
    assert [part.training for part in plain.modules()] == [part.training for part in scaled.modules()]
    assert [p.requires_grad for p in plain.parameters()] == [p.requires_grad for p in scaled.parameters()]


def _draw_and_fail(*_args: object) -> None:
    torch.rand(3)
    raise ValueError("no such optimum")


def test_a_failed_fit_is_told_and_training_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(temperature_scaling, "fit_temperature", _draw_and_fail)
    with caplog.at_level(logging.ERROR):
        callback, _ = _fitted(tmp_path)
    assert "No temperature could be fitted: no such optimum" in caplog.text
    assert callback.result is None
    assert _checkpoint(tmp_path)["global_step"] == 4


def test_a_failed_fit_is_raised_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temperature_scaling, "fit_temperature", _draw_and_fail)
    with pytest.raises(ValueError, match="no such optimum"):
        _trainer(tmp_path, TemperatureScaling(on_error="raise")).fit(_classifier(), datamodule=_data())


class _NoTest(Digits):
    def __init__(self) -> None:
        super().__init__(train_size=128, val_size=40, recalibration_size=90, range_estimation_size=64)
        self.asked: list[str] = []

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        raise AssertionError("the test loader was asked for")

    def recalibration_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        self.asked.append("recalibration")
        return super().recalibration_dataloader()


def test_the_test_loader_is_never_asked_for(tmp_path: Path) -> None:
    data, callback = _NoTest(), TemperatureScaling()
    _trainer(tmp_path, callback).fit(_classifier(), datamodule=data)
    assert callback.result is not None
    assert data.asked == ["recalibration"] * 2


def test_without_a_recalibration_split_it_fits_on_val_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, module, callback = _data(), _classifier(), TemperatureScaling()
    data.setup("fit")
    with caplog.at_level(logging.WARNING):
        _trainer(tmp_path, callback, max_epochs=6).fit(module, data.train_dataloader(), data.val_dataloader())
    assert "There is no recalibration split" in caplog.text
    assert callback.result is not None
    assert (callback.result.split, callback.result.num_images) == ("val, as fit used it", 40)
    assert _checkpoint(tmp_path)["callbacks"][KEY]["split"] == "val, as fit used it"
    module.eval()
    with torch.no_grad():
        ((images, target),) = data.val_dataloader()
        expected = fit_temperature(module(images), target)
    assert expected.at_bound is None
    assert callback.temperature == pytest.approx(expected.temperature, rel=1e-6)


def test_without_any_held_out_images_it_says_what_to_pass(tmp_path: Path) -> None:
    data = _data()
    data.setup("fit")
    trainer = _trainer(tmp_path, TemperatureScaling(on_error="raise"), limit_val_batches=0)
    message = r"got 0 val loaders and no data module with `recalibration_dataloader`"
    with pytest.raises(ValueError, match=message):
        trainer.fit(_classifier(), data.train_dataloader(), data.val_dataloader())


def test_an_optimum_at_a_bound_is_told_and_predictions_stay_unscaled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    target = torch.arange(10).repeat(3)
    perfect = 2 * torch.nn.functional.one_hot(target).float()
    monkeypatch.setattr(temperature_scaling, "_predict", lambda *_args: (perfect, target))
    with caplog.at_level(logging.WARNING):
        callback, _ = _fitted(tmp_path)
    assert "temperature ran to the lower end" in caplog.text
    assert "Predictions stay unscaled (T = 1)" in caplog.text
    assert callback.temperature == 1
    assert torch.equal(callback.predict(perfect), perfect.softmax(dim=1))
    assert callback.result is not None
    figures = callback.result.figures()
    assert figures["temperature/at_bound"] == 1
    assert figures["temperature/nll_after"] == figures["temperature/nll_before"]
    assert figures["temperature/nll_before"] == pytest.approx(nll(perfect, target).item(), rel=1e-6)
    assert _checkpoint(tmp_path)["callbacks"][KEY]["fit"]["at_bound"] == "lower"


@pytest.mark.parametrize("kwargs", [{"max_epochs": 0}, {"fast_dev_run": True}])
def test_nothing_trained_means_no_temperature(kwargs: dict[str, Any], tmp_path: Path) -> None:
    callback, _ = _fitted(tmp_path, **kwargs)
    assert callback.result is None
    assert not (tmp_path / "metrics.csv").exists() or "temperature" not in (tmp_path / "metrics.csv").read_text()


@pytest.mark.parametrize(
    ("error", "raised"), [(RuntimeError("diverged"), RuntimeError), (KeyboardInterrupt(), SystemExit)]
)
def test_a_run_that_broke_has_no_temperature(error: BaseException, raised: type[BaseException], tmp_path: Path) -> None:
    callback = TemperatureScaling()
    on_exception = ModelCheckpoint(
        tmp_path / "checkpoints", every_n_train_steps=9, filename="broken", save_on_exception=True
    )
    # Step 3 is in the second epoch: there is a temperature of the first, which is not that of these weights.
    trainer = _trainer(tmp_path, callback, _Raises(error, at_step=3), on_exception)
    with pytest.raises(raised):
        trainer.fit(_classifier(), datamodule=_data())
    assert callback.result is None
    assert KEY in _checkpoint(tmp_path, "epoch=0")["callbacks"]
    broken = _checkpoint(tmp_path, "broken")
    assert broken["global_step"] == 3
    assert KEY not in broken["callbacks"]


def test_a_submodule_that_is_not_there_is_refused_before_training(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, TemperatureScaling(network="backbone"))
    with pytest.raises(MisconfigurationException, match=r"got 'backbone'. Its direct submodules are: model, loss"):
        trainer.fit(_classifier(), datamodule=_data())
    assert trainer.global_step == 0


def test_an_unknown_on_error_is_refused() -> None:
    with pytest.raises(ValueError, match="`on_error` must be one of 'warn', 'raise', got 'ignore'"):
        TemperatureScaling(on_error="ignore")  # type: ignore[arg-type]  # the mistake under test
