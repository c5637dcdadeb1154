"""Centered kernel alignment against what is known of it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fpt_lightning.analysis.similarity import similarity


def _states(seed: int, tokens: int = 40, width: int = 12) -> torch.Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3), shift=st.floats(-1e2, 1e2))
def test_rotated_scaled_and_shifted_states_are_the_same(seed: int, scale: float, shift: float) -> None:
    states = _states(seed)
    rotation = torch.linalg.qr(_states(seed + 1, 12, 12)).Q
    assert similarity(states, scale * states @ rotation + shift) == pytest.approx(1, abs=1e-3)


def test_independent_states_are_0_in_the_mean_however_wide() -> None:
    found = torch.tensor([similarity(_states(2 * seed, 40, 300), _states(2 * seed + 1, 40, 300)) for seed in range(60)])
    assert abs(found.mean()) < 4 * found.std() / math.sqrt(len(found))
    assert found.mean() < 0.05


def test_more_noise_is_less_alike() -> None:
    states, noise = _states(0, 200), _states(1, 200)
    found = [similarity(states, states + strength * noise) for strength in (0, 0.5, 1, 2, 8)]
    assert found == sorted(found, reverse=True)
    assert similarity(states, torch.ones(200, 3)) != similarity(states, torch.ones(200, 3))  # nan
