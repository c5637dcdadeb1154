"""A table in GitHub's markdown."""

import re
from collections.abc import Iterator, Sequence

from fpt_lightning.experiments.report.page import FigureText, Page
from fpt_lightning.experiments.report.units import SIGNS
from fpt_lightning.experiments.report.variance import about

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$&]|^[-+#](?=\s))")


def frame(page: Page) -> str:
    """The table, footnotes for what is missing, and warnings below it."""
    rows = [
        *([escaped(arm), *map(_cell, figures)] for arm, figures in page.rows),
        *([f"*{escaped(name)}*", *map(escaped, figures)] for name, figures in page.baselines),
    ]
    blocks = [
        f"## {escaped(page.table.title)}",
        escaped(f"{page.table.source}; profile {page.profile.name}."),
        _table(["", *map(escaped, page.headings)], rows),
        "\n".join(f"[^{number}]: {escaped(note)}" for number, note in enumerate(page.notes, 1)),
        escaped(page.how_to_read("in brackets")),
        escaped(page.table.note),
        escaped(page.about),
        *_variance(page),
        _list("Contrasts", page.contrasts),
        _list("Sizes and budgets", page.options),
        _list("Learning rates", page.rates),
        _list(page.at_equal_arithmetic, page.equal_arithmetic),
        _list(page.of_layers, page.layers),
        _list("Warnings", page.warnings),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def escaped(text: str) -> str:
    """Text that stays text, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _cell(figure: FigureText) -> str:
    mean = f"**{SIGNS[figure.verdict]} {figure.mean}**" if figure.verdict else figure.mean
    note = "" if figure.note is None else f"[^{figure.note}]"
    return mean + note + (f" (paper {figure.reference})" if figure.reference else "")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    ruled = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in ruled)


def _variance(page: Page) -> Iterator[str]:
    """The split of every task under the sentence that says how it is made."""
    if page.variance:
        yield escaped(about(page.metric))
    for split in page.variance:
        if split.rows:
            yield _table([*map(escaped, split.header)], [[*map(escaped, row)] for row in split.rows])
        if split.note:
            yield escaped(split.note if split.rows else f"{split.task}: {split.note}")


def _list(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"{title}:", "", *(f"- {escaped(line)}" for line in lines)]) if lines else ""
