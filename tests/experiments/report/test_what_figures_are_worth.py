"""What a reviewer asks of a table: trivial baselines, runs that diverged, splits, sizes, and columns that are not there."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from run_folders import EXPERIMENTS, diverge, finish, grid_of

from fpt_lightning.experiments.grid import Grid
from fpt_lightning.experiments.report import FORMATS, render
from fpt_lightning.experiments.report.pictures.charts import charts_of
from fpt_lightning.experiments.report.pictures.svg import Chart, Level
from fpt_lightning.experiments.report.results import collect

SHOWS = {
    "commonest class": {"val": 0.504, "test": 0.502},
    "the bits that show": {"val": 0.75, "test": 0.7501},
}


def _rendered(grid: Grid, kind: str = "markdown") -> str:
    return render(grid, grid.outcomes(), kind).replace("\\_", "_")


def _made(table: str = "table2", baselines: object = SHOWS, **how: object) -> Grid:
    """Arms that reach 80 and 75 percent."""
    grid = grid_of(table, **{"arms": ["FPT", "Random"], "tasks": ["bit_xor"], **how})
    for cell in grid.cells:
        for run in cell.runs.values():
            finish(run, 0.8 if cell.arm.name == "FPT" else 0.75, baselines=baselines)
    return grid


@pytest.mark.parametrize("kind", FORMATS)
def test_trivial_baselines_are_rows(kind: str) -> None:
    told = _rendered(_made(), kind)
    assert "trivial baselines on the test split" in told
    assert "No better than a trivial baseline on bit-xor (the bits that show, 75.0): Random." in told
    row = {
        "markdown": "| *the bits that show* | 75.0 |",
        "latex": r"\emph{the bits that show} & 75.0 \\",
        "html": '<th scope="row"><span>the bits that show</span></th>\n<td>75.0</td>',
    }
    assert row[kind] in told
    assert told.index("FPT") < told.index("commonest class")


def test_a_task_without_baselines_has_none() -> None:
    grid = _made(tasks=["bit_xor", "mnist"], arms=["FPT"])
    for run in grid.cells[1].runs.values():
        shutil.rmtree(run.folder)
        finish(run, 0.9)
    assert "| *commonest class* | 50.2 |  |" in _rendered(grid)


def test_results_without_baselines_say_nothing_of_them() -> None:
    assert "trivial" not in _rendered(_made(baselines={}))


def test_a_damaged_baseline_is_left_out() -> None:
    told = _rendered(_made(baselines={"half": {"val": 0.5}, "none": {}, "odd": {"val": float("nan"), "test": 0.5}}))
    assert "trivial" not in told


@pytest.mark.parametrize(("baselines", "level"), [(SHOWS, Level("the bits that show", 75)), ({}, Level("chance", 50))])
def test_the_level_of_charts_is_the_best_baseline(baselines: object, level: Level) -> None:
    grid = _made(baselines=baselines, protocol="fair")
    charts = charts_of(collect(grid, grid.outcomes()))
    for kind in ("curves", "rates"):
        ((_, chart),) = charts[kind]
        assert isinstance(chart, Chart)
        assert chart.level == level
    assert f">{level.name}</text>" in _rendered(grid, "html")


def test_steps_to_convergence_are_counted_from_the_best_baseline() -> None:
    """0.52 to 0.8: 0.79 lacks 3.6 % of that way, 2 % of the one from 0.5 and 100 % of that from 0.79."""
    for baselines, steps in (({}, "300"), ({"rule": {"val": 0.79, "test": 0.1}}, "400")):
        grid = grid_of("table6", arms=["FPT"])
        for run in grid.cells[0].runs.values():
            finish(run, curve=[0.5, 0.7, 0.798, 0.8], baselines=baselines)
        told = _rendered(grid)
        assert f"| FPT | {steps} ± 0 (paper 500) |" in told
        assert ("which lie above chance: bit-xor 79.0 (rule) instead of 50.0." in told) == bool(baselines)
        shutil.rmtree("tables")


def test_what_is_never_better_than_the_best_baseline_does_not_converge() -> None:
    grid = grid_of("table6", arms=["FPT"])
    for run in grid.cells[0].runs.values():
        finish(run, 0.74, baselines=SHOWS)
    assert "3 of 3 runs were never better than the bits that show on validation" in _rendered(grid)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_run_that_diverged_is_told_and_counts_in_no_mean(kind: str) -> None:
    grid = grid_of(arms=["FPT"], tasks=["bit_xor"])
    first, *others = grid.cells[0].runs.values()
    diverge(first, 1230)
    for run, test in zip(others, (0.8, 0.9), strict=True):
        finish(run, test)
    told = _rendered(grid, kind)
    assert "mean over 2 of 3 seeds: 1 of 3 runs diverged (step 1,230)" in told
    assert "85.0" in told
    assert "nan" not in told
    if kind == "html":
        assert '<td class="state diverged">diverged<span class="cause">it diverged at step 1,230</span></td>' in told
        assert "2 finished, 1 diverged" in told


def test_runs_that_diverged_beside_others() -> None:
    grid = grid_of(arms=["FPT"], tasks=["bit_xor"])
    first, second, _ = grid.cells[0].runs.values()
    diverge(first, 20)
    assert "0 of 3 runs so far; 1 diverged (step 20), 2 missing" in _rendered(grid)
    diverge(second, 1230)
    assert "0 of 3 runs so far; 2 diverged (steps 20 and 1,230), 1 missing" in _rendered(grid)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_reference_says_of_which_split_it_is(kind: str) -> None:
    told = "The paper's figures on MNIST are of the validation split, ours of the test split."
    declared = EXPERIMENTS.replace("mnist.yaml, lr: 1.0e-3", "mnist.yaml, lr: 1.0e-3, reference_split: validation")
    page = _rendered(grid_of(declared=declared), kind).replace("&#39;", "'")
    assert told in page
    assert "validation split" not in _rendered(grid_of(), kind)
    assert "validation split" not in _rendered(grid_of("table7", declared, arms=["Random"]), kind)  # has no figures


@pytest.mark.parametrize("kind", FORMATS)
def test_what_the_profile_makes_smaller_is_told(kind: str) -> None:
    declared = EXPERIMENTS.replace(
        "    backbones:\n      language:",
        "    settings: {data.batch_size: 4}\n    tasks:\n      mnist: {data.image_size: 28}\n    backbones:\n      language:",
    )
    told = _rendered(grid_of(declared=declared, protocol="fair"), kind)
    assert "Profile laptop: minutes a run." in told
    assert "bit-xor: data.batch_size 4, early_stopping.patience 10" in told
    assert "MNIST: data.batch_size 4, data.image_size 28, early_stopping.patience 10" in told


def test_the_sizes_are_those_that_the_runs_have() -> None:
    """Whatever layer of the file, or the command line, has the last word."""
    declared = EXPERIMENTS.replace(
        "about: minutes a run", "settings: {data.n: 4, trainer.max_steps: 50, model.lora.rank: 2}"
    )
    declared = declared.replace("settings: {model.layers: 1}", "settings: {model.layers: 1, trainer.max_steps: 70}")
    declared = declared.replace("note: Read as released.", "settings: {data.n: 5}")
    overrides = {"model.lora.rank": 3, "data.root": "/here", "trainer.accelerator": "cpu", "trainer.precision": "bf16"}
    told = _rendered(grid_of(declared=declared, tasks=["bit_xor"], overrides=overrides))
    sizes = "data.n 5, trainer.max_steps 50 (LSTM* 70), model.lora.rank 3, trainer.precision bf16"
    assert f"- bit-xor: {sizes}\n" in told.replace("\\*", "*")


def test_one_learning_rate_is_no_search() -> None:
    told = _rendered(grid_of(protocol="fair", rates=(1e-3,)))
    assert "Protocol fair: one learning rate, given beforehand." in told


def test_every_seed_that_is_missing_has_its_reason() -> None:
    grid = grid_of("table6", arms=["FPT"])
    first, second, third = grid.cells[0].runs.values()
    diverge(first, 40)
    finish(second, curve=[0.4, 0.4])  # no better than chance
    finish(third, curve=[0.5, 0.9])
    reasons = "1 of 3 runs diverged (step 40); 1 of 2 runs were never better than chance on validation"
    assert f"mean over 1 of 3 seeds: {reasons}" in _rendered(grid)
    (third.folder / "metrics.csv").unlink()
    assert "; 2 of 2 runs have no learning curve that can be read" in _rendered(grid)


def test_what_has_been_tested_is_not_called_otherwise() -> None:
    declared = EXPERIMENTS.replace("note: Read as released.", "attention: true")
    grid = grid_of(declared=declared, arms=["FPT"], tasks=["bit_xor"])
    for run, test in zip(grid.cells[0].runs.values(), (0.8, 0.9), strict=False):
        finish(run, test)  # whose maps are still to come
    assert "mean over 2 of 3 seeds: 2 of 3 runs so far; 1 missing" in _rendered(grid)


def test_a_grid_without_a_number_is_not_said_to_have_diverged() -> None:
    grid = grid_of(protocol="fair", arms=["FPT"], tasks=["bit_xor"])
    for run in grid.cells[0].runs.values():
        finish(run, 0.5, validation=float("nan"))
    assert "9 of 9 runs ended without a number on validation" in _rendered(grid)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_left_out_is_named(kind: str) -> None:
    told = _rendered(grid_of(tasks=["mnist"], arms=["FPT", "LSTM*"]), kind)
    assert "Left out here: the column bit-xor of the table." in told
    assert "Left out here: the rows Random, ViT of the table." in told
    assert "Left out" not in _rendered(grid_of(), kind)


def _wide() -> Grid:
    names = [f"task_{number}" for number in range(7)]
    tasks = "".join(
        f"  {name}: {{title: CIFAR-10 LRA {number}, config: bit_xor.yaml, settings: {{data.n: {number + 2}}}, "
        "lr: 1.0e-3, chance: 50}\n"
        for number, name in enumerate(names)
    )
    table = f"""
  wide:
    title: Wide
    source: ours
    tasks: [{", ".join(names)}]
    arms:
      frozen, pretrained and long: {{backbone: language, reference: [{", ".join(["[100, 10.5]"] * 7)}]}}
      Random: {{backbone: language, configs: [initialization/random.yaml]}}
"""
    grid = grid_of("wide", EXPERIMENTS.replace("tasks:\n", f"tasks:\n{tasks}", 1) + table)
    for cell in grid.cells:
        for (_, seed), run in cell.runs.items():
            if not run.folder.is_dir():
                finish(run, 1.0 if seed else 0.5, baselines=SHOWS)
    return grid


def test_latex_hides_no_column() -> None:
    told = _rendered(_wide(), "latex")
    headings = [line for line in told.splitlines() if "CIFAR-10" in line and line.endswith(r"\\")]
    assert [len(re.findall("CIFAR-10", line)) for line in headings] == [2, 2, 2, 1]
    assert told.count(r"\emph{the bits that show}") == 4


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here: apt-get install texlive-latex-base")
def test_a_wide_table_fits_the_page() -> None:
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}" + _rendered(_wide(), "latex").replace(
        "task_", "task"
    )
    Path("a.tex").write_text(document + "\\end{document}", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_a_rate_that_diverged_is_told_beside_the_one_that_was_chosen() -> None:
    grid = grid_of(protocol="fair", arms=["FPT"], tasks=["bit_xor"])
    for (lr, seed), run in grid.cells[0].runs.items():
        if (lr, seed) == (1e-2, 1):
            diverge(run, 40)
        else:
            finish(run, 0.5 + 10 * lr + seed / 100)
    told = _rendered(grid)
    assert "- FPT: bit-xor 1e-3 (1e-2 diverged)" in told
    assert "52.0 ± 0.6 (paper 100)" in told
