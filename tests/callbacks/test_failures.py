"""Whatever fails after training, training has ended well, what was measured is written, and one error says what."""

import csv
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.fx import GraphModule
from torch.utils.data import DataLoader, IterableDataset

import qcal.callbacks.studies
import qcal.callbacks.study_runner
from qcal.callbacks import PostTrainingQuantization
from qcal.quantization import Plan, Setting
from qcal.robustness import read_logits, read_record
from tests.callbacks.lightning_runs import Lit, fit, images_and_labels, loader, make_trainer


def _fails(*_args: object, **_kwargs: object) -> Any:
    raise RuntimeError("out of luck")


def _fit(folder: Path, callback: PostTrainingQuantization, **kwargs: Any) -> None:
    saving = ModelCheckpoint(folder / "checkpoints", filename="last")
    fit(make_trainer(folder, callback, saving, enable_checkpointing=True, **kwargs))
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3


def _errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


def test_a_grid_that_cannot_be_prepared_leaves_a_record_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Plan, "observe", _fails)
    _fit(tmp_path, PostTrainingQuantization(["w8a8"]))
    record = read_record(tmp_path / "ptq")
    assert record.float_scores is None
    assert record.errors == {"study": "RuntimeError: out of luck"}
    assert record.context["weights"] == "last"
    assert _errors(caplog) == ["Training ended well, but its quantization study did not: out of luck"]


def test_one_setting_that_fails_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_ready = Plan.make_ready

    def fails_for_one(self: Plan, settings: list[Setting], **kwargs: Any) -> None:
        if "w4a8-bc" in map(str, settings):
            _fails()
        make_ready(self, settings, **kwargs)

    monkeypatch.setattr(Plan, "make_ready", fails_for_one)
    _fit(tmp_path, PostTrainingQuantization(["w8a8", "w4a8-bc", "w4a8"]))
    record = read_record(tmp_path / "ptq")
    assert list(record.settings) == ["w8a8", "w4a8"]
    assert record.errors == {"w4a8-bc": "out of luck"}
    assert len(_errors(caplog)) == 1


class _Broken(IterableDataset[Any]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(*images_and_labels(16, seed=1), strict=True)
        raise OSError("the disk went away")


def test_images_that_end_in_an_error_leave_what_was_measured_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _fit(tmp_path, PostTrainingQuantization(["w8a8"], data=DataLoader(_Broken(), 8)))
    record = read_record(tmp_path / "ptq")
    assert record.context["num_images"] == 16
    assert record.errors == {"evaluate": "the disk went away"}
    assert len(read_logits(tmp_path / "ptq" / "logits.npz")) == 16
    assert _errors(caplog) == ["Training ended well, but its quantization study did not: the disk went away"]


def test_a_picture_that_fails_costs_neither_record_nor_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(qcal.callbacks.study_runner, "save_pictures", _fails)
    _fit(tmp_path, PostTrainingQuantization(["w8a8"]), logger=CSVLogger(tmp_path, name="", version=""))
    assert list(read_record(tmp_path / "ptq").settings) == ["w8a8"]
    with (tmp_path / "metrics.csv").open() as file:
        assert any(row.get("ptq/w8a8/swap_rate") for row in csv.DictReader(file))
    assert len(_errors(caplog)) == 1


def test_a_logger_that_fails_costs_the_others_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Unreachable(CSVLogger):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            if any(name.startswith("ptq") for name in metrics):
                _fails()

    loggers = [Unreachable(tmp_path / "a", name="", version=""), CSVLogger(tmp_path / "b", name="", version="")]
    _fit(tmp_path, PostTrainingQuantization(["w8a8"], output_dir=str(tmp_path / "ptq")), logger=loggers)
    with (tmp_path / "b" / "metrics.csv").open() as file:
        assert any(row.get("ptq/w8a8/swap_rate") for row in csv.DictReader(file))
    assert list(read_record(tmp_path / "ptq").settings) == ["w8a8"]
    assert len(_errors(caplog)) == 1


def test_a_folder_that_cannot_be_written_is_told_and_training_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    callback = PostTrainingQuantization(["w8a8"], output_dir=str(tmp_path / "file" / "ptq"))
    _fit(tmp_path, callback)
    assert any("Training ended well" in message for message in _errors(caplog))
    assert callback.record is not None  # measured, though not written


def test_on_request_failures_are_raised_after_everything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qcal.callbacks.study_runner, "save_pictures", _fails)
    with pytest.raises(RuntimeError, match="out of luck"):
        _fit(tmp_path, PostTrainingQuantization(["w8a8"], on_error="raise"))
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    assert list(read_record(tmp_path / "ptq").settings) == ["w8a8"]


def test_memory_that_runs_out_is_met_with_smaller_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run_batch = Plan.run_batch

    def fits_two(self: Plan, settings: Any, images: Tensor, **kwargs: Any) -> Any:
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run_batch(self, settings, images, **kwargs)

    monkeypatch.setattr(Plan, "run_batch", fits_two)
    _fit(tmp_path, PostTrainingQuantization(["w8a8"]))
    record = read_record(tmp_path / "ptq")
    assert record.context["num_images"] == 21
    assert record.context["images_at_a_time"] == 2
    assert not record.errors
    assert "Memory ran out: images were run 2 at a time." in caplog.text


def test_a_failing_epoch_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Plan, "observe", _fails)
    trainer = make_trainer(tmp_path, PostTrainingQuantization(["w8a8"], every_n_epochs=1), max_epochs=2)
    trainer.fit(Lit(), loader(24, seed=0), loader(21, seed=1))
    assert trainer.global_step == 6
    assert _errors(caplog)[0].startswith("Training goes on, but the quantization study after epoch 1 failed")


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_a_study_stays_in_memory(fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if fails:
        monkeypatch.setattr(Plan, "run_batch", _fails)
        # pytest keeps what is logged, with the traceback and its frames.
        monkeypatch.setattr(qcal.callbacks.studies.log, "disabled", True)
    before = _networks()
    fit(make_trainer(tmp_path, PostTrainingQuantization(["w8a8", "w4a8-cle"])))
    assert _networks() <= before


def _networks() -> set[int]:
    """Plans and graphs that are alive; by type, as asking any object for its class can run code of its own."""
    gc.collect()
    return {id(each) for each in gc.get_objects() if {Plan, GraphModule} & set(type(each).__mro__)}
