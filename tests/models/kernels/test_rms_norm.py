import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from fpt_lightning.models.kernels.rms_norm import RMSNorm, replace_rms_norms

EPSILON = 1e-5
KINDS = [LlamaRMSNorm, T5LayerNorm]
Kind = type[LlamaRMSNorm | T5LayerNorm]


def _both(width: int, dtype: torch.dtype, kind: Kind = LlamaRMSNorm) -> tuple[nn.Module, nn.Module]:
    """Ours and that of transformers, with the same weights."""
    theirs = kind(width, EPSILON).to(dtype)
    nn.init.normal_(theirs.weight)
    ours = nn.Sequential(copy.deepcopy(theirs))
    replace_rms_norms(ours)
    assert isinstance(ours[0], RMSNorm)
    return ours[0], theirs


def _gradients(norm: nn.Module, x: torch.Tensor, of_y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    entrance = x.clone().requires_grad_()
    y = norm(entrance)
    return (y.detach(), *torch.autograd.grad(y, [entrance, norm.weight], of_y.to(y)))


@given(
    st.integers(1, 5), st.integers(1, 70), st.integers(0, 99), st.sampled_from([1e-4, 1.0, 1e3]), st.sampled_from(KINDS)
)
def test_it_equals_that_of_transformers(rows: int, width: int, seed: int, scale: float, kind: Kind) -> None:
    torch.manual_seed(seed)
    x, of_y = scale * torch.randn(2, rows, width), torch.randn(2, rows, width)
    both = _both(width, torch.float32, kind)
    ours, theirs = (_gradients(norm, x, of_y) for norm in both)
    assert torch.equal(ours[0], theirs[0])
    # of a gradient that lies along x nothing is left but rounding
    terms = of_y * both[0].weight.detach() * (x.square().mean(-1, keepdim=True) + EPSILON).rsqrt()
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=2e-6 * float(terms.abs().max()))
    torch.testing.assert_close(ours[2], theirs[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("of_weights", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_16_bit_numbers_are_rounded_as_in_transformers(kind: Kind, of_weights: torch.dtype) -> None:
    """Its gradients are no farther from the exact ones than those of transformers."""
    torch.manual_seed(0)
    x, of_y = torch.randn(4, 30, 64, dtype=torch.bfloat16), torch.randn(4, 30, 64, dtype=torch.bfloat16)
    both = _both(64, of_weights, kind)
    ours, theirs = (_gradients(norm, x, of_y) for norm in both)
    assert torch.equal(ours[0], theirs[0])
    exact = _gradients(both[0].double(), x.double(), of_y.double())
    for own, their, true in zip(ours[1:], theirs[1:], exact[1:], strict=True):
        assert own.dtype == their.dtype
        assert (own - true).norm() <= 1.05 * (their - true).norm()


def test_its_gradients_are_those_of_its_values() -> None:
    norm, x = _both(6, torch.float64)[0], torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, weight: norm(x), (x, norm.weight))


def test_a_frozen_weight_has_no_gradient_and_what_does_not_train_takes_no_way_back() -> None:
    norm, theirs = _both(8, torch.float32)
    x = torch.randn(3, 8)
    with torch.no_grad():
        assert torch.equal(norm(x), theirs(x))
    norm.weight.requires_grad_(False)
    assert norm(x).grad_fn is None
    entrance = x.clone().requires_grad_()
    norm(entrance).sum().backward()
    assert norm.weight.grad is None
    assert entrance.grad is not None


def test_those_that_say_what_llamas_or_t5s_says_are_replaced_and_no_other() -> None:
    classes = (LlamaRMSNorm, Qwen3RMSNorm, GemmaRMSNorm, T5LayerNorm, nn.RMSNorm, nn.LayerNorm)
    module = nn.ModuleList(nn.Sequential(made(8)) for made in classes)
    names = list(module.state_dict())
    replace_rms_norms(module)
    assert [isinstance(each[0], RMSNorm) for each in module] == [True, True, False, True, False, False]
    assert list(module.state_dict()) == names
