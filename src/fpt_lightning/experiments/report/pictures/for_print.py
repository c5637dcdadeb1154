"""The charts of a page for print: a PDF each, as wide as a column of a paper, drawn by matplotlib."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fpt_lightning.errors import FPTError
from fpt_lightning.experiments.report.pictures.bars import Bars
from fpt_lightning.experiments.report.pictures.charts import Picture, charts_of
from fpt_lightning.experiments.report.pictures.forest import Effects
from fpt_lightning.experiments.report.pictures.heat_map import HeatMap
from fpt_lightning.experiments.report.pictures.svg import WIDTH, Axis, Chart, Dots
from fpt_lightning.experiments.report.results import Results
from fpt_lightning.experiments.report.units import SIGNS
from fpt_lightning.files import whole_folder

COLUMN = 3.3
"""Inches."""
COLOURS = ("#0072b2", "#c9500a", "#00805c", "#a64d85", "#8a6a00", "#2f86c4", "#6b4fa3", "#4a5258")
DASHES = ((), (7, 3), (2, 2.5), (8, 3, 2, 3), (12, 4), (4, 3), (10, 3, 2, 3, 2, 3), (1.5, 4))
MARKS = "os^D"
"""Of series by their numbers, as report.css and svg.html have them."""
SOFT, REST = "#5a646c", "#b9c0c5"
SETTINGS: Any = {
    "axes.edgecolor": SOFT, "axes.linewidth": 0.6, "axes.spines.right": False, "axes.spines.top": False,
    "font.size": 7, "legend.frameon": False, "lines.linewidth": 1.2, "lines.markersize": 3.5,
    "pdf.fonttype": 42,  # letters that stay letters: what journals ask for
    "text.parse_math": False, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
}  # fmt: skip
LONGEST = 60
"""Letters of a title in the name of a file."""


def write_figures(results: Results, folder: Path) -> list[Path]:
    """Writes ``KIND-TITLE.pdf`` for every chart of a table's page; what was there is replaced.

    Raises:
        FPTError: If there is nothing to draw, or the folder cannot be written.
    """
    drawn = dict(_named(charts_of(results)))
    if not drawn:
        raise FPTError("there is nothing to draw: no run of the table has a result yet")
    try:
        with matplotlib.rc_context(), whole_folder(folder) as part:
            matplotlib.rcdefaults()  # what somebody's matplotlibrc says is for other pictures
            matplotlib.rcParams.update(SETTINGS)
            for name, picture in drawn.items():
                figure = Figure(figsize=(COLUMN, height_of(picture)), layout="constrained")
                draw(picture, figure.subplots())
                figure.savefig(part / name, metadata={"CreationDate": None})  # the same figures, the same file
    except OSError as error:
        raise FPTError(f"{folder} cannot be written: {error.strerror}; choose another --figures") from error
    return [folder / name for name in drawn]


def _named(charts: Mapping[str, Sequence[tuple[str, Picture]]]) -> Iterator[tuple[str, Picture]]:
    for kind, of_kind in charts.items():
        taken = set[str]()
        for title, picture in of_kind:
            plain = re.sub(r"[^\w.-]+", "-", title.lower()).strip("-.")[:LONGEST]
            taken.add(name := plain if plain not in taken else f"{plain}-{len(taken) + 1}")
            yield f"{kind}-{name}.pdf", picture


def height_of(picture: Picture) -> float:
    """Inches."""
    if isinstance(picture, Chart):
        return 2.3 + 0.13 * -(-len(picture.arms) // _columns(picture))
    if isinstance(picture, HeatMap):
        return COLUMN * (picture.height + 44) / WIDTH
    return 0.6 + 0.3 * len(picture.rows)


@singledispatch
def draw(picture: Picture, axes: Axes) -> None:
    """Draws a chart of a page."""
    raise TypeError(f"{type(picture).__name__} is no chart of a page")


@draw.register
def _(picture: Chart, axes: Axes) -> None:
    if picture.y.low <= picture.level.height <= picture.y.high:
        axes.axhline(picture.level.height, color=SOFT, lw=0.8, dashes=(2, 4), label=picture.level.name)
    for arm in picture.arms:
        x, y = [point.x for point in arm.points], [point.y for point in arm.points]
        errors, look = [point.error or 0.0 for point in arm.points], _look(arm.style)
        line: dict[str, Any] = {"dashes": DASHES[arm.style % len(DASHES)], "label": arm.name}
        if arm.band and len(x) > 1:
            low, high = ([at + sign * error for at, error in zip(y, errors, strict=True)] for sign in (-1, 1))
            axes.fill_between(x, low, high, color=look["color"], alpha=0.15, lw=0)
            axes.plot(x, y, color=look["color"], **line)
        else:
            axes.errorbar(x, y, errors, elinewidth=0.8, **look, **line)
        for point in (point for point in arm.points if point.chosen):
            axes.plot(point.x, point.y, "o", ms=8, mfc="none", mec=look["color"], mew=0.8)
    _scale(axes, "x", picture.x)
    _scale(axes, "y", picture.y)
    figure: Any = axes.figure
    figure.legend(loc="outside lower left", ncols=_columns(picture), handlelength=3)


@draw.register
def _(picture: Dots, axes: Axes) -> None:
    for row, (_, style, points, mean) in enumerate(picture.rows):
        look = _look(style)
        axes.plot([mean, mean], [row - 0.3, row + 0.3], color=look["color"])
        for _, aside, point in picture.marks(points):
            axes.plot(point.x, row + aside / picture.row_height, **look)
    _rows(axes, [name for name, _, _, _ in picture.rows], picture.x)


@draw.register
def _(picture: Effects, axes: Axes) -> None:
    axes.axvline(0, color=SOFT, lw=0.8)
    for number, row in enumerate(picture.rows):
        low, high = row.interval or (row.difference, row.difference)
        look = _look(row.style)
        axes.errorbar(row.difference, number, xerr=[[row.difference - low], [high - row.difference]], capsize=2, **look)
        for edge, is_beyond, mark in zip((picture.x.low, picture.x.high), picture.beyond(row), "<>", strict=True):
            if is_beyond:
                axes.plot(edge, number, mark, color=look["color"], clip_on=False)
        told = f"{SIGNS[row.verdict]} {row.written}" if row.verdict else row.written
        axes.annotate(told, (1, number), (4, 0), ("axes fraction", "data"), "offset points", va="center")
    _rows(axes, [row.name for row in picture.rows], picture.x)


@draw.register
def _(picture: Bars, axes: Axes) -> None:
    for number, row in enumerate(picture.rows):
        axes.barh(number, row.share, 0.4, color=REST if row.rest else COLOURS[0])
    _rows(axes, [f"{row.name}\n{row.told}" for row in picture.rows], picture.x)


@draw.register
def _(picture: HeatMap, axes: Axes) -> None:
    """In the page's own measure, a pixel a unit."""
    signs = {"diverged": "\N{MULTIPLICATION SIGN}", "failed": "!"}
    for block in picture.blocks:
        axes.text(picture.rates[0][0], block.y - 6, block.name)
        for number, seed in enumerate(block.seeds):
            axes.text(picture.rates[0][0] - 6, block.y + picture.pitch * number + 13, seed, ha="right")
        for one in block.squares:
            place, size = (one.x, one.y), (picture.width, picture.square)
            axes.add_patch(Rectangle(place, *size, fc=COLOURS[0], alpha=one.opacity or 0.0, lw=0))
            if one.state in ("way", "missing"):
                axes.add_patch(Rectangle(place, *size, fill=False, ec=SOFT, lw=0.5))
            axes.text(one.x + picture.width / 2, one.y + 13, signs.get(one.state, ""), ha="center")
        if block.chosen is not None:
            place = block.chosen - 1.5, block.y - 1.5
            axes.add_patch(Rectangle(place, picture.width + 3, block.height + 1, fill=False, lw=0.9))
    for x, written in picture.rates:
        axes.text(x + picture.width / 2, picture.height + 15, written, ha="center")
    axes.text(2, 14, f"seed; {picture.scale[0]} pale to {picture.scale[1]}")
    axes.text(WIDTH / 2, picture.height + 34, "learning rate", ha="center")
    axes.set(xlim=(0, WIDTH), ylim=(picture.height + 40, 0))
    axes.axis("off")


def _look(style: int) -> dict[str, Any]:
    return {"color": COLOURS[style % len(COLOURS)], "marker": MARKS[style % len(MARKS)]}


def _columns(chart: Chart) -> int:
    """Of its legend."""
    return 1 if max(len(arm.name) for arm in chart.arms) > 24 else 2


def _rows(axes: Axes, names: Sequence[str], x: Axis) -> None:
    """A row a name, the first at the top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params("y", length=0)
    axes.spines["left"].set_visible(False)
    _scale(axes, "x", x)


def _scale(axes: Axes, which: str, axis: Axis) -> None:
    ticks = axis.ticks()
    axes.set(**{f"{which}scale": "log" if axis.log else "linear", f"{which}label": axis.label})
    axes.set(**{f"{which}lim": (axis.low, axis.high)})
    getattr(axes, f"set_{which}ticks")([], minor=True)
    getattr(axes, f"set_{which}ticks")(ticks, [axis.number(value) for value in ticks])
