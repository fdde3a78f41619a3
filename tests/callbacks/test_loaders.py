"""A loader is read in the order of its data set, in shares, and is left as it was."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
)

from qcal.callbacks.loaders import OrderedBatches, Share


class _Numbers(Dataset[int]):
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return index


class _Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        yield from range(7)


def _read(batches: OrderedBatches) -> list[list[int]]:
    return [batch.tolist() if isinstance(batch, torch.Tensor) else batch for batch in batches]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_whatever_the_loader_does(shuffle: bool, workers: int) -> None:
    loader = DataLoader(_Numbers(7), batch_size=3, shuffle=shuffle, num_workers=workers)
    assert _read(OrderedBatches(loader)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert len(OrderedBatches(loader)) == 3


def test_a_tail_that_the_loader_drops_is_dropped() -> None:
    assert _read(OrderedBatches(DataLoader(_Numbers(7), batch_size=3, drop_last=True))) == [[0, 1, 2], [3, 4, 5]]


def test_the_loaders_generator_and_the_global_one_are_left_alone() -> None:
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(_Numbers(7), batch_size=3, shuffle=True, generator=generator)
    before, everywhere = generator.get_state(), torch.get_rng_state()
    _read(OrderedBatches(loader))
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(torch.get_rng_state(), everywhere)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shares_hold_every_image_once(size: int) -> None:
    loader = DataLoader(_Numbers(11), batch_size=2)
    shares = [_read(OrderedBatches(loader, share=Share(rank, size))) for rank in range(size)]
    assert sorted(number for share in shares for batch in share for number in batch) == list(range(11))
    assert [len(OrderedBatches(loader, share=Share(rank, size))) for rank in range(size)] == [len(s) for s in shares]


def test_the_padding_of_a_distributed_sampler_is_undone() -> None:
    dataset = _Numbers(5)
    padded = DataLoader(dataset, batch_size=2, sampler=DistributedSampler(dataset, num_replicas=2, rank=0))
    shares = [_read(OrderedBatches(padded, share=Share(rank, 2))) for rank in range(2)]
    assert shares == [[[0, 1], [4]], [[2, 3]]]


def test_images_that_a_sampler_chooses_stay_chosen() -> None:
    chosen = DataLoader(_Numbers(9), batch_size=2, sampler=SubsetRandomSampler([8, 3, 5]))
    assert sorted(n for batch in _read(OrderedBatches(chosen)) for n in batch) == [3, 5, 8]


def test_a_batch_sampler_of_the_projects_own_is_used_and_not_moved() -> None:
    class Longest(BatchSampler):
        calls = 0

        def __iter__(self) -> Iterator[list[int]]:
            self.calls += 1
            yield [4, 1]
            yield [0]

    sampler = Longest(RandomSampler(_Numbers(5)), 2, False)
    loader = DataLoader(_Numbers(5), batch_sampler=sampler)
    assert _read(OrderedBatches(loader)) == [[4, 1], [0]]
    assert sampler.calls == 0


def test_a_data_set_that_gives_batches_is_read_batch_by_batch() -> None:
    loader = DataLoader(_Numbers(4), batch_size=None, shuffle=True, collate_fn=lambda index: [index, index + 10])  # type: ignore[operator]  # one item, as the data set gives batches
    assert _read(OrderedBatches(loader)) == [[0, 10], [1, 11], [2, 12], [3, 13]]


def test_a_stream_without_a_length_is_read_as_it_comes_by_the_first_process_alone() -> None:
    loader: Any = DataLoader(_Stream(), batch_size=3)
    assert _read(OrderedBatches(loader)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert _read(OrderedBatches(loader, share=Share(0, 2))) == [[0, 1, 2], [3, 4, 5], [6]]
    assert _read(OrderedBatches(loader, share=Share(1, 2))) == []
    with pytest.raises(TypeError):
        len(OrderedBatches(loader))


def test_a_loader_of_another_kind_is_iterated() -> None:
    class Own(DataLoader[int]):
        def __iter__(self) -> Any:
            return iter([torch.tensor([9]), torch.tensor([8])])

    assert _read(OrderedBatches(Own(_Numbers(5)))) == [[9], [8]]
    assert _read(OrderedBatches([[1], [2], [3]], limit=2)) == [[1], [2]]


def test_a_limit_counts_batches_of_the_whole_before_they_are_shared() -> None:
    loader = DataLoader(_Numbers(20), batch_size=2)
    assert _read(OrderedBatches(loader, limit=3)) == [[0, 1], [2, 3], [4, 5]]
    assert _read(OrderedBatches(loader, 3, Share(1, 2))) == [[2, 3]]
    assert len(OrderedBatches(loader, 3, Share(1, 2))) == 1
