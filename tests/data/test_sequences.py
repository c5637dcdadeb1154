from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import Fpt
from fpt_lightning.data.datamodule import FPTDataModule, Split
from fpt_lightning.data.loading import BatchDataset, GlobalBatchSampler
from fpt_lightning.data.sequences import LabelledSequences, SequenceTable
from fpt_lightning.data.spec import Batch, TaskSpec

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=60)


def _table(lengths: list[int]) -> SequenceTable:
    """Example i is its own number, ``lengths[i]`` times."""
    values = torch.cat([torch.full((length,), index) for index, length in enumerate(lengths)])
    return SequenceTable(values, torch.tensor(lengths), torch.arange(len(lengths))[:, None])


def _sequences(lengths: list[int]) -> tuple[list[list[int]], LabelledSequences]:
    """Rows of numbers that are all different, and the same end to end."""
    values, rows = np.arange(sum(lengths)), []
    for start, length in zip(np.cumsum([0, *lengths]), lengths, strict=False):
        rows.append(values[start : start + length].tolist())
    return rows, LabelledSequences(values, np.array(lengths, dtype=np.int32), np.arange(len(lengths), dtype=np.uint8))


def _rows(sequences: LabelledSequences) -> list[list[int]]:
    return [row.tolist() for row in np.split(sequences.values, sequences.lengths.cumsum())[:-1]]


@given(LENGTHS, st.integers(1, 31))
def test_sequences_are_truncated(lengths: list[int], limit: int) -> None:
    rows, sequences = _sequences(lengths)
    truncated = sequences.truncated(limit)
    assert _rows(truncated) == [row[:limit] for row in rows]
    assert truncated.targets.tolist() == list(range(len(lengths)))


@given(LENGTHS, st.data())
def test_sequences_are_taken_in_any_order(lengths: list[int], data: st.DataObject) -> None:
    rows, sequences = _sequences(lengths)
    chosen = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1))
    taken = sequences.take(np.array(chosen))
    assert _rows(taken) == [rows[row] for row in chosen]
    assert taken.targets.tolist() == chosen
    table = taken.table()
    assert (table.lengths.dtype, table.targets.dtype) == (torch.int64, torch.int64)
    assert table[0].tokens[0].tolist() == rows[chosen[0]]
    assert table[0].target.tolist() == [[chosen[0]]]


def test_sequences_go_to_tensors_and_back() -> None:
    _, sequences = _sequences([3, 1, 4])
    tensors = sequences.as_tensors("train.")
    assert list(tensors) == ["train.values", "train.lengths", "train.targets"]
    for ours, theirs in zip(LabelledSequences.from_tensors(tensors, "train."), sequences, strict=True):
        assert np.array_equal(ours, theirs)


@given(LENGTHS)
def test_a_batch_is_padded_to_its_longest_and_the_mask_says_where(lengths: list[int]) -> None:
    indices = list(range(len(lengths)))[::2]
    batch = _table(lengths)[indices[0]] if len(indices) == 1 else _table(lengths).__getitems__(indices)
    assert batch.tokens.shape == (len(indices), max(lengths[index] for index in indices))
    mask = torch.ones(batch.tokens.shape, dtype=torch.bool) if batch.mask is None else batch.mask
    assert mask.sum(dim=1).tolist() == [lengths[index] for index in indices]
    assert (batch.tokens == torch.tensor(indices)[:, None])[mask].all()
    assert batch.target.tolist() == [[index] for index in indices]


def test_numbers_are_padded_too() -> None:
    table = SequenceTable(torch.ones(5, 3), torch.tensor([2, 3]), torch.zeros(2, 1))
    batch = table.__getitems__([0, 1])
    assert batch.tokens.shape == (2, 3, 3)
    assert batch.tokens[0, 2].tolist() == [0, 0, 0]


@given(LENGTHS, st.integers(1, 4), st.integers(0, 3))
def test_sorted_batches_hold_every_example_at_most_once(lengths: list[int], batch_size: int, epoch: int) -> None:
    sampler = GlobalBatchSampler(
        len(lengths), batch_size, training=True, shuffle=True, seed=3, lengths=torch.tensor(lengths)
    )
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert len(set(order)) == len(order) == len(lengths) // batch_size * batch_size
    assert order == list(sampler)


def test_little_is_padded_and_batches_are_not_in_order_of_length() -> None:
    lengths = torch.randint(50, 1000, (2000,), generator=torch.Generator().manual_seed(0))
    sampler = GlobalBatchSampler(2000, 16, training=True, shuffle=True, seed=0, lengths=lengths)
    batches = lengths[list(sampler)].view(-1, 16)
    longest = batches.amax(dim=1)
    assert 1 - batches.sum() / (longest.sum() * 16) < 0.05
    assert (longest[1:] < longest[:-1]).float().mean() > 0.3
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_evaluation_sees_each_example_once_the_longest_first() -> None:
    lengths = torch.tensor([3, 9, 9, 1])
    halves = [
        list(GlobalBatchSampler(4, 2, training=False, shuffle=False, seed=0, lengths=lengths, process=p, processes=2))
        for p in (0, 1)
    ]
    assert halves == [[1, 0], [2, 3]]


class PaddedBefore(BatchDataset):
    """A dataset of another kind, with padding where other language models want it."""

    def __init__(self, *parts: torch.Tensor) -> None:
        self.table = SequenceTable(*parts)

    def __len__(self) -> int:
        return len(self.table)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        tokens, target, mask = self.table.__getitems__(indices)
        return Batch(tokens.flip(1), target, None if mask is None else mask.flip(1))


class Promised(FPTDataModule):
    """Sequences of 3 to 8 ids below 4, of which the last 3 tokens answer; ``fault`` makes one of another kind."""

    def __init__(self, fault: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fault = fault

    @property
    def task(self) -> TaskSpec:
        return TaskSpec("promised", 8, classes=2, vocabulary_size=4, answer_tokens=3)

    def dataset(self, split: Split) -> BatchDataset:
        lengths, targets = torch.arange(32) % 6 + 3, torch.ones(32, 3, dtype=torch.bool)
        values = torch.arange(len(lengths) * 10)[: int(lengths.sum())] % 4
        if self.fault == "padded before":
            return PaddedBefore(values, lengths, targets)
        if self.fault == "short":
            lengths[7], lengths[8] = lengths[7] - 2, lengths[8] + 2
        elif self.fault == "long":
            lengths[5], lengths[6] = lengths[5] + 1, lengths[6] - 1
        elif self.fault == "id":
            values[9] = 4
        elif self.fault == "negative":
            values[9] = -1
        elif self.fault == "float":
            values = values.float()
        elif self.fault == "class":
            targets = targets.long() + 1
        elif self.fault == "shape":
            targets = targets[:, 0]
        return SequenceTable(values, lengths, targets)

    def facts(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("short", "lengths should lie between 3 and 8, got 2 to 8"),
        ("long", "lengths should lie between 3 and 8, got 2 to 9"),
        ("id", "tokens should lie between 0 and 3, got 0 to 4"),
        ("negative", "tokens should lie between 0 and 3, got -1 to 3"),
        ("float", "tokens should be whole numbers [172], got torch.float32 [172]"),
        ("class", "targets should lie between 0 and 1, got 2 to 2"),
        ("shape", "targets should be whole numbers [32, 3], got torch.int64 [32]"),
    ],
)
def test_sequences_that_their_task_does_not_promise_are_refused(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str], fault: str, message: str
) -> None:
    """A sequence without as many tokens as answer was answered at those of no sequence, and nothing said so."""
    words = ["run", f"--data={__name__}.Promised", f"--data.fault={fault}", *tiny]
    assert fpt(*words) == 2
    assert f"fpt: error: promised, train: {message}\n" in capsys.readouterr().err


def test_padding_before_the_sequence_is_refused(fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert fpt("run", f"--data={__name__}.Promised", "--data.fault=padded before", *tiny) == 2
    error = capsys.readouterr().err
    assert "promised has masks [batch, length], true for real tokens" in error
    assert "and then false for padding, got [" in error


def test_sequences_that_their_task_promises_run(fpt: Fpt, tiny: list[str]) -> None:
    assert fpt("run", f"--data={__name__}.Promised", *tiny) == 0
