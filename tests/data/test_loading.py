from collections.abc import Sequence
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fpt_lightning.data.loading import BatchDataset, GlobalBatchSampler, ResumableLoader, make_loader


class Numbers(BatchDataset):
    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, indices: Sequence[int]) -> torch.Tensor:
        return torch.tensor(indices)


def _sampler(length: int, batch: int, training: bool = True, shuffle: bool = True, **kwargs: int) -> GlobalBatchSampler:
    return GlobalBatchSampler(length, batch, training=training, shuffle=shuffle, seed=3, **kwargs)


@given(
    length=st.integers(8, 60),
    local=st.integers(1, 4),
    processes=st.integers(1, 2),
    epoch=st.integers(0, 5),
    shuffle=st.booleans(),
)
def test_processes_share_the_batches_that_one_would_see(
    length: int, local: int, processes: int, epoch: int, shuffle: bool
) -> None:
    batch = local * processes
    alone = _sampler(length, batch, shuffle=shuffle)
    alone.set_epoch(epoch)
    parts = [_sampler(length, batch, shuffle=shuffle, process=rank, processes=processes) for rank in range(processes)]
    streams = []
    for part in parts:
        part.set_epoch(epoch)
        streams.append(list(part))
        assert len(streams[-1]) == len(part)
    whole = list(alone)
    assert len(whole) == length // batch * batch
    for step in range(length // batch):
        shared = [index for stream in streams for index in stream[step * local : (step + 1) * local]]
        assert shared == whole[step * batch : (step + 1) * batch]


@given(length=st.integers(1, 50), processes=st.integers(1, 4))
def test_evaluation_sees_every_example_once(length: int, processes: int) -> None:
    parts = [_sampler(length, 4, training=False, process=rank, processes=processes) for rank in range(processes)]
    assert sorted(index for part in parts for index in part) == list(range(length))


def test_epochs_are_shuffled_anew_and_cover_everything() -> None:
    sampler = _sampler(12, 4)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_an_endless_stream_goes_on_in_the_next_epoch() -> None:
    sampler = _sampler(8, 4, shuffle=False)
    sampler.set_epoch(2)
    assert list(sampler) == list(range(16, 24))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_resumes_behind_what_it_handed_out(workers: int) -> None:
    def loader() -> ResumableLoader:
        return make_loader(Numbers(40), _sampler(40, 4), workers)

    whole = [batch.tolist() for batch in loader()]
    stopped = loader()
    list(islice(stopped, 6))
    resumed = loader()
    resumed.load_state_dict(stopped.state_dict())
    assert [batch.tolist() for batch in resumed] == whole[6:]
    assert [batch.tolist() for batch in resumed] == whole  # the next epoch starts at its beginning


def test_starting_an_epoch_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(make_loader(Numbers(8), _sampler(8, 4)))
    assert torch.equal(before, torch.get_rng_state())


@given(length=st.integers(20, 60), seeds=st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2, unique=True))
def test_the_order_follows_from_the_seed_and_the_epoch(length: int, seeds: list[int]) -> None:
    """A seed in the upper half of 64 bits is none: torch's generator on a CPU looks at the lower."""

    def order(seed: int, epoch: int) -> list[int]:
        sampler = GlobalBatchSampler(length, 1, training=True, shuffle=True, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    first, second = seeds
    orders = [order(first, 0), order(second, 0), order(first, 1), order(second, 1)]
    assert all(sorted(found) == list(range(length)) for found in orders)
    assert len({tuple(found) for found in orders}) == 4
    assert order(first, 1) == orders[2]
