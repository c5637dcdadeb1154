"""Runs an hour of a sweep in packs beside the same sweep without, on this machine.

Twenty-seven runs of `pocket`, nine rates and three seeds, go through the local launcher in two processes, as
`fpt sweep --pack N --jobs 2` makes them; runs are short, so validation and test weigh more than in a real sweep.
Processes are warm, sizes of packs come in turn, several times, and their median counts. Peak memory is that of a
process, with all its runs.

    python benchmarks/pack.py --out benchmarks/results/pack-MACHINE.json
    python benchmarks/pack.py --tasks mnist --root FOLDER_OF_MNIST
"""

import argparse
import json
import statistics
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
    folder.mkdir()
    path = folder / "experiments.yaml"
    path.write_text(yaml.safe_dump(content))
    return make_grid(read_experiments(str(path)), Selection("packs", "here"), folder / "runs")


def measure(grid: Grid, first: Grid, size: int, jobs: int) -> dict[str, Any]:
    """Makes all runs in packs of a size, behind those of another grid, one a process."""
    runs = grid.due(grid.outcomes())
    packs = packed(runs, size, jobs if size > 1 else 1)
    with LocalLauncher(jobs=jobs, threads=1) as launcher:
        make(launcher, first.due(first.outcomes()))  # starts every process
        start = time.perf_counter()
        make(launcher, packs)
        wall = time.perf_counter() - start
    results = [json.loads((run.folder / "result.json").read_text()) for run in runs]
    sizes = {result.get("pack", {"size": 1})["size"] for result in results}
    return {"sizes": sizes, "wall": round(wall, 1), "peak": max(result["peak_memory_mb"] for result in results)}


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """What all repeats of a size say together."""
    walls = [each["wall"] for each in found]
    return {
        "sizes": sorted(set().union(*(each["sizes"] for each in found))),
        "wall_seconds": statistics.median(walls),
        "walls": walls,
        "peak_memory_mb": max(each["peak"] for each in found),
    }


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


def compare(task: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures a task in packs of every size, in turn, several times; ratios are to the first size."""
    settings = {
        "trainer.max_steps": arguments.steps,
        "trainer.val_check_interval": arguments.steps,
        "trainer.limit_val_batches": 1,
        "trainer.limit_test_batches": 1,
        "trainer.enable_progress_bar": False,
        "trainer.precision": arguments.precision,
        **({"data.root": arguments.root} if task == "mnist" else {}),
    }
    found: dict[int, list[dict[str, Any]]] = {size: [] for size in arguments.sizes}
    for size in arguments.sizes * arguments.repeats:
        with tempfile.TemporaryDirectory() as folder:
            first = table(Path(folder, "first"), task, arguments.rates[:1], list(range(arguments.jobs)), settings)
            grid = table(Path(folder, "timed"), task, arguments.rates, arguments.seeds, settings)
            found[size].append(measure(grid, first, size, arguments.jobs))
        print(f"{task}, at most {size} in one pass: {found[size][-1]['wall']:.1f} s", flush=True)
    rows = [{"task": task, "pack": size, **summary(readings)} for size, readings in found.items()]
    print(f"{'task':<12}{'pack':>5}{'wall s':>9}{'runs an hour':>14}{'ratio':>7}{'MiB':>7}")
    for row in rows:
        row["ratio"] = round(rows[0]["wall_seconds"] / row["wall_seconds"], 2)
        an_hour = 3600 / row["wall_seconds"] * len(arguments.rates) * len(arguments.seeds)
        print(
            f"{task:<12}{row['pack']:>5}{row['wall_seconds']:>9.1f}{an_hour:>14.0f}{row['ratio']:>7.2f}"
            f"{row['peak_memory_mb']:>7}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["bit_xor", "bit_memory"], help="mnist needs --root")
    parser.add_argument("--root", help="the folder of MNIST")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 3, 9, 27], help="runs in one pass, at most")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="learning rates")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="seeds of each")
    parser.add_argument("--steps", type=int, default=50, help="training steps of a run")
    parser.add_argument("--repeats", type=int, default=3, help="how often each size is measured")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--precision", default="32-true", help="the Trainer's")
    parser.add_argument("--out", type=Path, help="the JSON to write")
    arguments = parser.parse_args()
    rows = [row for task in arguments.tasks for row in compare(task, arguments)]
    if arguments.out:
        told = ("steps", "precision", "jobs", "repeats", "rates", "seeds")
        about = {"machine": machine("cpu"), **{name: getattr(arguments, name) for name in told}}
        about["runs"] = len(arguments.rates) * len(arguments.seeds)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
