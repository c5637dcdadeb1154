"""A table in GitHub's markdown."""

import re
from collections.abc import Sequence

from fpt_lightning.experiments.report import wording
from fpt_lightning.experiments.report.results import Column, Figure, Results

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$&]|^[-+#](?=\s))")


def markdown(results: Results, warnings: Sequence[str]) -> str:
    """The table, footnotes for what is missing, and warnings below it."""
    table, notes = results.grid.table, wording.Footnotes()
    rows = [
        ["", *(escaped(wording.heading(column, results)) for column in results.columns)],
        ["---", *("---:" for _ in results.columns)],
        *(
            [escaped(arm), *(_cell(results.figure(arm, it), it, notes) for it in results.columns)]
            for arm in results.arms
        ),
    ]
    blocks = [
        f"## {escaped(table.title)}",
        escaped(f"{table.source}; profile {results.grid.profile.name}."),
        "\n".join(f"| {' | '.join(row)} |" for row in rows),
        "\n".join(f"[^{number}]: {escaped(note)}" for number, note in enumerate(notes.notes, 1)),
        escaped(" ".join(wording.reading(results, "in brackets"))),
        escaped(table.note),
        _list("Learning rates", wording.chosen_rates(results)),
        _list("Warnings", warnings),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def escaped(text: str) -> str:
    """Text that stays text, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _cell(figure: Figure, column: Column, notes: wording.Footnotes) -> str:
    told = wording.mean(figure, column.measure)
    if figure.comparison is not None and figure.comparison.significant:
        told = f"**{told}**"
    if (note := notes.mark(figure)) is not None:
        told += f"[^{note}]"
    paper = wording.reference(figure, column.measure)
    return f"{told} (paper {paper})" if paper else told


def _list(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"{title}:", "", *(f"- {escaped(line)}" for line in lines)]) if lines else ""
