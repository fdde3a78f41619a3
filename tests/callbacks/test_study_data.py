"""What a study reads: the loaders that were used, those of a copy of the data module, or those that were passed."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from qcal.callbacks import PostTrainingQuantization
from qcal.robustness import Record, read_logits, read_noise_logits, read_record
from tests.callbacks.lightning_runs import Lit, fit, images_and_labels, loader, make_trainer

NO_VAL_LOOP = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


class _Data(LightningDataModule):
    """Writes down what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def setup(self, stage: str) -> None:
        self.calls.append(f"setup {_plain(stage)}")
        self.stage = stage

    def train_dataloader(self) -> Any:
        return loader(24, seed=0, shuffle=True)

    def val_dataloader(self) -> Any:
        return loader(21, seed=1)

    def test_dataloader(self) -> Any:
        assert _plain(self.stage) == "test"
        return loader(13, seed=2)

    def teardown(self, stage: str) -> None:
        self.calls.append(f"teardown {_plain(stage)}")


def _plain(stage: str) -> str:
    """Lightning passes a member of an enumeration of strings."""
    return str(getattr(stage, "value", stage))


def _num_images(record: Record | None) -> int:
    assert record is not None
    count: int = record.context["num_images"]
    return count


def test_val_is_compared_on_and_test_is_never_touched(tmp_path: Path) -> None:
    data, callback = _Data(), PostTrainingQuantization(["w8a8"], on_error="raise")
    make_trainer(tmp_path, callback).fit(Lit(), datamodule=data)
    assert _num_images(callback.record) == 21
    assert callback.record is not None
    assert callback.record.context["data"]["split"] == "val"
    assert callback.record.context["data"]["range_estimation"].startswith("24 of 24 training images")
    assert data.calls == ["setup fit", "teardown fit"]


def test_the_test_split_comes_from_a_copy_of_the_data_module(tmp_path: Path) -> None:
    data, callback = _Data(), PostTrainingQuantization(["w8a8"], data="test", on_error="raise")
    make_trainer(tmp_path, callback).fit(Lit(), datamodule=data)
    assert _num_images(callback.record) == 13
    assert _plain(data.stage) == "fit"
    assert data.calls == ["setup fit", "setup test", "teardown test", "teardown fit"]  # the list is shared


def test_a_test_split_that_cannot_be_found_is_refused_before_training(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, PostTrainingQuantization(["w8a8"], data="test"))
    with pytest.raises(MisconfigurationException, match="asks for the test split, but the trainer was given no test"):
        fit(trainer)
    assert trainer.global_step == 0


@NO_VAL_LOOP
def test_a_fit_without_val_images_is_refused_before_training(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, PostTrainingQuantization(["w8a8"]))
    with pytest.raises(MisconfigurationException, match=r"asks for the val split.*`data=`, a loader"):
        trainer.fit(Lit(), loader(24, seed=0))
    assert trainer.global_step == 0


@NO_VAL_LOOP
def test_a_loader_that_is_passed_is_compared_on(tmp_path: Path) -> None:
    callback = PostTrainingQuantization(["w8a8"], data=loader(17, seed=4), on_error="raise")
    make_trainer(tmp_path, callback).fit(Lit(), loader(24, seed=0))
    assert _num_images(callback.record) == 17
    assert callback.record is not None
    assert callback.record.context["data"]["split"] == "loaders that were passed"


@NO_VAL_LOOP
def test_several_loaders_give_several_records_with_their_names(tmp_path: Path) -> None:
    data = {"clean": loader(17, seed=4), "noisy": loader(9, seed=5)}
    callback = PostTrainingQuantization(["w8a8"], data=data, on_error="raise")
    make_trainer(tmp_path, callback, csv=True).fit(Lit(), loader(24, seed=0))
    assert {name: _num_images(record) for name, record in callback.results.records.items()} == {"clean": 17, "noisy": 9}
    assert len(read_logits(tmp_path / "ptq" / "noisy" / "logits.npz")) == 9
    assert read_record(tmp_path / "ptq" / "clean").context["loader"] == "clean"
    assert (tmp_path / "ptq" / "noisy" / "figures" / "swaps.png").is_file()
    with (tmp_path / "metrics.csv").open() as file:
        names = next(csv.reader(file))
    assert {"ptq/clean/w8a8/swap_rate", "ptq/noisy/w8a8/swap_rate"} <= set(names)


def test_several_val_loaders_of_the_fit_are_numbered(tmp_path: Path) -> None:
    callback = PostTrainingQuantization(["w8a8"], on_error="raise")
    trainer = make_trainer(tmp_path, callback)
    trainer.fit(Lit(), loader(24, seed=0), [loader(21, seed=1), loader(10, seed=2)])
    assert {name: _num_images(record) for name, record in callback.results.records.items()} == {
        "dataloader_0": 21,
        "dataloader_1": 10,
    }


class _Stream(IterableDataset[Any]):
    def __init__(self, size: int, seed: int) -> None:
        self.images, self.labels = images_and_labels(size, seed)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.images, self.labels, strict=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_streams_without_a_length_are_read(workers: int, tmp_path: Path) -> None:
    callback = PostTrainingQuantization(["w8a8"], on_error="raise", range_estimation_size=10)
    train, val = (DataLoader(_Stream(size, seed), 8, num_workers=workers) for size, seed in ((24, 0), (21, 1)))
    make_trainer(tmp_path, callback).fit(Lit(), train, val)
    assert _num_images(callback.record) == 21
    assert callback.record is not None
    assert callback.record.context["range_estimation_images"] == 16
    assert callback.record.context["data"]["range_estimation"] == "the first 10 images of the training loader as it is"


def test_ranges_may_come_from_a_loader_of_their_own(tmp_path: Path) -> None:
    callback = PostTrainingQuantization(["w8a8"], range_estimation=loader(11, seed=7), on_error="raise")
    fit(make_trainer(tmp_path, callback))
    assert callback.record is not None
    assert callback.record.context["range_estimation_images"] == 11


def test_images_for_recalibration_are_measured_beside(tmp_path: Path) -> None:
    callback = PostTrainingQuantization(["w8a8"], recalibration=loader(12, seed=7), on_error="raise")
    fit(make_trainer(tmp_path, callback))
    assert callback.record is not None
    assert callback.record.context["recalibration_images"] == 12
    assert callback.record.context["data"]["recalibration"] == "the loader that was passed as `recalibration=`"


@pytest.mark.parametrize(
    ("arguments", "trainer_arguments", "expected"),
    [
        ({"max_batches": 2}, {}, 16),
        ({}, {"limit_val_batches": 1}, 8),
        ({}, {"limit_val_batches": 0.5}, 8),
        ({"max_batches": 1}, {"limit_val_batches": 2}, 8),
        ({}, {"limit_val_batches": 1.0}, 21),
    ],
)
def test_batches_are_limited_by_the_callback_and_by_the_trainer(
    arguments: dict[str, Any], trainer_arguments: dict[str, Any], expected: int, tmp_path: Path
) -> None:
    callback = PostTrainingQuantization(["w8a8"], on_error="raise", **arguments)
    fit(make_trainer(tmp_path, callback, **trainer_arguments))
    assert _num_images(callback.record) == expected


def test_training_batches_of_another_form_are_refused_before_training(tmp_path: Path) -> None:
    class TwoViews(Lit):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            (first, second), labels = batch
            return super().training_step((first, labels), batch_idx) + super().training_step((second, labels), 0)

    pairs = [((image, image), label) for image, label in zip(*images_and_labels(16, 0), strict=True)]
    trainer = make_trainer(tmp_path, PostTrainingQuantization(["w8a8"]))
    with pytest.raises(MisconfigurationException, match="Or pass `range_estimation=`, a loader of training images"):
        trainer.fit(TwoViews(), DataLoader(pairs, 8), loader(21, seed=1))  # type: ignore[arg-type]  # a list is a data set
    assert trainer.global_step == 0
    callback = PostTrainingQuantization(["w8a8"], range_estimation=loader(16, seed=0), on_error="raise")
    make_trainer(tmp_path, callback).fit(TwoViews(), DataLoader(pairs, 8), loader(21, seed=1))  # type: ignore[arg-type]  # as above
    assert _num_images(callback.record) == 21


def test_training_batches_with_other_labels_serve_for_ranges(tmp_path: Path) -> None:
    class Mixes(Lit):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            images, (labels, others, share) = batch
            loss = super().training_step((images, labels), batch_idx)
            total: Tensor = share.float().mean() * loss + super().training_step((images, others), batch_idx)
            return total

    mixed = [(image, (label, label, 0.5)) for image, label in zip(*images_and_labels(16, 0), strict=True)]
    callback = PostTrainingQuantization(["w8a8"], on_error="raise")
    make_trainer(tmp_path, callback).fit(Mixes(), DataLoader(mixed, 8), loader(21, seed=1))  # type: ignore[arg-type]  # a list is a data set
    assert _num_images(callback.record) == 21
    noise = read_noise_logits(tmp_path / "ptq" / "logits.npz")
    assert noise is not None
    assert noise.target.tolist() == [-1] * 16


def test_a_network_that_cannot_be_observed_is_refused_before_training(tmp_path: Path) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.head = nn.LSTM(24, 8, batch_first=True), nn.Linear(8, 4)

        def forward(self, images: Tensor) -> Tensor:
            outputs, _ = self.rows(images.transpose(1, 2).flatten(2))
            logits: Tensor = self.head(outputs[:, -1])
            return logits

    module = Lit()
    module.model = Recurrent()  # type: ignore[assignment]  # another network
    trainer = make_trainer(tmp_path, PostTrainingQuantization(["w8a8"]))
    with pytest.raises(MisconfigurationException, match=r"`rows` returns several tensors.*placement='modules'"):
        fit(trainer, module)
    assert trainer.global_step == 0


@pytest.mark.parametrize("split", ["validate", "test"])
def test_an_evaluation_alone_is_studied_on_its_own_loaders(split: str, tmp_path: Path) -> None:
    callback = PostTrainingQuantization(["w8a8"], on_error="raise", range_estimation=loader(24, seed=0))
    trainer: Trainer = make_trainer(tmp_path, callback)
    getattr(trainer, split)(Lit(), loader(13, seed=2), verbose=False)
    assert _num_images(callback.record) == 13
    assert callback.record is not None
    assert callback.record.context["weights"] == "those the module came with"


def test_an_evaluation_without_training_images_says_what_to_pass(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_trainer(tmp_path, PostTrainingQuantization(["w8a8"])).test(Lit(), loader(13, seed=2), verbose=False)
    assert "Pass `range_estimation=`, a loader over a thousand of them" in caplog.text
    assert "The evaluation ended well" in caplog.text
    assert torch.get_default_dtype() == torch.float32
