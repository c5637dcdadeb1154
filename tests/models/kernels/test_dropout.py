import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fpt_lightning.models.kernels.dropout import Dropout, fast_dropout, replace_dropouts


@given(p=st.floats(0.0, 0.9), shape=st.lists(st.integers(0, 7), min_size=1, max_size=3))
def test_what_is_kept_is_scaled_and_the_rest_is_zero(p: float, shape: list[int]) -> None:
    out = fast_dropout(torch.ones(shape), p)
    assert out.shape == torch.Size(shape)
    kept = out[out != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_rate_and_expectation_in_every_lane(p: float) -> None:
    torch.manual_seed(0)
    out = fast_dropout(torch.ones(400_000), p)
    for lane in range(4):
        share = (out[lane::4] == 0).float().mean().item()
        assert share == pytest.approx(p, abs=5 * (p * (1 - p) / 100_000) ** 0.5), lane
    assert out.mean().item() == pytest.approx(1, abs=5 * (p / (1 - p) / 400_000) ** 0.5)


def test_all_and_almost_all() -> None:
    assert not fast_dropout(torch.ones(100), 1.0).any()
    assert torch.isfinite(fast_dropout(torch.ones(100), 1 - 1e-9)).all()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_in_16_bits_it_keeps_the_same_at_the_rounded_scale(p: float) -> None:
    torch.manual_seed(0)
    kept = fast_dropout(torch.ones(999), p)
    torch.manual_seed(0)
    assert torch.equal(fast_dropout(torch.ones(999, dtype=torch.bfloat16), p), kept.to(torch.bfloat16))


def test_elements_are_dropped_independently() -> None:
    torch.manual_seed(0)
    dropped = (fast_dropout(torch.ones(400_000), 0.5) == 0).float() - 0.5
    for distance in (1, 2, 3, 4, 7):
        assert (dropped[distance:] * dropped[:-distance]).mean().abs().item() < 5 * 0.25 / 400_000**0.5


def test_the_gradient_passes_where_the_value_did() -> None:
    x = torch.randn(50, 3, requires_grad=True)
    out = fast_dropout(x, 0.3)
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(out, x * x.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_bytes_a_number_are_kept_for_the_gradient(dtype: torch.dtype) -> None:
    kept: list[int] = []
    x = torch.ones(4096, dtype=dtype, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda y: kept.append(y.nbytes) or y, lambda y: y):
        fast_dropout(x, 0.3)
    assert kept == [2 * 4096]


def test_it_follows_the_global_seed() -> None:
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(fast_dropout(torch.ones(100), 0.5))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_layers_are_replaced_and_rest_in_evaluation() -> None:
    module = nn.Sequential(nn.Dropout(0.2), nn.ModuleList([nn.Dropout(0.7)]))
    replace_dropouts(module)
    assert isinstance(module[0], Dropout)
    assert isinstance(module[1][0], Dropout)
    assert module[1][0].p == 0.7
    x = torch.randn(10)
    assert torch.equal(module[0].eval()(x), x)
    assert not torch.equal(module[0].train()(x), x)
