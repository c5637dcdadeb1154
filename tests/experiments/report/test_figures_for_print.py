"""The charts of a page as PDFs for a paper: `fpt report TABLE --figures FOLDER`."""

import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from run_folders import EXPERIMENTS, finish, grid_of

from conftest import Fpt
from fpt_lightning.experiments.grid import Selection, make_grid
from fpt_lightning.experiments.report.pictures import for_print
from fpt_lightning.experiments.report.pictures.bars import Bars
from fpt_lightning.experiments.report.pictures.charts import Picture, charts_of
from fpt_lightning.experiments.report.pictures.for_print import draw, write_figures
from fpt_lightning.experiments.report.pictures.forest import Effects
from fpt_lightning.experiments.report.pictures.heat_map import HeatMap
from fpt_lightning.experiments.report.pictures.svg import Chart, Dots
from fpt_lightning.experiments.report.results import Results, collect
from fpt_lightning.experiments.tables import read_experiments

ATLAS = Path(__file__).parents[3] / "results" / "atlas"
POCKET = ("report", "pocket", "--folder", str(ATLAS / "pocket"), "--profile", "atlas", "--protocol", "halving")


def _results(table: str, protocol: str) -> Results:
    grid = make_grid(read_experiments(None), Selection(table, "atlas", protocol), ATLAS / table)
    return collect(grid, grid.outcomes())


def _drawn(results: Results, kind: str, title: str = "MNIST") -> tuple[Any, Axes]:
    picture: Picture = dict(charts_of(results)[kind])[title]
    axes = Figure().subplots()
    draw(picture, axes)
    return picture, axes


def test_every_chart_of_the_page_is_a_file(fpt: Fpt, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*POCKET, "--tasks", "mnist", "--figures", "figures")
    assert fpt(*words) == 0
    kinds = ("effects", "curves", "rates", "grids", "convergence", "sizes", "layers")
    names = {f"{kind}-mnist.pdf" for kind in kinds}
    made = {path.name: path.read_bytes() for path in Path("figures").iterdir()}
    assert made.keys() == names
    assert {line.removeprefix("figures/") for line in capsys.readouterr().out.splitlines()} == names
    for content in made.values():
        assert content.startswith(b"%PDF")
        (width,) = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ", content)
        assert float(width) == pytest.approx(3.3 * 72)  # points: a column
        assert b"/Type3" not in content  # fonts that journals refuse
    with matplotlib.rc_context({"font.size": 20, "text.usetex": True, "figure.facecolor": "black"}):  # a user's own
        assert fpt(*words) == 0
        assert matplotlib.rcParams["font.size"] == 20
    assert {path.name: path.read_bytes() for path in Path("figures").iterdir()} == made


def test_a_curve_has_its_points_its_band_and_its_arm() -> None:
    chart, axes = _drawn(_results("pocket", "halving"), "curves")
    assert isinstance(chart, Chart)
    lines = {str(line.get_label()): line for line in axes.lines}
    assert lines.keys() == {chart.level.name, *(arm.name for arm in chart.arms)}
    for arm in chart.arms:
        assert list(lines[arm.name].get_ydata()) == [point.y for point in arm.points]
        assert list(lines[arm.name].get_xdata()) == [point.x for point in arm.points]
    assert len(axes.collections) == len(chart.arms)
    assert axes.get_xlim() == (chart.x.low, chart.x.high)
    assert [text.get_text() for text in axes.get_xticklabels()] == [chart.x.written(tick) for tick in chart.x.ticks()]
    assert len({line.get_color() for line in lines.values()}) == len(lines)


def test_a_chosen_rate_has_a_ring_and_its_axis_is_logarithmic() -> None:
    chart, axes = _drawn(_results("pocket", "halving"), "rates")
    rings = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    assert len(rings) == sum(point.chosen for arm in chart.arms for point in arm.points) > 0
    assert axes.get_xscale() == "log"


def test_a_difference_has_its_interval_and_its_verdict() -> None:
    effects, axes = _drawn(_results("carries", "halving"), "effects", "ListOps")
    assert isinstance(effects, Effects)
    assert [text.get_text() for text in axes.get_yticklabels()] == [row.name for row in effects.rows]
    told = [text.get_text() for text in axes.texts]
    assert [word.split()[-1] for word in told] == [row.written for row in effects.rows]
    assert [word[0] for word in told if " " in word] == [
        {"better": "▲", "worse": "▼"}[row.verdict] for row in effects.rows if row.verdict
    ]
    ends = [tuple(segment[:, 0]) for bars in axes.collections for segment in bars.get_segments()]
    assert ends == [pytest.approx(row.interval) for row in effects.rows]


def test_squares_shares_and_rows_of_dots() -> None:
    squares, axes = _drawn(_results("pocket", "halving"), "grids")
    assert isinstance(squares, HeatMap)
    shown = [patch for patch in axes.patches if patch.get_fill()]
    assert [patch.get_alpha() for patch in shown] == [
        one.opacity or 0 for block in squares.blocks for one in block.squares
    ]
    dots, axes = _drawn(_results("pocket", "halving"), "convergence")
    assert isinstance(dots, Dots)
    marks = sum(len(line.get_xdata()) == 1 for line in axes.lines)
    assert marks == sum(len(points) for _, _, points, _ in dots.rows)
    bars, axes = _drawn(_results("luck", "paper"), "variance")
    assert isinstance(bars, Bars)
    assert [patch.get_width() for patch in axes.patches] == [row.share for row in bars.rows]


def test_names_that_mean_something_elsewhere(tmp_path: Path) -> None:
    """To matplotlib, to a file system; and two titles that are one as a file."""
    declared = EXPERIMENTS.replace("title: bit-xor", 'title: "a/b $x_"').replace("title: MNIST", 'title: "a?b $x_"')
    declared = declared.replace("Random: {", "$Random_{: {")
    grid = grid_of(declared=declared, tasks=["bit_xor", "mnist"], arms=["FPT", "$Random_{"])
    for cell in grid.cells:
        for run in cell.runs.values():
            finish(run, 0.6, curve=[0.5, 0.6])
    made = {path.name for path in write_figures(collect(grid, grid.outcomes()), tmp_path / "figures")}
    assert {"curves-a-b-x_.pdf", "curves-a-b-x_-2.pdf"} <= made


def test_what_cannot_be_drawn_or_written_is_said(fpt: Fpt, capsys: pytest.CaptureFixture[str]) -> None:
    assert fpt("report", "table2", "--folder", "nothing", "--figures", "figures") == 1
    assert "there is nothing to draw: no run of the table has a result yet" in capsys.readouterr().err
    assert fpt("report", "fair", "--folder", str(ATLAS / "pocket"), "--figures", "figures") == 1
    assert "runs, but none of fair with these options" in capsys.readouterr().err
    assert not Path("figures").exists()
    for option in ("--out", "--archive"):
        assert fpt(*POCKET, "--figures", "figures", option, "page") == 2
        assert "leave out --out and --archive" in capsys.readouterr().err
    Path("taken").touch()
    assert fpt(*POCKET, "--figures", "taken") == 1
    assert "fpt: error: taken cannot be written: " in (error := capsys.readouterr().err)
    assert "choose another --figures" in error


def test_arms_look_as_they_do_on_the_page() -> None:
    css = (Path(for_print.__file__).parents[1] / "templates" / "report.css").read_text()
    light = css.partition("@media")[0]
    assert list(for_print.COLOURS) == re.findall(r"--c\d: (#\w+);", light)
    dashes = dict(re.findall(r"\.s(\d) \{ --c: var\(--c\1\); --dash: ([\d. ]+|none); \}", css))
    assert [
        () if dashes[str(number)] == "none" else tuple(map(float, dashes[str(number)].split())) for number in range(8)
    ] == [tuple(map(float, dash)) for dash in for_print.DASHES]
