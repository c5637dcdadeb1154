"""Training steps a second of the layer-norm LSTM, beside the same function as a loop over time, on this machine.

Three frozen layers whose layer norms train, in fp32, on sequences of 1,000 time steps: a training step is the forward
pass and the gradients of the layer norms and of the input. Two loops call `nn.LSTMCell` once a time step: one slices
each token out of the sequence, as most public code does, which makes its backward pass quadratic in time; the other
takes the sequence apart at once, and is the best that a loop can be. All are checked to give the same gradients before
they are timed, and the ratio is that of a loop's time to the fused one's.

    python benchmarks/lstm.py --out benchmarks/results/lstm-MACHINE.json
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fpt_lightning.machine import machine
from fpt_lightning.models.backbones.lstm import LayerNormLSTM

LAYERS = 3
LOOPS = ("loop", "best_loop")
Body = Callable[[torch.Tensor], torch.Tensor]


class Loop(nn.Module):
    """A :class:`LayerNormLSTM` without residuals or positions, one time step after the other.

    Args:
        fused: Whose parameters it shares.
        apart: Take the sequence apart at once instead of slicing every token out of it.
    """

    def __init__(self, fused: LayerNormLSTM, apart: bool) -> None:
        super().__init__()
        self.apart = apart
        self.norms = nn.ModuleList(layer.norm for layer in fused.layers)
        self.cells = nn.ModuleList(_cell(layer.lstm) for layer in fused.layers)
        self.norm = fused.norm

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Maps ``[batch, length, width]`` to the same."""
        for norm, cell in zip(self.norms, self.cells, strict=True):
            state = None
            outputs = []
            sequence = norm(hidden)
            tokens = sequence.unbind(1) if self.apart else (sequence[:, step] for step in range(sequence.shape[1]))
            for token in tokens:  # [batch, width]
                state = cell(token, state)
                outputs.append(state[0])
            hidden = torch.stack(outputs, dim=1)
        return self.norm(hidden)


def _cell(lstm: nn.LSTM) -> nn.LSTMCell:
    cell = nn.LSTMCell(lstm.input_size, lstm.hidden_size)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(cell, name, getattr(lstm, f"{name}_l0"))
    return cell


def training_step(body: Body, trained: list[nn.Parameter], embeddings: torch.Tensor) -> list[torch.Tensor]:
    """The gradients of the input and of what trains."""
    embeddings = embeddings.detach().requires_grad_()
    return list(torch.autograd.grad(body(embeddings).square().mean(), [embeddings, *trained]))


def measure(width: int, batch: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Steps a second (median) of all, in turn, and the ratios round by round."""
    torch.manual_seed(0)
    fused = LayerNormLSTM(width, LAYERS, arguments.length, dropout=0.0).to(arguments.device)
    trained = [parameter for name, parameter in fused.named_parameters() if "norm" in name]
    fused.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    embeddings = torch.randn(batch, arguments.length, width, device=arguments.device)
    styles: dict[str, Body] = {"loop": Loop(fused, apart=False), "best_loop": Loop(fused, apart=True), "fused": fused}
    # the first call of each warms up and gives the gradients that must agree
    expected, *others = [training_step(body, trained, embeddings) for body in styles.values()]
    for gradients in others:
        for ours, theirs in zip(gradients, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
    times: dict[str, list[float]] = {style: [] for style in styles}
    end = time.perf_counter() + arguments.seconds
    while time.perf_counter() < end or len(times["loop"]) < arguments.repeats:
        for style, body in styles.items():
            start = time.perf_counter()
            training_step(body, trained, embeddings)
            if arguments.device == "cuda":
                torch.cuda.synchronize()
            times[style].append(time.perf_counter() - start)
    ratios = {
        style: statistics.median(loop / ours for loop, ours in zip(times[style], times["fused"], strict=True))
        for style in LOOPS
    }
    rates = {style: 1 / statistics.median(taken) for style, taken in times.items()}
    return {"width": width, "batch": batch, "steps_per_second": rates, "ratio": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, nargs="+", default=[64, 128, 256, 768])
    parser.add_argument("--batch", type=int, nargs="+", default=[4])
    parser.add_argument("--length", type=int, default=1000, help="time steps of a sequence")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each case is measured at least")
    parser.add_argument("--repeats", type=int, default=3, help="how often each case is measured at least")
    parser.add_argument("--out", type=Path, help="the JSON to write")
    arguments = parser.parse_args()
    print(f"{LAYERS} layers, {arguments.length} time steps; training steps a second")
    print(f"{'width':>6}{'batch':>6}{'fused':>10}{'loop':>10}{'ratio':>7}{'best loop':>11}{'ratio':>7}")
    rows = []
    for width in arguments.width:
        for batch in arguments.batch:
            rows.append(row := measure(width, batch, arguments))
            rates, ratios = row["steps_per_second"], row["ratio"]
            print(
                f"{width:>6}{batch:>6}{rates['fused']:>10.3f}{rates['loop']:>10.3f}{ratios['loop']:>7.1f}"
                f"{rates['best_loop']:>11.3f}{ratios['best_loop']:>7.1f}",
                flush=True,
            )
    if arguments.out:
        sizes = {"layers": LAYERS, "length": arguments.length, "precision": "fp32"}
        result = {"machine": machine(arguments.device), **sizes, "cases": rows}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
