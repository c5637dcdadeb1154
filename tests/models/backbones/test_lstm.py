import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fpt_lightning.models.backbones.lstm import LayerNormLSTM

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "lstm.py"


def _step_by_step(body: LayerNormLSTM, embeddings: torch.Tensor) -> torch.Tensor:
    """The same function, one time step after the other."""
    hidden = embeddings
    if body.positions is not None:
        hidden = hidden + body.positions(torch.arange(hidden.shape[1]))
    for layer in body.layers:
        assert isinstance(layer.lstm, nn.LSTM)
        cell = nn.LSTMCell(layer.lstm.input_size, layer.lstm.hidden_size)
        cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.lstm.state_dict().items()})
        states, state = [], None
        for token in layer.norm(hidden).unbind(1):
            state = cell(token, state)
            states.append(state[0])
        out = torch.stack(states, dim=1)
        hidden = hidden + out if body.residual else out
    return body.norm(hidden)


@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(4, 40), st.integers(1, 4)),
    residual=st.booleans(),
    positions=st.booleans(),
)
def test_it_equals_a_loop_over_time(sizes: tuple[int, int, int, int], residual: bool, positions: bool) -> None:
    batch, length, width, layers = sizes
    torch.manual_seed(0)
    body = LayerNormLSTM(width, layers, 12, dropout=0.0, residual=residual, positions=positions)
    weight, tokens = torch.randn(2, batch, length, width)
    results = []
    for function in (body, lambda x: _step_by_step(body, x)):
        embeddings = tokens.clone().requires_grad_()
        out = function(embeddings)
        norms = [parameter for name, parameter in body.named_parameters() if "norm" in name or "positions" in name]
        results.append([out, *torch.autograd.grad((out * weight).sum(), [embeddings, *norms])])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4 * theirs.detach().abs().max().item(), rtol=1e-3)


def test_the_names_of_its_parameters() -> None:
    lstm = {f"lstm.{kind}_{which}_l0" for kind in ("weight", "bias") for which in ("ih", "hh")}
    layer = {"norm.weight", "norm.bias", *lstm}
    expected = {"norm.weight", "norm.bias", *(f"layers.{number}.{name}" for number in range(2) for name in layer)}
    assert {name for name, _ in LayerNormLSTM(8, 2, 5, 0.1).named_parameters()} == expected
    star = LayerNormLSTM(8, 2, 5, 0.1, residual=True, positions=True)
    assert {name for name, _ in star.named_parameters()} == expected | {"positions.weight"}
    assert star.positions is not None
    assert star.positions.weight.shape == (5, 8)


def test_padding_after_the_tokens_changes_nothing() -> None:
    torch.manual_seed(0)
    body = LayerNormLSTM(8, 3, 10, dropout=0.0, residual=True, positions=True)
    embeddings = torch.randn(2, 10, 8)
    padded = torch.cat([embeddings[:, :6], 100 * torch.randn(2, 4, 8)], dim=1)
    mask = (torch.arange(10) < 6).expand(2, 10)
    torch.testing.assert_close(body(padded, mask)[:, :6], body(embeddings[:, :6]), atol=1e-6, rtol=1e-5)


def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    body = LayerNormLSTM(8, 2, 5, dropout=0.5)
    embeddings = torch.randn(2, 5, 8)
    assert not torch.equal(body(embeddings), body(embeddings))
    body.eval()
    assert torch.equal(body(embeddings), body(embeddings))


def test_frozen_weights_stay_and_the_rest_learns() -> None:
    torch.manual_seed(0)
    body = LayerNormLSTM(8, 2, 5, dropout=0.1, residual=True, positions=True)
    frozen = {name: parameter for name, parameter in body.named_parameters() if ".lstm." in name}
    for parameter in frozen.values():
        parameter.requires_grad_(False)
    before = {name: parameter.clone() for name, parameter in body.named_parameters()}
    optimizer = torch.optim.Adam([parameter for parameter in body.parameters() if parameter.requires_grad], lr=0.1)
    body(torch.randn(3, 5, 8)).square().mean().backward()
    optimizer.step()
    for name, parameter in body.named_parameters():
        assert torch.equal(parameter, before[name]) == (name in frozen), name
        assert (parameter.grad is None) == (name in frozen), name


def test_a_step_under_autocast_is_near_that_of_full_precision() -> None:
    torch.manual_seed(0)
    body = LayerNormLSTM(32, 2, 9, dropout=0.0)
    embeddings = torch.randn(2, 9, 32)
    with torch.autocast("cpu", torch.bfloat16):
        half = body(embeddings)
    half.float().square().sum().backward()
    torch.testing.assert_close(half.float(), body(embeddings), atol=0.1, rtol=0.1)


def test_the_benchmark_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "lstm.json"
    words = ["--width=8", "--batch=2", "--length=12", "--seconds=0", "--repeats=1", "--device=cpu", f"--out={out}"]
    monkeypatch.setattr(sys, "argv", [str(BENCHMARK), *words])
    monkeypatch.syspath_prepend(BENCHMARK.parent)
    runpy.run_path(str(BENCHMARK), run_name="__main__")
    (case,) = json.loads(out.read_text())["cases"]
    assert set(case["steps_per_second"]) == {"fused", "loop", "best_loop"}
    assert all(rate > 0 for rate in case["steps_per_second"].values())
    assert f"{case['ratio']['loop']:.1f}" in capsys.readouterr().out


@pytest.mark.parametrize("length", [1, 5])
def test_a_sequence_may_be_shorter_than_the_longest(length: int) -> None:
    body = LayerNormLSTM(8, 1, 5, dropout=0.0, positions=True)
    assert body(torch.randn(2, length, 8)).shape == (2, length, 8)
