"""When a study runs, and when it does not."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.tuner.tuning import Tuner

from qcal.callbacks import PostTrainingQuantization
from qcal.robustness import read_record
from tests.callbacks.lightning_runs import Lit, fit, loader, make_trainer

RANGES = {"range_estimation": loader(16, seed=0)}


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("ptq"))


@pytest.mark.parametrize(("in_test", "expected"), [("alone", 1), ("always", 3), ("never", 1)])
def test_a_test_and_a_validation_after_a_fit_are_studied_if_asked(in_test: Any, expected: int, tmp_path: Path) -> None:
    callback = PostTrainingQuantization(["w8a8"], in_test=in_test, on_error="raise", **RANGES)
    trainer = make_trainer(tmp_path, callback)
    module = fit(trainer)
    trainer.test(module, loader(9, seed=5), verbose=False)
    trainer.validate(module, loader(7, seed=6), verbose=False)
    assert len(_folders(tmp_path)) == expected
    assert read_record(tmp_path / "ptq").context["num_images"] == 21
    if expected == 3:
        assert read_record(tmp_path / "ptq-2").context["num_images"] == 9
        assert read_record(tmp_path / "ptq-3").context["num_images"] == 7


def test_never_means_that_an_evaluation_alone_is_not_studied(tmp_path: Path) -> None:
    callback = PostTrainingQuantization(["w8a8"], in_test="never", **RANGES)
    make_trainer(tmp_path, callback).test(Lit(), loader(9, seed=5), verbose=False)
    assert _folders(tmp_path) == []


def test_every_n_epochs_gives_a_curve_that_ends_with_the_record(tmp_path: Path) -> None:
    callback = PostTrainingQuantization(["w8a8", "w3a8"], every_n_epochs=2, on_error="raise")
    fit(make_trainer(tmp_path, callback, max_epochs=5, csv=True))
    with (tmp_path / "ptq" / "epochs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["setting"]) for row in rows] == [
        (epoch, setting) for epoch in ("2", "4", "5") for setting in ("float", "w8a8", "w3a8")
    ]
    record = read_record(tmp_path / "ptq")
    assert float(rows[-1]["swap_rate"]) == record.settings["w3a8"].swap_rate
    assert rows[0]["accuracy"] != rows[-3]["accuracy"] or rows[0]["nll"] != rows[-3]["nll"]
    assert (tmp_path / "ptq" / "figures" / "epochs.png").is_file()
    with (tmp_path / "metrics.csv").open() as file:
        logged = [row["step"] for row in csv.DictReader(file) if row.get("ptq/w3a8/swap_rate")]
    assert logged == ["6", "12", "15"]
    assert _folders(tmp_path) == ["ptq"]


def test_a_curve_moves_no_weight_and_no_random_number(tmp_path: Path) -> None:
    states = []
    for name, more in (("without", []), ("with", [PostTrainingQuantization(["w4a4"], every_n_epochs=1)])):
        torch.manual_seed(3)
        module = fit(make_trainer(tmp_path / name, *more, max_epochs=3))
        states.append((module.state_dict(), torch.get_rng_state()))
    assert (tmp_path / "with" / "ptq" / "epochs.csv").is_file()
    assert torch.equal(states[0][1], states[1][1])
    assert all(torch.equal(value, states[1][0][name]) for name, value in states[0][0].items())


def test_fast_dev_run_tries_every_setting_and_writes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        fit(make_trainer(tmp_path, PostTrainingQuantization(["w8a8", "w4a8-mse"]), fast_dev_run=True))
    assert "every setting ran on one batch" in caplog.text
    assert _folders(tmp_path) == []


def test_fast_dev_run_raises_what_the_night_would_have_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qcal.quantization import Plan

    def fails(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(Plan, "run_batch", fails)
    with pytest.raises(RuntimeError, match="no such kernel"):
        fit(make_trainer(tmp_path, PostTrainingQuantization(["w8a8"]), fast_dev_run=True))


class _Tunable(Lit):
    def __init__(self) -> None:
        super().__init__()
        self.lr = 0.05
        self.batch_size = 4

    def train_dataloader(self) -> Any:
        return loader(24, seed=0, batch_size=self.batch_size)

    def val_dataloader(self) -> Any:
        return loader(21, seed=1)


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_searches_for_a_rate_or_a_batch_size_are_not_studied(tmp_path: Path) -> None:
    callback = PostTrainingQuantization(["w8a8"], on_error="raise")
    module = _Tunable()
    trainer = make_trainer(tmp_path, callback)
    tuner = Tuner(trainer)
    tuner.lr_find(module, num_training=4)
    tuner.scale_batch_size(module, max_trials=1, steps_per_trial=1)
    assert callback.record is None
    assert _folders(tmp_path) == []
    trainer.fit(module)
    assert callback.record is not None


def test_a_fit_with_a_search_inside_is_studied_once(tmp_path: Path) -> None:
    callback = PostTrainingQuantization(["w8a8"], on_error="raise")
    trainer = make_trainer(tmp_path, LearningRateFinder(num_training_steps=3), callback, enable_checkpointing=True)
    trainer.fit(_Tunable())
    assert _folders(tmp_path) == ["ptq"]


class _StopsAt(Callback):
    def on_train_batch_end(self, trainer: Any, *_args: object) -> None:
        trainer.should_stop = trainer.global_step >= 2


@pytest.mark.parametrize(
    "ending",
    [
        {"callbacks": [EarlyStopping("val_loss", patience=1, min_delta=100.0)], "max_epochs": 6},
        {"callbacks": [_StopsAt()], "max_epochs": 6},
        {"max_time": {"seconds": 2}, "max_epochs": -1},
        {"max_steps": 4, "max_epochs": -1},
        {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5},
        {"check_val_every_n_epoch": 2, "max_epochs": 3},
        {"val_check_interval": 0.5},
        {"num_sanity_val_steps": 0},
        {"inference_mode": False},
    ],
)
def test_a_fit_that_ends_in_its_own_way_is_studied(ending: dict[str, Any], tmp_path: Path) -> None:
    callback = PostTrainingQuantization(["w8a8"], on_error="raise")
    more = ending.pop("callbacks", [])
    fit(make_trainer(tmp_path, callback, *more, **ending))
    assert callback.record is not None
    assert callback.record.context["num_images"] == 21


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # its own ModelCheckpoint is not needed here
def test_a_resumed_run_is_studied_and_a_finished_one_is_not(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path / "checkpoints", filename="last")
    fit(make_trainer(tmp_path, saving, enable_checkpointing=True))
    path = str(tmp_path / "checkpoints" / "last.ckpt")

    def resume(epochs: int) -> PostTrainingQuantization:
        callback = PostTrainingQuantization(["w8a8"], on_error="raise")
        trainer = make_trainer(tmp_path / str(epochs), callback, max_epochs=epochs)
        trainer.fit(Lit(), loader(24, seed=0), loader(21, seed=1), ckpt_path=path)
        return callback

    assert resume(1).record is None
    resumed = resume(2).record
    assert resumed is not None
    assert resumed.context["global_step"] == 6


@pytest.mark.parametrize("error", [RuntimeError("diverged"), KeyboardInterrupt()])
def test_nothing_is_studied_when_the_fit_breaks(error: BaseException, tmp_path: Path) -> None:
    class Breaks(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: LightningModule, *_args: object) -> None:
            if trainer.global_step == 2:
                raise error

    callback = PostTrainingQuantization(["w8a8"])
    with pytest.raises((RuntimeError, SystemExit)):
        fit(make_trainer(tmp_path, callback, Breaks()))
    assert callback.record is None
    assert _folders(tmp_path) == []
