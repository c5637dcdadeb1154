from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.activations import ACT2FN

from fpt_lightning.models.kernels import gelu
from fpt_lightning.models.kernels.gelu import CHUNK, TanhGELU, replace_gelus


@pytest.fixture(scope="module", autouse=True)
def of_amd() -> Iterator[None]:
    """Whatever processor this is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gelu, "is_intel", lambda: False)
        yield


def _answers(x: torch.Tensor, function: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    entrance = x.clone().requires_grad_()
    y = function(entrance)
    (y * torch.arange(1.0, len(x) + 1)).sum().backward()
    assert entrance.grad is not None
    return y.detach(), entrance.grad


@given(numbers=st.lists(st.floats(-1e4, 1e4, width=32), max_size=20))
def test_it_equals_torchs_in_value_and_slope(numbers: list[float]) -> None:
    x = torch.tensor(numbers)
    for own, theirs in zip(_answers(x, TanhGELU()), _answers(x, nn.GELU("tanh")), strict=True):
        torch.testing.assert_close(own, theirs, atol=2e-5, rtol=1e-5)


def test_intels_processors_do_all_of_it_in_torchs_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(8, requires_grad=True)
    names = []
    for intel in (False, True):
        monkeypatch.setattr(gelu, "is_intel", lambda intel=intel: intel)
        step: Any = TanhGELU()(x).grad_fn
        names.append(step.name())
    assert names == ["_TanhGELUBackward", "GeluBackward0"]


def test_its_slope_is_that_of_its_values() -> None:
    x = torch.linspace(-6, 6, 200, requires_grad=True)
    values = TanhGELU()(x)
    values.sum().backward()
    assert x.grad is not None
    step = 1e-3
    with torch.no_grad():
        risen = (TanhGELU()(x.double() + step) - TanhGELU()(x.double() - step)) / (2 * step)
    torch.testing.assert_close(x.grad, risen.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, 2 * CHUNK + 3])
def test_chunks_make_a_whole(size: int) -> None:
    x = torch.randn(3, size)[1]  # its memory begins within that of another
    for own, theirs in zip(_answers(x, TanhGELU()), _answers(x, nn.GELU("tanh")), strict=True):
        torch.testing.assert_close(own / x.numel(), theirs / x.numel(), atol=1e-6, rtol=1e-5)


def test_what_does_not_lie_in_one_piece_keeps_its_places() -> None:
    x = torch.randn(6, 6).t()
    for own, theirs in zip(_answers(x, TanhGELU()), _answers(x, nn.GELU("tanh")), strict=True):
        torch.testing.assert_close(own, theirs, atol=2e-6, rtol=1e-5)


def test_16_bit_numbers_are_rounded_once_to_a_value_and_once_to_a_slope() -> None:
    every = torch.arange(2**16).to(torch.int16).view(torch.bfloat16)
    x = every[every.float().abs() <= 1e4].requires_grad_()
    y = TanhGELU()(x)
    y.backward(torch.ones_like(y))
    assert x.grad is not None
    assert y.dtype == x.grad.dtype == torch.bfloat16
    precise = x.detach().double().requires_grad_()
    F.gelu(precise, approximate="tanh").sum().backward()
    assert precise.grad is not None
    half = 2.0**-8  # of a unit in the last of 8 bits
    torch.testing.assert_close(y.double(), F.gelu(precise, approximate="tanh"), atol=1e-5, rtol=half)
    torch.testing.assert_close(x.grad.double(), precise.grad, atol=1e-5, rtol=half)


def test_what_does_not_train_and_other_types_take_torchs_own_path() -> None:
    for x in (torch.randn(5, dtype=torch.float64, requires_grad=True), torch.randn(5)):
        assert torch.equal(TanhGELU()(x), F.gelu(x, approximate="tanh"))


def test_every_tanh_gelu_of_transformers_is_replaced_and_no_other() -> None:
    names = ["gelu_new", "gelu_pytorch_tanh", "gelu", "relu"]
    module = nn.ModuleDict({name: nn.Sequential(ACT2FN[name]) for name in names})
    replace_gelus(module)
    assert [isinstance(module[name][0], TanhGELU) for name in names] == [True, True, False, False]  # type: ignore[index]
