"""A table in GitHub's markdown."""

import re
from collections.abc import Sequence

from fpt_lightning.experiments.report.page import FigureText, Page
from fpt_lightning.experiments.report.units import SIGNS

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$&]|^[-+#](?=\s))")


def frame(page: Page) -> str:
    """The table, footnotes for what is missing, and warnings below it."""
    rows = [
        ["", *map(escaped, page.headings)],
        ["---", *("---:" for _ in page.headings)],
        *([escaped(arm), *map(_cell, figures)] for arm, figures in page.rows),
        *([f"*{escaped(name)}*", *map(escaped, figures)] for name, figures in page.baselines),
    ]
    blocks = [
        f"## {escaped(page.table.title)}",
        escaped(f"{page.table.source}; profile {page.profile.name}."),
        "\n".join(f"| {' | '.join(row)} |" for row in rows),
        "\n".join(f"[^{number}]: {escaped(note)}" for number, note in enumerate(page.notes, 1)),
        escaped(page.how_to_read("in brackets")),
        escaped(page.table.note),
        escaped(page.about),
        _list("Sizes and budgets", page.options),
        _list("Learning rates", page.rates),
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


def _list(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"{title}:", "", *(f"- {escaped(line)}" for line in lines)]) if lines else ""
