"""Writes the figures of the :data:`PAGES` anew, from the results and benchmarks in the repository.

    python tools/figures.py

`NUMBER<!-- = PLACE -->` is a figure, rounded as it stands. PLACE is a cell of a table in `results/laptop` or
`results/atlas` (`table2 / FPT / bit-memory`; `atlas/pocket` where both have one, and `night/table2`; behind it
` / error`, ` / paper`, ` / rate`, ` / equal`, its validation at equal arithmetic, or ` / layer / 3`, what a probe reads
there), or an entry of a JSON in `benchmarks/results` (`train_step-avx512 / steps / 0 / ratio`). Two may be subtracted
(`A - B`, the larger first: a negative figure is an error, as its sentence would be wrong), one made percent
(`A * 100`).

`<!-- table: NAME -->` to `<!-- end -->` is a table with what it says of how to read it and of its contrasts; with
`NAME with rates` its learning rates follow, with `NAME with variance` the split of its variance.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/results.md", "docs/halving.md", "docs/performance.md")
CELL = re.compile(
    r"\**(?:[▲▼] )?(?P<mean>[\d.,]+)(?: ± (?:< )?(?P<error>[\d.,]+))?\**(?:\[\^\d+\])?(?: \(paper (?P<paper>[\d.,]+))?"
)
FIGURE = re.compile(r"(\d[\d,]*(?:\.\d+)?(?:e-?\d+)?)<!-- = (.*?) -->")
TABLE = re.compile(r"(<!-- table: ([\w/]+)(?: with (rates|variance))? -->\n)(?:.*?\n)??(<!-- end -->)", re.DOTALL)
FIRST = {"rates": "Learning rates:", "variance": "Where the variance "}  # what stands behind the rest of a table
LISTS = {
    "rate": "Learning rates:",
    "equal": "Validation .* at equal arithmetic",
    "layer": "Validation .* of a linear layer",
}
"""What has a line an arm, and how its title begins."""


def renewed(text: str) -> str:
    """The text of a page with the figures that the repository has."""
    text = TABLE.sub(lambda found: found[1] + _table(found[2], found[3]) + found[4], text)
    return FIGURE.sub(lambda found: f"{_written(found[1], found[2])}<!-- = {found[2]} -->", text)


def _written(before: str, place: str) -> str:
    minuend, _, subtrahend = place.partition(" - ")
    value = _value(minuend)
    if isinstance(value, str):  # a learning rate is text
        return value
    if subtrahend:
        value -= float(_value(subtrahend))
    if value < 0:  # without its sign the figure would stay what it was, in a sentence that is no longer true
        raise ValueError(f"{place} is negative: turn it round, and what the sentence says of it")
    return f"{value:,.{len(before.partition('.')[2])}f}"


def _value(place: str) -> float | str:
    place, _, factor = place.partition(" * ")
    source, *path = place.split(" / ")
    if _folder(source) is not None:
        found = _cell(source, *path)
        return found if path[2:] == ["rate"] else float(found)
    content: Any = json.loads((ROOT / "benchmarks" / "results" / f"{source}.json").read_text())
    for step in path:
        content = content[int(step) if isinstance(content, list) else step]
    return float(content) * float(factor or 1)


def _cell(table: str, arm: str, task: str, what: str = "mean", number: str = "0") -> str:
    if what in LISTS:
        blocks = _blocks(table)
        place = next(place for place, block in enumerate(blocks) if re.match(LISTS[what], block))
        of_arm = next(line for line in blocks[place + 1].splitlines() if line.startswith(f"- {arm}: "))
        return re.findall(rf"{re.escape(task)} (\d[^,]*)", of_arm)[0].split()[int(number)]
    grids = [[_cells(row) for row in block.splitlines()] for block in _blocks(table) if block.startswith("|")]
    header, _, *rows = next(grid for grid in grids if task in grid[0] and any(row[0] == arm for row in grid[2:]))
    cell = next(row for row in rows if row[0] == arm)[header.index(task)]
    found = CELL.match(cell)
    if found is None or found[what] is None:
        raise ValueError(f"{table}: {arm} on {task} has no {what}: {cell}")
    return found[what].replace(",", "")


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def _folder(table: str) -> Path | None:
    """Where a table is archived, None where it is not."""
    places = (table,) if "/" in table else (f"atlas/{table}", f"laptop/{table}")
    found = [folder for place in places if (folder := ROOT / "results" / place).is_dir()]
    if len(found) > 1:
        raise ValueError(f"{' or '.join(f'{folder.parent.name}/{table}' for folder in found)}?")
    return found[0] if found else None


def _page(table: str) -> str:
    if (folder := _folder(table)) is None:
        raise FileNotFoundError(f"results has no table {table}")
    return (folder / "README.md").read_text()


@cache
def _blocks(table: str) -> list[str]:
    """The paragraphs of its markdown page: title, source, table, notes and so on."""
    page = _page(table)
    return re.sub(r"\\([^\w\s])", r"\1", page).rstrip("\n").split("\n\n")


def _table(table: str, behind: str | None) -> str:
    page = _page(table).rstrip("\n").split("\n\n")
    shown = page[2 : next(place for place, block in enumerate(page) if block.startswith(("Profile ", "Sizes and")))]
    if "Contrasts:" in page:
        place = page.index("Contrasts:")
        shown += page[place : place + 2]
    if behind is not None:
        place = next(place for place, block in enumerate(page) if block.startswith(FIRST[behind]))
        shown += page[place : place + (3 if behind == "variance" else 2)]  # a split has a note
    # several tables share a page, and GitHub knows a footnote by its name
    return re.sub(r"\[\^(\d+)\]", rf"[^{table.replace('/', '-')}-\1]", "\n\n".join(shown)) + "\n"


def main() -> None:
    for name in PAGES:
        page = ROOT / name
        page.write_text(renewed(page.read_text()))


if __name__ == "__main__":
    main()
