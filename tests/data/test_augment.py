import pytest
import torch

from qcal.data.augment import CropAndFlip, random_crop, random_flip


def numbered_images(count: int, *, channels: int = 2, size: int = 5) -> torch.Tensor:
    """Images whose pixels all differ and are never 0, so that every move shows."""
    return torch.arange(1, count * channels * size * size + 1).view(count, channels, size, size)


def test_every_crop_is_the_image_moved_by_at_most_the_padding() -> None:
    torch.manual_seed(0)
    images = numbered_images(200)
    cropped = random_crop(images, padding=2)
    seen = set()
    for image, crop in zip(images, cropped, strict=True):
        padded = torch.zeros(2, 9, 9, dtype=images.dtype)
        padded[:, 2:7, 2:7] = image
        moves = [(i, j) for i in range(5) for j in range(5) if padded[:, i : i + 5, j : j + 5].equal(crop)]
        assert len(moves) == 1  # both channels moved together
        seen.add(moves[0])
    assert len(seen) == 25  # every move occurs among 200 images


def test_flip_mirrors_about_half_of_the_images_and_keeps_the_others() -> None:
    torch.manual_seed(0)
    images = numbered_images(400)
    flipped = random_flip(images)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    kept = (flipped == images).flatten(1).all(1)
    assert bool((mirrored ^ kept).all())
    assert 160 < int(mirrored.sum()) < 240  # 4 standard deviations


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_augmentation_keeps_shape_and_dtype_and_leaves_its_input_alone(dtype: torch.dtype) -> None:
    images = torch.full((6, 3, 8, 8), 7).to(dtype)
    changed = CropAndFlip(padding=4, flip=True)(images)
    assert changed.shape == images.shape
    assert changed.dtype == dtype
    assert set(changed.flatten().tolist()) == {0, 7}  # zeros came in
    assert bool((images == 7).all())


def test_augmentation_is_the_same_for_the_same_global_seed() -> None:
    images = numbered_images(16)
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(CropAndFlip(padding=2, flip=True)(images))
    assert results[0].equal(results[1])
    assert not results[0].equal(results[2])


def test_no_padding_and_no_flip_change_nothing() -> None:
    images = numbered_images(4)
    assert CropAndFlip(padding=0, flip=False)(images).equal(images)


def test_without_flip_no_image_is_mirrored() -> None:
    images = torch.tensor([1, 2]).expand(300, 1, 1, 2)
    moved = CropAndFlip(padding=1, flip=False)(images)
    assert bool((moved != torch.tensor([2, 1])).any(-1).all())
