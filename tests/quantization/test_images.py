"""Images on their way into a network: cut, checked, and some of them kept."""

import pytest
import torch
from torch import Tensor

from qcal.quantization.images import ImageReader, Sample

READER = ImageReader((2, 3, 3), torch.float32, torch.device("cpu"), torch.channels_last)


def test_batches_are_cut_and_none_is_lost() -> None:
    images = torch.randn(11, 2, 3, 3)
    for given in (images, [images[:7], images[7:]], [images[:0], images]):
        batches = list(READER.batches(given, 4))
        assert max(len(x) for x in batches) <= 4
        assert torch.equal(torch.cat(batches), images)


def test_images_come_in_the_layout_type_and_without_the_gradient_of_the_graph() -> None:
    x = READER.read(torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True))
    assert (x.dtype, x.requires_grad) == (torch.float32, False)
    assert x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("images", [torch.empty(0, 2, 3, 3), [], [torch.empty(0, 2, 3, 3)]])
def test_no_images_are_refused(images: Tensor | list[Tensor]) -> None:
    with pytest.raises(ValueError, match=r"`images` must hold at least one image, got none\. Is the data set"):
        list(READER.batches(images, 4))


def test_a_batch_of_images_and_labels_is_refused_with_the_way_out() -> None:
    with pytest.raises(TypeError, match=r"got a batch of type tuple. Pass images without labels"):
        list(READER.batches([(torch.randn(2, 2, 3, 3), torch.zeros(2))], 4))  # type: ignore[list-item]  # the point


def test_the_sample_is_the_first_images_however_they_are_batched() -> None:
    images = torch.randn(10, 2, 3, 3)
    for size in (3, 7, 10, 12):
        for batch in (1, 4, 10):
            sample = Sample(size)
            assert sum(len(x) for x in sample.watch(torch.split(images, batch))) == 10
            assert sample.images is not None
            assert torch.equal(sample.images, images[:size])


def test_a_sample_of_none_keeps_none() -> None:
    sample = Sample(0)
    list(sample.watch([torch.randn(2, 1)]))
    assert sample.images is None
