"""Writes the figures of the :data:`PAGES` anew, from the results and benchmarks in the repository.

    python tools/figures.py

`NUMBER<!-- = PLACE -->` is a figure, rounded as it stands. PLACE is a cell of a table in `results/laptop`
(`table2 / FPT / bit-memory`, and behind it ` / error`, ` / paper` or ` / rate`), or an entry of a JSON in
`benchmarks/results` (`train_step-cpu / steps / 0 / ratio`). Two may be subtracted (`A - B`), one made percent
(`A * 100`).

`<!-- table: NAME -->` to `<!-- end -->` is a table with what it says of how to read it; with `NAME with rates` its
learning rates follow.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/results.md", "docs/halving.md", "docs/performance.md")
CELL = re.compile(
    r"\**(?:[▲▼] )?(?P<mean>[\d.,]+)(?: ± (?P<error>[\d.,]+))?\**(?:\[\^\d+\])?(?: \(paper (?P<paper>[\d.,]+))?"
)
FIGURE = re.compile(r"(\d[\d,]*(?:\.\d+)?(?:e-?\d+)?)<!-- = (.*?) -->")
TABLE = re.compile(r"(<!-- table: (\w+)( with rates)? -->\n)(?:.*?\n)??(<!-- end -->)", re.DOTALL)


def renewed(text: str) -> str:
    """The text of a page with the figures that the repository has."""
    text = TABLE.sub(lambda found: found[1] + _table(found[2], bool(found[3])) + found[4], text)
    return FIGURE.sub(lambda found: f"{_written(found[1], found[2])}<!-- = {found[2]} -->", text)


def _written(before: str, place: str) -> str:
    minuend, _, subtrahend = place.partition(" - ")
    value = _value(minuend)
    if isinstance(value, str):  # a learning rate is text
        return value
    if subtrahend:
        value -= float(_value(subtrahend))
    return f"{abs(value):,.{len(before.partition('.')[2])}f}"


def _value(place: str) -> float | str:
    place, _, factor = place.partition(" * ")
    source, *path = place.split(" / ")
    if (ROOT / "results" / "laptop" / source).is_dir():
        found = _cell(source, *path)
        return found if path[-1] == "rate" else float(found)
    content: Any = json.loads((ROOT / "benchmarks" / "results" / f"{source}.json").read_text())
    for step in path:
        content = content[int(step) if isinstance(content, list) else step]
    return float(content) * float(factor or 1)


def _cell(table: str, arm: str, task: str, what: str = "mean") -> str:
    header, _, *rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in _blocks(table)[2].splitlines()]
    if what == "rate":
        rates = next(line for block in _blocks(table) for line in block.splitlines() if line.startswith(f"- {arm}: "))
        return re.findall(rf"{re.escape(task)} (\S+?)(?:,|$)", rates)[0]
    cell = next(row for row in rows if row[0] == arm)[header.index(task)]
    found = CELL.match(cell)
    if found is None or found[what] is None:
        raise ValueError(f"{table}: {arm} on {task} has no {what}: {cell}")
    return found[what].replace(",", "")


@cache
def _blocks(table: str) -> list[str]:
    """The paragraphs of its markdown page: title, source, table, notes and so on."""
    page = (ROOT / "results" / "laptop" / table / "README.md").read_text()
    return re.sub(r"\\([^\w\s])", r"\1", page).rstrip("\n").split("\n\n")


def _table(table: str, rates: bool) -> str:
    page = (ROOT / "results" / "laptop" / table / "README.md").read_text().rstrip("\n").split("\n\n")
    shown = page[2 : next(place for place, block in enumerate(page) if block.startswith(("Profile ", "Sizes and")))]
    if rates:
        place = page.index("Learning rates:")
        shown += page[place : place + 2]
    # several tables share a page, and GitHub knows a footnote by its name
    return re.sub(r"\[\^(\d+)\]", rf"[^{table}-\1]", "\n\n".join(shown)) + "\n"


def main() -> None:
    for name in PAGES:
        page = ROOT / name
        page.write_text(renewed(page.read_text()))


if __name__ == "__main__":
    main()
