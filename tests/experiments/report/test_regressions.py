"""Tables hold regressions: judged by R², beside tasks that are judged by accuracy."""

import re

import pytest
from run_folders import EXPERIMENTS, finish, grid_of

from fpt_lightning.experiments.grid import Grid
from fpt_lightning.experiments.report import FORMATS, render
from fpt_lightning.experiments.report.units import MINUS, NONE


def _finished(**how: object) -> Grid:
    grid = grid_of("regressions", **how)
    for cell in grid.cells:
        regression = cell.task == "weight"
        for (lr, seed), run in cell.runs.items():
            test = (0.9 if cell.arm.name == "FPT" else 0.6) + seed / 100 - (0.1 if lr == 1e-2 else 0)
            finish(run, test, metric="r2" if regression else "accuracy")
    return grid


def _rendered(grid: Grid, kind: str = "markdown") -> str:
    return render(grid, grid.outcomes(), kind)


def test_a_regression_stands_beside_a_classification() -> None:
    grid = _finished()
    told = _rendered(grid)
    assert "|  | bit-xor | weight, test R² |" in told
    assert "| FPT | 91.0 ± 0.6 (paper 100) | 0.910 ± 0.006 (paper 0.9 ± 0.020) |" in told
    assert "Test accuracy, in percent, of the checkpoint" in told
    assert "Test R², the coefficient of determination, of the checkpoint" in told
    assert "Warnings" not in told
    latex = _rendered(grid, "latex")
    assert r"weight, test R$^2$" in latex
    assert r"0.910{\scriptsize $\pm$ 0.006}" in latex
    page = _rendered(grid, "html")
    assert '<span class="difference">+0.010</span>' in page
    assert "<td>0.910</td><td>0.910</td>" in page  # of a run: validation and test
    assert "<td>91.0</td><td>91.0</td>" in page
    assert "Validation accuracy or R² against gradient steps" in page


def test_a_learning_rate_is_chosen_on_it() -> None:
    grid = _finished(protocol="fair")
    assert "every arm takes the best by mean validation accuracy or R² over 3 seeds; of equal" in _rendered(grid)
    page = _rendered(grid, "html")
    assert "FPT, lr 1e-2: validation 0.810 ± 0.006" in page
    assert "<h2>Accuracy or R² against learning rate</h2>" in page
    assert 'aria-label="R² against learning rate on weight: FPT ' in page


def test_every_measure_of_a_regression() -> None:
    grid = grid_of("regressions_in_full")
    for cell in grid.cells:
        for run in cell.runs.values():
            finish(run, 0.5, curve=[-3.0, 0.2, 0.496, 0.5, 0.3], metric="r2")
    told = _rendered(grid)
    assert "weight, test R² | weight, training R² | weight, gradient steps to convergence |" in told
    assert f"| FPT | 0.500 ± 0.000 | {NONE}[^1] | 300 ± 0 | 1,000 |" in told  # 1 % of the way from 0 to 0.5 is 0.005
    assert "[^1]: 3 of 3 runs logged no training R²" in told


def test_a_regression_that_was_never_better_than_guessing() -> None:
    grid = grid_of("regressions_in_full", arms=["FPT"])
    for run in grid.cells[0].runs.values():
        finish(run, -0.2, curve=[-1e6, -0.3, -0.2], metric="r2")
    assert "3 of 3 runs were never better than chance on validation" in _rendered(grid)
    page = _rendered(grid, "html")
    heights = re.findall(rf'text-anchor="end">({MINUS}?[\d.]+)</text>', page)
    # a start of minus a million leaves the rest to be seen
    assert min(float(height.replace(MINUS, "-")) for height in heights) == -1


def test_a_figure_below_zero_has_a_minus_and_one_too_small_to_be_seen_none() -> None:
    grid = grid_of("regressions", EXPERIMENTS.replace("[0.9, 0.02]", "-0.3"), tasks=["weight"])
    for cell in grid.cells:
        for seed, run in enumerate(cell.runs.values()):
            finish(run, -0.25 - seed / 100 if cell.arm.name == "FPT" else -2e-4, metric="r2")
    told = _rendered(grid)
    assert f"| FPT | {MINUS}0.260 ± 0.006 (paper {MINUS}0.3) |" in told
    assert "0.000 ± 0.000" in told
    assert "-0." not in told
    latex = _rendered(grid, "latex")
    assert r"FPT & $-$0.260{\scriptsize $\pm$ 0.006}" in latex  # a hyphen is shorter than a minus
    assert "-0." not in latex


@pytest.mark.parametrize(
    ("figures", "written"),
    [("[98.0, 0.04]", "98 ± 0.04"), ("[98.0, 0.35]", "98 ± 0.35"), ("[98.0, 0.0]", "98 ± 0.0"), ("98.05", "98.05")],
)
def test_the_papers_figure_has_the_digits_that_it_gave(figures: str, written: str) -> None:
    told = _rendered(grid_of("regressions", EXPERIMENTS.replace("[100, [0.9, 0.02]]", f"[{figures}, null]")))
    assert f"(paper {written})" in told


def test_a_task_that_says_another_metric_than_its_runs_is_warned_of() -> None:
    grid = grid_of("regressions", tasks=["bit_xor"], arms=["FPT"])
    for run in grid.cells[0].runs.values():
        finish(run, 0.5, metric="r2")
    for kind in FORMATS:
        assert "Runs on bit-xor measured r2" in _rendered(grid, kind)
