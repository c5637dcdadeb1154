import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fpt_lightning.data.bits import BitMemory, BitTask, BitXOR
from fpt_lightning.data.datamodule import SPLITS
from fpt_lightning.errors import UsageError

SMALL = {"n": 12, "patterns": 3, "patch_size": 4}


def test_bit_memory_has_the_papers_sizes() -> None:
    data = BitMemory()
    batch = data.dataset("train").__getitems__(range(3))
    assert batch.tokens.shape == (3, 120, 50)
    assert batch.target.shape == (3, 1000)
    assert (data.task.max_length, data.task.token_width, data.task.answer_tokens) == (120, 50, 20)
    assert (data.task.answers_per_token, data.task.answers, data.task.classes) == (50, 1000, 2)


def test_bit_xor_has_the_papers_sizes() -> None:
    data = BitXOR()
    batch = data.dataset("train").__getitems__(range(3))
    assert batch.tokens.shape == (3, 10, 1)
    assert batch.target.shape == (3, 5)
    assert data.task.answers == 5


@given(seed=st.integers(0, 2**40), first=st.integers(0, 2**39))
def test_bit_memory_shows_one_of_the_strings_again(seed: int, first: int) -> None:
    batch = BitMemory(**SMALL, seed=seed).dataset("train").__getitems__(range(first, first + 8))
    strings = batch.tokens.reshape(8, 4, 12)
    shown = strings[:, 3]
    answer = (batch.target * 2 - 1).float()
    assert set(strings[:, :3].unique().tolist()) <= {-1.0, 1.0}
    assert (strings[:, :3] == answer[:, None]).all(dim=2).any(dim=1).all()
    assert ((shown == 0) | (shown == answer)).all()


def test_half_of_the_bits_are_hidden_and_every_string_is_asked_for() -> None:
    batch = BitMemory(n=50, patterns=4, patch_size=50).dataset("train").__getitems__(range(2000))
    assert (batch.tokens[:, -1] == 0).float().mean().item() == pytest.approx(0.5, abs=0.01)
    answer = (batch.target * 2 - 1).float()
    asked = (batch.tokens[:, :4] == answer[:, None]).all(dim=2).float().mean(dim=0)
    assert asked.tolist() == pytest.approx([0.25] * 4, abs=0.04)


@given(seed=st.integers(0, 2**40), patterns=st.integers(2, 4))
def test_bit_xor_answers_the_parity(seed: int, patterns: int) -> None:
    batch = BitXOR(n=6, patterns=patterns, seed=seed).dataset("train").__getitems__(range(16))
    bits = batch.tokens.reshape(16, patterns, 6)
    parity = bits[:, 0]
    for string in range(1, patterns):
        parity = (parity != bits[:, string]).float()
    assert torch.equal(parity.long(), batch.target)


@given(indices=st.lists(st.integers(0, 2**40 - 1), min_size=1, max_size=6))
def test_an_example_does_not_depend_on_what_else_is_asked_for(indices: list[int]) -> None:
    stream = BitMemory(**SMALL).dataset("train")
    together = stream.__getitems__(indices)
    for position, index in enumerate(indices):
        alone = stream.__getitems__([index])
        assert torch.equal(together.tokens[position], alone.tokens[0])
        assert torch.equal(together.target[position], alone.target[0])


def _bits(data: BitTask, split: str, count: int = 64) -> torch.Tensor:
    return data.dataset(split).__getitems__(range(count)).tokens  # type: ignore[arg-type]


@given(seed=st.integers(0, 1000), other=st.integers(0, 1000))
def test_splits_and_seeds_are_streams_of_their_own(seed: int, other: int) -> None:
    ours, theirs = BitMemory(**SMALL, seed=seed), BitMemory(**SMALL, seed=other)
    streams = [_bits(ours, split) for split in SPLITS]
    for left in range(3):
        for right in range(left):
            assert not torch.equal(streams[left], streams[right])
    assert torch.equal(streams[1], _bits(theirs, "validation"))
    assert torch.equal(streams[2], _bits(theirs, "test"))
    assert torch.equal(streams[0], _bits(theirs, "train")) == (seed == other)


def test_no_training_seed_reaches_the_key_of_the_evaluation() -> None:
    with pytest.raises(UsageError, match="seed"):
        BitXOR(seed=2**64 - 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_stream_is_the_same_whatever_the_number_of_workers(workers: int) -> None:
    def first_batches(num_workers: int) -> list[torch.Tensor]:
        loader = BitXOR(batch_size=4, num_workers=num_workers, seed=5).train_dataloader()
        return [batch.tokens for batch, _ in zip(loader, range(7), strict=False)]

    for ours, theirs in zip(first_batches(0), first_batches(workers), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n": 10, "patch_size": 4}, "does not divide"),
        ({"n": 0}, "n must be"),
        ({"test_examples": 0}, "test"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BitMemory(**sizes)


def test_what_guessing_is_worth() -> None:
    data = BitMemory(**SMALL, validation_examples=300, test_examples=7)
    baselines = data.trivial_baselines()
    assert list(baselines) == ["commonest class", "the bits that show"]
    for split, place in (("validation", 0), ("test", 1)):
        right = zeros = count = 0
        for index in range(len(data.dataset(split))):
            batch = data.dataset(split)[index]
            for shown, answer in zip(batch.tokens[0, -3:].flatten().tolist(), batch.target[0].tolist(), strict=True):
                right += answer == 1 if shown > 0 else answer == 0
                zeros += answer == 0
                count += 1
        assert baselines["the bits that show"][place] == pytest.approx(right / count)
        assert baselines["commonest class"][place] == pytest.approx(zeros / count)
    assert baselines["the bits that show"].val == pytest.approx(0.75, abs=0.02)
    assert list(BitXOR().trivial_baselines()) == ["commonest class"]


def test_guesses_do_not_depend_on_the_seed() -> None:
    assert BitMemory(**SMALL, seed=1).trivial_baselines() == BitMemory(**SMALL, seed=2).trivial_baselines()
