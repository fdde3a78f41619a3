import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, WeightedRandomSampler
from torchvision.transforms import functional as reference  # type: ignore[import-untyped, unused-ignore]  # no annotations shipped

from qcal.data.images import Augmented, Batch, Images, RoleDataset, finished_batch, normalize
from qcal.data.roles import Role

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def some_images(count: int = 10) -> Images:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (count, 3, 6, 6), dtype=torch.uint8, generator=generator)
    return Images(x, torch.arange(count) % 3, ("a", "b", "c"))


def some_dataset() -> RoleDataset:
    return RoleDataset(some_images(), Role("val", "train", torch.tensor([7, 2, 5, 0, 9])), mean=MEAN, std=STD)


def test_normalisation_equals_torchvisions_on_each_image() -> None:
    images = some_images().x
    ours = normalize(images, mean=MEAN, std=STD)
    for image, result in zip(images, ours, strict=True):
        as_float = reference.to_tensor(image.permute(1, 2, 0).numpy())
        assert result.equal(reference.normalize(as_float, list(MEAN), list(STD)))


def test_float_images_are_not_divided_by_255_and_not_overwritten() -> None:
    images = torch.full((2, 3, 4, 4), 0.5)
    assert normalize(images, mean=(0.5,) * 3, std=(0.1,) * 3).abs().max() == 0
    assert bool((images == 0.5).all())


def test_a_batch_is_the_same_as_its_images_one_by_one() -> None:
    dataset = some_dataset()
    x, y = finished_batch(dataset.__getitems__([3, 0, 1]))
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    assert y.tolist() == [0, 1, 2]  # images 0, 7 and 2 of the pool
    for position, index in enumerate([3, 0, 1]):
        alone, label = dataset[index]
        assert alone.shape == (3, 6, 6)
        assert alone.equal(x[position])
        assert label.equal(y[position])


def test_the_default_collate_function_gives_the_same_batches() -> None:
    dataset = some_dataset()
    ours = list(DataLoader(dataset, batch_size=2, collate_fn=finished_batch))
    foreign = list(DataLoader(dataset, batch_size=2))
    assert len(ours) == len(foreign) == 3
    for (x, y), (foreign_x, foreign_y) in zip(ours, foreign, strict=True):
        assert x.equal(foreign_x)
        assert y.equal(foreign_y)


def test_foreign_samplers_and_wrappers_work() -> None:
    dataset = some_dataset()
    sampler = WeightedRandomSampler([0, 0, 1, 0, 0], num_samples=4)
    [(x, y)] = DataLoader(dataset, batch_size=4, sampler=sampler, collate_fn=finished_batch)
    assert x.equal(dataset[2][0].expand(4, -1, -1, -1))
    assert y.tolist() == [2] * 4
    [(_, y)] = DataLoader(Subset(dataset, [4, 0]), batch_size=2, collate_fn=finished_batch)
    assert y.tolist() == [0, 1]
    [(x, y)] = DataLoader(ConcatDataset([dataset, dataset]), batch_size=10, collate_fn=finished_batch)
    assert x.shape == (10, 3, 6, 6)
    assert y.tolist() == [1, 2, 2, 0, 0] * 2


def test_an_index_beyond_the_role_ends_iteration() -> None:
    dataset = some_dataset()
    with pytest.raises(IndexError):
        dataset[5]
    assert int(dataset[4][1]) == 0
    assert int(dataset[-1][1]) == 0


# Python 3.12 warns of any fork beside threads, and torch has threads.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_worker_processes_give_the_same_batches() -> None:
    loader = DataLoader(some_dataset(), batch_size=2, num_workers=2, collate_fn=finished_batch)
    alone = DataLoader(some_dataset(), batch_size=2, collate_fn=finished_batch)
    for (x, y), (expected_x, expected_y) in zip(loader, alone, strict=True):
        assert x.equal(expected_x)
        assert y.equal(expected_y)


def test_a_data_set_can_be_sent_to_another_process() -> None:
    copy = pickle.loads(pickle.dumps(some_dataset()))
    assert copy[0][0].equal(some_dataset()[0][0])


def test_a_batch_can_be_sliced_and_iterated_like_samples() -> None:
    batch = Batch(torch.arange(3.0).view(3, 1, 1, 1), torch.arange(3))
    assert [int(y) for _, y in batch] == [0, 1, 2]
    assert batch[1:].y.tolist() == [1, 2]


def test_augmented_images_are_changed_before_normalisation() -> None:
    images = some_images()
    black = Augmented(images, torch.zeros_like)
    x, _ = RoleDataset(black, Role("train", "train", torch.arange(10)), mean=MEAN, std=STD)[0]
    assert x[:, 0, 0].allclose(-torch.tensor(MEAN) / torch.tensor(STD))
    assert black.fingerprint() == images.fingerprint()
    assert (black.y.data_ptr(), black.classes, black.shape) == (images.y.data_ptr(), images.classes, (3, 6, 6))


def test_fingerprint_changes_with_one_pixel_and_with_one_label() -> None:
    images = some_images()
    pixels, labels = images.x.clone(), images.y.clone()
    pixels[3, 1, 2, 2] += 1
    labels[0] = 2
    prints = {images.fingerprint(), Images(pixels, images.y, images.classes).fingerprint()}
    prints.add(Images(images.x, labels, images.classes).fingerprint())
    assert len(prints) == 3
    assert some_images().fingerprint() in prints


GOOD_X, GOOD_Y = torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 1, 0])


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (GOOD_X[:, 0], GOOD_Y, ValueError, r"`x` must have shape \(N, C, H, W\), got \(4, 2, 2\)\. Add"),
        (GOOD_X.double(), GOOD_Y, TypeError, r"`x` must be uint8 .* or float32 .*, got torch.float64\. Convert"),
        (GOOD_X, GOOD_Y.int(), TypeError, r"`y` must be int64, got torch.int32\. Convert"),
        (GOOD_X, GOOD_Y[:, None], ValueError, r"`y` must have shape \(N,\), got \(4, 1\)\. Pass class numbers"),
        (GOOD_X, torch.tensor(1), ValueError, r"`y` must have shape \(N,\), got \(\)\. Pass"),
        (GOOD_X, GOOD_Y[:3], ValueError, r"the same length, got 4 images and 3 labels\. Store"),
        (GOOD_X[:0], GOOD_Y[:0], ValueError, r"at least 1 image, got an empty split\. Point"),
        (GOOD_X, GOOD_Y + 1, ValueError, r"labels must lie in \[0, 2\), .*got 1 to 2\. Renumber"),
        (GOOD_X, GOOD_Y - 1, ValueError, r"labels must lie in \[0, 2\), .*got -1 to 0\. Renumber"),
        (
            GOOD_X.index_fill(0, torch.tensor([1, 3]), np.nan),
            GOOD_Y,
            ValueError,
            r"got NaN .*in 2 of 4 images\. Remove",
        ),
        (
            GOOD_X.index_fill(0, torch.tensor([1]), np.inf),
            GOOD_Y,
            ValueError,
            r"got NaN or infinity in 1 of 4 .*Remove",
        ),
    ],
)
def test_bad_images_are_refused_by_name(x: torch.Tensor, y: torch.Tensor, error: type[Exception], message: str) -> None:
    Images(GOOD_X, GOOD_Y, ("cat", "dog"), source="my set")
    with pytest.raises(error, match=f"my set: .*{message}"):
        Images(x, y, ("cat", "dog"), source="my set")


def test_a_single_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"images: must have at least 2 classes, got 1\. Name"):
        Images(GOOD_X, torch.zeros(4, dtype=torch.int64), ("cat",))
