import copy
import csv
import logging
import operator
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from qcal.callbacks import PostTrainingQuantization
from qcal.callbacks.studies import Studies
from qcal.data import Digits
from qcal.models import CifarResNet
from qcal.robustness import read_logits, read_record
from qcal.tasks import Classifier
from tests.support.equality import assert_equal

SETTINGS = ["w8a8", "w2afp"]


def _classifier() -> Classifier:
    seed_everything(0, verbose=False)
    return Classifier(CifarResNet(depth=8, num_classes=10, in_channels=1, width=4))


def _data() -> Digits:
    return Digits(train_size=128, val_size=40, range_estimation_size=64)


def _trainer(folder: Path, *callbacks: Callback, **kwargs: Any) -> Trainer:  # Any: the Trainer's own arguments
    checkpoint = [] if kwargs.get("barebones") else [ModelCheckpoint(folder / "checkpoints", save_last=True)]
    defaults: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": CSVLogger(folder, name="", version=""),
        "default_root_dir": folder,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "callbacks": [*callbacks, *checkpoint],
    }
    return Trainer(**(defaults | kwargs))


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which data each study would compare on; the studies themselves are left out."""
    seen: list[str] = []

    def note(self: Studies, _trainer: object, _module: object, split: str | None, _weights: object) -> None:
        seen.append(split or str(self.options.data.compared))

    monkeypatch.setattr(Studies, "_whole", note)
    return seen


class _Raises(Callback):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_end(self, *_args: object) -> None:
        raise self.error


def test_fit_leaves_the_record_the_logits_the_pictures_and_the_logged_figures(tmp_path: Path) -> None:
    callback = PostTrainingQuantization(SETTINGS, data="test")
    _trainer(tmp_path, callback).fit(_classifier(), datamodule=_data())
    record = read_record(tmp_path / "ptq")
    assert callback.folder == tmp_path / "ptq"
    assert record == callback.record
    assert list(record.settings) == SETTINGS
    assert record.context["data"]["split"] == "test"
    assert record.context["data"]["roles"]["test"]["size"] == record.context["num_images"] == 597
    assert record.context["range_estimation_images"] == 64
    assert record.context["versions"]["torch"] == torch.__version__
    assert read_logits(tmp_path / "ptq" / "logits.npz").settings["w2afp"].shape == (597, 10)
    assert {path.name for path in (tmp_path / "ptq" / "figures").iterdir()} >= {"reliability.png", "swaps.png"}
    with (tmp_path / "metrics.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if row.get("ptq/w2afp/accuracy")]
    assert float(row["ptq/w2afp/swap_rate"]) == pytest.approx(record.settings["w2afp"].swap_rate)
    assert record.float_scores is not None
    assert float(row["ptq/float/ece"]) == pytest.approx(record.float_scores.ece)


def test_the_float_row_is_what_the_trainer_measures(tmp_path: Path) -> None:
    callback = PostTrainingQuantization(["w8afp"], data="test")
    module, data = _classifier(), _data()
    trainer = _trainer(tmp_path, callback)
    trainer.fit(module, datamodule=data)
    (tested,) = trainer.test(module, datamodule=data, verbose=False)
    assert callback.record is not None
    for name in ("accuracy", "ece", "nll", "overconfidence"):
        assert getattr(callback.record.float_scores, name) == pytest.approx(tested[f"test/{name}"], abs=1e-6)


def test_val_is_the_default_and_is_what_fit_used(tmp_path: Path) -> None:
    callback = PostTrainingQuantization(["w8afp"], network="model")
    _trainer(tmp_path, callback).fit(_classifier(), datamodule=_data())
    assert callback.record is not None
    assert callback.record.context["num_images"] == 40
    assert callback.record.context["data"]["split"] == "val"
    assert callback.record.context["network"] == "CifarResNet"


def test_one_fit_gives_one_study_and_a_test_after_it_none(tmp_path: Path, studies: list[str]) -> None:
    trainer, module, data = _trainer(tmp_path, PostTrainingQuantization(SETTINGS)), _classifier(), _data()
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    assert studies == ["val"]
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, datamodule=data)
    assert studies == ["val", "val"]


def test_a_test_alone_studies_its_own_loader(tmp_path: Path, studies: list[str]) -> None:
    _trainer(tmp_path, PostTrainingQuantization(SETTINGS)).test(_classifier(), datamodule=_data(), verbose=False)
    assert studies == ["test"]


@pytest.mark.parametrize("kwargs", [{"max_epochs": 0}, {"fast_dev_run": True}])
def test_nothing_trained_means_no_study(kwargs: dict[str, Any], tmp_path: Path, studies: list[str]) -> None:
    _trainer(tmp_path, PostTrainingQuantization(SETTINGS), **kwargs).fit(_classifier(), datamodule=_data())
    assert studies == []


@pytest.mark.parametrize(
    ("error", "raised"), [(RuntimeError("diverged"), RuntimeError), (KeyboardInterrupt(), SystemExit)]
)
def test_a_run_that_broke_is_not_studied(
    error: BaseException, raised: type[BaseException], tmp_path: Path, studies: list[str]
) -> None:
    trainer = _trainer(tmp_path, PostTrainingQuantization(SETTINGS), _Raises(error))
    with pytest.raises(raised):
        trainer.fit(_classifier(), datamodule=_data())
    assert studies == []


def _run(folder: Path, *callbacks: Callback) -> tuple[LightningModule, dict[str, Any]]:
    module = _classifier()
    _trainer(folder, *callbacks).fit(module, datamodule=_data())
    python, numpy, generator = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  # the state a user's code may rely on
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    state = {"python": python, "numpy": numpy[1].tolist(), "torch": generator, "checkpoint": checkpoint}  # type: ignore[index]  # the legacy tuple, as asked for
    return module, state


def test_weights_checkpoints_optimizer_and_random_state_are_those_of_a_run_without_it(tmp_path: Path) -> None:
    plain, before = _run(tmp_path / "without")
    studied, after = _run(tmp_path / "with", PostTrainingQuantization(SETTINGS))
    assert (tmp_path / "with" / "ptq" / "records.json").exists()
    assert before["python"] == after["python"]
    assert before["numpy"] == after["numpy"]
    assert torch.equal(before["torch"], after["torch"])
    assert_equal(plain.state_dict(), studied.state_dict())
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_equal(before["checkpoint"][part], after["checkpoint"][part])
    assert plain.training == studied.training
    assert [p.requires_grad for p in plain.parameters()] == [p.requires_grad for p in studied.parameters()]
    assert not [module for module in studied.modules() if module._forward_hooks]


def _fail(*_args: object, **_kwargs: object) -> None:
    raise ValueError("no such quantizer")


def test_a_failed_study_is_told_and_training_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Studies, "_whole", _fail)
    with caplog.at_level(logging.ERROR):
        _trainer(tmp_path, PostTrainingQuantization(SETTINGS)).fit(_classifier(), datamodule=_data())
    assert "Training ended well, but its quantization study did not: no such quantizer" in caplog.text
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2


def test_a_failed_study_is_raised_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Studies, "_whole", _fail)
    with pytest.raises(ValueError, match="no such quantizer"):
        _trainer(tmp_path, PostTrainingQuantization(SETTINGS, on_error="raise")).fit(_classifier(), datamodule=_data())
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_an_earlier_record_in_the_folder_is_kept(tmp_path: Path) -> None:
    for _ in range(2):
        callback = PostTrainingQuantization(["w8afp"], output_dir=str(tmp_path / "out"))
        _trainer(tmp_path, callback, logger=False).fit(_classifier(), datamodule=_data())
    assert callback.folder == tmp_path / "out-2"
    assert read_record(tmp_path / "out").settings.keys() == read_record(tmp_path / "out-2").settings.keys()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PostTrainingQuantization([]), "one or more short forms, got"),
        (lambda: PostTrainingQuantization("w8a8"), "must be a list"),
        (lambda: PostTrainingQuantization(["w1a8"]), r"must be an integer in \[2, 8\]"),
        (lambda: PostTrainingQuantization(data="train"), "`data` must be one of 'val', 'test', got 'train'"),
        (lambda: PostTrainingQuantization(batch_to_inputs="qcal.nothing"), "dotted import path of a function, but:"),
        (lambda: PostTrainingQuantization(on_error="ignore"), "`on_error` must be one of"),  # type: ignore[arg-type]  # the mistake under test
    ],
)
def test_arguments_that_do_not_exist_are_refused(make: Callable[[], PostTrainingQuantization], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("logits", ["model.fc", "torch.log"])
def test_a_config_file_keeps_names_of_submodules_and_functions(logits: str) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(PostTrainingQuantization, "ptq")
    given = {"ptq": {"logits": logits, "batch_to_inputs": "operator.itemgetter", "network": "model.body+flatten+fc"}}
    config = parser.parse_object(given)
    written = parser.parse_string(parser.dump(config)).ptq
    assert {name: written[name] for name in given["ptq"]} == given["ptq"]
    callback = parser.instantiate_classes(config).ptq
    assert callback.finder.logits == logits
    assert callback.finder.batch_to_inputs is operator.itemgetter


def test_a_submodule_that_is_not_there_is_refused_before_training(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, PostTrainingQuantization(SETTINGS, network="backbone"))
    with pytest.raises(MisconfigurationException, match=r"got 'backbone'. Its direct submodules are: model, loss"):
        trainer.fit(_classifier(), datamodule=_data())
    assert trainer.global_step == 0


def test_the_callback_can_be_copied() -> None:
    assert copy.deepcopy(PostTrainingQuantization(SETTINGS)).settings == PostTrainingQuantization(SETTINGS).settings
