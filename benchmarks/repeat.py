"""Figures of the atlas, their runs made again on this machine: whether they come out within their stated errors.

Rounding differs from processor to processor, and from one number of threads to another on the same one; it grows with
the steps, so that a single run of a high learning rate may end points away from where it did. A figure is a mean over
seeds, with a standard error that should hold this too.

    OMP_NUM_THREADS=2 python benchmarks/repeat.py --root FOLDER_OF_MNIST --out benchmarks/results/repeat-MACHINE.json
    python benchmarks/repeat.py --figure luck "body 0, order 0" mnist --protocol paper
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.grid import Selection, make_grid
from fpt_lightning.experiments.report.statistics import standard_error
from fpt_lightning.experiments.tables import read_experiments
from fpt_lightning.machine import machine
from fpt_lightning.main import main as fpt

ARCHIVES = Path("results/atlas")
FIGURES = (
    ("parts", "output", "mnist"),
    ("scarce", "frozen, pretrained", "mnist_1"),
    ("pocket", "pretrained", "listops"),
)
"""Table, arm and task: the ladder's lowest rung, the least data, and another modality."""


def runs_of(table: str, arm: str, task: str, arguments: argparse.Namespace) -> tuple[list[Run], list[float]]:
    """The runs behind an archived figure, seed by seed, and the test accuracy of each."""
    selection = Selection(table, arguments.profile, arguments.protocol, arms=[arm], tasks=[task])
    grid = make_grid(read_experiments(arguments.experiments), selection, arguments.archives / table)
    (cell,), outcomes = grid.cells, grid.outcomes()
    if (lr := cell.chosen(outcomes)) is None:
        raise SystemExit(f"{grid.folder} holds no figure of {arm} on {task}")
    runs = [cell.runs[lr, seed] for seed in cell.seeds]
    archived = [grid.records.result(run.folder.name) or {} for run in runs]
    return runs, [result["test_accuracy"] for result in archived]


def made_again(run: Run, folder: Path, root: str | None) -> float:
    """The test accuracy of a run that is made in a folder, or was."""
    here = folder / run.folder.name
    if not (here / "result.json").exists():
        own = [f"--data.root={root}"] if root and run.task.startswith("mnist") else []
        quiet = ["--baselines=false", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
        if fpt([*run.words, *own, *quiet, f"--run_folder={here}"]) != 0:
            raise SystemExit("fpt run failed")
    accuracy: float = json.loads((here / "result.json").read_text())["test_accuracy"]
    return accuracy


def figure(values: Sequence[float]) -> dict[str, Any]:
    """Mean and standard error of test accuracies, in percent."""
    percent = [100 * value for value in values]
    return {"mean": fmean(percent), "error": standard_error(percent), "seeds": percent}


def compare(table: str, arm: str, task: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """A figure as it is archived and as it is here."""
    runs, archived = runs_of(table, arm, task, arguments)
    again = [made_again(run, arguments.folder, arguments.root) for run in runs]
    row = {
        "table": table, "arm": arm, "task": task, "archived": figure(archived), "again": figure(again),
        "farthest_seed": 100 * max(abs(one - other) for one, other in zip(archived, again, strict=True)),
    }  # fmt: skip
    row["difference"] = abs(row["again"]["mean"] - row["archived"]["mean"])
    print(
        f"{table:<10}{arm:<24}{task:<14}"
        + "".join(f"{row[made]['mean']:>8.2f} ± {row[made]['error']:.2f}" for made in ("archived", "again"))
        + f"{row['farthest_seed']:>8.2f}",
        flush=True,
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", nargs=3, action="append", metavar=("TABLE", "ARM", "TASK"), help="by default three")
    parser.add_argument("--archives", type=Path, default=ARCHIVES, help="a folder a table")
    parser.add_argument("--experiments", help="another experiments.yaml")
    parser.add_argument("--profile", default="atlas")
    parser.add_argument("--protocol", default="halving")
    parser.add_argument("--root", help="where MNIST lies")
    parser.add_argument("--folder", type=Path, default=Path("runs/repeat"), help="of the runs; those there are taken")
    parser.add_argument("--out", type=Path, help="the JSON to write")
    arguments = parser.parse_args()
    print(f"{'table':<10}{'arm':<24}{'task':<14}{'archived':>15}{'again':>15}{'a seed':>8}")
    rows = [compare(*asked, arguments) for asked in arguments.figure or FIGURES]
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"machine": machine("cpu"), "figures": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
