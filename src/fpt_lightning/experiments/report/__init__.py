"""A table as a page: markdown or LaTeX beside the paper's figures, one HTML file with charts, or its runs as CSV."""

from collections.abc import Callable, Mapping
from pathlib import Path

from fpt_lightning.errors import FPTError
from fpt_lightning.experiments.grid import Grid
from fpt_lightning.experiments.report import csv_rows, html, latex, markdown
from fpt_lightning.experiments.report.page import Page, page_of
from fpt_lightning.experiments.report.results import collect
from fpt_lightning.files import write_whole
from fpt_lightning.runs.outcome import Outcome

FORMATS: dict[str, Callable[[Page], str]] = {"markdown": markdown.frame, "latex": latex.frame, "html": html.frame}
"""For people."""

ALL_FORMATS = FORMATS | {"csv": csv_rows.frame}
"""For programs, too."""

ARCHIVED = {"markdown": "README.md", "latex": "table.tex", "html": "page.html"}
"""The pages of an archived table: the first is what GitHub shows of its folder."""


def render(grid: Grid, outcomes: Mapping[str, Outcome], kind: str, folder: Path | None = None) -> str:
    """A table in one of :data:`ALL_FORMATS`; its links start from ``folder``, by default that of the runs."""
    return ALL_FORMATS[kind](page_of(collect(grid, outcomes), folder or grid.folder))


def write_report(grid: Grid, outcomes: Mapping[str, Outcome], kind: str = "markdown", out: Path | None = None) -> str:
    """Writes a table to a file, or gives it back for the screen.

    Args:
        grid: The table's cells and runs.
        outcomes: What became of the runs, of :meth:`Grid.outcomes`.
        kind: One of :data:`ALL_FORMATS`.
        out: The file; without one, HTML goes to ``TABLE.html`` beside the runs, the others to no file.

    Returns:
        What the command prints: the table, or where it was written.

    Raises:
        FPTError: If the file cannot be written.
    """
    if out is None and kind == "html":
        out = grid.folder / f"{grid.table.name}.html"
    text = render(grid, outcomes, kind, out.parent if out else None)
    if out is None:
        return text
    try:
        write_whole(out, text)  # a browser that reloads never sees half a page
    except OSError as error:
        raise FPTError(f"{out} cannot be written: {error.strerror}; choose another file with --out") from error
    return f"{out}\n"
