"""Pairs of arms beside the baseline: compared in the correction of the table, and said on its pages."""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from run_folders import EXPERIMENTS, finish, grid_of
from scipy import stats

from fpt_lightning.experiments.grid import Grid
from fpt_lightning.experiments.report import FORMATS, render
from fpt_lightning.experiments.report.units import MINUS
from fpt_lightning.main import main

NOTE = "    note: Read as released.\n"
FIGURES = {"FPT": (0.95, 0.96, 0.97), "Random": (0.90, 0.92, 0.94), "LSTM*": (0.70, 0.73, 0.745)}
WIDE = FIGURES | {"LSTM*": (0.95, 0.90, 0.98)}


def _declared(contrasts: str) -> str:
    return EXPERIMENTS.replace(NOTE, f"{NOTE}    contrasts: {contrasts}\n", 1)


def _grid(
    contrasts: str,
    figures: Mapping[str, Sequence[float]] = FIGURES,
    arms: Sequence[str] = ("FPT", "Random", "LSTM*"),
    task: str = "mnist",
) -> Grid:
    """Table 2 on one task, its first arm the baseline; seeds without a figure have not run."""
    grid = grid_of(declared=_declared(contrasts), arms=[*arms], tasks=[task])
    for cell in grid.cells:
        for run, figure in zip(cell.runs.values(), figures.get(cell.arm.name, ()), strict=False):
            finish(run, figure)
    return grid


def _told(grid: Grid, kind: str = "markdown") -> str:
    """A page without what its format escapes."""
    told = html.unescape(render(grid, grid.outcomes(), kind)).replace("textless", "<")
    return re.sub(r"[\\{}$]", "", told)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_contrast_is_a_paired_test_of_its_two_arms(kind: str) -> None:
    low, high = (100 * end for end in stats.ttest_rel(FIGURES["Random"], FIGURES["LSTM*"]).confidence_interval())
    told = _told(_grid("[[Random, LSTM*]]"), kind)
    assert (
        f"Random on MNIST: better, +19.5 against LSTM*, 95 % interval +{low:.1f} to +{high:.1f}, "
        "paired t-test over 3 seeds: p < 0.001, corrected (Holm) p < 0.001"
    ) in told
    assert told.count("Contrast") == 1


def test_the_forest_plot_has_a_row_for_a_contrast() -> None:
    page = _told(_grid("[[Random, LSTM*]]"), "html")
    section = page[page.index("<h2>Against FPT</h2>") :]
    names = re.findall(r'<text class="row-name"[^>]*>([^<]*)</text>', section[: section.index("</section>")])
    assert names == ["Random", "LSTM*", f"Random {MINUS} LSTM*"]
    assert ">difference, points<" in section
    assert "and behind them of two other arms," in section


def test_the_correction_counts_contrasts() -> None:
    """A p of 0.02 is below the level beside one that finds nothing, and not beside two."""
    without = _told(_grid("[]", WIDE))
    assert "over 2 comparisons." in without
    assert "| Random | **▼ 92.0 ± 1.2** " in without
    assert "Contrast" not in without
    told = _told(grid_of(declared=_declared("[[Random, LSTM*]]"), arms=["FPT", "Random", "LSTM*"], tasks=["mnist"]))
    assert "over 3 comparisons." in told
    assert "| Random | 92.0 ± 1.2 " in told
    assert re.search(r"- Random on MNIST: .2\.3 against LSTM\*, 95 % interval .*, corrected \(Holm\) p = ", told)


@pytest.mark.parametrize("seeds", [0, 1, 3])
def test_a_contrast_without_its_runs_is_to_come(seeds: int) -> None:
    told = _told(_grid("[[Random, LSTM*]]", FIGURES | {"LSTM*": FIGURES["LSTM*"][:seeds]}))
    assert ("over 3 comparisons, of which 2 lack runs" in told) == (seeds < 2)
    assert "no seed in common" not in told
    assert ("not tested: one seed in common, a test needs two" in told) == (seeds == 1)


def test_arms_that_are_left_out_or_cannot_run_have_no_contrast() -> None:
    assert "Contrast" not in _told(_grid("[[Random, LSTM*]]", arms=("FPT", "Random")))
    # where the baseline is left out the first arm takes its place, and is compared with once
    told = _told(_grid("[[Random, LSTM*]]", arms=("Random", "LSTM*"), task="bit_xor"))
    assert "over 1 comparison." in told
    assert "Contrast" not in told
    assert "Contrast" not in _told(grid_of(declared=_declared("[[Random, ViT]]"), tasks=["mnist"]))


@pytest.mark.parametrize(("test", "differs"), [(0.95, False), (0.5, True)])
@pytest.mark.parametrize(
    ("pair", "found"),
    [("[FPT, Random]", "worse, +3,900 against Random"), ("[Random, FPT]", "better, .3,900 against FPT")],
)
def test_steps_are_judged_only_where_accuracy_agrees(pair: str, found: str, test: float, differs: bool) -> None:
    """Fewer to a lower accuracy are not better, more to a higher one not worse, whichever arm stands first."""
    arms = f"    measures: [steps_to_convergence]\n    baseline: LSTM*\n    contrasts: [{pair}]\n"
    grid = grid_of(declared=EXPERIMENTS.replace(NOTE, NOTE + arms, 1), arms=["FPT", "Random", "LSTM*"], tasks=["mnist"])
    for arm, steps, reached in (("FPT", 40, test), ("Random", 2, 0.6), ("LSTM*", 5, 0.7)):
        cell = next(cell for cell in grid.cells if cell.arm.name == arm)
        for (_, seed), run in cell.runs.items():
            finish(run, reached + seed / 1000, curve=[0.5] * (steps + seed * (steps > 5)) + [0.9])
    told = _told(grid)
    verdict, difference = found.split(", ", 1)
    line = (
        r"on MNIST, gradient steps to convergence: "
        + (f"{verdict}, " if differs else "")
        + difference.replace("+", r"\+")
    )
    assert re.search(line + ", 95 %", told)
    assert "Nor are more to a higher one called worse." in told


@pytest.mark.parametrize(
    ("contrasts", "said"),
    [
        ("[[Random, Radnom]]", "contrasts: no arm is called 'Radnom'; did you mean 'Random'?"),
        ("[[Random, Random]]", "contrasts: expected each once"),
        ("[[Random, LSTM*], [LSTM*, Random]]", "contrasts: expected each once"),
        ("[[Random, FPT]]", "contrasts: every arm is compared with FPT, the baseline: leave ['Random', 'FPT'] out"),
        ("[Random, LSTM*]", "contrasts[0]: expected array, got str"),
        ("[[Random, LSTM*, ViT]]", "contrasts[0]: expected array of length 2, got 3"),
    ],
)
def test_a_contrast_that_cannot_be_is_refused(contrasts: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(_declared(contrasts))
    assert main(["status", "table2", "--experiments", "mine.yaml"]) == 2
    assert capsys.readouterr().err == f"fpt: error: mine.yaml: tables.table2.{said}\n"
