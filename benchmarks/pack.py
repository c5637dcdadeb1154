"""Runs an hour of a sweep in packs beside the same sweep without, on this machine.

Twenty-seven runs of `pocket`, nine rates and three seeds, go through the local launcher in two processes, as
`fpt sweep --pack N --jobs 2` makes them; runs are short, so validation and test weigh more than in a real sweep.
Peak memory is that of a process, with all its runs.

    python benchmarks/pack.py --out benchmarks/results/pack-MACHINE.json
    python benchmarks/pack.py --tasks mnist --root FOLDER_OF_MNIST
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.grid import Grid, Selection, make_grid
from fpt_lightning.experiments.launchers.base import Launcher
from fpt_lightning.experiments.launchers.local import LocalLauncher
from fpt_lightning.experiments.packing import packed
from fpt_lightning.experiments.tables import read_experiments
from fpt_lightning.machine import machine
from fpt_lightning.runs.outcome import State

RATES = [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 7e-3, 1e-2]
SEEDS = [0, 1, 2]


def table(folder: Path, task: str, rates: list[float], seeds: list[int], settings: dict[str, Any]) -> Grid:
    """A table of one cell with all rates and seeds."""
    content = {
        "tasks": {task: {"title": task, "config": f"{task}.yaml", "lr": 1e-3, "chance": 50}},
        "protocols": {"fair": {"lr": rates, "seeds": seeds}},
        "profiles": {"here": {"backbones": {"body": {"configs": ["backbones/pocket.yaml"]}}, "settings": settings}},
        "tables": {
            "packs": {"title": "Packs", "source": "", "protocol": "fair", "tasks": [task],
                      "arms": {"pocket": {"backbone": "body"}}},
        },
    }  # fmt: skip
    path = folder / "experiments.yaml"
    path.write_text(yaml.safe_dump(content))
    return make_grid(read_experiments(str(path)), Selection("packs", "here"), folder / "runs")


def measure(grid: Grid, size: int, jobs: int) -> dict[str, Any]:
    """Makes all runs in packs of a size."""
    runs = grid.due(grid.outcomes())
    packs = packed(runs, size, jobs if size > 1 else 1)
    with LocalLauncher(jobs=jobs, threads=1) as launcher:
        launcher.check([run.command for run in runs[:1]])  # starts a process
        start = time.perf_counter()
        make(launcher, packs)
        wall = time.perf_counter() - start
    results = [json.loads((run.folder / "result.json").read_text()) for run in runs]
    sizes = sorted({result.get("pack", {"size": 1})["size"] for result in results})
    peak = max(result["peak_memory_mb"] for result in results)
    return {"pack": size, "sizes": sizes, "wall_seconds": round(wall, 1), "peak_memory_mb": peak}


def make(launcher: Launcher, packs: list[Run]) -> None:
    """Has packs carried out, all of whose runs must end well."""
    launcher.submit(packs)
    left = len(packs)
    while left:
        for verdict in launcher.wait(1.0):
            for each in verdict.members or (verdict,):
                if each.state is not State.FINISHED:
                    raise SystemExit(f"a run failed: {each.cause}")
            left -= 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["bit_xor", "bit_memory"], help="mnist needs --root")
    parser.add_argument("--root", help="the folder of MNIST")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 3, 9, 27], help="runs in one pass, at most")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="learning rates")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="seeds of each")
    parser.add_argument("--steps", type=int, default=50, help="training steps of a run")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--precision", default="32-true", help="the Trainer's")
    parser.add_argument("--out", type=Path, help="the JSON to write")
    arguments = parser.parse_args()
    settings = {
        "trainer.max_steps": arguments.steps,
        "trainer.val_check_interval": arguments.steps,
        "trainer.limit_val_batches": 1,
        "trainer.limit_test_batches": 1,
        "trainer.enable_progress_bar": False,
        "trainer.precision": arguments.precision,
    }
    rows = []
    print(f"{'task':<12}{'pack':>5}{'wall s':>9}{'runs an hour':>14}{'ratio':>7}{'MiB':>7}")
    for task in arguments.tasks:
        alone: float | None = None
        for size in arguments.sizes:
            with tempfile.TemporaryDirectory() as folder:
                root = {"data.root": arguments.root} if task == "mnist" else {}
                grid = table(Path(folder), task, arguments.rates, arguments.seeds, {**settings, **root})
                row = {"task": task, **measure(grid, size, arguments.jobs)}
            alone = alone or row["wall_seconds"]
            row["ratio"] = round(alone / row["wall_seconds"], 2)
            rows.append(row)
            an_hour = 3600 / row["wall_seconds"] * len(arguments.rates) * len(arguments.seeds)
            print(
                f"{task:<12}{size:>5}{row['wall_seconds']:>9.1f}{an_hour:>14.0f}{row['ratio']:>7.2f}"
                f"{row['peak_memory_mb']:>7}",
                flush=True,
            )
    if arguments.out:
        about = {"machine": machine("cpu"), "steps": arguments.steps, "precision": arguments.precision}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
