"""A table for a paper: LaTeX with booktabs."""

import re
from collections.abc import Iterable, Iterator, Sequence

from fpt_lightning.experiments.report.page import FigureText, Page
from fpt_lightning.experiments.report.units import MINUS, NONE, SIGNS
from fpt_lightning.experiments.report.variance import SplitText, about

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedblright{}",
    "±": r"$\pm$",
    "²": r"$^2$",
    MINUS: r"$-$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    NONE: r"\textendash{}",
    SIGNS["better"]: r"$\bigtriangleup$",
    SIGNS["worse"]: r"$\bigtriangledown$",
    # brackets: at the start of a row they would be an argument of the line break before it
    **{sign: "{" + sign + "}" for sign in "[]*`"},
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
}

LINE = 75
"""Letters that fit across a page, about: a wider table goes on below."""


def frame(page: Page) -> str:
    r"""A ``table`` environment: our figures, the paper's in a grey row below, notes and warnings in small print."""
    small = [
        *(rf"\textsuperscript{{{number}}}~{escaped(note)}" for number, note in enumerate(page.notes, 1)),
        escaped(f"{page.how_to_read('in the row below')} {page.table.note} {page.about}"),
        *([escaped(about(page.metric))] if page.variance else []),
        *(escaped(f"{split.task}: {split.note}") for split in page.variance if split.note),
        *(escaped(f"Contrast: {line}.") for line in page.contrasts),
        *(escaped(f"Options on {line}.") for line in page.options),
        *(escaped(f"Learning rates of {line}.") for line in page.rates),
        *(escaped(f"{page.at_equal_arithmetic}, {line}.") for line in page.equal_arithmetic),
        *(escaped(f"{page.of_layers}, {line}.") for line in page.layers),
        *(escaped(f"Warning: {warning}") for warning in page.warnings),
    ]
    lines = [
        r"% needs \usepackage{booktabs} and a document in UTF-8",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(f'{page.table.title} ({page.table.source}; profile {page.profile.name})')}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9-]', '-', page.table.name)}}}",
        *(line for columns in _parts(page) for line in _tabular(page, columns)),
        *(line for split in page.variance if split.rows for line in _variance(split)),
        *(rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {line}}}" for line in small),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _parts(page: Page) -> Iterator[slice]:
    """The columns that fit side by side behind the names of the rows."""
    room = LINE - max(len(name) for name, _ in [*page.rows, *page.baselines])
    start = used = 0
    for place, heading in enumerate(page.headings):
        width = 3 + max(len(heading), *(len(figures[place].mean) for _, figures in page.rows))
        if place > start and used + width > room:
            yield slice(start, place)
            start, used = place, 0
        used += width
    yield slice(start, len(page.headings))


def _tabular(page: Page, columns: slice) -> list[str]:
    """Some columns of the table, with every row."""
    headings = page.headings[columns]
    baselines = [(name, figures[columns]) for name, figures in page.baselines if any(figures[columns])]
    return _ruled(
        ["", *headings],
        [
            *(line for arm, figures in page.rows for line in _rows(arm, figures[columns])),
            *([r"\midrule"] if baselines else []),
            *(_row(rf"\emph{{{escaped(name)}}}", map(escaped, figures)) for name, figures in baselines),
        ],
    )


def _variance(split: SplitText) -> list[str]:
    """Where the variance on a task comes from."""
    return _ruled(split.header, [_row(escaped(name), map(escaped, figures)) for name, *figures in split.rows])


def _ruled(header: Sequence[str], rows: Iterable[str]) -> list[str]:
    """A tabular, the first column to the left, the others to the right."""
    return [
        rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"\toprule",
        _row(escaped(header[0]), map(escaped, header[1:])),
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}\par\medskip",
    ]


def escaped(text: str) -> str:
    """Text that LaTeX prints as it stands, on one line."""
    printable = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    safe = "".join(_SPECIAL.get(letter, letter) for letter in printable)
    return re.sub(r"([-'])(?=\1)", r"\1{}", safe)  # else two of them print as one sign


def _row(first: str, others: Iterable[str]) -> str:
    return " & ".join([first, *others]) + r" \\"


def _rows(arm: str, figures: list[FigureText]) -> list[str]:
    """Ours, and the paper's below where it has any."""
    papers = [rf"{{\footnotesize {escaped(figure.reference)}}}" if figure.reference else "" for figure in figures]
    ours = _row(escaped(arm), map(_cell, figures))
    return [ours, _row(r"\quad{\footnotesize paper}", papers)] if any(papers) else [ours]


def _cell(figure: FigureText) -> str:
    mean, sign, error = escaped(figure.mean).partition(r" $\pm$")
    text = rf"{mean}{{\scriptsize{sign}{error}}}" if sign else mean
    if figure.verdict:
        text = rf"{{\boldmath\textbf{{{escaped(SIGNS[figure.verdict])} {text}}}}}"
    return text if figure.note is None else rf"{text}\textsuperscript{{{figure.note}}}"
