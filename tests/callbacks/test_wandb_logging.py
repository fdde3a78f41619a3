"""What a study leaves in a Weights & Biases run, read back from the file of an offline one."""

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from qcal.callbacks import PostTrainingQuantization, Uploads
from qcal.callbacks.record_logging import log_record
from qcal.callbacks.wandb_logging import WholeStudy
from qcal.callbacks.wandb_tables import swap_curve_table
from qcal.robustness import Comparison, Logits, Record, Scores, read_logits
from tests.callbacks.lightning_runs import fit, loader, make_trainer
from tests.support.wandb_file import WandbRun, read_run

SETTINGS = ["w8a8", "w4a8", "w3a8"]


def _study(folder: Path, logger: Any, *more: Any, epochs: int = 1, **options: Any) -> PostTrainingQuantization:
    """A fit with a study at its end."""
    uploads = options.pop("uploads", None)
    callback = PostTrainingQuantization(SETTINGS, output_dir=str(folder / "ptq"), on_error="raise", **options)
    callback.uploads = uploads or callback.uploads
    fit(make_trainer(folder, callback, *more, logger=logger, max_epochs=epochs, enable_checkpointing=bool(more)))
    return callback


def _read(folder: Path) -> WandbRun:
    wandb.finish()
    return read_run(folder)


def _table(folder: Path, run: WandbRun, key: str) -> list[dict[str, Any]]:
    """The rows of the one table that was logged under `key`."""
    (entry,) = [row[key] for row in run.history if key in row]
    (file,) = folder.rglob(entry["path"])
    content = json.loads(file.read_text())
    return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


def _artifacts(run: WandbRun) -> list[Any]:
    """All that were logged, but for those that wandb makes of tables."""
    return [artifact for artifact in run.artifacts if artifact.type != "run_table"]


def _record(swap_rate: float, damage: float | None, *names: str) -> Record:
    scores = Scores(accuracy=0.5, ece=0.1, overconfidence=0.1, mean_confidence=0.6, nll=1.0)
    comparison = Comparison(
        **asdict(scores),
        num_images=10,
        error_change=0.0,
        swap_rate=swap_rate,
        harmful=0.0,
        beneficial=0.0,
        neutral=swap_rate,
        damage_per_swap=damage,
        ties=0.0,
        swaps_by_tie=0.0,
        float_confidence_of_swapped=0.4 if swap_rate else None,
        float_confidence_of_unswapped=0.7,
    )
    context = {"weights": "last", "num_images": 10, "data": {"split": "val"}}
    return Record(scores, dict.fromkeys(names, comparison), context)


def _log(logger: WandbLogger, record: Record, folder: Path, *, epoch: int, whole: bool = True) -> None:
    rest = WholeStudy(folder) if whole else None
    assert log_record([logger], record, {}, step=10 * epoch, epoch=epoch, whole=rest) == []


def _never_turns_back(run: WandbRun) -> None:
    """Every metric's own axis only grows, and so does the run's own step, row by row."""
    steps = [row["_step"] for row in run.history]
    assert steps == sorted(set(steps))
    keys = {key for row in run.history for key in row if key in run.metrics and run.metrics[key].step_metric}
    assert keys
    for key in keys:
        axis = run.metrics[key].step_metric
        places = [row[axis] for row in run.history if key in row]
        assert places == sorted(set(places)), f"{key} over {axis}: {places}"


def test_figures_are_in_the_history_and_in_a_summary_that_sorts(tmp_path: Path, offline_wandb: WandbLogger) -> None:
    record = _study(tmp_path, offline_wandb).record
    assert record is not None
    run = _read(tmp_path)
    for name, comparison in record.settings.items():
        for figure, value in asdict(comparison).items():
            assert run.summary.get(f"ptq/{name}/{figure}") == value
    assert run.summary["ptq/float/accuracy"] == record.float_scores.accuracy  # type: ignore[union-attr]  # asserted by use
    assert run.summary["ptq/weights"] == "last"
    assert run.summary["ptq/split"] == "val"
    assert run.summary["ptq/num_images"] == 21
    assert "ptq/errors" not in run.summary
    (row,) = [row for row in run.history if "ptq/w4a8/swap_rate" in row]
    assert (row["ptq/epoch"], row["trainer/global_step"]) == (1, 3)
    assert not any("/epochs/" in key for row in run.history for key in row)


def test_curves_over_settings_have_their_own_axis(tmp_path: Path, offline_wandb: WandbLogger) -> None:
    record = _study(tmp_path, offline_wandb).record
    assert record is not None
    run = _read(tmp_path)
    rows = [row for row in run.history if "ptq/setting_index" in row]
    assert [row["ptq/setting_index"] for row in rows] == [0, 1, 2]
    assert [row["ptq/settings/weight_bits"] for row in rows] == [8, 4, 3]
    assert [row["ptq/settings/swap_rate"] for row in rows] == [each.swap_rate for each in record.settings.values()]
    definition = run.metrics["ptq/settings/swap_rate"]
    assert definition.step_metric == "ptq/setting_index"
    assert definition.summary.none
    assert run.metrics["ptq/setting_index"].options.hidden
    assert "ptq/settings/swap_rate" not in run.summary
    _never_turns_back(run)


def test_curves_over_training_have_their_own_axis_and_leave_the_summary_to_the_whole_study(
    tmp_path: Path, offline_wandb: WandbLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    original = wandb.Run.log

    def spy(self: Any, data: Any, step: Any = None, *args: Any, **kwargs: Any) -> None:
        given.append(step)
        original(self, data, step, *args, **kwargs)

    monkeypatch.setattr(wandb.Run, "log", spy)
    callback = _study(tmp_path, offline_wandb, epochs=3, every_n_epochs=1)
    run = _read(tmp_path)
    assert given
    assert set(given) == {None}
    rows = [row for row in run.history if "ptq/epochs/w3a8/swap_rate" in row]
    assert [row["ptq/epoch"] for row in rows] == [1, 2, 3]
    written = [row["swap_rate"] for row in callback.results.curve.rows if row["setting"] == "w3a8"]
    assert [row["ptq/epochs/w3a8/swap_rate"] for row in rows] == written
    definition = run.metrics["ptq/epochs/w3a8/swap_rate"]
    assert (definition.step_metric, definition.summary.none) == ("ptq/epoch", True)
    assert callback.record is not None
    assert run.summary["ptq/w3a8/swap_rate"] == callback.record.settings["w3a8"].swap_rate
    assert not any(key.startswith("ptq/epochs/") for key in run.summary)
    assert len([row for row in run.history if "ptq/w3a8/swap_rate" in row]) == 1
    assert "ptq/epochs" in run.summary  # the picture
    _never_turns_back(run)


def test_a_later_point_of_a_curve_does_not_touch_the_summary(tmp_path: Path, offline_wandb: WandbLogger) -> None:
    _log(offline_wandb, _record(0.2, 0.5, "w4a8"), tmp_path, epoch=1)
    _log(offline_wandb, _record(0.9, 0.1, "w4a8"), tmp_path, epoch=2, whole=False)
    run = _read(tmp_path)
    assert run.summary["ptq/w4a8/swap_rate"] == 0.2
    assert [row["ptq/epochs/w4a8/swap_rate"] for row in run.history if "ptq/epochs/w4a8/swap_rate" in row] == [0.9]


def test_a_second_study_takes_over_the_summary_and_leaves_nothing_of_the_first(
    tmp_path: Path, offline_wandb: WandbLogger
) -> None:
    offline_wandb.experiment.summary.update({"ptq/mine": 1, "val/accuracy": 0.5})
    first = replace(_record(0.2, 0.5, "w4a8", "w3a8"), errors={"w2a8": "ValueError: too few"})
    _log(offline_wandb, first, tmp_path, epoch=1)
    second = _record(0.0, None, "w4a8")
    _log(offline_wandb, second, tmp_path, epoch=2)
    run = _read(tmp_path)
    own = {key: value for key, value in run.summary.items() if key.startswith("ptq/w")}
    expected = {f"ptq/w4a8/{name}": value for name, value in asdict(second.settings["w4a8"]).items()}
    assert own == {key: value for key, value in expected.items() if value is not None} | {"ptq/weights": "last"}
    assert "ptq/w4a8/damage_per_swap" not in run.summary
    assert "ptq/errors" not in run.summary
    assert (run.summary["ptq/mine"], run.summary["val/accuracy"], run.summary["ptq/studies"]) == (1, 0.5, 2)
    assert [row["ptq/settings/swap_rate"] for row in run.history if "ptq/setting_index" in row] == [0.2, 0.2]
    assert [row["ptq/settings-2/swap_rate"] for row in run.history if "ptq/setting_index-2" in row] == [0.0]
    _never_turns_back(run)


def test_what_failed_is_in_the_summary(tmp_path: Path, offline_wandb: WandbLogger) -> None:
    record = replace(_record(0.2, 0.5, "w4a8"), errors={"w2a8": "ValueError: too few"})
    _log(offline_wandb, record, tmp_path, epoch=1)
    assert _read(tmp_path).summary["ptq/errors"] == "w2a8: ValueError: too few"


def test_the_table_of_settings_is_the_record(tmp_path: Path, offline_wandb: WandbLogger) -> None:
    record = _study(tmp_path, offline_wandb).record
    assert record is not None
    rows = _table(tmp_path, _read(tmp_path), "ptq/settings")
    assert [row.pop("setting") for row in rows] == SETTINGS
    assert [(row.pop("weight_bits"), row.pop("activation_bits")) for row in rows] == [(8, 8), (4, 8), (3, 8)]
    assert rows == [asdict(comparison) for comparison in record.settings.values()]


def test_the_swap_curves_are_those_of_the_logits(tmp_path: Path, offline_wandb: WandbLogger) -> None:
    _study(tmp_path, offline_wandb)
    rows = _table(tmp_path, _read(tmp_path), "ptq/swap_curves")
    logits = read_logits(tmp_path / "ptq" / "logits.npz")
    plain, target = logits.float.double().numpy(), logits.target.numpy()
    shifted = np.exp(plain - plain.max(axis=1, keepdims=True))
    confidence, before = shifted.max(axis=1) / shifted.sum(axis=1), plain.argmax(axis=1)
    runs = np.array_split(np.argsort(confidence, kind="stable"), 10)
    assert len(rows) == 10 * len(SETTINGS)
    for name in SETTINGS:
        after = logits.settings[name].numpy().argmax(axis=1)
        for place, images in enumerate(runs):
            (row,) = [row for row in rows if row["setting"] == name and row["bin"] == place]
            assert row["count"] == len(images)
            assert row["swap_rate"] == pytest.approx((before != after)[images].mean())
            assert row["float_accuracy"] == pytest.approx((before == target)[images].mean())
            assert row["quant_accuracy"] == pytest.approx((after == target)[images].mean())
            assert row["mean_score"] == pytest.approx(confidence[images].mean(), abs=1e-6)
            assert row["confidence_from"] <= confidence[images].min() + 1e-6
            assert row["confidence_to"] >= confidence[images].max() - 1e-6
            assert row["swap_low"] <= row["swap_rate"] <= row["swap_high"]


def test_there_are_no_more_bins_than_images() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.5, 0.0], [0.0, 1.0]])
    columns, rows = swap_curve_table(Logits(torch.tensor([0, 0, 1]), logits, {"w4a8": logits, "wfpa8": logits}))
    assert [row[columns.index("count")] for row in rows] == [1] * 6
    assert rows[3][:3] == ["wfpa8", None, 8]


def test_pictures_are_in_one_row_at_the_step_of_training(tmp_path: Path, offline_wandb: WandbLogger) -> None:
    _study(tmp_path, offline_wandb)
    run = _read(tmp_path)
    (row,) = [row for row in run.history if "ptq/swaps" in row]
    assert row["trainer/global_step"] == 3
    for name in ("ptq/swaps", "ptq/reliability"):
        assert row[name]["_type"] == "image-file"
        (file,) = tmp_path.rglob(row[name]["path"])
        assert file.read_bytes().startswith(b"\x89PNG")


def test_a_project_that_attached_the_callback_uploads_a_small_record_and_no_checkpoint(
    tmp_path: Path, offline_wandb: WandbLogger
) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "checkpoints", monitor="val_acc", mode="max")
    callback = _study(tmp_path, offline_wandb, checkpoint)
    assert Path(checkpoint.best_model_path).is_file()
    assert callback.record is not None
    run = _read(tmp_path)
    (artifact,) = _artifacts(run)
    assert (artifact.name, artifact.type) == (f"qcal-record-{run.id}", "qcal-record")
    contents = {entry.path: entry.size for entry in artifact.manifest.contents}
    pictures = {f"figures/{path.name}" for path in (tmp_path / "ptq" / "figures").glob("*.png")}
    assert set(contents) == {"records.json", "records.csv", "analysis.json"} | pictures
    assert pictures >= {"figures/reliability.png", "figures/swaps.png"}
    for path, size in contents.items():
        assert size == (tmp_path / "ptq" / path).stat().st_size
    metadata = json.loads(artifact.metadata)
    assert metadata["settings"] == SETTINGS
    assert metadata["weights_sha256"] == callback.record.context["weights_sha256"]


def test_logits_are_uploaded_where_they_are_asked_for_and_all_studies_are_versions_of_one(
    tmp_path: Path, offline_wandb: WandbLogger
) -> None:
    options: dict[str, Any] = {"on_error": "raise", "in_test": "always", "range_estimation": loader(16, seed=2)}
    callback = PostTrainingQuantization(["w4a8"], output_dir=str(tmp_path / "ptq"), **options)
    callback.uploads = Uploads(("logits",))
    trainer = make_trainer(tmp_path, callback, logger=offline_wandb)
    module = fit(trainer)
    trainer.test(module, loader(16, seed=3), verbose=False)
    run = _read(tmp_path)
    assert [artifact.name for artifact in _artifacts(run)] == [f"qcal-logits-{run.id}"] * 2
    assert [[entry.path for entry in artifact.manifest.contents] for artifact in _artifacts(run)] == [
        ["logits.npz"]
    ] * 2
    assert len({artifact.digest for artifact in _artifacts(run)}) == 2
    assert run.summary["ptq/split"] == "test"
    assert run.summary["ptq/num_images"] == 16


def test_what_is_too_large_stays_and_is_told_of(
    tmp_path: Path, offline_wandb: WandbLogger, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        _study(tmp_path, offline_wandb, uploads=Uploads(("record",), limit_mb=0.001))
    assert _artifacts(_read(tmp_path)) == []
    (message,) = [entry.getMessage() for entry in caplog.records if "stays" in entry.getMessage()]
    assert "more than the 0.001 MB" in message
    assert "--wandb.upload_limit_mb" in message


def test_several_loaders_have_keys_tables_and_artifacts_of_their_own(
    tmp_path: Path, offline_wandb: WandbLogger
) -> None:
    callback = PostTrainingQuantization(
        ["w4a8"], {"clean": loader(16, seed=3), "dark images": loader(12, seed=4)}, output_dir=str(tmp_path / "ptq")
    )
    fit(make_trainer(tmp_path, callback, logger=offline_wandb))
    run = _read(tmp_path)
    for name, record in callback.results.records.items():
        assert run.summary[f"ptq/{name}/w4a8/nll"] == record.settings["w4a8"].nll
        assert len(_table(tmp_path, run, f"ptq/{name}/swap_curves")) == 10
    assert [artifact.name for artifact in _artifacts(run)] == [
        f"qcal-record-{run.id}-clean",
        f"qcal-record-{run.id}-dark-images",
    ]
    _never_turns_back(run)


def test_a_run_that_is_disabled_takes_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    callback = _study(tmp_path, WandbLogger(save_dir=tmp_path, mode="disabled"), uploads=Uploads(("record", "logits")))
    wandb.finish()
    wandb.teardown()
    assert callback.record is not None


def test_a_run_that_fails_leaves_the_other_loggers_theirs(tmp_path: Path) -> None:
    class Broken(WandbLogger):
        @property
        def experiment(self) -> Any:
            raise OSError("no run")

    csv, record = CSVLogger(tmp_path, name="", version=""), _record(0.2, 0.5, "w4a8")
    rest = WholeStudy(tmp_path)
    failures = log_record([Broken(save_dir=tmp_path), csv], record, {}, step=3, epoch=1, whole=rest)
    csv.save()
    assert {str(failure) for failure in failures} == {"no run"}
    assert "ptq/w4a8/swap_rate" in (tmp_path / "metrics.csv").read_text()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Uploads(("weights",)), "must be among 'record', 'logits', 'checkpoint', got 'weights'"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: Uploads(limit_mb=0), "positive number of megabytes, got 0"),
        (lambda: Uploads(limit_mb=float("nan")), "positive number of megabytes, got nan"),
    ],
)
def test_uploads_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
