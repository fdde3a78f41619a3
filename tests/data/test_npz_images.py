from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qcal.data import NpzImages

SMALL: dict[str, Any] = {  # Any: arguments of several types
    "mean": (0.5,) * 3,
    "std": (0.25,) * 3,
    "val_size": 2,
    "recalibration_size": 2,
    "range_estimation_size": 3,
}
CLASSES = np.array(["ant", "bee", "cat"])


def pixels(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)


def write(folder: Path, name: str, **changed: Any) -> None:  # Any: whatever is to be written, right or wrong
    arrays = {"x": pixels(6), "y": np.arange(6) % 3, "classes": CLASSES, **changed}
    np.savez(folder / name, **{key: value for key, value in arrays.items() if value is not None})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "train_1.npz", x=pixels(6, seed=1))
    write(tmp_path, "train_0.npz", x=pixels(4, seed=0), y=np.array([2, 2, 1, 0]))
    write(tmp_path, "test.npz", x=pixels(6, seed=2))
    return tmp_path


def test_shards_of_a_pattern_are_joined_by_name_and_channels_come_first(folder: Path) -> None:
    data = NpzImages(root=folder, train="train_*.npz", test="test.npz", **SMALL)
    data.setup()
    images = data.load("train")
    expected = np.concatenate([pixels(4, seed=0), pixels(6, seed=1)]).transpose(0, 3, 1, 2)
    assert np.array_equal(images.x.numpy(), expected)
    assert images.x.is_contiguous()
    assert images.y.tolist() == [2, 2, 1, 0, 0, 1, 2, 0, 1, 2]
    assert (data.classes, data.num_classes, data.input_shape) == (("ant", "bee", "cat"), 3, (3, 4, 5))


def test_listed_shards_keep_the_order_of_the_list(folder: Path) -> None:
    data = NpzImages(root=folder, train=["train_1.npz", "train_0.npz"], test=None, **SMALL)
    assert data.load("train").y.tolist() == [0, 1, 2, 0, 1, 2, 2, 2, 1, 0]


def test_the_test_loader_yields_the_images_of_the_file_in_order(folder: Path) -> None:
    data = NpzImages(root=folder, train=None, test="test.npz", batch_size=4, **SMALL)
    batches = list(data.test_dataloader())
    x, y = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    expected = (pixels(6, seed=2).astype(np.float32) / 255 - 0.5) / 0.25
    assert np.allclose(x.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-6)
    assert y.tolist() == [0, 1, 2, 0, 1, 2]


def test_a_missing_pool_is_an_error_only_when_it_is_needed(folder: Path) -> None:
    only_test = NpzImages(root=folder, train=None, test="test.npz", **SMALL)
    only_test.setup("test")
    only_test.setup(None)
    with pytest.raises(ValueError, match=r"asked for train images, got `train` null\. Name their files in `train`"):
        only_test.range_estimation_dataloader()
    with pytest.raises(ValueError, match="asked for train images, got `train` null"):
        only_test.setup("fit")
    only_train = NpzImages(root=folder, train="train_*.npz", test=None, **SMALL)
    only_train.setup("fit")
    assert only_train.num_classes == 3
    with pytest.raises(ValueError, match=r"asked for test images, got `test` null\. Name"):
        only_train.test_dataloader()


@pytest.mark.parametrize("names", [None, [], ""])
def test_no_pool_at_all_is_refused(names: list[str] | str | None, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"needs `train`, `test` or both, got neither\. Name"):
        NpzImages(root=folder, train=names, test=None, **SMALL)


def test_float_images_are_taken_as_they_are(folder: Path) -> None:
    write(folder, "float.npz", x=pixels(6).astype(np.float32) / 255)
    data = NpzImages(root=folder, train=None, test="float.npz", **SMALL)
    x, _ = next(iter(data.test_dataloader()))
    assert np.allclose(x.numpy(), ((pixels(6) / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2), atol=1e-6)


def test_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    data = NpzImages(root=tmp_path / "nowhere", **SMALL)
    with pytest.raises(
        FileNotFoundError, match=r"`root` must be a folder .*got '.*nowhere', .*\(seen from .*\)\. Correct"
    ):
        data.setup("fit")


def test_a_file_that_is_not_there_names_those_that_are(folder: Path) -> None:
    data = NpzImages(root=folder, train="trains_*.npz", **SMALL)
    with pytest.raises(FileNotFoundError, match=r"called 'trains_\*\.npz'; there is: test\.npz, train_0\.npz.*Correct"):
        data.setup("fit")


def test_a_test_file_that_is_not_there_shows_before_training(folder: Path) -> None:
    data = NpzImages(root=folder, train="train_*.npz", test="tset.npz", **SMALL)
    with pytest.raises(FileNotFoundError, match=r"called 'tset\.npz'"):
        data.setup("fit")


def test_a_file_named_twice_is_refused(folder: Path) -> None:
    data = NpzImages(root=folder, train=["train_0.npz", "train_*.npz"], **SMALL)
    with pytest.raises(ValueError, match=r"must be named once, got train_0\.npz, train_\*\.npz.*Drop"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": pixels(6)[..., 0]}, ValueError, r"`x` must have shape \(N, H, W, C\), got \(6, 4, 5\)\. Add"),
        ({"x": pixels(6).astype(np.int64)}, TypeError, r"`x` must be uint8 .*float32.*, got int64\. Convert"),
        ({"y": np.arange(6, dtype=np.int32) % 3}, TypeError, r"`y` must be int64, got int32\. Convert"),
        ({"y": np.arange(6)}, ValueError, r"labels must lie in \[0, 3\), .*got 0 to 5\. Renumber"),
        ({"y": np.arange(6) % 3 - 1}, ValueError, r"labels must lie in \[0, 3\), .*got -1 to 1\. Renumber"),
        ({"y": np.arange(5) % 3}, ValueError, r"same length, got 6 and 5\. Store"),
        ({"y": np.zeros((6, 3), dtype=np.int64)}, ValueError, r"`y` must have shape \(N,\), got \(6, 3\)\. Pass"),
        ({"y": np.int64(1)}, ValueError, r"`y` must have shape \(N,\), got \(\)\. Pass"),
        ({"x": pixels(0), "y": np.arange(0)}, ValueError, r"at least 1 image, got an empty split\. Point"),
        ({"classes": np.arange(3)}, TypeError, r"`classes` must be strings .*got int64 of shape \(3,\)\. Store"),
        ({"classes": None}, ValueError, r"must hold the arrays x, y and classes, got x, y\. Write"),
        ({"classes": CLASSES.astype(object)}, ValueError, r"cannot be read: Object arrays .*without object arrays"),
        ({"x": np.full((6, 4, 5, 3), np.nan, np.float32)}, ValueError, r"finite, got NaN .* in 6 of 6 images\. Remove"),
    ],
)
def test_bad_arrays_are_refused_before_training(
    changed: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    write(tmp_path, "test.npz", **changed)
    data = NpzImages(root=tmp_path, train=None, test="test.npz", **SMALL)
    with pytest.raises(error, match=message):
        data.setup("test")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"classes": CLASSES[::-1]}, "must have the same classes, got another in b.npz than in a.npz. Write"),
        ({"x": pixels(6)[:, :3]}, "must have the same image shape, got another in b.npz than in a.npz. Write"),
        ({"x": pixels(6).astype(np.float32)}, "must have the same dtype, got another in b.npz than in a.npz. Write"),
    ],
)
def test_shards_that_do_not_belong_together_are_refused(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path, "a.npz")
    write(tmp_path, "b.npz", **changed)
    data = NpzImages(root=tmp_path, train=None, test="*.npz", **SMALL)
    with pytest.raises(ValueError, match=message):
        data.setup("test")


def test_a_file_cut_short_or_of_another_kind_is_refused(folder: Path) -> None:
    whole = (folder / "test.npz").read_bytes()
    np.save(folder / "array.npy", pixels(2))
    contents = {"cut.npz": whole[: len(whole) // 2], "empty.npz": b"", "array.npz": (folder / "array.npy").read_bytes()}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        data = NpzImages(root=folder, train=None, test=name, **SMALL)
        with pytest.raises(ValueError, match=rf"{name}: must be a complete \.npz file .*Copy or write it again"):
            data.setup("test")


def test_crop_and_flip_can_be_turned_off(folder: Path) -> None:
    data = NpzImages(root=folder, train="train_*.npz", test=None, crop_padding=0, flip=False, **SMALL)
    data.setup("fit")
    changed, kept = (data.dataset("train", augmented=augmented).__getitems__([0, 1]).x for augmented in (True, False))
    assert changed.equal(kept)
    with pytest.raises(ValueError, match=r"`crop_padding` must be an integer of at least 0, got -1\. Pass"):
        NpzImages(root=folder, crop_padding=-1, **SMALL)


@pytest.mark.slow
def test_cifar100_is_read_from_its_shards(data_dir: Path) -> None:
    data = NpzImages(
        root=data_dir,
        train="cifar100_train_*.npz",
        test="cifar100_test.npz",
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
    )
    data.setup()
    train, test = data.pool("train"), data.pool("test")
    assert train.y.bincount().tolist() == [500] * 100
    assert test.y.bincount().tolist() == [100] * 100
    assert (data.num_classes, data.input_shape, data.classes[:2]) == (100, (3, 32, 32), ("apple", "aquarium_fish"))
    assert {name: role.size for name, role in data.roles.items()} == {
        "train": 45000,
        "val": 2500,
        "recalibration": 2500,
        "range_estimation": 1024,
        "test": 10000,
    }
    batches = list(data.test_dataloader())
    with np.load(data_dir / "cifar100_test.npz") as file:
        assert np.array_equal(torch.cat([y for _, y in batches]).numpy(), file["y"])
        raw = torch.cat([x for x, _ in batches[:2]]) * torch.tensor(data.std).view(3, 1, 1)
        raw = (raw + torch.tensor(data.mean).view(3, 1, 1)) * 255
        assert np.array_equal(raw.round().to(torch.uint8).permute(0, 2, 3, 1).numpy(), file["x"][:256])
    seen = data.dataset("train").__getitems__(list(range(0, 45000, 9))).x
    assert seen.mean().item() == pytest.approx(0, abs=0.02)
    assert seen.std().item() == pytest.approx(1, abs=0.02)
