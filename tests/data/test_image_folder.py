from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qcal.data import ImageFolder, Images
from qcal.data.image_files import center_decode, find_image_files, random_decode

SMALL: dict[str, Any] = {  # Any: arguments of several types
    "image_size": 8,
    "resize_size": 10,
    "batch_size": 4,
    "val_size": 2,
    "recalibration_size": 2,
    "range_estimation_size": 3,
    "num_workers": 0,
}


def picture(seed: int, width: int = 24, height: int = 16) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def fill(folder: Path, name: str, count: int, *, suffix: str = "png", seed: int = 0) -> None:
    (folder / name).mkdir(parents=True)
    for number in range(count):
        picture(seed + number).save(folder / name / f"{number:02d}.{suffix}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part, counts, seed in (("train", (7, 5), 0), ("val", (2, 3), 50)):
        for name, count in zip(("cat", "dog"), counts, strict=True):
            fill(tmp_path / part, name, count, seed=seed)
    return tmp_path


def test_roles_classes_and_shape(root: Path) -> None:
    data = ImageFolder(root=root, **SMALL)
    data.setup()
    assert (data.num_classes, data.classes, data.input_shape) == (2, ("cat", "dog"), (3, 8, 8))
    assert {name: role.size for name, role in data.roles.items()} == {
        "train": 8,
        "val": 2,
        "recalibration": 2,
        "range_estimation": 3,
        "test": 5,
    }
    assert data.pool("train").y.tolist() == [0] * 7 + [1] * 5


def test_test_images_are_scaled_cropped_and_normalised_in_the_order_of_their_names(root: Path) -> None:
    data = ImageFolder(root=root, **SMALL)
    batches = list(data.test_dataloader())
    assert torch.cat([y for _, y in batches]).tolist() == [0, 0, 1, 1, 1]
    raw = np.asarray(picture(50).resize((15, 10), Image.Resampling.BILINEAR).crop((4, 1, 12, 9)), dtype=np.float32)
    expected = (raw / 255 - np.array(data.mean, np.float32)) / np.array(data.std, np.float32)
    assert np.allclose(batches[0][0][0].permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_training_images_change_from_epoch_to_epoch_and_range_estimation_images_do_not(root: Path) -> None:
    data = ImageFolder(root=root, **SMALL)
    augmented, plain = data.dataset("train", augmented=True), data.dataset("train")
    assert not augmented[0][0].equal(augmented[0][0])
    assert plain[0][0].equal(plain[0][0])
    x, _ = next(iter(data.range_estimation_dataloader()))
    assert x[0].equal(plain[0][0])  # the head of train, decoded as for testing


def test_all_image_modes_and_suffixes_become_rgb_and_deeper_folders_are_found(tmp_path: Path) -> None:
    fill(tmp_path, "a", 2, suffix="JPEG")
    fill(tmp_path, "b/deeper", 1)
    picture(0).convert("L").save(tmp_path / "b" / "grey.png")
    picture(0).convert("RGBA").save(tmp_path / "b" / "transparent.png")
    picture(0).convert("P").save(tmp_path / "b" / "palette.bmp")
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / ".cache").mkdir()
    files = find_image_files(tmp_path, decode=center_decode(resize_size=8, image_size=8), shape=(3, 8, 8))
    assert files.classes == ("a", "b")
    assert files.y.tolist() == [0, 0, 1, 1, 1, 1]
    x = files.read(torch.arange(6))
    assert (x.shape, x.dtype) == ((6, 3, 8, 8), torch.uint8)


def test_random_decoding_gives_parts_of_the_right_size() -> None:
    decode = random_decode(image_size=6)
    results = [decode(picture(1)) for _ in range(20)]
    assert {tuple(result.shape) for result in results} == {(3, 6, 6)}
    assert len({result.numpy().tobytes() for result in results}) > 10


# Python 3.12 warns of any fork beside threads, and torch has threads.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_workers_decode_the_same_images(root: Path) -> None:
    alone = list(ImageFolder(root=root, **SMALL).test_dataloader())
    shared = list(ImageFolder(root=root, **{**SMALL, "num_workers": 2}).test_dataloader())
    for (x, y), (other_x, other_y) in zip(alone, shared, strict=True):
        assert x.equal(other_x)
        assert y.equal(other_y)


def test_fingerprint_tells_file_names_and_labels_apart(root: Path) -> None:
    first = ImageFolder(root=root, **SMALL).load("test").fingerprint()
    assert first == ImageFolder(root=root, **{**SMALL, "image_size": 6}).load("test").fingerprint()
    (root / "val" / "dog" / "02.png").rename(root / "val" / "dog" / "99.png")
    assert first != ImageFolder(root=root, **SMALL).load("test").fingerprint()


def test_other_folder_names_can_be_given(root: Path) -> None:
    (root / "val").rename(root / "held out")
    data = ImageFolder(root=root, test="held out", **SMALL)
    data.setup()
    assert data.roles["test"].size == 5


def test_a_pool_can_be_left_out(root: Path) -> None:
    data = ImageFolder(root=root, train=None, **SMALL)
    data.setup()
    assert list(data.roles) == ["test"]
    with pytest.raises(
        ValueError, match=r"ImageFolder was asked for train images, got `train` null\. Name their folder"
    ):
        data.setup("fit")
    with pytest.raises(ValueError, match=r"ImageFolder needs `train`, `test` or both, got neither\. Name"):
        ImageFolder(root=root, train=None, test=None)


def test_a_folder_that_is_not_there_says_so(root: Path) -> None:
    data = ImageFolder(root=root / "nowhere", **SMALL)
    with pytest.raises(
        FileNotFoundError, match=r"expected in '.*nowhere/train', .*; got .*\(seen from .*\)\. Correct `root`"
    ):
        data.setup("fit")


def test_a_class_without_images_is_refused(root: Path) -> None:
    (root / "train" / "emu").mkdir()
    with pytest.raises(ValueError, match=r"train' must hold an image \(.*\.png.*\), got none in emu\. Add"):
        ImageFolder(root=root, **SMALL).setup("fit")


def test_a_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    picture(0).save(tmp_path / "train" / "0.png")
    with pytest.raises(ValueError, match=r"train: must hold at least 1 image, got an empty split\. Point"):
        ImageFolder(root=tmp_path, **SMALL).setup("fit")


def test_classes_that_differ_between_the_folders_are_refused(root: Path) -> None:
    (root / "val" / "dog").rename(root / "val" / "fox")
    with pytest.raises(
        ValueError, match=r"same classes in the same order, got 2 and 2, first at 'dog' and 'fox'\. Store"
    ):
        ImageFolder(root=root, **SMALL).setup("fit")


@pytest.mark.parametrize("content", [b"no image", None])
def test_a_file_that_is_no_image_is_named(content: bytes | None, root: Path) -> None:
    path = root / "val" / "cat" / "01.png"
    path.write_bytes(content or path.read_bytes()[:300])
    data = ImageFolder(root=root, **SMALL)
    with pytest.raises(ValueError, match=r"01\.png must be a readable image, got one that is not: .*Repair"):
        list(data.test_dataloader())


def test_a_crop_larger_than_the_image_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"`resize_size` must be at least `image_size` \(16\), got 10: .*Raise"):
        ImageFolder(root=root, **{**SMALL, "image_size": 16})


def test_only_files_can_be_augmented_while_decoding(root: Path) -> None:
    images = Images(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]), ("cat", "dog"))
    with pytest.raises(TypeError, match=r"`pool` must be the ImageFiles that `load` returned, got Images\. Override"):
        ImageFolder(root=root, **SMALL).augmented(images)
