"""Figures go to every logger, pictures to those that take pictures."""

import csv
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger

from qcal.callbacks import PostTrainingQuantization
from qcal.callbacks.record_logging import flat_metrics
from qcal.robustness import Record
from tests.callbacks.lightning_runs import fit, make_trainer


def _record(folder: Path, logger: Any) -> Record:
    callback = PostTrainingQuantization(["w8a8", "w4a8"], output_dir=str(folder / "ptq"), on_error="raise")
    fit(make_trainer(folder, callback, logger=logger))
    assert callback.record is not None
    return callback.record


def test_undefined_figures_are_left_out_and_the_prefix_is_taken() -> None:
    assert flat_metrics(Record(None, {}), "mine") == {}


@pytest.mark.oracle
def test_tensorboard_gets_scalars_and_pictures_at_the_step_of_training(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="its files are read with its own reader"
    )
    record = _record(tmp_path, TensorBoardLogger(tmp_path, name="", version=""))
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    (scalar,) = events.Scalars("ptq/w4a8/swap_rate")
    assert scalar.value == pytest.approx(record.settings["w4a8"].swap_rate)
    assert scalar.step == 3
    assert set(events.Tags()["images"]) >= {"ptq/swaps", "ptq/reliability"}
    (picture,) = events.Images("ptq/swaps")
    assert picture.encoded_image_string.startswith(b"\x89PNG")
    assert picture.step == 3


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of MLflow, about its own file store
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what MLflow imports
def test_mlflow_gets_figures_as_metrics_and_pictures_as_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="its own client reads what was logged")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger(experiment_name="test", tracking_uri=(tmp_path / "mlruns").as_uri())
    record = _record(tmp_path, logger)
    run = logger.experiment.get_run(logger.run_id)
    assert run.data.metrics["ptq/w4a8/swap_rate"] == pytest.approx(record.settings["w4a8"].swap_rate)
    artifacts = {item.path for item in logger.experiment.list_artifacts(logger.run_id, "ptq")}
    assert artifacts >= {"ptq/swaps.png", "ptq/reliability.png"}


@pytest.mark.oracle
def test_several_loggers_get_the_same_and_the_pictures_stay_open(tmp_path: Path) -> None:
    loggers = [
        TensorBoardLogger(tmp_path / "board", name="", version=""),
        CSVLogger(tmp_path / "csv", name="", version=""),
    ]
    record = _record(tmp_path, loggers)
    with (tmp_path / "csv" / "metrics.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if row.get("ptq/w4a8/swap_rate")]
    assert float(row["ptq/w4a8/swap_rate"]) == pytest.approx(record.settings["w4a8"].swap_rate)
    assert (tmp_path / "ptq" / "figures" / "swaps.svg").is_file()


def test_without_a_logger_everything_is_in_files(tmp_path: Path) -> None:
    _record(tmp_path, False)
    assert {path.name for path in (tmp_path / "ptq").iterdir()} == {
        "analysis.json",
        "records.json",
        "records.csv",
        "logits.npz",
        "figures",
    }
