"""Activation ranges on several devices: each process runs its share of the images, and all have the ranges of one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from qcal.callbacks import PostTrainingQuantization
from qcal.quantization import Plan, Setting
from qcal.robustness import read_logits, read_record
from tests.callbacks.lightning_runs import StillLit, images_and_labels, loader, make_trainer
from tests.support.equality import assert_equal

SETTINGS = ["w8a4", "w8a4-ema", "w8a4-pct99", "w8a4-mse", "w8a4-kl", "w4a4-cle-ema", "w4a4-bc", "w4a4-cle-bc-mse"]
# What differs between two runs whatever they measured.
OF_THE_RUN = ("created", "seconds", "processes", "global_step")


def _fit(folder: Path, processes: int, ranges: Any, settings: list[str] = SETTINGS, on_error: Any = "raise") -> None:
    callback = PostTrainingQuantization(settings, range_estimation=ranges, on_error=on_error)
    trainer = make_trainer(folder, callback, strategy="ddp_fork", devices=processes)
    trainer.fit(StillLit(), loader(12, seed=0, batch_size=4), loader(9, seed=1, batch_size=4))


def _assert_same_study(one: Path, several: Path) -> None:
    ours, theirs = (read_record(folder / "ptq") for folder in (one, several))
    for record in (ours, theirs):
        assert record.errors == {}
        for name in OF_THE_RUN:
            record.context.pop(name)
    assert json.dumps(ours, default=vars) == json.dumps(theirs, default=vars)
    first, second = (read_logits(folder / "ptq" / "logits.npz") for folder in (one, several))
    assert torch.equal(first.float, second.float)
    assert list(first.settings) == [str(Setting.parse(text)) for text in SETTINGS]
    assert_equal(first.settings, second.settings)


def _rank() -> int:
    return torch.distributed.get_rank()


def _keep_what_is_observed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Every process writes how many passes of the network its ranges took, and what they became."""
    observe, make_ready = Plan.observe, Plan.make_ready

    def counted(self: Plan, *args: Any, **kwargs: Any) -> None:
        passes: list[int] = []
        hook = self.network.register_forward_hook(lambda *_: passes.append(1))
        observe(self, *args, **kwargs)
        hook.remove()
        (folder / f"passes-{_rank()}").write_text(str(len(passes)))

    def kept(self: Plan, *args: Any, **kwargs: Any) -> None:
        self.save(folder / f"plan-{_rank()}")  # what it observed, as it is when settings begin to use it
        make_ready(self, *args, **kwargs)

    monkeypatch.setattr(Plan, "observe", counted)
    monkeypatch.setattr(Plan, "make_ready", kept)


@pytest.mark.parametrize(("processes", "images", "passes"), [(2, 19, [3, 2]), (3, 19, [2, 2, 1]), (3, 7, [1, 1, 0])])
def test_each_process_runs_its_share_and_the_study_is_that_of_one(
    processes: int, images: int, passes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = loader(images, seed=5, batch_size=4)
    for name, count in (("one", 1), ("several", processes)):
        (tmp_path / name).mkdir()
        with monkeypatch.context() as patch:
            _keep_what_is_observed(patch, tmp_path / name)
            _fit(tmp_path / name, count, ranges)
    assert [int((tmp_path / "several" / f"passes-{rank}").read_text()) for rank in range(processes)] == passes
    assert (tmp_path / "one" / "passes-0").read_text() == str(sum(passes))
    expected = (tmp_path / "one" / "plan-0" / "plan.json").read_text()  # it holds the hash of all that was observed
    for rank in range(processes):
        assert (tmp_path / "several" / f"plan-{rank}" / "plan.json").read_text() == expected
    _assert_same_study(tmp_path / "one", tmp_path / "several")


def test_memory_that_runs_out_in_one_process_makes_the_pieces_of_all_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe = Plan.observe

    def fits_two_in_the_last(self: Plan, images: Any, *, batch_size: int = 2, **kwargs: Any) -> None:
        if batch_size > 2 and _rank() == torch.distributed.get_world_size() - 1:
            next(iter(images))
            raise torch.OutOfMemoryError("CUDA out of memory")
        observe(self, images, batch_size=batch_size, **kwargs)

    monkeypatch.setattr(Plan, "observe", fits_two_in_the_last)
    ranges = loader(11, seed=5, batch_size=4)
    for name, count in (("one", 1), ("several", 2)):
        _fit(tmp_path / name, count, ranges)
    assert read_record(tmp_path / "several" / "ptq").context["images_at_a_time"] == 2
    _assert_same_study(tmp_path / "one", tmp_path / "several")


def _overflowing_in_the_second_batch() -> DataLoader[tuple[Tensor, ...]]:
    images, labels = images_and_labels(11, seed=5)
    images[5] = 3e38
    return DataLoader(TensorDataset(images, labels), 4)


def test_an_activation_that_overflows_in_one_process_fails_in_all(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="Activations must be finite to estimate their range, got NaN or infinity"):
        _fit(tmp_path / "raise", 2, _overflowing_in_the_second_batch(), ["w8a8-ema"])
    _fit(tmp_path / "warn", 2, _overflowing_in_the_second_batch(), ["w8a8-ema"], on_error="warn")
    (message,) = read_record(tmp_path / "warn" / "ptq").errors.values()
    assert "failed in another process of the run. rank 1: ValueError" in message
    assert "Activations must be finite to estimate their range, got NaN or infinity at" in message


class _LosesItsDisk(PostTrainingQuantization):
    """The second process loses its images after some batches of the range estimation."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_rank == 1:
            moved, calls = trainer.strategy.batch_to_device, []

            def batch_to_device(*args: Any, **kwargs: Any) -> Any:
                calls.append(1)
                if len(calls) > 3:
                    raise OSError("the disk of this node is gone")
                return moved(*args, **kwargs)

            trainer.strategy.batch_to_device = batch_to_device  # type: ignore[method-assign]  # of this process alone
        super().on_fit_end(trainer, pl_module)


def test_images_that_are_lost_midway_in_one_process_end_the_study_in_all(tmp_path: Path) -> None:
    callback = _LosesItsDisk(["w8a8"], range_estimation=loader(40, seed=5, batch_size=4))
    trainer = make_trainer(tmp_path, callback, strategy="ddp_fork", devices=2)
    trainer.fit(StillLit(), loader(12, seed=0, batch_size=4), loader(9, seed=1, batch_size=4))
    (message,) = read_record(tmp_path / "ptq").errors.values()
    assert "rank 1: OSError: the disk of this node is gone" in message
