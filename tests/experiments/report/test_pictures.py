"""What the page of a study draws: differences with their intervals, every run of a grid, fractions of data."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_folders import EXPERIMENTS, diverge, finish, grid_of

from fpt_lightning.experiments.grid import Grid
from fpt_lightning.experiments.report import render
from fpt_lightning.experiments.report.pictures.svg import x_axis
from fpt_lightning.experiments.report.units import MINUS, rate
from fpt_lightning.runs.folder import RunFolder
from fpt_lightning.runs.learning_curve import plot_learning_curve
from fpt_lightning.runs.outcome import write_failure

FIGURES = {"FPT": [0.70, 0.71, 0.72], "Random": [0.60, 0.62, 0.64], "LSTM*": [0.6, 0.9, 0.7]}


def _finished(**how: object) -> Grid:
    """Differences to FPT of -9 with little variance, of +2.3 with much."""
    grid = grid_of(**{"tasks": ["bit_xor"], "arms": list(FIGURES), **how})
    for cell in grid.cells:
        for (_, seed), run in cell.runs.items():
            finish(run, FIGURES[cell.arm.name][seed])
    return grid


def _section(grid: Grid, heading: str) -> str:
    """A section of the HTML page; empty where there is none."""
    page = render(grid, grid.outcomes(), "html").replace("&#39;", "'").replace(MINUS, "-")
    _, found, rest = page.partition(f"<h2>{heading}</h2>")
    return rest.partition("</section>")[0] if found else ""


def test_a_difference_is_drawn_with_its_interval() -> None:
    section = _section(_finished(), "Against FPT")
    # differences -10, -9, -8: 9 +- 4.303 / sqrt(3)
    found = r"Random: -9.0 against FPT, 95 % interval -11.5 to -6.5, paired t-test over 3 seeds: p = 0.0041, corrected"
    (worse,) = re.findall(rf'<g class="effect worse"><title>{found}.*?</g>', section)
    assert "▼ -9.0" in worse
    (unsure,) = re.findall(r'<g class="effect "><title>LSTM\*: \+2.3 against FPT, .*?</g>', section)
    assert "▲" not in unsure
    assert section.count('class="effect') == 2  # the baseline is the line
    assert 'class="zero"' in section
    assert 'aria-label="Differences on bit-xor: Random -9.0 against FPT, 95 % interval' in section
    place = {name: float(at) for name, at in re.findall(r'<line class="(zero|error)" x1="([\d.]+)"', worse + section)}
    assert place["error"] < place["zero"]


def test_numbers_of_an_axis_have_the_minus_of_the_figures() -> None:
    page = render((grid := _finished()), grid.outcomes(), "html")
    assert re.search(rf'text-anchor="middle">{MINUS}\d+</text>', page)
    assert not re.search(r"<text [^>]*>-\d", page)


def test_a_legend_has_the_arms_that_are_drawn() -> None:
    grid = grid_of(tasks=["bit_xor"], arms=list(FIGURES))
    for cell in grid.cells:
        for run in cell.runs.values() if cell.arm.name != "FPT" else ():
            finish(run, 0.6, curve=[0.5, 0.6])
    section = _section(grid, "Learning curves")
    assert re.findall(r"</svg>([^<]+)</li>", section) == ["Random", "LSTM*"]
    assert 'class="s2"' in section  # in the colours that they have everywhere


def test_differences_of_a_regression_have_an_axis_of_their_size() -> None:
    grid = grid_of("regressions", tasks=["weight"])
    for cell in grid.cells:
        for (_, seed), run in cell.runs.items():
            finish(run, 0.9 if cell.arm.name == "FPT" else 0.87 + seed / 100, metric="r2")
    section = _section(grid, "Against FPT")
    ((left, right),) = re.findall(r'<line class="error" x1="([\d.]+)" x2="([\d.]+)"', section)
    assert float(right) - float(left) > 100, section


def test_a_single_validation_is_a_dot(tmp_path: Path) -> None:
    grid = grid_of(tasks=["bit_xor"], arms=["FPT"])
    for run in grid.cells[0].runs.values():
        finish(run, curve=[0.9])
    section = _section(grid, "Learning curves")
    assert section.count('class="dot"') == 1 + 1  # the legend's too
    metrics, picture = tmp_path / "metrics.csv", tmp_path / "curve.svg"
    metrics.write_text("step,train_loss,val_loss,val_accuracy\n9,,0.5,0.5\n")
    plot_learning_curve(metrics, picture)
    assert picture.read_text().count("#c44e52") > 2  # the lines of both panels and their dots


def test_differences_are_the_first_picture() -> None:
    grid = _finished()
    page = render(grid, grid.outcomes(), "html")
    assert re.findall(r"<h2>(.*?)</h2>", page)[:2] == ["Against FPT", "Learning curves"]


def test_a_name_that_would_run_into_the_difference_has_two_lines() -> None:
    long = "random feed-forward, pretrained"
    declared = EXPERIMENTS.replace("LSTM*: {", f'"{long}": {{').replace(
        "    note: Read", f"    contrasts: [[{json.dumps(long)}, Random]]\n    note: Read"
    )
    grid = grid_of(declared=declared, tasks=["bit_xor"], arms=["FPT", "Random", long])
    for cell in grid.cells:
        for seed, run in enumerate(cell.runs.values()):
            finish(run, FIGURES.get(cell.arm.name, FIGURES["LSTM*"])[seed])
    section = _section(grid, "Against FPT")
    names = re.findall(r'<text class="row-name" x="46" y="([\d.]+)">([^<]*)</text>', section)
    heights = {name: int(y) for y, name in names if name not in ("", long)}
    differences = [int(y) for y in re.findall(r'<text class="told" x="348" y="([\d.]+)"', section)]
    assert heights == {"Random": differences[0], "- Random": differences[2]}
    assert [int(y) for y, name in names if name == long] == [differences[1] - 16, differences[2] - 16]


def test_a_number_at_the_end_of_an_axis_is_not_cut() -> None:
    axis = x_axis("floating-point operations", [2.4e11, 2.7e12], True, rate)
    ticks = axis.ticks()
    assert axis.place(ticks[-1]) + 0.6 * 16 * len(rate(ticks[-1])) / 2 > 360  # in the largest letters
    assert max(axis.number_at(tick) + 0.6 * 16 * len(rate(tick)) / 2 for tick in ticks) <= 360
    assert axis.number_at(ticks[0]) == axis.place(ticks[0])


def test_an_interval_without_end_leaves_the_differences_apart() -> None:
    """Two seeds give a t value of 12.7; the axis ends before, the tooltip has all of it."""
    section = _section(_finished(seeds=(0, 1)), "Against FPT")
    (unsure,) = re.findall(r'<g class="effect "><title>LSTM\*: .*? 95 % interval -179.7 to \+188.7, .*?</g>', section)
    assert len(re.findall(r'class="end" d="M[\d.]+ [\d.]+L', unsure)) == 2
    numbers = [float(number) for number in re.findall(r'text-anchor="middle">(-?\d+)</text>', section)]
    assert max(map(abs, numbers)) <= 50


def test_where_there_is_nothing_to_compare_nothing_is_drawn() -> None:
    assert not _section(_finished(arms=["FPT"]), "Against FPT")
    assert not _section(grid_of(), "Against FPT")


def test_what_cannot_be_tested_is_a_mark_alone() -> None:
    section = _section(_finished(seeds=(0,)), "Against FPT")
    assert "not tested: one seed in common, a test needs two" in section
    assert 'class="error"' not in section
    assert section.count('class="dot"') == 2


def test_every_measure_has_its_differences() -> None:
    grid = grid_of("table7")
    for cell in grid.cells:
        for (_, seed), run in cell.runs.items():
            finish(
                run,
                0.5 + seed / 10,
                training=[0.5 + seed / 20],
                trained_parameters=1000 if cell.arm.name == "FPT" else 500,
            )
    section = _section(grid, "Against FPT")
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", section)
    assert captions == ["MNIST, test accuracy, %", "MNIST, training accuracy, %"]


def _squares(section: str, arm: str) -> dict[str, tuple[str, float, float]]:
    """What is drawn of every run of an arm, by its tooltip: its marks, opacity and width."""
    found = re.findall(
        r'((?:<rect class="frame [a-z]+"[^>]*>|<path class="lost"[^>]*>)?)'
        r'<rect class="square"[^>]* width="([\d.]+)"[^>]* fill-opacity="([\d.]+)"><title>(.*?)</title>',
        section,
    )
    marks = {told: re.findall(r'class="([a-z ]+)"', mark) for mark, _, _, told in found}
    return {
        told.removeprefix(f"{arm}, "): ("".join(marks[told]), float(opacity), float(width))
        for _, width, opacity, told in found
        if told.startswith(f"{arm}, ")
    }


def test_every_run_of_a_grid_is_a_square_that_says_how_it_stands() -> None:
    grid = grid_of(protocol="fair", tasks=["bit_xor"], arms=["FPT", "Random"])
    whole, mixed = grid.cells
    for (lr, seed), run in whole.runs.items():
        finish(run, 0.9, validation={1e-4: 0.6, 1e-3: 0.8, 1e-2: 0.7}[lr] + seed / 100)
    runs = list(mixed.runs.values())
    finish(runs[0], validation=0.5)
    finish(runs[1], curve=[0.3, 0.65, 0.4])
    RunFolder(runs[1].folder).result.unlink()
    RunFolder(runs[1].folder).write_pause(300)
    diverge(runs[2], 70)
    write_failure(runs[3].folder, "out of memory")
    section = _section(grid, "Every learning rate and seed")
    squares = _squares(section, "Random")
    assert squares["lr 1e-4, seed 0: validation 50.0, finished"] == ("", 0.08, 58.0)
    mark, opacity, width = squares["lr 1e-4, seed 1: validation 65.0, paused"]  # its best, not its last
    assert (mark, opacity, width) == ("frame way", pytest.approx(0.08 + 0.92 * 15 / 32, abs=1e-3), 50.0)
    assert squares["lr 1e-4, seed 2: diverged"][:2] == ("lost", 0)
    assert squares["lr 1e-3, seed 0: failed"][:2] == ("lost", 0)
    assert squares["lr 1e-3, seed 1: missing"][:2] == ("frame missing", 0)
    assert len(squares) == 9
    assert _squares(section, "FPT")["lr 1e-3, seed 2: validation 82.0, finished"][1] == 1
    assert section.count('class="choice"') == 1
    words = (
        "FPT from 60.0 to 82.0, chosen 1e-3, 9 finished; Random from 50.0 to 65.0, 1 finished, 1 diverged, 1 failed, "
    )
    assert f"{words}1 paused, 5 missing." in section


def test_where_no_run_is_asked_for_nothing_is_drawn() -> None:
    grid = grid_of(protocol="frugal", tasks=["bit_xor"], arms=["FPT"])
    for run in grid.due(grid.outcomes()):
        finish(run, validation={1e-4: 0.6, 1e-3: 0.8, 1e-2: 0.7}[run.lr or 0])
    squares = _squares(_section(grid, "Every learning rate and seed"), "FPT")
    assert len(squares) == 7  # the two best run all seeds
    assert sum("missing" in told for told in squares) == 4


def test_one_learning_rate_is_no_grid() -> None:
    assert not _section(_finished(), "Every learning rate and seed")


def _of_fractions(fractions: dict[str, float | None]) -> Grid:
    """Columns that are MNIST, with the fractions that their runs were given."""
    columns = "".join(
        f"  {name}: {{title: MNIST {name}, config: mnist.yaml, lr: 1.0e-3, chance: 10}}\n" for name in fractions
    )
    declared = EXPERIMENTS.replace("protocols:\n", f"{columns}protocols:\n", 1)
    declared = declared.replace("tasks: [bit_xor, mnist]", f"tasks: [bit_xor, {', '.join(fractions)}]")
    declared = declared.replace("reference: [100, 98.0]", "reference: []").replace("[75.8, [91.7, 0.4]]", "[]")
    declared = declared.replace("reference: [50, null]", "lr: 1.0e-3").replace("reference: [100, 97.8]", "lr: 1.0e-3")
    # another batch size is another run where the fraction is the same
    given = {name: {"data.batch_size": len(name), "data.fraction": at} for name, at in fractions.items()}
    declared = declared.replace("about: minutes a run\n", f"about: minutes a run\n    tasks: {json.dumps(given)}\n")
    grid = grid_of(declared=declared, arms=["FPT", "Random"])
    for cell in grid.cells:
        fraction = fractions.get(cell.task)
        options = {} if fraction is None else {"init_args": {"root": "here", "fraction": fraction}}
        for (_, seed), run in cell.runs.items():
            finish(run, 0.5 + (fraction or 1) / 5 + seed / 100, config={"data": {"class_path": "MNIST", **options}})
    return grid


def test_fractions_of_data_are_an_axis() -> None:
    section = _section(_of_fractions({"tenth": 0.1, "whole": None, "third": 0.3}), "Accuracy against fraction of data")
    assert re.findall(r"<figcaption>(.*?)</figcaption>", section) == ["MNIST whole"]
    words = "Accuracy against fraction of the training data on MNIST whole: FPT 53 at 10 % to 71 at 100 %; Random"
    assert f'aria-label="{words}' in section
    assert "FPT, 30 % of the data: test 57.0 ± 0.6" in section
    assert section.count('class="dot"') == 2 * (1 + 3)  # the legend's too


@pytest.mark.parametrize(
    "fractions",
    [{"small": 0.1, "other": 0.2, "doubled": 0.1}, {"alone": 0.1}, {"tenth": 0.1, "in_larger_batches": 1.0}],
)
def test_columns_that_differ_otherwise_have_no_such_axis(fractions: dict[str, float | None]) -> None:
    grid = _of_fractions(fractions)
    assert not _section(grid, "Accuracy against fraction of data")


def test_what_layers_hold_is_drawn_where_every_run_that_counts_was_analysed() -> None:
    grid = _finished()
    assert not _section(grid, "What the layers hold")
    for cell in grid.cells:
        for (_, seed), run in cell.runs.items():
            if cell.arm.name != "Random" or seed < 2:
                analysis = {"layers": [], "runs": [{"probe": [0.5, 0.6 + seed / 100, 0.8]}]}
                RunFolder(run.folder).analysis.write_text(json.dumps(analysis))
    section = _section(grid, "What the layers hold")
    words = "Linear probe by layer on bit-xor: FPT 50 at 0 to 80 at 2; LSTM* 50 at 0 to 80 at 2."
    assert f'aria-label="{words}"' in section
    for kind in ("markdown", "latex"):
        page = render(grid, grid.outcomes(), kind)
        assert "FPT: bit-xor 50.0 61.0 80.0" in page
        assert "Random: bit-xor 50.0" not in page
    file = RunFolder(grid.cells[0].runs[1e-3, 1].folder).analysis
    file.write_text(json.dumps({"examples": 900, "layers": [], "runs": [{"probe": [0.9, 0.9, 0.9]}]}))
    page = render(grid, grid.outcomes(), "markdown")
    assert "LSTM\\*: bit-xor 50.0" in page
    assert "FPT: bit-xor 50.0" not in page, "a mean of unlike measurements"


@pytest.mark.parametrize("split", ["examples", "fitted"])
def test_probes_of_other_numbers_of_examples_are_warned_of(split: str) -> None:
    """A small validation split has no more than 50, whatever is asked for."""
    grid = _finished()
    for cell in grid.cells:
        for run in cell.runs.values():
            judged = {"FPT": 1000, "Random": 200}.get(cell.arm.name)
            if judged is not None:
                analysis = {"examples": 50, split: judged, "layers": [], "runs": [{"probe": [0.5, 0.8]}]}
                RunFolder(run.folder).analysis.write_text(json.dumps(analysis))
    told = render(grid, grid.outcomes(), "markdown")
    assert "- Unequal probes on bit-xor: examples 1000 (FPT), 200 (Random)." in told


def _of_unequal_steps(*flops: float | None) -> Grid:
    """FPT and Random with the same curves of 300 steps, each of so many operations."""
    grid = grid_of(tasks=["bit_xor"], arms=["FPT", "Random"])
    for cell, count in zip(grid.cells, flops, strict=True):
        for run in cell.runs.values():
            more = {} if count is None else {"flops_per_step": int(count)}
            finish(run, curve=[0.5, 0.6, 0.9], **more)
    return grid


@pytest.mark.parametrize(("flops", "drawn"), [((2e9, 4e9), True), ((2e9, 2.05e9), False), ((2e9, None), False)])
def test_arms_of_unequal_steps_are_drawn_against_their_arithmetic(flops: tuple[float | None, ...], drawn: bool) -> None:
    section = _section(_of_unequal_steps(*flops), "Learning curves against arithmetic")
    assert bool(section) == drawn
    if drawn:
        words = "Learning curves against arithmetic on bit-xor: FPT 50 at 2e11 to 90 at 6e11; Random 50 at 4e11 to 90 at 1.2e12."
        assert f'aria-label="{words}"' in section


@pytest.mark.parametrize(
    ("flops", "said"),
    [
        ((2e9, 4e9), ["FPT: bit-xor 90.0 ± 0.0 at step 300", "Random: bit-xor 55.0 ± 0.0 at step 150"]),
        ((4e9, 2e9), ["FPT: bit-xor 55.0 ± 0.0 at step 150", "Random: bit-xor 90.0 ± 0.0 at step 300"]),
        ((2e9, 8e9), ["FPT: bit-xor 90.0 ± 0.0 at step 300"]),  # Random had not been judged yet
        ((2e9, 2.05e9), []),
        ((2e9, None), []),
    ],
)
@pytest.mark.parametrize("kind", ["markdown", "latex", "html"])
def test_arms_of_unequal_steps_are_compared_where_the_cheapest_ends(
    flops: tuple[float | None, ...], said: list[str], kind: str
) -> None:
    grid = _of_unequal_steps(*flops)
    page = render(grid, grid.outcomes(), kind).replace(r"$\pm$", "±")
    assert re.findall(r"(?:FPT|Random): bit-xor [\d.]+ ± [\d.]+ at step \d+", page) == said
    assert ("Validation accuracy at equal arithmetic" in page) == bool(said)


def _by_seed(steps: int, counts: Mapping[str, list[int]]) -> Grid:
    """Arms whose steps take so many operations with the seeds 0, 1, ..., which judge themselves twice."""
    grid = grid_of(tasks=["bit_xor"], arms=list(counts))
    for cell in grid.cells:
        for count, run in zip(counts[cell.arm.name], cell.runs.values(), strict=False):
            finish(run, curve=[0.5] * (steps // 100), flops_per_step=count)
    return grid


def test_seeds_that_an_arm_lacks_make_no_step_another() -> None:
    """Where batches are padded the operations of a step are those of a seed's order of data."""
    grid = _by_seed(300, {"FPT": [3 * 10**9, 10 * 10**9, 5 * 10**9], "Random": [3 * 10**9, 10 * 10**9]})
    assert "equal arithmetic" not in render(grid, grid.outcomes(), "markdown")
    shutil.rmtree("tables")
    grid = _by_seed(300, {"FPT": [3 * 10**9, 10 * 10**9, 5 * 10**9], "Random": [6 * 10**9, 20 * 10**9]})
    assert "Random: bit-xor 50.0 ± 0.0 at step 150" in render(grid, grid.outcomes(), "markdown")


@given(st.lists(st.integers(10**9, 10**10), min_size=3, max_size=3), st.sampled_from([300, 400, 800, 1500]))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_cheapest_arm_stands_at_its_own_end(counts: list[int], steps: int) -> None:
    shutil.rmtree("tables", ignore_errors=True)
    grid = _by_seed(steps, {"FPT": counts, "Random": [2 * count for count in counts]})
    page = render(grid, grid.outcomes(), "markdown")
    assert f"FPT: bit-xor 50.0 ± 0.0 at step {steps:,}" in page
