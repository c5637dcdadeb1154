"""Training steps on a GPU: packs of runs, the captured step, and whether any step waits for the device.

Two tables, one JSON, a few minutes:

1. Packs of `pocket`: milliseconds a step of 1, 3 and 27 runs in one pass, and how many runs train in the time of one.
2. One run of GPT-2 base with random weights: the loop that people write by hand (that of `train_step.py`, its batch on
   the device from the start), `fpt run`, and `fpt run` with captured steps, as multiples of the first one's speed.

Every run is built by its own command and trained by Lightning on its own data. Before steps are timed, some run under
``torch.cuda.set_sync_debug_mode("error")``: where one waits is told, and the benchmark ends with status 1.

    python benchmarks/gpu.py --out benchmarks/results/gpu-DEVICE.json
    python benchmarks/gpu.py --device cpu --steps 2      # that it works, where there is no GPU; no figures to keep
"""

import argparse
import gc
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch

from fpt_lightning.machine import machine
from fpt_lightning.models.packed import share_frozen
from fpt_lightning.packs import Member
from fpt_lightning.training.packs.module import Pack, PackData
from fpt_lightning.training.trainer import peak_memory_mb
from train_step import plain_step

WARM, WATCHED = 5, 5
"""Steps until all kernels are chosen and memory is taken, and those behind them that may not wait."""
WAITING = "synchronizing CUDA operation"
SIZES = (1, 3, 27)
"""Runs of a pack."""
STYLES = {"fpt run": [], "captured": ["--trainer.captured=true"]}
"""How one run of ours trains, and what it is told."""

Case = dict[str, str]
Figures = dict[str, Any]


class Clock(L.Callback):
    """Times the steps of a training behind the first ones.

    Args:
        watched: Let steps that wait for the device be an error until then.

    Attributes:
        figures: Milliseconds a step, and how many steps were replayed if any were.
    """

    def __init__(self, watched: bool) -> None:
        self.watched, self.figures, self._begun = watched, Figures(), 0.0

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if self.watched and trainer.global_step == WARM:
            torch.cuda.set_sync_debug_mode("error")
        if trainer.global_step == WARM + WATCHED:
            self._begun = now()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == trainer.max_steps:
            seconds = (now() - self._begun) / (trainer.max_steps - WARM - WATCHED)
            replays = getattr(getattr(pl_module, "captured", None), "replays", 0)
            self.figures = {"ms": seconds * 1e3} | ({"replays": replays} if replays else {})

    def on_exception(self, *_: Any) -> None:
        now()


def now() -> float:
    """The time when the device has done all that it was told to; from here on it may be waited for."""
    if torch.cuda.is_initialized():
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(train: Callable[[list[L.Callback]], None]) -> Figures:
    """The figures of a training, MiB at most, and where a step waited if one did."""
    waits: Figures = {}
    for watched in (True, False) if torch.cuda.is_available() else (False,):
        clock = Clock(watched)
        try:
            train([clock])
        except RuntimeError as error:
            if not watched or WAITING not in str(error):
                raise
            waits = {"waits": [f"{frame.name}: {frame.line}" for frame in traceback.extract_tb(error.__traceback__)]}
        else:
            break
    return {**clock.figures, "memory_mb": round(peak_memory_mb()), **waits}


class Bench:
    """Runs as the command line of this benchmark wants them, each in a folder of its own."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder, self.runs = arguments, folder, 0
        steps = WARM + WATCHED + arguments.steps
        self.trainer = {
            "max_steps": steps, "val_check_interval": steps, "log_every_n_steps": steps + 1,
            "accelerator": "gpu" if arguments.device == "cuda" else "cpu", "devices": 1, "logger": False,
            "enable_progress_bar": False, "enable_model_summary": False,
        }  # fmt: skip

    def run(self, case: Case, backbone: str, *more: str) -> Member:
        """A run that trains some steps and does nothing else."""
        self.runs += 1
        options = {**self.trainer, "precision": case["precision"]}
        words = ["run", f"--config={case['task']}.yaml", f"--config=backbones/{backbone}.yaml", *more]
        words += [f"--trainer.{name}={str(value).lower()}" for name, value in options.items()]
        member = Member([*words, "--model.backbone_seed=0", f"--run_folder={self.folder / str(self.runs)}"])
        member.trainer.limit_val_batches = 0  # which as an option `fpt run` refuses: nothing could be chosen
        return member

    def pack(self, case: Case, size: int) -> Figures:
        """Runs of one body in one pass; a pack of one is a run alone, under its own Trainer."""

        def train(callbacks: list[L.Callback]) -> None:
            members: list[Member] = []
            for seed in range(size):
                members.append(self.run(case, self.arguments.pack_backbone, f"--seed_everything={seed}"))
                share_frozen(members[0].model.model, members[-1].model.model)
            if size == 1:
                fit(members[0], callbacks)
            else:
                replicas = [member.replica for member in members]
                options: dict[str, Any] = {**self.trainer, "precision": case["precision"]}
                trainer = L.Trainer(**options, callbacks=callbacks, limit_val_batches=0, enable_checkpointing=False)
                trainer.fit(Pack(replicas), datamodule=PackData(replicas))

        return measure(train)

    def alone(self, case: Case, *more: str) -> Figures:
        """One run."""
        return measure(lambda callbacks: fit(self.run(case, self.arguments.backbone, *more), callbacks))

    def by_hand(self, case: Case) -> Figures:
        """The loop of most public scripts."""
        data = self.run(case, self.arguments.backbone).datamodule
        data.setup("fit")
        batch = data.sample(data.batch_size, torch.device(self.arguments.device))
        precision = "bf16" if case["precision"].startswith("bf16") else "fp32"
        step, _ = plain_step(data.task, (batch.tokens, batch.target), self.arguments.plain, precision)
        for _ in range(WARM):
            step()
        begun = now()
        for _ in range(self.arguments.steps):
            step()
        return {"ms": (now() - begun) / self.arguments.steps * 1e3, "memory_mb": round(peak_memory_mb())}


def fit(member: Member, callbacks: list[L.Callback]) -> None:
    member.trainer.callbacks = [*member.trainer.callbacks, *callbacks]
    member.trainer.fit(member.model, datamodule=member.datamodule)


def compare(what: str, cases: list[Case], ways: dict[Any, Callable[[Case], Figures]]) -> list[dict[str, Any]]:
    """Measures every case in several ways; ``ratio`` is how many steps a run does in the time of the first way's."""
    rows = []
    print(f"{'task':<12}{'precision':<12}{what:<10}{'ms a step':>10}{'MiB':>8}{'ratio':>8}")
    for case in cases:
        first: float | None = None
        for name, way in ways.items():
            gc.collect()  # of the runs before, whose Trainers hold each other
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            row = {**case, what: name, **way(case)}
            first = first or row["ms"]
            row["ratio"] = first / row["ms"] * (name if isinstance(name, int) else 1)
            rows.append(row)
            shown = f"{name:<10}{row['ms']:>10.2f}{row['memory_mb']:>8}{row['ratio']:>8.2f}"
            print(f"{case['task']:<12}{case['precision']:<12}{shown}{'  waits' * ('waits' in row)}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tasks", nargs="+", default=["bit_xor", "bit_memory"], choices=["bit_xor", "bit_memory"])
    parser.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"], help="the Trainer's")
    parser.add_argument("--steps", type=int, default=200, help="steps that are timed")
    parser.add_argument("--pack_backbone", default="pocket", help="of the packs, a file of configs/backbones")
    parser.add_argument("--backbone", default="gpt2_random", help="of the runs alone, likewise")
    parser.add_argument("--plain", default="gpt2", help="the same body in the loop by hand, as train_step.py has it")
    parser.add_argument("--out", type=Path, help="the JSON to write")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no figures: torch sees no GPU on this machine")
    result: dict[str, Any] = {"machine": machine(arguments.device), "timed_steps": arguments.steps}
    cases = [{"task": task, "precision": name} for name in arguments.precisions for task in arguments.tasks]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments, Path(folder))
        packs = {size: lambda case, size=size: bench.pack(case, size) for size in SIZES}
        result["packs"] = compare("pack", cases, packs)
        ours = {style: lambda case, words=words: bench.alone(case, *words) for style, words in STYLES.items()}
        result["steps"] = compare("loop", cases, {"by hand": bench.by_hand, **ours})
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    if waiting := [row for table in ("packs", "steps") for row in result[table] if "waits" in row]:
        sys.exit(f"{len(waiting)} of them wait for the device, the first in {' > '.join(waiting[0]['waits'][-4:])}")
    if arguments.device == "cuda" and any(
        row["loop"] == "captured" and "replays" not in row for row in result["steps"]
    ):
        sys.exit("no step of a captured run was replayed")


if __name__ == "__main__":
    main()
