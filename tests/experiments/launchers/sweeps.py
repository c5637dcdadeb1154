"""What the tests of sweeps share: a small table, the command line as a process, and what its runs measured."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from conftest import read_rows
from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.grid import Grid, Selection, make_grid
from fpt_lightning.experiments.tables import read_experiments

PATIENCE = 300  # seconds; machines are shared
FIGURES = ("val_accuracy", "test_accuracy", "best_step", "steps", "seed", "lr")


def write_experiments(
    path: Path,
    steps: int = 4,
    every: int = 2,
    seeds: int = 2,
    rates: tuple[float, ...] = (1e-3,),
    tasks: tuple[str, ...] = ("bit_xor",),
    settings: dict[str, Any] | None = None,
    arms: dict[str, dict[str, Any]] | None = None,
) -> Path:
    """An experiments.yaml with one table, ``small``, of runs on the backbone tiny."""
    content = {
        "tasks": {name: {"title": name, "config": f"{name}.yaml", "lr": 1e-3, "chance": 50} for name in tasks},
        "protocols": {"paper": {}, "fair": {"lr": list(rates), "seeds": list(range(seeds))}},
        "profiles": {
            "smoke": {
                "backbones": {"body": {"configs": ["backbones/tiny.yaml"]}},
                "settings": {
                    "trainer.max_steps": steps,
                    "trainer.val_check_interval": every,
                    "trainer.limit_val_batches": 2,
                    "trainer.limit_test_batches": 2,
                    "trainer.log_every_n_steps": 1,
                    "trainer.accelerator": "cpu",
                    "trainer.enable_progress_bar": False,
                    **(settings or {}),
                },
            }
        },
        "tables": {
            "small": {
                "title": "Small",
                "source": "these tests",
                "protocol": "fair",
                "tasks": list(tasks),
                "arms": arms or {"tiny": {"backbone": "body"}},
            }
        },
    }
    path.write_text(yaml.safe_dump(content))
    return path


def grid_of(experiments: Path, folder: str | Path = "runs") -> Grid:
    """The runs of ``small``."""
    return make_grid(read_experiments(str(experiments)), Selection("small", "smoke"), Path(folder))


def orders_of(grid: Grid) -> list[Run]:
    """Those that are due."""
    return grid.due(grid.outcomes())


def sweep_words(experiments: Path, folder: str | Path, *more: str) -> list[str]:
    """``fpt sweep small`` as the words of a process, a thread a run."""
    words = ["--experiments", str(experiments), "--profile", "smoke", "--folder", str(folder), "--threads", "1", *more]
    return [sys.executable, "-m", "fpt_lightning", "sweep", "small", *words]


def sweep(experiments: Path, folder: str | Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs it to its end."""
    return subprocess.run(
        sweep_words(experiments, folder, *more), capture_output=True, text=True, check=False, timeout=PATIENCE,
        env={**os.environ, **environment},
    )  # fmt: skip


def measured(folder: str | Path) -> dict[str, Any]:
    """Every figure of every finished run, but for how long things took."""
    found: dict[str, Any] = {}
    for result in sorted(Path(folder).glob("*/result.json")):
        content = json.loads(result.read_text())
        rows = read_rows(result.parent / "metrics.csv")
        curves = [{key: value for key, value in row.items() if key != "samples_per_second"} for row in rows]
        found[result.parent.name] = {key: content.get(key) for key in FIGURES}, curves
    return found


def children(process: int) -> list[int]:
    """The processes below one, grandchildren included."""
    below: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # gone meanwhile
            continue
        if fields[0] != "Z":
            below.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, left = [], [process]
    while left:
        new = below.get(left.pop(), [])
        found += new
        left += new
    return found


def is_alive(process: int) -> bool:
    """Whether a process is there and no mere entry of its parent's."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
