"""Two and three processes measure what one does, count every image once, and fail together."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from qcal.callbacks import PostTrainingQuantization, TemperatureScaling
from qcal.robustness import Record, read_logits, read_record
from tests.callbacks.lightning_runs import StillLit, loader, make_trainer
from tests.support.equality import assert_equal

SETTINGS = ["w8a8", "w4a4-mse", "w4a8-ema", "w3a8-bc"]


class _OwnStatistics(Callback):
    """Running statistics that differ between processes, as they do after training on images of their own."""

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        with torch.no_grad():
            pl_module.model[1].running_mean += 0.1 * trainer.global_rank


def _fit(folder: Path, processes: int, callback: Callback, *more: Callback, **kwargs: Any) -> None:
    trainer = make_trainer(folder, *more, callback, strategy="ddp_fork", devices=processes, **kwargs)
    trainer.fit(StillLit(), loader(24, seed=0, batch_size=4), loader(21, seed=1, batch_size=4))


def _comparable(record: Record) -> dict[str, Any]:
    """A record without what names the run: times, devices, weights that training on shares would change."""
    context = {name: value for name, value in record.context.items() if name not in ("created", "seconds", "processes")}
    content = {"float": record.float_scores, "settings": record.settings, "errors": record.errors, "context": context}
    loaded: dict[str, Any] = json.loads(json.dumps(content, default=vars))
    loaded["context"].pop("global_step")
    return loaded


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_give_the_record_of_one(processes: int, tmp_path: Path) -> None:
    for name, count in (("one", 1), ("several", processes)):
        callback = PostTrainingQuantization(SETTINGS, on_error="raise", recalibration=loader(11, seed=3, batch_size=4))
        _fit(tmp_path / name, count, callback)
    one, several = (read_record(tmp_path / name / "ptq") for name in ("one", "several"))
    assert several.context["processes"] == processes
    assert several.context["num_images"] == 21
    assert several.context["recalibration_images"] == 11
    assert _comparable(one) == _comparable(several)
    ours, theirs = (read_logits(tmp_path / name / "ptq" / "logits.npz") for name in ("one", "several"))
    assert torch.equal(ours.target, theirs.target)
    assert torch.equal(ours.float, theirs.float)
    assert_equal(ours.settings, theirs.settings)


def test_the_first_processes_weights_are_measured_by_all(tmp_path: Path) -> None:
    for name, count in (("one", 1), ("several", 2)):
        _fit(tmp_path / name, count, PostTrainingQuantization(SETTINGS, on_error="raise"), _OwnStatistics())
    one, several = (read_record(tmp_path / name / "ptq") for name in ("one", "several"))
    assert several.context["weights_sha256"] == one.context["weights_sha256"]
    assert _comparable(one) == _comparable(several)


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    _fit(tmp_path, 2, PostTrainingQuantization(["w8a8"], on_error="raise"))
    assert [path.name for path in tmp_path.iterdir()] == ["ptq"]
    assert {path.name for path in (tmp_path / "ptq").iterdir()} == {
        "analysis.json",
        "records.json",
        "records.csv",
        "logits.npz",
        "figures",
    }


def test_the_temperature_is_that_of_one_process(tmp_path: Path) -> None:
    kept = []
    for name, count in (("one", 1), ("several", 2)):
        saving = ModelCheckpoint(tmp_path / name, filename="last")
        scaling = TemperatureScaling(network="model", on_error="raise")
        _fit(tmp_path / name, count, scaling, _OwnStatistics(), saving, enable_checkpointing=True)
        content = torch.load(tmp_path / name / "last.ckpt", weights_only=True)["callbacks"]
        kept.append(content["TemperatureScaling"])
    assert kept[0]["num_images"] == 21
    assert kept[0] == kept[1]


class _FailsInOne(PostTrainingQuantization):
    """The second process cannot find its data."""

    def on_fit_end(self, trainer: Any, pl_module: LightningModule) -> None:
        if trainer.global_rank == 1:
            trainer.strategy.batch_to_device = _no_disk
        super().on_fit_end(trainer, pl_module)


def _no_disk(*_args: object, **_kwargs: object) -> None:
    raise OSError("the disk of this node is gone")


def test_a_failure_in_one_process_is_one_in_all_and_none_waits(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="the disk of this node is gone"):
        _fit(tmp_path / "raise", 2, _FailsInOne(["w8a8"], on_error="raise"))
    checkpoint = ModelCheckpoint(tmp_path / "warn" / "checkpoints", filename="last")
    _fit(tmp_path / "warn", 2, _FailsInOne(["w8a8"]), checkpoint, enable_checkpointing=True)
    assert (tmp_path / "warn" / "checkpoints" / "last.ckpt").is_file()
    assert "the disk of this node is gone" in json.dumps(read_record(tmp_path / "warn" / "ptq").errors)


def test_a_network_is_refused_in_all_processes_alike(tmp_path: Path) -> None:
    callback = PostTrainingQuantization(["w8a8-keep=nothing.like.it"], on_error="raise")
    with pytest.raises(Exception, match=r"cannot study this network.*nothing\.like\.it"):
        _fit(tmp_path, 2, callback)


def test_strategies_that_divide_the_network_are_refused() -> None:
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from qcal.callbacks.processes import processes_of

    class FSDPStrategy:
        pass

    class Sharded:
        strategy, global_rank, world_size = FSDPStrategy(), 0, 2

    with pytest.raises(MisconfigurationException, match="needs the whole network on each device, got FSDPStrategy"):
        processes_of(Sharded())  # type: ignore[arg-type]  # as much of a trainer as is asked
