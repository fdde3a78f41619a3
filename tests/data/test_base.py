import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

import qcal.data
from qcal.data import ImageDataModule, Images
from qcal.data.roles import PoolName, Role, RoleName


class Stripes(ImageDataModule):
    """60 train and 20 test images whose first pixel is the image's number; counts how often a pool is read."""

    def __init__(
        self, *, channels: int = 1, test_classes: tuple[str, ...] = ("a", "b", "c"), test_size: int = 6, **common: Any
    ) -> None:  # Any: the base's typed arguments
        sizes: dict[str, Any] = {"val_size": 10, "recalibration_size": 8, "range_estimation_size": 12}  # Any: as above
        super().__init__(mean=(0.0,), std=(1.0,), **{**sizes, **common})
        self.channels, self.test_classes, self.test_size = channels, test_classes, test_size
        self.reads: list[PoolName] = []

    def load(self, pool: PoolName) -> Images:
        self.reads.append(pool)
        count, size = (60, 6) if pool == "train" else (20, self.test_size)
        x = torch.ones(count, self.channels, size, size)
        x[:, :, 0, 0] = torch.arange(count)[:, None].float()
        return Images(x, torch.arange(count) % 3, ("a", "b", "c") if pool == "train" else self.test_classes)


def numbers(batches: Any) -> list[int]:  # Any: a loader of any kind
    return [int(number) for x, _ in batches for number in x[:, 0, 0, 0]]


def test_loaders_serve_the_images_of_their_role_in_its_order() -> None:
    data = Stripes(batch_size=7)
    loaders = {
        "val": data.val_dataloader(),
        "test": data.test_dataloader(),
        "recalibration": data.recalibration_dataloader(),
        "range_estimation": data.range_estimation_dataloader(),
    }
    for name, loader in loaders.items():
        assert numbers(loader) == data.roles[name].indices.tolist()  # type: ignore[index]  # a name of a role
    assert numbers(data.test_dataloader()) == list(range(20))


def test_labels_stay_with_their_images() -> None:
    for x, y in Stripes(batch_size=7, augment=False).train_dataloader():
        assert (x[:, 0, 0, 0].long() % 3).equal(y)
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)


def test_training_images_are_shuffled_anew_each_epoch() -> None:
    data = Stripes(batch_size=42, augment=False)
    loader = data.train_dataloader()
    first, second = numbers(loader), numbers(loader)
    assert first != second
    assert sorted(first) == sorted(second) == sorted(data.roles["train"].indices.tolist())


def test_only_training_images_are_augmented_and_only_if_asked() -> None:
    data = Stripes(batch_size=42)
    assert bool((next(iter(data.train_dataloader()))[0] == 0).any())  # zeros moved in
    plain = Stripes(batch_size=42, augment=False)
    untouched = [plain.train_dataloader(), data.val_dataloader(), data.range_estimation_dataloader()]
    for loader in [*untouched, data.recalibration_dataloader(), data.test_dataloader()]:
        for x, _ in loader:
            assert bool((x[:, :, 1:] == 1).all())


@pytest.mark.parametrize(("batch_size", "batches"), [(10, [10] * 4), (42, [42]), (43, [42]), (500, [42])])
def test_the_last_batch_is_dropped_unless_it_is_the_only_one(batch_size: int, batches: list[int]) -> None:
    assert [len(y) for _, y in Stripes(batch_size=batch_size).train_dataloader()] == batches


def test_evaluation_has_its_own_batch_size_and_drops_nothing() -> None:
    data = Stripes(batch_size=5, eval_batch_size=8)
    assert [len(y) for _, y in data.test_dataloader()] == [8, 8, 4]


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("cuda", True), ("mps", False)])
def test_memory_is_pinned_only_for_a_cuda_device(device: str, pinned: bool) -> None:
    data = Stripes()
    assert not data.test_dataloader().pin_memory
    # Stands for a trainer: only where it runs matters here, and there may be no such device.
    trainer: Any = SimpleNamespace(
        world_size=1, strategy=SimpleNamespace(root_device=torch.device(device))
    )  # Any: as said
    data.trainer = trainer
    assert data.test_dataloader().pin_memory == pinned


@pytest.mark.parametrize(
    ("stage", "reads"),
    [("fit", ["train", "test"]), ("validate", ["train"]), ("test", ["test"]), (None, ["train", "test"])],
)
def test_setup_reads_what_the_stage_needs_and_only_once(stage: str | None, reads: list[str]) -> None:
    data = Stripes()
    data.setup(stage)
    data.setup(stage)
    assert data.reads == reads
    data.test_dataloader()
    data.range_estimation_dataloader()  # needs the train pool, after a setup for testing too
    data.setup(None)
    assert sorted(data.reads) == ["test", "train"]


def test_what_is_known_after_setup() -> None:
    data = Stripes()
    data.setup()
    assert (data.num_classes, data.classes, data.input_shape) == (3, ("a", "b", "c"), (1, 6, 6))
    assert (data.mean, data.std) == ((0.0,), (1.0,))
    assert {name: role.size for name, role in data.roles.items()} == {
        "train": 42,
        "val": 10,
        "recalibration": 8,
        "range_estimation": 12,
        "test": 20,
    }


def test_number_of_classes_is_known_before_setup_from_the_smaller_pool() -> None:
    data = Stripes()
    assert data.num_classes == 3
    assert data.reads == ["test"]


def test_described_roles_are_plain_json_and_tell_runs_apart() -> None:
    def described(**arguments: Any) -> dict[str, dict[str, int | str]]:  # Any: of the base
        data = Stripes(**arguments)
        data.setup()
        roles = data.describe_roles()
        assert json.loads(json.dumps(roles)) == roles
        return roles

    first = described()
    assert first == described()
    assert {name: (role["pool"], role["size"]) for name, role in first.items()} == {
        "train": ("train", 42),
        "val": ("train", 10),
        "recalibration": ("train", 8),
        "range_estimation": ("train", 12),
        "test": ("test", 20),
    }
    assert first["train"]["pool_sha256"] == first["val"]["pool_sha256"] != first["test"]["pool_sha256"]
    assert described(split_seed=1)["val"]["sha256"] != first["val"]["sha256"]
    shorter = described(train_size=20)
    assert (shorter["train"]["size"], shorter["val"]) == (20, first["val"])


def test_a_subclass_whose_roles_leak_is_refused_and_nothing_is_kept() -> None:
    class Leaking(Stripes):
        def assign(self, pool: PoolName, size: int) -> dict[RoleName, Role]:
            roles = super().assign(pool, size)
            return {**roles, "val": Role("val", "train", roles["train"].indices[:3])}

    data = Leaking()
    with pytest.raises(ValueError, match="`train` and `val` must not share an image, got 3 shared"):
        data.setup("fit")
    assert data.roles == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test_classes": ("a", "c", "b")}, "same classes in the same order, got 3 and 3, first at 'b' and 'c'. Store"),
        ({"test_classes": ("a", "b", "c", "d")}, "same classes in the same order, got 3 and 4. Store"),
        ({"test_size": 8}, r"one shape \(C, H, W\), got \(1, 6, 6\) and \(1, 8, 8\)\. Resize"),
        ({"channels": 3}, "one number a channel, got 1 for the 3 channels of the train images. Pass 3"),
        ({"val_size": 60}, r"must leave images to train on, got 60 \+ 8 of a train pool of 60\. Lower"),
        ({"train_size": 10}, "`range_estimation_size` must be at most 10, .* got 12. Lower"),
    ],
)
def test_pools_that_do_not_fit_are_refused_before_training(arguments: dict[str, Any], message: str) -> None:
    data = Stripes(**arguments)
    with pytest.raises(ValueError, match=message):
        data.setup("fit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1, got 0. Pass"),
        ({"eval_batch_size": 0}, "`eval_batch_size` must be an integer of at least 1, got 0. Pass"),
        ({"val_size": 0}, "`val_size` must be an integer of at least 1, got 0. Pass"),
        ({"train_size": 0}, "`train_size` must be an integer of at least 1, got 0. Pass"),
        ({"num_workers": -1}, "`num_workers` must be an integer of at least 0, got -1. Pass"),
        ({"split_seed": -1}, "`split_seed` must be an integer of at least 0, got -1. Pass"),
    ],
)
def test_impossible_sizes_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stripes(**arguments)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5,), (0.2, 0.2), "one number a channel each, got 1 and 2. Pass"),
        ((), (), "one number a channel each, got 0 and 0. Pass"),
        ((0.5,), (0.0,), r"`std` above 0, got mean=\(0.5,\) and std=\(0.0,\)\. Measure"),
        ((float("nan"),), (1.0,), r"`mean` must be finite .*got mean=\(nan,\)"),
    ],
)
def test_impossible_moments_are_refused(mean: tuple[float, ...], std: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        qcal.data.NpzImages(root=".", mean=mean, std=std)


def test_base_arguments_reach_every_data_module_through_the_command_line() -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(ImageDataModule, "data")
    for name in ("Digits", "CIFAR10", "CIFAR100", "NpzImages", "ImageFolder", "ImageNet"):
        needed = [] if name in ("Digits", "CIFAR10", "CIFAR100") else ["--data.root=x"]
        needed += ["--data.mean=[0.5]", "--data.std=[0.2]"] if name == "NpzImages" else []
        common = ["--data.batch_size=3", "--data.train_size=9", "--data.split_seed=4", "--data.num_workers=0"]
        config = parser.parse_args([f"--data=qcal.data.{name}", *needed, *common])
        assert config.data.class_path == f"qcal.data.{name}"
        data = getattr(qcal.data, name)(**config.data.init_args.as_dict())
        assert (data.batch_size, data.train_size, data.split_seed, data.num_workers) == (3, 9, 4, 0)


class Recorder(pl.LightningModule):
    """Writes which images each process trains and tests on."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.net = nn.Linear(1, 3)

    def note(self, step: str, x: Tensor) -> None:
        with (self.folder / f"{step}-{self.global_rank}").open("a") as file:
            file.write("".join(f"{int(number)}\n" for number in x[:, 0, 0, 0]))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        self.note("train", x)
        return nn.functional.cross_entropy(self.net(x.mean((2, 3))), y)

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.note("val", batch[0])

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.note("test", batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def quiet_trainer(**arguments: Any) -> pl.Trainer:  # Any: whatever a trainer takes
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(accelerator="cpu", max_epochs=1, num_sanity_val_steps=0, **{**quiet, **arguments})


def seen(folder: Path, step: str) -> list[list[int]]:
    files = sorted(folder.glob(f"{step}-*"))
    return [[int(line) for line in file.read_text().split()] for file in files]


# With more than two cores Lightning advises more workers, which images in memory do not need; and it uses a part of
# torch that torch deprecates.
lightning_talks = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers:",
    "ignore:.*treespec, LeafSpec.*:",
)


@lightning_talks
def test_a_trainer_trains_and_tests_on_the_roles(tmp_path: Path) -> None:
    data = Stripes(batch_size=21, augment=False)
    trainer = quiet_trainer(devices=1)
    model = Recorder(tmp_path)
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data, verbose=False)
    assert seen(tmp_path, "val") == [data.roles["val"].indices.tolist()]
    assert sorted(seen(tmp_path, "train")[0]) == sorted(data.roles["train"].indices.tolist())
    assert seen(tmp_path, "test") == [list(range(20))]
    assert data.reads == ["train", "test"]


@lightning_talks
# Python 3.12 warns of any fork beside threads; Lightning advises against exact figures from several devices.
@pytest.mark.filterwarnings(
    "ignore:.*multi-threaded, use of fork:DeprecationWarning", "ignore:.*recommended to use.*devices=1:"
)
def test_two_processes_share_the_images_between_them(tmp_path: Path) -> None:
    data = Stripes(batch_size=30, augment=False)  # more than half of the 42, so that dropping would leave no batch
    trainer = quiet_trainer(devices=2, strategy="ddp_fork")
    trainer.fit(Recorder(tmp_path), datamodule=data)
    trainer.test(Recorder(tmp_path), datamodule=data, verbose=False)
    trained, tested = seen(tmp_path, "train"), seen(tmp_path, "test")
    assert [len(part) for part in trained] == [21, 21]
    data.setup("fit")
    assert sorted(trained[0] + trained[1]) == sorted(data.roles["train"].indices.tolist())
    assert sorted(tested[0] + tested[1]) == list(range(20))
