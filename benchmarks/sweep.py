"""What a sweep costs beside its runs, on this machine.

Runs of a few steps on the backbone tiny go through the local launcher, whose processes are warm: the overhead of a run
is the wall time of all, times the processes, less the training that the runs report, per run. It holds everything else:
parsing, building, the test, the learning curve, the files. Then finished run folders by the thousand are made, and
`fpt status` and `fpt report --format html` are timed over them, each as a command of its own.

    python benchmarks/sweep.py --out benchmarks/results/sweep-MACHINE.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.grid import Grid, Selection, make_grid
from fpt_lightning.experiments.launchers.local import LocalLauncher
from fpt_lightning.experiments.tables import read_experiments
from fpt_lightning.machine import machine
from fpt_lightning.runs.outcome import State


def table(folder: Path, runs: int, steps: int) -> Grid:
    """A table of one cell with a seed for every run."""
    settings = {
        "trainer.max_steps": steps,
        "trainer.val_check_interval": steps,
        "trainer.limit_val_batches": 1,
        "trainer.limit_test_batches": 1,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": False,
    }
    content = {
        "tasks": {"bit_xor": {"title": "bit-xor", "config": "bit_xor.yaml", "lr": 1e-3, "chance": 50}},
        "protocols": {"paper": {"seeds": list(range(runs))}, "fair": {}},
        "profiles": {"smoke": {"backbones": {"body": {"configs": ["backbones/tiny.yaml"]}}, "settings": settings}},
        "tables": {
            "many": {"title": "Many", "source": "", "tasks": ["bit_xor"], "arms": {"tiny": {"backbone": "body"}}}
        },
    }
    path = folder / "experiments.yaml"
    path.write_text(yaml.safe_dump(content))
    return make_grid(read_experiments(str(path)), Selection("many", "smoke"), folder / "runs")


def overhead(folder: Path, runs: int, steps: int, jobs: int) -> dict[str, Any]:
    """Seconds a run beside its training, with warm processes."""
    grid = table(folder, runs + jobs, steps)
    orders = grid.due(grid.outcomes())
    with LocalLauncher(jobs=jobs, threads=1) as launcher:
        make(launcher, orders[:jobs])  # starts the processes
        start = time.perf_counter()
        make(launcher, orders[jobs:])
        wall = time.perf_counter() - start
    results = [json.loads((order.folder / "result.json").read_text()) for order in orders[jobs:]]
    training = sum(result["wall_seconds"] for result in results)
    seconds = {"wall": wall, "training": training, "overhead_a_run": (wall * jobs - training) / runs}
    return {"runs": runs, "steps": steps, "jobs": jobs, **seconds}


def make(launcher: LocalLauncher, orders: list[Run]) -> None:
    """Has orders carried out, all of which must end well."""
    launcher.submit(orders)
    left = len(orders)
    while left:
        for verdict in launcher.wait(1.0):
            if verdict.state is not State.FINISHED:
                raise SystemExit(f"a run failed: {verdict.cause}")
            left -= 1


def look(folder: Path, folders: int) -> dict[str, Any]:
    """Seconds of `fpt status` and `fpt report` over finished runs, python's start included."""
    grid = table(folder, folders, 2)
    for number, run in enumerate(grid.due(grid.outcomes())):
        run.folder.mkdir(parents=True)
        curve = "".join(f"{100 * step - 1},{step / 20}\n" for step in range(1, 11))
        (run.folder / "metrics.csv").write_text(f"step,val_accuracy\n{curve}")
        figures = {"val_accuracy": 0.5, "test_accuracy": number / folders, "steps": 2, "best_step": 2}
        result = {**figures, "lr": run.lr, "seed": run.seed, "versions": {}, "status": "finished"}
        (run.folder / "result.json").write_text(json.dumps(result))
    seen, seconds = timed(folder, "status")
    if f"{folders}/{folders}" not in seen:
        raise SystemExit(f"fpt status does not see {folders} finished runs:\n{seen}")
    page = folder / "many.html"
    _, report_seconds = timed(folder, "report", "--format=html", f"--out={page}")
    if f"n = {folders}" not in page.read_text():
        raise SystemExit(f"fpt report does not show {folders} finished runs")
    return {"folders": folders, "status_seconds": seconds, "report_seconds": report_seconds}


def timed(folder: Path, command: str, *more: str) -> tuple[str, float]:
    """What a command says of the table, and its seconds."""
    words = [command, "many", "--experiments=experiments.yaml", "--profile=smoke", f"--folder={folder / 'runs'}"]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "fpt_lightning", *words, *more], capture_output=True, text=True, check=True, cwd=folder,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    return done.stdout, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="runs to measure")
    parser.add_argument("--steps", type=int, default=20, help="training steps of a run")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2], help="processes")
    parser.add_argument("--folders", type=int, default=1000, help="finished runs to look at")
    parser.add_argument("--out", type=Path, help="the JSON to write")
    arguments = parser.parse_args()
    rows = []
    print(f"{'jobs':>5}{'runs':>6}{'wall s':>9}{'training s':>12}{'overhead s a run':>18}")
    for jobs in arguments.jobs:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row := overhead(Path(folder), arguments.runs, arguments.steps, jobs))
        print(
            f"{jobs:>5}{row['runs']:>6}{row['wall']:>9.1f}{row['training']:>12.1f}{row['overhead_a_run']:>18.3f}",
            flush=True,
        )
    with tempfile.TemporaryDirectory() as folder:
        looked = look(Path(folder), arguments.folders)
    for command in ("status", "report"):
        print(f"fpt {command} over {looked['folders']:,} finished runs: {looked[f'{command}_seconds']:.2f} s")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        result = {"machine": machine("cpu"), "overhead": rows, "look": looked}
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
