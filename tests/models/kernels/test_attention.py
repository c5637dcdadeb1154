from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.models.kernels import attention as dispatch
from fpt_lightning.models.kernels import linear, sliced_attention
from fpt_lightning.models.kernels.attention import attention
from fpt_lightning.models.kernels.dropout import draw_all_kept, kept_scale
from fpt_lightning.models.kernels.last_block import AnswerTokens
from fpt_lightning.models.kernels.replicas import replicated

NEARLY_NONE = 1e-9  # our paths, in which nothing is dropped
CAUSAL: nn.Module = SimpleNamespace(is_causal=True)  # type: ignore[assignment]
BIDIRECTIONAL: nn.Module = SimpleNamespace(is_causal=False)  # type: ignore[assignment]
LENGTH = 9

PATHS = {
    "whole": {"SLICED_FROM": 1000},
    "one slice": {"SLICED_FROM": 1},
    "slices of two heads and four queries": {"SLICED_FROM": 1, "QUERIES": 4, "SLICE": 2 * 4 * LENGTH},
    "slices of one head and one query": {"SLICED_FROM": 1, "QUERIES": 1, "SLICE": 1},
}


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Sizes that send nine tokens down each path."""
    for name, value in PATHS[request.param].items():
        monkeypatch.setattr(dispatch if name == "SLICED_FROM" else sliced_attention, name, value)
    return str(request.param)


def _masks() -> dict[str, torch.Tensor | None]:
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    padding = (torch.arange(LENGTH) < torch.tensor([LENGTH, 6])[:, None])[:, None, None, :]
    return {
        "none": None,
        "causal and padding": causal & padding,
        "padding": padding,
        "one for all": causal[None, None],
    }


def _inputs(heads: int = 3, width: int = 4, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Query, key and value as a model makes them: views of one tensor that ends in the heads."""
    torch.manual_seed(0)
    joint = torch.randn(2, LENGTH, 3 * heads * width, dtype=dtype)
    parts = joint.split(heads * width, dim=-1)
    return [part.unflatten(-1, (heads, width)).transpose(1, 2).requires_grad_() for part in parts]


def _with_gradients(out: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    weight = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), inputs)]


@pytest.mark.parametrize("layer", [CAUSAL, BIDIRECTIONAL], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("mask", _masks())
@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize("biased", [False, True])
def test_it_equals_torchs_where_nothing_is_dropped(
    path: str, layer: nn.Module, mask: str, scaling: float | None, biased: bool
) -> None:
    inputs = _inputs()
    bias = torch.randn(1, 3, LENGTH, LENGTH, requires_grad=True) if biased else None
    differentiated = inputs if bias is None else [*inputs, bias]
    results = []
    for function, p in ((attention, NEARLY_NONE), (sdpa_attention_forward, 0.0)):
        out, _ = function(layer, *inputs, _masks()[mask], dropout=p, scaling=scaling, position_bias=bias)
        results.append(_with_gradients(out, differentiated))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("layer", [CAUSAL, BIDIRECTIONAL], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("mask", _masks())
@pytest.mark.parametrize("dropout", [0.0, NEARLY_NONE])
def test_queries_of_answer_tokens_alone(
    path: str, layer: nn.Module, mask: str, dropout: float, count: int, padded: bool
) -> None:
    inputs = _inputs()
    bias = torch.randn(1, 3, LENGTH, LENGTH, requires_grad=True)
    real = torch.arange(LENGTH) < torch.tensor([LENGTH, 6])[:, None] if padded else None
    answers = AnswerTokens(count, real)
    call = partial(attention, layer, *inputs, _masks()[mask], dropout=dropout, position_bias=bias)
    shortened, whole = call(answers=answers)[0], call()[0]
    assert shortened.shape == whole.shape
    assert not shortened[:, :-count].any()
    ours, theirs = (
        _with_gradients(rows, [*inputs, bias]) for rows in (answers.last_of(shortened), answers.of(whole, 1))
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("path")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), share=st.floats(0.0, 1.0))
def test_any_mask_is_kept(seed: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(2, 1, LENGTH, LENGTH, generator=generator) < share
    mask[:, :, :, 0] |= ~mask.any(-1)  # a query that sees nothing has no answer
    inputs = _inputs()
    ours, theirs = (
        _with_gradients(function(CAUSAL, *inputs, mask, dropout=p)[0], inputs)
        for function, p in ((attention, NEARLY_NONE), (sdpa_attention_forward, 0.0))
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_query_that_sees_nothing_stays_finite(path: str) -> None:
    inputs = _inputs()
    mask = torch.zeros(2, 1, LENGTH, LENGTH, dtype=torch.bool)
    for result in _with_gradients(attention(CAUSAL, *inputs, mask, dropout=0.1)[0], inputs):
        assert torch.isfinite(result).all()


def test_the_callers_word_on_causality_goes_before_the_layers(path: str) -> None:
    inputs = _inputs()
    ours, _ = attention(CAUSAL, *inputs, None, dropout=NEARLY_NONE, is_causal=False)
    theirs, _ = sdpa_attention_forward(BIDIRECTIONAL, *inputs, None)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mask", _masks())
def test_gradients_are_those_of_finite_differences(path: str, mask: str) -> None:
    inputs = _inputs(heads=2, width=2, dtype=torch.float64)
    bias = torch.randn(1, 2, LENGTH, LENGTH, dtype=torch.float64, requires_grad=True)

    def function(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)  # the same weights are dropped every time
        return attention(CAUSAL, query, key, value, _masks()[mask], dropout=0.3, position_bias=bias)[0]

    assert torch.autograd.gradcheck(function, (*inputs, bias), nondet_tol=1e-12, fast_mode=True)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_it_is_the_plain_formula_given_what_was_dropped(path: str, p: float) -> None:
    """Values of the identity show the weights; where all scores are equal, they show what was dropped alone."""
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    inputs = _inputs(heads=3, width=LENGTH)
    identity = torch.eye(LENGTH).expand(2, 3, LENGTH, LENGTH)
    torch.manual_seed(5)
    shown, _ = attention(CAUSAL, torch.zeros(2, 3, LENGTH, LENGTH), torch.zeros_like(identity), identity, None, p)
    factors = shown.transpose(1, 2) * torch.arange(1, LENGTH + 1)[:, None]  # [batch, heads, queries, keys]
    kept = factors[:, :, causal]
    assert 0 < (kept == 0).sum() < kept.numel()
    torch.testing.assert_close(kept[kept != 0], torch.full_like(kept[kept != 0], 1 / (1 - p)), rtol=1e-4, atol=0)

    torch.manual_seed(5)
    out, _ = attention(CAUSAL, *inputs, None, p)
    torch.rand(100)  # the backward pass draws the same again wherever the global generator is by then
    query, key, value = inputs
    scores = query @ key.transpose(-1, -2) * LENGTH**-0.5
    weights = scores.masked_fill(~causal, -torch.inf).softmax(-1) * factors
    plain = (weights @ value).transpose(1, 2)
    for ours, theirs in zip(_with_gradients(out, inputs), _with_gradients(plain, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_rate_expectation_and_independence(p: float) -> None:
    length, heads = 200, 10  # sliced as it is
    identity = torch.eye(length).expand(1, heads, length, length)
    torch.manual_seed(0)
    zeros = torch.zeros_like(identity)
    shown = attention(BIDIRECTIONAL, zeros, zeros, identity, None, p)[0].transpose(1, 2) * length
    dropped = (shown == 0).float()
    count = shown.numel()
    assert dropped.mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / count) ** 0.5)
    assert shown.mean().item() == pytest.approx(1, abs=5 * (p / (1 - p) / count) ** 0.5)
    centred = dropped - p
    for dim in (1, 2, 3):  # heads, queries, keys
        together = (centred.narrow(dim, 1, shown.shape[dim] - 1) * centred.narrow(dim, 0, shown.shape[dim] - 1)).mean()
        assert together.abs().item() < 5 * p * (1 - p) / (count * 0.9) ** 0.5 + 1e-7


def test_it_follows_the_global_seed(path: str) -> None:
    results = []
    for seed in (0, 0, 1):
        inputs = _inputs()
        torch.manual_seed(seed)
        results.append([attention(CAUSAL, *inputs, None, 0.5)[0] for _ in range(2)])
    assert all(torch.equal(*pair) for pair in zip(results[0], results[1], strict=True))
    assert not torch.equal(results[0][0], results[0][1])
    assert not torch.equal(results[0][0], results[2][0])


def test_a_long_sequence_keeps_nothing_of_the_size_of_its_weights() -> None:
    length, kept = 300, []
    inputs = [torch.randn(1, 2, length, 4, requires_grad=True) for _ in range(3)]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        out, _ = attention(CAUSAL, *inputs, None, 0.1)
    assert kept
    assert max(kept) < length**2
    out.sum().backward()


@pytest.mark.parametrize("runs", [1, 2])
def test_a_short_sequence_keeps_its_weights_once_and_computes_what_autograd_would(runs: int) -> None:
    inputs = [*_inputs(), torch.randn(1, 3, LENGTH, LENGTH, requires_grad=True)]
    visible = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()

    def through_autograd(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2) + bias
        weights = scores.add(sliced_attention.added_mask(~visible, scores.dtype)).softmax(-1)
        return (weights * (draw_all_kept(weights.shape, 0.3) * kept_scale(0.3)) @ value).transpose(1, 2)

    def ours(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return attention(CAUSAL, query, key, value, None, 0.3, position_bias=bias)[0]

    found = {}
    for function in (through_autograd, ours):
        kept: dict[int, int] = {}
        with (
            replicated([torch.Generator().manual_seed(seed) for seed in range(runs)]),
            torch.autograd.graph.saved_tensors_hooks(partial(_note, kept), lambda x: x),
        ):
            out = function(*inputs)
        found[function] = _with_gradients(out, inputs), list(kept.values()).count(2 * 3 * LENGTH**2)
    (theirs, thrice), (results, once) = found[through_autograd], found[ours]
    assert (thrice, once) == (3, 1)
    assert all(torch.equal(*pair) for pair in zip(results, theirs, strict=True))


def _note(sizes: dict[int, int], x: torch.Tensor) -> torch.Tensor:
    """Writes down how many numbers lie in the memory of a tensor that the backward pass needs."""
    sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // x.element_size()
    return x


@pytest.mark.parametrize("length", [8, 200])
def test_a_step_under_autocast_is_near_that_of_full_precision(length: int) -> None:
    task = TaskSpec("any", length, 3, token_width=5)
    model = FrozenPretrainedTransformer(task, BackboneChoice("tiny"), dropout=0.1)
    tokens = torch.randn(2, length, 5)
    mask = torch.arange(length) < torch.tensor([length, length - 3])[:, None]
    gradients = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            model(tokens, mask).float().square().sum().backward()
        trained = model.trained_parameters().values()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in trained if parameter.grad is not None]))
        model.zero_grad()
    exact, half = gradients
    assert (exact - half).norm() < 0.05 * exact.norm()


def test_what_it_does_not_know_goes_to_torch() -> None:
    inputs = _inputs()
    torch.manual_seed(0)
    added = torch.randn(2, 1, LENGTH, LENGTH)
    ours, _ = attention(CAUSAL, *inputs, added, dropout=0.2)
    torch.manual_seed(0)
    torch.randn(2, 1, LENGTH, LENGTH)
    theirs, _ = sdpa_attention_forward(CAUSAL, *inputs, added, dropout=0.2)
    assert torch.equal(ours, theirs)
    assert torch.equal(attention(CAUSAL, *inputs, None)[0], sdpa_attention_forward(CAUSAL, *inputs, None)[0])


@pytest.fixture
def bf16_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that has them, whatever this is: without them attention is computed in fp32."""
    monkeypatch.setattr(linear, "multiplies_bf16", lambda: True)


@pytest.mark.usefixtures("bf16_products")
@pytest.mark.parametrize("length", [9, 128, 300])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_blocks_of_queries_equal_torchs(length: int, scaling: float | None) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, length, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    ours, theirs = (
        _with_gradients(function(CAUSAL, *inputs, None, scaling=scaling)[0], inputs)
        for function in (partial(attention, blockwise=True), sdpa_attention_forward)
    )
    assert not torch.equal(ours[0], theirs[0]), "it is another kernel"
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).float().norm() < 0.02 * other.float().norm()


@pytest.mark.usefixtures("bf16_products")
def test_a_frozen_body_evaluates_through_torchs_also_in_bf16() -> None:
    inputs = _inputs(dtype=torch.bfloat16)
    assert torch.equal(attention(CAUSAL, *inputs, None)[0], sdpa_attention_forward(CAUSAL, *inputs, None)[0])


@pytest.mark.usefixtures("bf16_products")
@pytest.mark.parametrize(
    ("layer", "dtype", "options"),
    [
        (BIDIRECTIONAL, torch.bfloat16, {"attention_mask": None}),
        (CAUSAL, torch.float32, {"attention_mask": None}),
        (CAUSAL, torch.bfloat16, {"attention_mask": _masks()["padding"]}),
        (
            CAUSAL,
            torch.bfloat16,
            {"attention_mask": None, "position_bias": torch.ones(1, 3, LENGTH, LENGTH).bfloat16()},
        ),
    ],
    ids=["bidirectional", "fp32", "padding", "bias"],
)
def test_blocks_of_queries_serve_plain_causal_bf16_alone(
    layer: nn.Module, dtype: torch.dtype, options: dict[str, torch.Tensor | None]
) -> None:
    inputs = _inputs(dtype=dtype)
    ours, theirs = (
        attention(layer, *inputs, **options, blockwise=True),
        sdpa_attention_forward(layer, *inputs, **options),
    )
    assert torch.equal(ours[0], theirs[0])
