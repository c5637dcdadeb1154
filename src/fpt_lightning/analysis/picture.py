"""Attention as a picture."""

import math
from pathlib import Path
from textwrap import fill

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from fpt_lightning.analysis.maps import MeanMaps
from fpt_lightning.data.spec import TokenWords
from fpt_lightning.files import whole_file

MOST_NAMES = 32
"""More names than these on an axis cannot be read; every so-manyth stands there then."""

HEADS_IN_A_ROW = 4

LINE = 95
"""Letters in a line of the title: a backbone may be called by a path."""


def draw_attention(maps: MeanMaps, words: TokenWords, picture: Path, title: str) -> None:
    """Draws the mean over heads above, every head below; the ending of the picture's name is its format.

    Rows are the tokens that answer, columns the tokens read; where the tokens are places of a picture and one of them
    answers, its row is drawn as that picture.
    """
    heads, answers, length = maps.heads.shape
    grid = words.grid if answers == 1 else None
    columns = min(heads, HEADS_IN_A_ROW)
    rows = math.ceil(heads / columns)
    shape = grid or (answers, length)
    height = 3.4 if grid else 1.2 + min(3.0, max(0.5, 8 * shape[0] / shape[1]))
    small = 1.9 if grid else 0.6 + min(1.6, max(0.3, 2.2 * shape[0] / shape[1]))
    with matplotlib.rc_context({"font.size": 8, "axes.titlesize": 8}):
        figure = Figure(figsize=(9, 0.7 + height + rows * small), layout="constrained")
        figure.suptitle("\n".join(fill(line, LINE) for line in title.splitlines()), fontsize=10)
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[height, rows * small]).flat
        axes = above.subplots()
        image = _draw(axes, maps.heads.mean(0), grid)
        above.colorbar(image, ax=axes, fraction=0.03, pad=0.01, label="attention, mean of the heads")
        if grid:
            axes.set_xlabel("column of the token read")
            axes.set_ylabel("row of the token read")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        else:
            _name_columns(axes, words, length, maps.from_end)
            _name_rows(axes, words, answers)
        highest = maps.heads.max().item()
        for head, panel in enumerate(below.subplots(rows, columns, squeeze=False).flat):
            if head >= heads:
                panel.set_axis_off()
                continue
            _draw(panel, maps.heads[head], grid, highest)
            panel.set_xticks([])
            panel.set_yticks([])
            share = "" if maps.needed is None else f": {100 * maps.needed[head]:.0f} %"
            panel.set_title(f"head {head + 1}{share}")
        with whole_file(picture) as part:
            figure.savefig(part, format=picture.suffix[1:], dpi=150)


def _draw(axes: Axes, values: torch.Tensor, grid: tuple[int, int] | None, highest: float | None = None) -> AxesImage:
    """One map ``[answer tokens, length]``."""
    shown = values.reshape(grid) if grid else values
    return axes.imshow(
        shown.numpy(), cmap="Blues", vmin=0, vmax=highest, aspect="equal" if grid else "auto", interpolation="nearest"
    )


def _name_columns(axes: Axes, words: TokenWords, length: int, from_end: bool) -> None:
    axes.set_xlabel("token read, counted from the last" if from_end else "token read")
    if words.groups:
        starts = [start for start, _ in words.groups]
        for start in starts[1:]:
            axes.axvline(start - 0.5, color="#c44e52", linewidth=0.8)
        middles = [(start + stop - 1) / 2 for start, stop in zip(starts, [*starts[1:], length], strict=True)]
        axes.set_xticks(middles, [name for _, name in words.groups])
        return
    places = _some(length)
    axes.set_xticks(places, [str(place - length + 1) if from_end else words.names[place] for place in places])


def _name_rows(axes: Axes, words: TokenWords, answers: int) -> None:
    axes.set_ylabel("token that answers")
    places = _some(answers)
    names = words.names[-answers:]
    # within a group that has a name the last word tells one from another
    axes.set_yticks(places, [names[place].rpartition(", ")[2] if words.groups else names[place] for place in places])


def _some(count: int) -> list[int]:
    """Places for names, no more than can be read."""
    return list(range(0, count, math.ceil(count / MOST_NAMES)))
