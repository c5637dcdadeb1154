"""Tables as markdown, LaTeX and HTML, from run folders as ``fpt run`` leaves them."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from run_folders import EXPERIMENTS, diverge, finish, grid_of

from fpt_lightning.errors import FPTError
from fpt_lightning.experiments.grid import Cell, Grid
from fpt_lightning.experiments.report import FORMATS, render, write_report
from fpt_lightning.experiments.report.pictures.svg import x_axis
from fpt_lightning.experiments.report.units import NONE, UNITS, p_value, short
from fpt_lightning.runs.outcome import write_failure

FIGURES = {  # test accuracy by seed
    ("FPT", "bit_xor"): [1.0, 1.0, 1.0],
    ("Random", "bit_xor"): [0.750, 0.760, 0.758],
    ("LSTM*", "bit_xor"): [0.5, 0.5, 0.5],
    ("FPT", "mnist"): [0.95, 0.96, 0.97],
    ("Random", "mnist"): [0.90, 0.91, 0.925],
    ("LSTM*", "mnist"): [0.95, 0.961, 0.969],
}


def _cell(grid: Grid, arm: str, task: str = "bit_xor") -> Cell:
    return next(cell for cell in grid.cells if (cell.arm.name, cell.task) == (arm, task))


def _finished(**how: object) -> Grid:
    """Table 2 by the paper protocol with every run finished."""
    grid = grid_of(**how)
    for (arm, task), figures in FIGURES.items():
        for run, figure in zip(_cell(grid, arm, task).runs.values(), figures, strict=True):
            finish(run, figure)
    return grid


def _rendered(grid: Grid, kind: str = "markdown") -> str:
    return render(grid, grid.outcomes(), kind)


def _row(markdown: str, arm: str) -> list[str]:
    row = next(line for line in markdown.splitlines() if line.startswith(f"| {arm} |"))
    return [cell.strip() for cell in row.strip("|").split(" | ")][1:]


def test_a_figure_stands_beside_the_papers() -> None:
    told = _rendered(_finished())
    assert _row(told, "FPT") == ["100.0 ± 0.0 (paper 100)", "96.0 ± 0.6 (paper 98)"]
    assert _row(told, "Random")[1].endswith("(paper 91.7 ± 0.4)")
    assert _row(told, r"LSTM\*") == ["50.0 ± 0.0 (paper 50)", "96.0 ± 0.6"]
    assert "FPT section 3.2, table 2" in told
    assert "Read as released." in told
    assert "Warnings" not in told


def test_bold_is_significant_and_no_more() -> None:
    """FPT's 100 against 50 on every seed has no variance to test with; 100 against 75 has."""
    told = _rendered(_finished())
    assert _row(told, "Random")[0].startswith("**▼ 75.6 ± 0.3** ")
    assert "**" not in _row(told, r"LSTM\*")[0] + _row(told, r"LSTM\*")[1] + "".join(_row(told, "FPT"))
    assert "over 3 comparisons" in told
    page = _rendered(_finished(profile="laptop", overrides={"data.batch_size": 4}), "html")
    assert re.search(
        r'title="[^"]* against FPT, 95 % interval [^"]* to [^"]*, paired t-test over 3 seeds: p[^"]*corrected \(Holm\) p',
        page,
    )
    assert "the same difference on every seed" in page


def test_better_and_worse_are_told_apart_without_colours() -> None:
    grid = _finished()
    for run, figure in zip(_cell(grid, "LSTM*", "mnist").runs.values(), (0.991, 0.998, 0.999), strict=True):
        shutil.rmtree(run.folder)
        finish(run, figure)
    told = _rendered(grid)
    assert (_row(told, "Random")[0][:6], _row(told, r"LSTM\*")[1][:6]) == ("**▼ 75", "**▲ 99")
    assert "Bold is ▲ better or ▼ worse than FPT: paired t-test" in told
    page = _rendered(grid, "html")
    for sign, verdict in (("▲", "better"), ("▼", "worse")):
        assert re.search(rf"{sign}</span> <strong>.*</strong><span class=\"unseen\"> {verdict} than FPT</span>", page)
    latex = _rendered(grid, "latex")
    assert r"{\boldmath\textbf{$\bigtriangledown$ 75.6" in latex
    assert r"{\boldmath\textbf{$\bigtriangleup$ 99.6" in latex


@pytest.mark.parametrize(("slower", "sign"), [("Random", "▼"), ("FPT", "▲")])
def test_fewer_steps_are_better(slower: str, sign: str) -> None:
    grid = grid_of("table6")
    for arm in ("FPT", "Random"):
        for (_, seed), run in _cell(grid, arm).runs.items():
            first = 10 + seed if arm == slower else 2
            finish(run, curve=[0.5] * first + [0.9])
    told = _rendered(grid)
    assert _row(told, "Random")[0].startswith(f"**{sign} ")
    assert "worse than FPT (fewer steps are better): paired" in told


def test_fewer_steps_to_a_lower_accuracy_are_not_better() -> None:
    grid = grid_of("table6")
    for arm, steps, test in (("FPT", 10, 0.95), ("Random", 2, 0.51)):
        for (_, seed), run in _cell(grid, arm).runs.items():
            finish(run, test + seed / 1000, curve=[0.5] * (steps + seed * steps // 2) + [0.9])
    told = _rendered(grid)
    assert "**" not in _row(told, "Random")[0]
    assert "Fewer steps to a lower accuracy are not called better." in told


def test_comparisons_that_lack_their_runs_count_in_the_correction() -> None:
    """With a p of 0.02 the one that is made is significant alone, and not beside three that are to come."""
    grid = grid_of(arms=["FPT", "Random", "LSTM*"])
    for arm, figures in (("FPT", (0.95, 0.96, 0.97)), ("Random", (0.90, 0.92, 0.94))):
        for run, figure in zip(_cell(grid, arm, "mnist").runs.values(), figures, strict=True):
            finish(run, figure)
    told = _rendered(grid)
    assert "over 4 comparisons, of which 3 lack runs and count as finding nothing." in told
    assert "**" not in _row(told, "Random")[1]
    alone = _rendered(grid_of(arms=["FPT", "Random"], tasks=["mnist"]))
    assert "over 1 comparison." in alone
    assert _row(alone, "Random")[0].startswith("**▼ ")


def test_an_error_that_is_not_none_is_not_written_so() -> None:
    unit = UNITS["accuracy"]
    assert unit.write_mean([75.0, 75.0]) == "75.0 ± 0.0"
    assert unit.write_mean([75.0, 75.06]) == "75.0 ± 0.03"
    assert unit.write_mean([75.0, 75.002]) == "75.0 ± < 0.01"
    assert unit.write_mean([75.0, 75.2]) == "75.1 ± 0.1"


def test_a_p_value_beside_the_level_has_the_digits_that_tell() -> None:
    assert [p_value(p) for p in (0.04996, 0.0504, 0.0123, 0.0001)] == ["= 0.04996", "= 0.0504", "= 0.012", "< 0.001"]


def test_billions_are_written_as_such() -> None:
    assert [short(count) for count in (1.5e9, 999.9e6, 2e8, 1_234, 7)] == ["1.5B", "1B", "200M", "1.23k", "7"]


def test_the_papers_figure_is_spoken_of_where_there_is_one() -> None:
    for kind in FORMATS:
        assert "the paper's figure" in _rendered(grid_of(), kind).replace("&#39;", "'")
        assert "the paper's figure" not in _rendered(grid_of("regressions_in_full"), kind).replace("&#39;", "'")


def test_a_difference_too_small_to_be_seen_has_no_sign() -> None:
    grid = grid_of(arms=["FPT"], tasks=["bit_xor"])
    for run in grid.cells[0].runs.values():
        finish(run, 0.9998)
    assert '<span class="difference">0.0</span>' in _rendered(grid, "html")


@pytest.mark.parametrize(("steps", "heights"), [([4, 4, 4], 3), ([4, 9, 4], 3), ([4, 20, 60], 1)])
def test_equal_seeds_do_not_hide_each_other(steps: list[int], heights: int) -> None:
    grid = grid_of("table6", arms=["FPT"])
    for run, at in zip(grid.cells[0].runs.values(), steps, strict=True):
        finish(run, curve=[0.5] * at + [0.9])
    page = _rendered(grid, "html")
    drawing = page[page.index('<svg class="chart"', page.index("<h2>Steps to convergence")) :]
    drawing = drawing[: drawing.index("</svg>")]
    dots = re.findall(r'<circle class="dot" cx="([\d.]+)" cy="([\d.]+)"', drawing)
    assert len(set(dots)) == 3
    assert len({y for _, y in dots}) == heights
    assert drawing in _rendered(grid, "html")


@pytest.mark.parametrize(("low", "high"), [(250, 1500), (100, 1_000), (1e2, 1e7), (1200, 1300), (1, 1e8), (1e8, 5e9)])
def test_numbers_along_an_axis_do_not_touch(low: float, high: float) -> None:
    axis = x_axis("gradient steps", [low, high], True, short)
    ticks = axis.ticks()
    assert len(ticks) >= 2
    places = [axis.place(tick) for tick in ticks]
    letters = [0.6 * 16 * len(axis.written(tick)) for tick in ticks]  # at the largest size
    for (left, right), (one, other) in zip(itertools.pairwise(places), itertools.pairwise(letters), strict=True):
        assert right - left > (one + other) / 2 + 5


def test_a_chart_is_put_into_words() -> None:
    grid = grid_of(protocol="fair", arms=["FPT", "Random"], tasks=["bit_xor"])
    for cell in grid.cells:
        for (lr, _), run in cell.runs.items():
            finish(run, validation={1e-4: 0.6, 1e-3: 0.9, 1e-2: 0.7}[lr], curve=[0.5, 0.6, 0.9])
    page = _rendered(grid, "html")
    labels = re.findall(r'<svg class="chart"[^>]* role="img" aria-label="([^"]+)"', page)
    assert len(labels) == page.count('<svg class="chart"')
    assert "Learning curves on bit-xor: FPT 50 at 100 to 90 at 300; Random 50 at 100 to 90 at 300." in labels
    (rates,) = [label for label in labels if "against learning rate" in label]
    assert "FPT 60 at 1e-4 to 70 at 1e-2, chosen 1e-3 with 90; Random" in rates
    (steps,) = [label for label in labels if label.startswith("Steps")]
    assert "FPT 300 in the mean of 3; Random 300" in steps


def test_a_rate_that_lost_a_seed_is_no_point_among_means() -> None:
    grid = grid_of(protocol="fair", arms=["FPT"], tasks=["bit_xor"])
    for (lr, seed), run in grid.cells[0].runs.items():
        if (lr, seed) == (1e-2, 0):
            diverge(run, 40)
        else:
            finish(run, validation={1e-4: 0.6, 1e-3: 0.8, 1e-2: 0.95}[lr])
    page = _rendered(grid, "html")
    assert "FPT 60 at 1e-4 to 80 at 1e-3, chosen 1e-3 with 80" in page
    assert "lr 1e-3: validation 80.0 ± 0.0, 3 seeds" in page


def test_a_missing_cell_says_why() -> None:
    told = _rendered(grid_of())
    assert "[^1]: 0 of 3 runs so far; 3 missing" in told
    assert "[^2]: no ViT weights in this profile" in told
    assert _row(told, "ViT") == [f"{NONE}[^2] (paper 100)", f"{NONE}[^2] (paper 97.8)"]


def test_a_failure_says_its_cause_and_the_others_count() -> None:
    grid = _finished()
    failed, damaged = list(_cell(grid, "Random").runs.values())[1:]
    (failed.folder / "result.json").unlink()
    write_failure(failed.folder, "CUDA out of memory")
    (damaged.folder / "result.json").write_text('{"task": ')
    told = _rendered(grid)
    assert _row(told, "Random")[0] == "75.0[^1] (paper 75.8)"
    assert "[^1]: mean over 1 of 3 seeds: 1 of 3 runs so far; 2 failed: CUDA out of memory" in told
    assert r"Unequal budgets on bit-xor: seeds 3 (FPT, LSTM\*), 1 (Random)." in told
    page = _rendered(grid, "html")
    assert "n = 1 of 3" in page
    assert "cannot be read" in page


def test_test_accuracy_is_read_at_the_chosen_learning_rate_alone() -> None:
    grid = grid_of(protocol="fair", arms=["FPT"], tasks=["bit_xor"])
    for (lr, seed), run in grid.cells[0].runs.items():
        # the test split prefers another learning rate than validation does
        finish(run, test=0.111 if lr == 1e-2 else 0.8 + seed / 100, validation={1e-4: 0.6, 1e-3: 0.9, 1e-2: 0.7}[lr])
    told = _rendered(grid)
    assert "81.0 ± 0.6 (paper 100)" in told
    assert "bit-xor 1e-3" in told
    page = _rendered(grid, "html")
    assert ">11.1<" not in page
    assert "Accuracy against learning rate" in page
    assert page.count('class="ring"') == 1


def test_an_unfinished_grid_has_no_figure() -> None:
    grid = grid_of(protocol="fair", arms=["FPT"], tasks=["bit_xor"])
    for run in list(grid.cells[0].runs.values())[:-1]:
        finish(run)
    assert f"{NONE}[^1] (paper 100)" in _rendered(grid)
    assert "8 of 9 runs so far; 1 missing" in _rendered(grid)


def test_what_is_chosen_and_not_tested_has_no_figure_yet() -> None:
    grid = grid_of(protocol="frugal", arms=["FPT"], tasks=["bit_xor"])
    (cell,) = grid.cells
    for lr in cell.rates[:-1]:
        finish(cell.runs[lr, 0], validation=0.5 + lr, test_accuracy=None)
    assert "2 of 3 runs so far; 1 missing" in _rendered(grid)
    finish(cell.runs[cell.rates[-1], 0], validation=0.4, test_accuracy=None)
    assert "3 of 7 runs so far; 4 missing" in _rendered(grid)
    for seed in (1, 2):  # the two best rates run all seeds, and only then is one of them chosen
        finish(cell.runs[1e-4, seed], validation=0.5, test_accuracy=None)
        finish(cell.runs[1e-3, seed], validation=0.6, test=0.8, **({"test_accuracy": None} if seed == 2 else {}))
    assert "80.0[^1] (paper 100)" in _rendered(grid)
    assert "mean over 1 of 3 seeds: 1 of 3 runs so far; 2 not tested" in _rendered(grid)


def test_the_edge_of_the_grid_is_warned_of() -> None:
    grid = grid_of(protocol="fair", arms=["FPT"], tasks=["bit_xor"])
    for (lr, _), run in grid.cells[0].runs.items():
        finish(run, validation=0.5 + lr)
    assert "FPT chose the largest learning rate, 1e-2, on bit-xor: the grid may be too narrow." in _rendered(grid)


def test_the_edge_of_a_level_grid_is_not_warned_of() -> None:
    grid = grid_of(protocol="fair", arms=["FPT"], tasks=["bit_xor"])
    for (lr, _), run in grid.cells[0].runs.items():
        finish(run, validation={1e-4: 0.6, 1e-3: 0.9959, 1e-2: 1.0}[lr])
    assert "bit-xor 1e-2" in _rendered(grid)
    assert "too narrow" not in _rendered(grid)


@pytest.mark.parametrize(
    ("config", "result", "warning"),
    [
        ({"trainer": {"max_steps": 9000}}, {}, "max steps 1000 (FPT), 9000 (Random)"),
        ({"early_stopping": {"patience": 10}}, {}, "early stopping patience none (FPT), 10 (Random)"),
        ({}, {"batch_size": 64}, "batch size 16 (FPT), 64 (Random)"),
        ({}, {"warmup_steps": 50}, "Unequal learning-rate rules on bit-xor: warm-up steps none (FPT), 50 (Random)"),
        (
            {},
            {"lr_scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 9}}},
            "rules on bit-xor: schedule none (FPT), StepLR with step_size 9 (Random)",
        ),
        ({}, {"data_fingerprint": "others"}, "Different data on bit-xor: the fingerprints are data of"),
        ({}, {"versions": {"fpt-lightning": "0.0.9"}}, "3 runs were made by fpt-lightning 0.0.9"),
    ],
)
def test_what_makes_arms_unequal_is_told(
    config: dict[str, dict[str, object]], result: dict[str, object], warning: str
) -> None:
    grid = grid_of(arms=["FPT", "Random"], tasks=["bit_xor"])
    for arm, changes in (("FPT", ({}, {})), ("Random", (config, result))):
        for run in _cell(grid, arm).runs.values():
            finish(run, config=changes[0], **changes[1])
    for kind in FORMATS:
        assert warning in _plain(_rendered(grid, kind))


def test_different_rates_that_nobody_searched_for_are_told() -> None:
    declared = EXPERIMENTS.replace("LSTM*: {backbone: language,", "LSTM*: {backbone: language, lr: 1.0e-4,")
    warning = "Unequal learning-rate rules on bit-xor: rate without a search 1e-3 (FPT), 1e-4 (LSTM*)."
    for protocol, told in (("paper", True), ("fair", False)):
        grid = grid_of(declared=declared, arms=["FPT", "LSTM*"], tasks=["bit_xor"], protocol=protocol)
        for cell in grid.cells:
            for run in cell.runs.values():
                if not run.folder.exists():
                    finish(run)
        assert (warning in _rendered(grid).replace("\\*", "*")) == told


def test_stopping_early_is_no_unequal_budget() -> None:
    grid = grid_of(arms=["FPT", "Random"], tasks=["bit_xor"])
    for arm, steps in (("FPT", 400), ("Random", 900)):
        for run in _cell(grid, arm).runs.values():
            finish(run, steps=steps, config={"early_stopping": {"patience": 10}})
    assert "Warnings" not in _rendered(grid)


def test_fewer_steps_than_configured_are_an_unequal_budget() -> None:
    grid = grid_of(arms=["FPT", "Random"], tasks=["bit_xor"])
    for arm, steps, config in (("FPT", 1000, {}), ("Random", 2, {"trainer": {"limit_train_batches": 2}})):
        for run in _cell(grid, arm).runs.values():
            finish(run, steps=steps, config=config)
    assert [line for line in _rendered(grid).splitlines() if line.startswith("- Unequal budgets")] == [
        "- Unequal budgets on bit-xor: training batches an epoch none (FPT), 2 (Random).",
        "- Unequal budgets on bit-xor: steps made all (FPT), 2 (Random).",
    ]


def test_a_rate_that_failed_is_named_and_its_failure_a_warning() -> None:
    grid = grid_of(arms=["FPT", "Random"], tasks=["bit_xor"], protocol="fair")
    for run in grid.all_runs():
        finish(run, run.lr or 0)
    lost = _cell(grid, "FPT").runs[1e-2, 1].folder
    (lost / "result.json").unlink()
    write_failure(lost, "out of memory")
    told = _rendered(grid)
    assert "FPT: bit-xor 1e-3 (1e-2 failed)" in told
    assert "FPT on bit-xor: 1e-2 had no part in the choice, as a run failed; the next sweep tries it again." in told


def test_the_rule_names_the_rungs_where_they_really_are() -> None:
    """Not before their share of the steps, at a validation; another one may be on every task."""
    halving = """  halving:
    lr: [1.0e-4, 1.0e-3, 1.0e-2]
    seeds: [0, 1, 2]
    reduction: 3
    settings: {trainer.max_steps: 400, trainer.val_check_interval: 200}
    tasks: {mnist: {trainer.val_check_interval: 40}}
profiles:
"""
    how = {"declared": EXPERIMENTS.replace("profiles:\n", halving, 1), "protocol": "halving", "arms": ["FPT"]}
    both = "keeps 1 from 50% of the steps on (bit-xor), 1 from 40% of the steps on (MNIST), by mean best validation"
    assert both in _rendered(grid_of(**how)).replace("\\", "")
    one = "keeps 1 from 40% of the steps on, by mean best validation"
    assert one in _rendered(grid_of(tasks=["mnist"], **how)).replace("\\", "")


def _plain(text: str) -> str:
    """A text without the marks that the formats need."""
    return text.replace("\\_", "_")


def test_steps_to_convergence() -> None:
    grid = grid_of("table6")
    for run in _cell(grid, "FPT").runs.values():
        finish(run, curve=[0.5, 0.7, 0.9, 0.9])
    for run in _cell(grid, "Random").runs.values():
        finish(run, curve=[0.5] * 3)
    told = _rendered(grid)
    assert _row(told, "FPT") == ["300 ± 0 (paper 500)"]
    assert "3 of 3 runs were never better than chance on validation" in told
    assert "1 % of the way from chance" in told


def test_steps_between_round_numbers_have_an_axis() -> None:
    grid = grid_of("table6", arms=["FPT"])
    for run in grid.cells[0].runs.values():
        finish(run, curve=[0.6] * 11 + [0.9])
    assert ">1.3k</text>" in _rendered(grid, "html")


def test_several_measures_of_a_task() -> None:
    grid = grid_of("table7")
    for run in _cell(grid, "FPT", "mnist").runs.values():
        finish(run, 0.5, training=[0.1] * 8 + [0.7, 0.9], trained_parameters=106752)
    for run in _cell(grid, "Random", "mnist").runs.values():
        finish(run, 0.4, trained_parameters=52000)
    assert _row(_rendered(grid), "FPT") == [
        "50.0 ± 0.0 (paper 98)", "80.0 ± 0.0 (paper 97)", "106,752 (paper 106,000)",
    ]  # fmt: skip
    assert "Model size" in _rendered(grid, "html")


def test_seeds_that_wait_for_the_choice_count_once_they_are_there() -> None:
    grid = grid_of(protocol="frugal", arms=["FPT"], tasks=["bit_xor"])
    cell = grid.cells[0]
    for run in grid.due(grid.outcomes()):
        finish(run, 0.8, validation=0.9 if run.lr == 1e-3 else 0.6)
    assert "3 of 7 runs so far; 4 missing" in _rendered(grid)
    for (lr, seed), run in cell.runs.items():
        if lr in cell.finalists(grid.outcomes()) and seed:
            finish(run, 0.9)
    assert "86.7 ± 3.3 (paper 100)" in _rendered(grid)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_table_without_runs_is_a_table(kind: str) -> None:
    told = _rendered(grid_of(), kind)
    assert all(name in told for name in ("Pretraining modality", "FPT", "ViT", "MNIST", "97.8"))


def test_a_page_shows_every_run_with_its_command_and_folder() -> None:
    grid = _finished()
    (_cell(grid, "FPT").runs[1e-3, 0].folder / "attention.png").write_bytes(b"\x89PNG")
    written = write_report(grid, grid.outcomes(), "html")
    assert written == "tables/table2.html\n"
    page = Path("tables/table2.html").read_text()
    for cell in grid.cells:
        for run in cell.runs.values():
            assert f'href="{run.folder.name}/"' in page
            assert f"--run_folder={run.folder} --ckpt_path=last" in page
    assert "data:image/png;base64,iVBORw==" in page
    assert "Learning curves" in page
    assert "<script src" not in page
    assert not re.findall(r'(?:src|href)="https?:', page)


def test_links_start_from_where_the_page_lies() -> None:
    grid = _finished()
    write_report(grid, grid.outcomes(), "html", Path("elsewhere/deep/page.html"))
    assert 'href="../../tables/bit_xor-' in Path("elsewhere/deep/page.html").read_text()


def test_a_file_that_cannot_be_written_is_an_error_told() -> None:
    grid = grid_of()
    Path("file").touch()
    with pytest.raises(FPTError, match=r"choose another file with --out"):
        write_report(grid, grid.outcomes(), "markdown", Path("file/table.md"))


def test_latex_is_a_whole_table() -> None:
    told = _rendered(_finished(), "latex")
    for name in ("table", "tabular"):
        assert told.count(rf"\begin{{{name}}}") == told.count(rf"\end{{{name}}}") == 1
    assert [told.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == sorted(
        told.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")
    )
    rows = [line for line in told.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {2}
    assert r"LSTM{*} & 50.0{\scriptsize $\pm$ 0.0} & 96.0{\scriptsize $\pm$ 0.6} \\" in told


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here: apt-get install texlive-latex-base")
def test_latex_is_printed_by_latex() -> None:
    awkward = "".join(chr(code) for code in range(32, 127)) + " -- --- '' `` ?` ± é"
    for declared in (EXPERIMENTS, _declared(awkward)):
        table = render(grid := grid_of(declared=declared), grid.outcomes(), "latex")
        Path("a.tex").write_text(
            "\\documentclass{article}\\usepackage{booktabs}\\begin{document}" + table + "\\end{document}",
            encoding="utf-8",
        )
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
        assert done.returncode == 0, done.stdout[-2000:]


def _declared(title: str) -> str:
    declared = yaml.safe_load(EXPERIMENTS)
    table = declared["tables"]["table2"]
    table |= {"title": title, "note": title, "arms": {"FPT": {"backbone": "language"}, title: {"backbone": "vision"}}}
    declared["tasks"]["mnist"]["title"] = title
    declared["profiles"]["laptop"]["backbones"]["vision"]["missing"] = title
    return yaml.safe_dump(declared, allow_unicode=True)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(" ".join([tag, *(name for name, _ in attrs)]))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _tags(page: str) -> _Tags:
    parser = _Tags()
    parser.feed(page)
    return parser


TITLES = st.text(st.sampled_from("""<>&"'\\{}$%#_^~|*`[]()ax é±=/;!-"""), min_size=1, max_size=30).map(
    lambda text: f"a{text}a"
)


@given(TITLES)
def test_a_title_stays_text_in_html(title: str) -> None:
    page = _tags(_rendered(grid_of(declared=_declared(title)), "html"))
    assert page.found == _tags(_rendered(grid_of(declared=_declared("plain")), "html")).found
    assert title in page.text


@given(TITLES)
def test_a_title_stays_text_in_latex(title: str) -> None:
    told = _rendered(grid_of(declared=_declared(title)), "latex")
    plain = _rendered(
        grid_of(declared=_declared("p" * len(title))), "latex"
    )  # as long: where a table is cut depends on it
    assert _commands(told) == _commands(plain)
    assert told.count("\n") == plain.count("\n")


def _commands(latex: str) -> list[str]:
    """What LaTeX acts on, without the commands that print one sign, comments and the columns' separators."""
    signs = r"\\text(?:backslash|ascii\w+|less|greater|bar|quotedblright|endash)\{\}|\\[&%$#_{}]|\$\\pm\$|\{.\}"
    return re.findall(r"\\[a-zA-Z]+|[$%#_^~&\\]", re.sub(signs, "", latex))


@given(TITLES)
def test_a_title_stays_text_in_markdown(title: str) -> None:
    told = _rendered(grid_of(declared=_declared(title)))
    rows = [line for line in told.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows} == {4}


def test_a_report_does_not_wait_for_torch() -> None:
    grid_of()
    code = (
        "import sys; from run_folders import grid_of; from fpt_lightning.experiments.report import render\n"
        "grid = grid_of(); [render(grid, grid.outcomes(), kind) for kind in ('html', 'latex', 'markdown')]\n"
        "print('torch' in sys.modules)"
    )
    path = f"{Path(__file__).parent}:{Path(__file__).parents[3] / 'src'}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    )
    assert done.stdout == "False\n"


def test_a_result_of_a_run_is_read_from_its_folder() -> None:
    """Real results hold more than the report shows, such as lists: none of it disturbs."""
    grid = _finished()
    run = _cell(grid, "FPT").runs[1e-3, 0]
    result = json.loads((run.folder / "result.json").read_text())
    (run.folder / "result.json").write_text(json.dumps({**result, "trainable": ["input"], "architecture": None}))
    assert "100.0 ± 0.0 (paper 100)" in _rendered(grid)
