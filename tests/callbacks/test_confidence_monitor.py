import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from matplotlib.figure import Figure
from torch import Tensor

from qcal.callbacks import confidence_monitor
from qcal.callbacks.confidence_monitor import ConfidenceMonitor
from qcal.data import Digits
from qcal.functional.calibration import (
    ReliabilityBins,
    ece,
    mce,
    over_ece,
    reliability_bins,
    rms_calibration_error,
    under_ece,
)
from qcal.functional.classwise import classwise_ece
from qcal.functional.confidence import accuracy, confidence_from_logits, overconfidence, overconfidence_parts
from qcal.functional.equal_count import adaptive_ece
from qcal.functional.ks_error import ks_calibration_error
from qcal.functional.proper_scores import brier_score, nll, top_label_brier
from qcal.functional.selective import augrc, aurc
from qcal.functional.smooth_calibration import smooth_ece
from qcal.models import CifarResNet
from qcal.plots import reliability_figure
from qcal.tasks import Classifier
from tests.support.wandb_file import read_run


def _classifier() -> Classifier:
    seed_everything(0, verbose=False)
    return Classifier(CifarResNet(depth=8, num_classes=10, in_channels=1, width=4))


def _data() -> Digits:
    return Digits(train_size=128, val_size=50, eval_batch_size=20, recalibration_size=50, range_estimation_size=64)


def _trainer(folder: Path, *callbacks: Callback, **kwargs: Any) -> Trainer:  # Any: the Trainer's own arguments
    defaults: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": CSVLogger(folder, name="", version=""),
        "default_root_dir": folder,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "callbacks": [*callbacks, ModelCheckpoint(folder / "checkpoints", save_last=True)],
    }
    return Trainer(**(defaults | kwargs))


def _val_logits(module: Classifier) -> tuple[Tensor, Tensor]:
    data = _data()
    data.setup("fit")
    module.eval()
    with torch.no_grad():
        pairs = [(module(images), target) for images, target in data.val_dataloader()]
    assert len(pairs) == 3
    return torch.cat([logits for logits, _ in pairs]), torch.cat([target for _, target in pairs])


def _hooks(module: torch.nn.Module) -> int:
    return sum(len(part._forward_hooks) for part in module.modules())


def test_every_metric_is_the_function_on_all_logits(tmp_path: Path) -> None:
    module, callback = _classifier(), ConfidenceMonitor(list(confidence_monitor._METRICS), network="model")
    trainer = _trainer(tmp_path, callback)
    trainer.fit(module, datamodule=_data())
    logits, target = _val_logits(module)
    confidence, prediction = confidence_from_logits(logits)
    correct, probs = prediction == target, logits.softmax(dim=1)
    parts = overconfidence_parts(confidence, correct)
    expected = {
        "accuracy": accuracy(prediction, target),
        "mean_confidence": confidence.mean(),
        "overconfidence": overconfidence(confidence, correct),
        "overconfidence_on_correct": parts.on_correct,
        "overconfidence_on_wrong": parts.on_wrong,
        "nll": nll(logits, target),
        "brier_score": brier_score(probs, target),
        "top_label_brier": top_label_brier(confidence, correct),
        "ece": ece(confidence, correct),
        "mce": mce(confidence, correct),
        "rms_calibration_error": rms_calibration_error(confidence, correct),
        "over_ece": over_ece(confidence, correct),
        "under_ece": under_ece(confidence, correct),
        "classwise_ece": classwise_ece(probs, target),
        "adaptive_ece": adaptive_ece(confidence, correct),
        "smooth_ece": smooth_ece(confidence, correct),
        "ks_calibration_error": ks_calibration_error(confidence, correct),
        "aurc": aurc(confidence, correct),
        "augrc": augrc(confidence, correct),
    }
    logged = {name.removeprefix("confidence/"): value for name, value in trainer.callback_metrics.items()}
    assert set(expected) == set(confidence_monitor._METRICS)
    for name, value in expected.items():
        assert float(logged[name]) == pytest.approx(float(value), abs=1e-6), name
    assert float(trainer.callback_metrics["val/ece"]) == pytest.approx(float(logged["ece"]), abs=1e-6)


def test_each_epoch_has_a_row_of_the_chosen_scores_only(tmp_path: Path) -> None:
    callback = ConfidenceMonitor(["overconfidence", "overconfidence", "nll"], diagram_every_n_epochs=0)
    _trainer(tmp_path, callback, max_epochs=3).fit(_classifier(), datamodule=_data())
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["confidence/nll"]]
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert [row["confidence/nll"] for row in rows] != [rows[0]["confidence/nll"]] * 3
    for row in rows:
        assert float(row["confidence/nll"]) == pytest.approx(float(row["val/nll"]), abs=1e-6)
        assert {name for name in row if name.startswith("confidence/")} == {
            "confidence/overconfidence",
            "confidence/nll",
        }
    assert not (tmp_path / "confidence").exists()


def test_diagrams_come_every_n_epochs_and_show_all_val_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, ReliabilityBins] = {}

    def spy(bins: dict[str, ReliabilityBins]) -> Figure:
        drawn.update(bins)
        return reliability_figure(bins)

    monkeypatch.setattr(confidence_monitor, "reliability_figure", spy)
    module = _classifier()
    callback = ConfidenceMonitor(["nll"], diagram_every_n_epochs=2, num_bins=8)
    _trainer(tmp_path, callback, max_epochs=4).fit(module, datamodule=_data())
    assert sorted(path.name for path in (tmp_path / "confidence").iterdir()) == [
        "reliability-epoch-0001.png",
        "reliability-epoch-0001.svg",
        "reliability-epoch-0003.png",
        "reliability-epoch-0003.svg",
    ]
    assert list(drawn) == ["epoch 1", "epoch 3"]
    logits, target = _val_logits(module)
    confidence, prediction = confidence_from_logits(logits)
    expected = reliability_bins(confidence, prediction == target, num_bins=8)
    assert torch.equal(drawn["epoch 3"].count, expected.count)
    assert torch.allclose(drawn["epoch 3"].gap, expected.gap, atol=1e-6)


def test_a_weights_and_biases_run_holds_scores_and_pictures_of_each_epoch(
    tmp_path: Path, offline_wandb: WandbLogger
) -> None:
    module, callback = _classifier(), ConfidenceMonitor(["nll", "overconfidence"], diagram_every_n_epochs=2)
    _trainer(tmp_path, callback, max_epochs=4, logger=offline_wandb).fit(module, datamodule=_data())
    wandb.finish()
    run = read_run(tmp_path)
    rows = [row for row in run.history if "confidence/nll" in row]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    logits, target = _val_logits(module)
    assert rows[-1]["confidence/nll"] == pytest.approx(nll(logits, target).item(), abs=1e-6)
    assert all("confidence/overconfidence" in row for row in rows)
    pictures = [row for row in run.history if "confidence/reliability" in row]
    assert [row["trainer/global_step"] for row in pictures] == [4, 8]  # two steps an epoch
    for row in pictures:
        picture = row["confidence/reliability"]
        assert picture["_type"] == "image-file"
        (file,) = tmp_path.rglob(picture["path"])
        assert file.stat().st_size == picture["size"] > 10_000


def test_other_callbacks_can_act_on_the_scores(tmp_path: Path) -> None:
    stop = EarlyStopping("confidence/ece", patience=0, mode="max", stopping_threshold=0.0)
    trainer = _trainer(tmp_path, ConfidenceMonitor(["ece"]), stop, max_epochs=5)
    trainer.fit(_classifier(), datamodule=_data())
    assert trainer.current_epoch == 1


def test_a_validation_alone_is_scored_and_not_drawn(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, ConfidenceMonitor(["ece"], diagram_every_n_epochs=1))
    (scores,) = trainer.validate(_classifier(), datamodule=_data(), verbose=False)
    assert scores["confidence/ece"] == pytest.approx(scores["val/ece"], abs=1e-6)
    assert not (tmp_path / "confidence").exists()


class _CountsHooks(Callback):
    """Forward hooks on the module while it trains, and while it validates in and out of the sanity check."""

    def __init__(self) -> None:
        self.seen: dict[str, set[int]] = {"train": set(), "sanity": set(), "val": set()}

    def on_train_batch_start(self, _trainer: Trainer, pl_module: LightningModule, *_args: object) -> None:
        self.seen["train"].add(_hooks(pl_module))

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_args: object) -> None:
        self.seen["sanity" if trainer.sanity_checking else "val"].add(_hooks(pl_module))


def test_the_network_is_watched_in_validation_only(tmp_path: Path) -> None:
    module, counts = _classifier(), _CountsHooks()
    _trainer(tmp_path, ConfidenceMonitor(network="model"), counts, max_epochs=2).fit(module, datamodule=_data())
    assert counts.seen == {"train": {0}, "sanity": {0}, "val": {1}}
    assert _hooks(module) == 0


class _Raises(Callback):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_validation_batch_end(self, trainer: Trainer, *_args: object) -> None:
        if not trainer.sanity_checking:
            raise self.error


@pytest.mark.parametrize(("error", "raised"), [(RuntimeError("x"), RuntimeError), (KeyboardInterrupt(), SystemExit)])
def test_no_hook_stays_after_an_exception(error: BaseException, raised: type[BaseException], tmp_path: Path) -> None:
    module = _classifier()
    with pytest.raises(raised):
        _trainer(tmp_path, ConfidenceMonitor(), _Raises(error)).fit(module, datamodule=_data())
    assert _hooks(module) == 0


def _run(folder: Path, *callbacks: Callback) -> tuple[dict[str, Tensor], Tensor]:
    module = _classifier()
    _trainer(folder, *callbacks, max_epochs=2).fit(module, datamodule=_data())
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    momentum = {
        f"momentum.{number}": state["momentum_buffer"]
        for number, state in checkpoint["optimizer_states"][0]["state"].items()
    }
    return {**module.state_dict(), **momentum}, torch.get_rng_state()


def test_training_and_random_state_are_bit_for_bit_those_of_a_run_without_it(tmp_path: Path) -> None:
    plain, plain_random = _run(tmp_path / "without")
    monitored, monitored_random = _run(tmp_path / "with", ConfidenceMonitor(diagram_every_n_epochs=1))
    assert (tmp_path / "with" / "confidence" / "reliability-epoch-0001.svg").exists()
    assert plain.keys() == monitored.keys()
    for name, value in plain.items():
        assert torch.equal(value, monitored[name]), name
    assert torch.equal(plain_random, monitored_random)


def test_fast_dev_run_draws_nothing(tmp_path: Path) -> None:
    callback = ConfidenceMonitor(diagram_every_n_epochs=1)
    _trainer(tmp_path, callback, fast_dev_run=True).fit(_classifier(), datamodule=_data())
    assert not (tmp_path / "confidence").exists()


class _CallsTwice(Classifier):
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self(batch[0])
        super().validation_step(batch, batch_idx)


def test_a_network_called_twice_a_step_is_refused(tmp_path: Path) -> None:
    seed_everything(0, verbose=False)
    module = _CallsTwice(CifarResNet(depth=8, num_classes=10, in_channels=1, width=4))
    message = r"one call of `_CallsTwice.model` .* \(20, C\), got the outputs \[\(20, 10\), \(20, 10\)\]"
    with pytest.raises(MisconfigurationException, match=message):
        _trainer(tmp_path, ConfidenceMonitor(network="model")).fit(module, datamodule=_data())
    assert _hooks(module) == 0


def test_a_submodule_without_logits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"got the outputs \[\]. Pass `network=` the submodule"):
        _trainer(tmp_path, ConfidenceMonitor(network="model.conv1")).fit(_classifier(), datamodule=_data())


class _TwoLoaders(Classifier):
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)


def test_several_val_loaders_are_refused(tmp_path: Path) -> None:
    data = _data()
    data.setup("fit")
    module = _TwoLoaders(CifarResNet(depth=8, num_classes=10, in_channels=1, width=4))
    trainer = _trainer(tmp_path, ConfidenceMonitor(), num_sanity_val_steps=0)
    with pytest.raises(MisconfigurationException, match=r"scores one val loader, got 2. Pass one"):
        trainer.fit(module, data.train_dataloader(), [data.val_dataloader(), data.val_dataloader()])


def test_a_submodule_that_is_not_there_is_refused_before_training(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, ConfidenceMonitor(network="backbone"))
    with pytest.raises(MisconfigurationException, match=r"got 'backbone'. Its direct submodules are: model, loss"):
        trainer.fit(_classifier(), datamodule=_data())
    assert trainer.global_step == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConfidenceMonitor(["ece", "bier"]), r"must be among 'accuracy', .*'augrc', got 'bier'. Leave out"),
        (lambda: ConfidenceMonitor([]), r"one or more names, got \[\]"),
        (lambda: ConfidenceMonitor("ece"), "must be a list of one or more names, got 'ece'"),
        (lambda: ConfidenceMonitor(diagram_every_n_epochs=-1), "must be at least 0, got -1. 0 draws no diagram"),
        (lambda: ConfidenceMonitor(num_bins=0), "`num_bins`"),
    ],
)
def test_arguments_that_do_not_exist_are_refused(make: Callable[[], ConfidenceMonitor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_docstring_names_every_metric() -> None:
    words = set((ConfidenceMonitor.__doc__ or "").replace(",", " ").replace(".", " ").split())
    assert set(confidence_monitor._METRICS) <= words
