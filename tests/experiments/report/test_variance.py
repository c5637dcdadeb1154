"""A table whose arms are draws: what its variance is split into, and where it is not."""

import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folders import EXPERIMENTS, finish, grid_of

from fpt_lightning.experiments.grid import Grid
from fpt_lightning.experiments.report import FORMATS, render
from fpt_lightning.experiments.report.variance import Component, split
from fpt_lightning.main import main

OPTIONS = ("model.backbone_seed", "data_seed")
LUCK = f"""
  luck:
    title: Whose luck
    source: ours
    tasks: [bit_xor, mnist]
    variance: [{", ".join(OPTIONS)}]
    arms:
""" + "".join(
    f"      body {body}, order {order}: {{backbone: language, settings: {{model.backbone_seed: {body}, data_seed: {order}}}}}\n"
    for body, order in itertools.product(range(3), range(2))
)
DECLARED = EXPERIMENTS + LUCK.lstrip("\n") + "baselines:\n  linear: {backbone: vision}\n"


def _split(values: np.ndarray, names: tuple[str, ...] = ("a", "b", "c")) -> list[Component]:
    return split({tuple(map(str, place)): float(values[place]) for place in np.ndindex(*values.shape)}, names)


def test_known_components_are_found_in_the_mean() -> None:
    """Draws with standard deviations of 3, 0, 1.5 and a rest of 2: the estimates, and how often p is below 0.05."""
    generator, squares, p_values = np.random.default_rng(0), [], []
    for _ in range(100):
        first, third = generator.normal(0, 3, (4, 1, 1)), generator.normal(0, 1.5, (1, 1, 5))
        found = _split(50 + first + third + generator.normal(0, 2, (4, 3, 5)))
        squares.append([one.variance for one in found])
        p_values.append([one.p or 0 for one in found[:3]])
    spread = np.std(squares, axis=0) / 100**0.5
    # what is below 0 is shown as 0, which lifts the mean of the one that is not there
    assert np.all(np.abs(np.mean(squares, axis=0) - [9, 0, 2.25, 4]) < 3.5 * spread + [0, 0.2, 0, 0])
    often = (np.array(p_values) < 0.05).mean(axis=0)
    assert often[0] > 0.9
    assert often[1] < 0.12


def test_a_textbook_example() -> None:
    """Strength of fabric from four looms (Montgomery, Design and Analysis of Experiments, section 3.9)."""
    looms = np.array([[98, 97, 99, 96], [91, 90, 93, 92], [96, 95, 97, 95], [95, 96, 99, 98]], dtype=float)
    loom, _, rest = _split(looms, ("loom", "piece"))
    # its mean square of looms is 29.73; the rest has that of 1.90 with 12 degrees of freedom, pieces taken out
    pieces = 4 * ((looms.mean(axis=0) - looms.mean()) ** 2).sum()
    assert rest.variance == pytest.approx((22.75 - pieces) / 9)
    assert loom.variance == pytest.approx((29.7292 - rest.variance) / 4, abs=1e-4)


@given(st.integers(0, 10_000), st.floats(-50, 50), st.floats(0.1, 10))
def test_what_a_split_does_not_depend_on(seed: int, offset: float, factor: float) -> None:
    values = np.random.default_rng(seed).normal(0, 1, (3, 2, 4))
    found, changed = _split(values), _split(offset + factor * values[::-1, :, ::-1])
    for one, other in zip(found, changed, strict=True):
        assert other.variance == pytest.approx(factor**2 * one.variance, rel=1e-6, abs=1e-9)
        assert other.below == one.below
        assert other.p == (None if one.p is None else pytest.approx(one.p, abs=1e-6))
    assert [one.name for one in _split(values[:, :1])] == ["a", "c", "rest"]  # one level is no factor


def _finished(**how: object) -> Grid:
    """Bodies 10 points apart, and a little of all else."""
    grid = grid_of("luck", declared=DECLARED, **how)
    for cell in grid.cells:
        if cell.arm.name != "linear":
            body, order = (int(digit) for digit in re.findall(r"\d", cell.arm.name))
            for (_, seed), run in cell.runs.items():
                finish(run, 0.5 + body / 10 + (-1) ** (body + order + seed) / 100)
    return grid


def test_every_format_has_the_split() -> None:
    grid = _finished()
    shown = {kind: render(grid, grid.outcomes(), kind) for kind in FORMATS}
    # mean squares of 600 and 1.5, so (600 - 1.5) / 6 = 99.75 beside a rest of 1.5
    row = r"98.5 | 9.99 | \< 0.001"
    assert f"| random body | {row} |" in shown["markdown"]
    assert "| bit-xor | share, % | standard deviation, points | p |" in shown["markdown"]
    assert "| trained initialisation and dropout | 0.0 | 0.00 | " in shown["markdown"]
    assert "Estimated below 0 and shown as 0: order of the data" in shown["markdown"]
    # F = 400 with 2 and 12 degrees of freedom, whose quantiles are 5.0959 and 1 / 39.415: ratios of 13 and 2,627
    for text in shown.values():
        assert re.search(r"Share beside the rest alone, 95 \\?% interval: random body 93 to 100 \\?%, order", text)
    assert r"random body & 98.5 & 9.99 & \textless{} 0.001 \\" in shown["latex"]
    assert shown["latex"].count(r"\begin{tabular}") == shown["latex"].count(r"\end{tabular}") == 3
    assert "<h2>Where the variance comes from</h2>" in shown["html"]
    assert 'aria-label="Variance of test accuracy on bit-xor: random body 99 %, 9.99 points, p' in shown["html"]
    for text in shown.values():
        assert "method of moments" in text
        assert "against body" not in text  # draws are not compared
        assert "Bold" not in text


def test_a_run_that_is_missing_is_said_in_place_of_the_split() -> None:
    grid = _finished()
    shutil.rmtree(grid.cells[0].runs[1e-3, 1].folder)
    shown = {kind: render(grid, grid.outcomes(), kind) for kind in FORMATS}
    for text in shown.values():
        assert "bit-xor: Not split: 1 of 18 runs have no test figure yet." in text
        assert "random body" in text  # on the other task


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"arms": ["body 0, order 0", "body 1, order 0"]}, "left out of 6 arms"),
        ({"overrides": {"data_seed": 7}}, "arms are the same runs: something sets"),
    ],
)
def test_what_is_not_asked_for_is_no_split(how: dict[str, object], why: str) -> None:
    grid = grid_of("luck", declared=DECLARED, **how)
    assert why in render(grid, grid.outcomes(), "markdown")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("_seed: 2, data_seed: 1}", "_seed: 2, data_seed: 0}", "body 2, order 0 and body 2, order 1 are the same"),
        (
            "data_seed: 1}}\n",
            "data_seed: 1, model.layers: 1}}\n",
            "differ in more than model.backbone_seed and data_seed",
        ),
        (
            "model.backbone_seed: 2, data_seed: 1}",
            "model.backbone_seed: 3, data_seed: 1}",
            "none with model.backbone_seed 2",
        ),
        ("model.backbone_seed: 2, data_seed: 1}", "data_seed: 1}", "expected model.backbone_seed among the settings"),
        ("variance: [model.backbone_seed", "variance: [model.lr", "model.lr is what the protocol decides"),
        ("variance: [", "measures: [train_accuracy]\n    variance: [", "which measures lacks"),
    ],
)
def test_arms_that_do_not_cross_are_refused_in_a_line(
    before: str, after: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert before in DECLARED
    Path("declared.yaml").write_text(DECLARED.replace(before, after))
    assert main(["status", "luck", "--experiments", "declared.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fpt: error: declared.yaml: tables.luck")
    assert message in line
