import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.activations import ACT2FN

from fpt_lightning.models.kernels.gelu import CACHED, TanhGELU, replace_gelus


def _answers(x: torch.Tensor, function: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    entrance = x.clone().requires_grad_()
    y = function(entrance)
    (y * torch.arange(1.0, len(x) + 1)).sum().backward()
    assert entrance.grad is not None
    return y.detach(), entrance.grad


@given(numbers=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20))
def test_it_equals_torchs_in_value_and_slope(numbers: list[float]) -> None:
    x = torch.tensor(numbers)
    for own, theirs in zip(_answers(x, TanhGELU()), _answers(x, nn.GELU("tanh")), strict=True):
        torch.testing.assert_close(own, theirs, atol=2e-5, rtol=1e-5)


def test_its_slope_is_that_of_its_values() -> None:
    x = torch.linspace(-6, 6, 200, requires_grad=True)
    values = TanhGELU()(x)
    values.sum().backward()
    assert x.grad is not None
    step = 1e-3
    with torch.no_grad():
        risen = (TanhGELU()(x.double() + step) - TanhGELU()(x.double() - step)) / (2 * step)
    torch.testing.assert_close(x.grad, risen.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_and_sizes_take_torchs_own_path(dtype: torch.dtype) -> None:
    for x in (torch.randn(5, dtype=dtype, requires_grad=True), torch.randn(5), torch.ones(CACHED + 1)):
        assert torch.equal(TanhGELU()(x), F.gelu(x, approximate="tanh"))


def test_every_tanh_gelu_of_transformers_is_replaced_and_no_other() -> None:
    names = ["gelu_new", "gelu_pytorch_tanh", "gelu", "relu"]
    module = nn.ModuleDict({name: nn.Sequential(ACT2FN[name]) for name in names})
    replace_gelus(module)
    assert [isinstance(module[name][0], TanhGELU) for name in names] == [True, True, False, False]  # type: ignore[index]
