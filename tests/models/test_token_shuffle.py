import torch
from hypothesis import given
from hypothesis import strategies as st

from fpt_lightning.models.token_shuffle import TokenShuffle, shuffle


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    width=st.none() | st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_shuffling_keeps_the_tokens_of_an_example_and_its_padding(
    lengths: list[int], width: int | None, seed: int
) -> None:
    shape = (len(lengths), 9) if width is None else (len(lengths), 9, width)
    tokens = torch.arange(torch.Size(shape).numel()).view(shape)
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    shuffled = shuffle(tokens, mask, torch.Generator().manual_seed(seed))
    assert torch.equal(shuffled[~mask], tokens[~mask])
    for row, length in enumerate(lengths):
        real = shuffled[row, :length]
        assert torch.equal(real[real.view(length, width or 1)[:, 0].argsort()], tokens[row, :length])


def test_every_order_is_as_likely_and_examples_differ() -> None:
    tokens = torch.arange(3).expand(6000, 3)
    orders, counts = shuffle(tokens, generator=torch.Generator().manual_seed(0)).unique(dim=0, return_counts=True)
    assert len(orders) == 6
    assert (counts - 1000).abs().max() < 5 * (6000 * 5 / 36) ** 0.5


def test_training_shuffles_anew_and_evaluation_always_alike() -> None:
    entrance = TokenShuffle()
    tokens = torch.arange(50).expand(4, 50)
    torch.manual_seed(0)
    first, second = entrance(tokens), entrance(tokens)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(entrance(tokens), first)
    entrance.eval()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(entrance(tokens), entrance(tokens))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(entrance(tokens)[0], entrance(tokens)[1])
