"""A table as a page: markdown or LaTeX beside the paper's figures, or one HTML file with charts and every run."""

from collections.abc import Mapping
from pathlib import Path

from fpt_lightning.errors import FPTError
from fpt_lightning.experiments.grid import Grid
from fpt_lightning.experiments.report.checks import warnings_of
from fpt_lightning.experiments.report.results import collect
from fpt_lightning.runs.outcome import Outcome

FORMATS = ("markdown", "latex", "html")


def render(grid: Grid, outcomes: Mapping[str, Outcome], kind: str, folder: Path | None = None) -> str:
    """Writes a table in one of :data:`FORMATS`.

    Args:
        grid: The table's cells and runs.
        outcomes: What the run folders say, of :meth:`Grid.outcomes`.
        kind: ``markdown``, ``latex`` or ``html``.
        folder: Where the HTML file will lie, which its links to run folders start from; by default that of the runs.
    """
    results = collect(grid, outcomes)
    warnings = warnings_of(results)
    if kind == "html":
        from fpt_lightning.experiments.report.html import page

        return page(results, warnings, folder or grid.folder)
    if kind == "latex":
        from fpt_lightning.experiments.report.latex import latex

        return latex(results, warnings)
    from fpt_lightning.experiments.report.markdown import markdown

    return markdown(results, warnings)


def write_report(grid: Grid, outcomes: Mapping[str, Outcome], kind: str = "markdown", out: Path | None = None) -> str:
    """Writes a table to a file, or gives it back for the screen.

    Args:
        grid: The table's cells and runs.
        outcomes: What the run folders say.
        kind: ``markdown``, ``latex`` or ``html``.
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
    part = out.with_name(f"{out.name}.part")  # a browser that reloads never sees half a page
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(out)
    except OSError as error:
        raise FPTError(f"{out} cannot be written: {error.strerror}; choose another file with --out") from error
    return f"{out}\n"
