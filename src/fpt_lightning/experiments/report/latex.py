"""A table for a paper: LaTeX with booktabs."""

import re
from collections.abc import Sequence

from fpt_lightning.experiments.report import wording
from fpt_lightning.experiments.report.results import Column, Figure, Results

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedblright{}",
    "±": r"$\pm$",
    wording.MINUS: r"$-$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    wording.NONE: r"\textendash{}",
    # brackets: at the start of a row they would be an argument of the line break before it
    **{sign: "{" + sign + "}" for sign in "[]*`"},
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
}

MOST_COLUMNS = 4
"""Columns that fit across a page in the size of its text."""


def latex(results: Results, warnings: Sequence[str]) -> str:
    r"""A ``table`` environment: our figures, the paper's in a grey row below, notes and warnings in small print."""
    table, notes = results.grid.table, wording.Footnotes()
    heads = [escaped(wording.heading(column, results)) for column in results.columns]
    body = [line for arm in results.arms for line in _rows(results, arm, notes)]
    small = [
        *(rf"\textsuperscript{{{number}}}~{escaped(note)}" for number, note in enumerate(notes.notes, 1)),
        escaped(" ".join([*wording.reading(results, "in the row below"), table.note])),
        *(escaped(f"Learning rates of {line}.") for line in wording.chosen_rates(results)),
        *(escaped(f"Warning: {warning}") for warning in warnings),
    ]
    lines = [
        r"% needs \usepackage{booktabs} and a document in UTF-8",
        r"\begin{table}",
        r"\centering",
        *([r"\footnotesize\setlength{\tabcolsep}{3pt}"] if len(heads) > MOST_COLUMNS else []),
        rf"\caption{{{escaped(f'{table.title} ({table.source}; profile {results.grid.profile.name})')}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9-]', '-', table.name)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(heads)}}}",
        r"\toprule",
        " & ".join(["", *heads]) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {line}}}" for line in small),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text that LaTeX prints as it stands, on one line."""
    printable = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    told = "".join(_SPECIAL.get(letter, letter) for letter in printable)
    return re.sub(r"([-'])(?=\1)", r"\1{}", told)  # else two of them print as one sign


def _rows(results: Results, arm: str, notes: wording.Footnotes) -> list[str]:
    figures = [(results.figure(arm, column), column) for column in results.columns]
    rows = [" & ".join([escaped(arm), *(_cell(figure, column, notes) for figure, column in figures)]) + r" \\"]
    papers = [escaped(wording.reference(figure, column.measure)) for figure, column in figures]
    if any(papers):
        small = [rf"{{\footnotesize {paper}}}" if paper else "" for paper in papers]
        rows.append(" & ".join([r"\quad{\footnotesize paper}", *small]) + r" \\")
    return rows


def _cell(figure: Figure, column: Column, notes: wording.Footnotes) -> str:
    told = escaped(wording.mean(figure, column.measure))
    before, sign, error = told.partition(r" $\pm$")
    told = rf"{before}{{\scriptsize{sign}{error}}}" if sign else told
    if figure.comparison is not None and figure.comparison.significant:
        told = rf"{{\boldmath\textbf{{{told}}}}}"
    if (note := notes.mark(figure)) is not None:
        told += rf"\textsuperscript{{{note}}}"
    return told
