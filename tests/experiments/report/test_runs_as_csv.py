"""`fpt report TABLE --format csv`: what figures are made of, for other programs."""

import csv
import io
from pathlib import Path
from statistics import fmean

import pytest
from run_folders import EXPERIMENTS, diverge, finish, grid_of

from conftest import Fpt
from fpt_lightning.experiments.report import render

ATLAS = Path(__file__).parents[3] / "results" / "atlas"


def test_the_runs_that_count_are_those_of_the_figures(fpt: Fpt, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("report", "pocket", "--folder", str(ATLAS / "pocket"), "--profile", "atlas", "--protocol", "halving")
    assert fpt(*words, "--format", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert fpt(*words, "--format", "csv", "--out", "runs.csv") == 0
    assert list(csv.DictReader(io.StringIO(Path("runs.csv").read_text()))) == rows
    assert len({row["run"] for row in rows}) == len(rows)
    tests = [
        float(row["test"])
        for row in rows
        if (row["arm"], row["task"], row["counts"]) == ("pretrained", "MNIST", "true")
    ]
    assert len(tests) == 5
    capsys.readouterr()
    assert fpt(*words) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| pretrained |")]
    assert f" {100 * fmean(tests):.1f} ± " in line
    assert {row["test"] for row in rows if row["counts"] == "false"} == {""}
    paused = [row for row in rows if row["state"] == "paused" and row["task"] == "MNIST"]
    assert {row["steps"] for row in paused} == {"150", "300"}  # a quarter and a half of them
    assert all(0.05 < float(row["validation"]) < 1 for row in paused)
    assert {row["learning_rate"] for row in rows if row["counts"] == "true" and row["arm"] == "random"} == {"0.003"}


def test_what_did_not_end_well_and_names_with_commas() -> None:
    declared = EXPERIMENTS.replace("LSTM*: {", """'a, "b"': {""")
    grid = grid_of(declared=declared, protocol="fair", tasks=["bit_xor"], arms=['a, "b"'])
    for (lr, seed), run in grid.cells[0].runs.items():
        if lr < 1e-2:
            finish(run, 0.9, validation=0.5 + lr + seed / 100)
        elif seed == 0:
            diverge(run, 1000)
    rows = list(csv.DictReader(io.StringIO(render(grid, grid.outcomes(), "csv"))))
    assert {row["arm"] for row in rows} == {'a, "b"'}
    assert [(row["state"], row["steps"], row["validation"]) for row in rows if row["learning_rate"] == "0.01"] == [
        ("diverged", "1000", "nan"),
        ("missing", "", ""),
        ("missing", "", ""),
    ]
