"""Tokens a second of the pretraining loop, and its share of the machine's fp32 matrix rate.

The loop is `fpt fit`'s own: Trainer, optimizer, schedule, clipping and loader, with the sizes of
configs/pretrain/language.yaml on random tokens. A step's arithmetic is that of the matrix products alone, forward and
backward, attention counted for the half that causality leaves: 6 operations a token and weight, and 6 a token, layer,
number of an embedding and mean distance looked back. The share is that of the faster of torch's two fp32 matrix
kernels, measured right before and after.

    python benchmarks/pretraining.py --out benchmarks/results/pretraining-MACHINE.json
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from fpt_lightning.data.loading import GlobalBatchSampler, make_loader
from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.data.text.datamodule import RandomWindows
from fpt_lightning.machine import begin_again, huge_pages, machine
from fpt_lightning.training.language.pretraining import LanguageModel
from fpt_lightning.training.trainer import FPTTrainer
from train_step import matrix_rate

VOCABULARY = 4096


class Clock(L.Callback):
    """Seconds from the end of one step to that of the next."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._last: float | None = None

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Takes the time."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._last is not None:
            self.times.append(now - self._last)
        self._last = now


def arithmetic(model: LanguageModel, batch: int, context: int) -> float:
    """Operations of the matrix products of a step."""
    config = model.model.config
    weights = 12 * config.n_layer * config.n_embd**2 + config.vocab_size * config.n_embd
    attention = 6 * config.n_layer * config.n_embd * context  # 12 for both halves
    return batch * context * (6 * weights + attention)


def measure(precision: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds a step (median) and what follows from it."""
    context, batch = arguments.context, arguments.batch_size
    task = TaskSpec("language", context, VOCABULARY, vocabulary_size=VOCABULARY, answer_tokens=context)
    model = LanguageModel(task, layers=arguments.layers, width=arguments.width, heads=arguments.heads)
    tokens = np.random.default_rng(0).integers(VOCABULARY, size=10**6).astype(np.uint16)
    dataset = RandomWindows(tokens, context, seed=0)
    sampler = GlobalBatchSampler(len(dataset), batch, training=True, shuffle=False, seed=0)
    clock = Clock()
    trainer = FPTTrainer(
        accelerator=arguments.accelerator, devices=1, precision=precision, max_steps=arguments.steps,
        gradient_clip_val=1.0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[clock],
    )  # fmt: skip
    device = "cuda" if arguments.accelerator == "gpu" else "cpu"
    before = matrix_rate(device)
    trainer.fit(model, make_loader(dataset, sampler))
    rate = statistics.mean([before, matrix_rate(device)])
    seconds = statistics.median(clock.times[2:])
    done = arithmetic(model, batch, context) / seconds
    return {
        "seconds": seconds, "tokens_per_second": batch * context / seconds, "gflops": done / 1e9,
        "matrix_rate_gflops": rate / 1e9, "share": done / rate,
    }  # fmt: skip


def main() -> None:
    begin_again(huge_pages())  # as fpt does
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accelerator", default="gpu" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", nargs="+", default=["bf16-mixed", "32-true"])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, help="the JSON to write")
    arguments = parser.parse_args()
    print(f"{'precision':<12}{'s/step':>8}{'tokens/s':>10}{'GFLOP/s':>9}{'fp32 matrix rate':>18}{'share':>8}")
    rows = {}
    for precision in arguments.precision:
        row = rows[precision] = measure(precision, arguments)
        print(
            f"{precision:<12}{row['seconds']:>8.3f}{row['tokens_per_second']:>10,.0f}{row['gflops']:>9,.0f}"
            f"{row['matrix_rate_gflops']:>18,.0f}{row['share']:>8.0%}",
            flush=True,
        )
    if arguments.out:
        sizes = {name: getattr(arguments, name) for name in ("layers", "width", "heads", "context", "batch_size")}
        device = "cuda" if arguments.accelerator == "gpu" else "cpu"
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(
            json.dumps({"machine": machine(device), "sizes": sizes, "steps": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
