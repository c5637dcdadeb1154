"""How figures and their footing are put into words, the same in every format."""

from dataclasses import dataclass, field

from fpt_lightning.experiments.report.results import Column, Entry, Figure, Results
from fpt_lightning.experiments.report.statistics import SIGNIFICANT
from fpt_lightning.experiments.tables import MEASURES

WHOLE = ("steps_to_convergence", "trained_parameters")
"""Measures that are counts, not percentages."""

NONE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"

DEFINITIONS = {
    "accuracy": "Test accuracy, in percent, of the checkpoint that validation chose.",
    "train_accuracy": "Training accuracy: the mean over the last fifth of the training batches that were logged, in "
    "percent.",
    "steps_to_convergence": "Steps to convergence: gradient steps up to the first validation that lacks at most 1 % of "
    "the way from chance to the run's best validation.",
    "trained_parameters": "Trained parameters: how many numbers of the model were trained.",
}


def number(value: float, measure: str) -> str:
    """A percentage with one digit, a count with thousands apart."""
    return f"{value:,.0f}" if measure in WHOLE else f"{value:.1f}"


def mean(figure: Figure, measure: str) -> str:
    """Mean ± standard error; the mean alone of a single seed, and of a number that no seed changes."""
    if figure.mean is None:
        return NONE
    if figure.standard_error is None or (measure == "trained_parameters" and figure.standard_error == 0):
        return number(figure.mean, measure)
    return f"{number(figure.mean, measure)} ± {number(figure.standard_error, measure)}"


def reference(figure: Figure, measure: str) -> str:
    """The paper's figure with as many digits as it gave."""
    if figure.reference is None:
        return ""
    digits = f"{figure.reference.mean:,.0f}" if measure in WHOLE else f"{figure.reference.mean:g}"
    if figure.reference.standard_error is None:
        return digits
    return f"{digits} ± {number(figure.reference.standard_error, measure)}"


def difference(figure: Figure, measure: str) -> str:
    """Ours minus the paper's, with its sign."""
    if figure.difference is None:
        return ""
    sign = MINUS if figure.difference < 0 else "+"
    return sign + number(abs(figure.difference), measure)


def p_value(value: float) -> str:
    """A p-value with two digits that count; a tiny one as a bound."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def compared(figure: Figure, column: Column, results: Results) -> str:
    """What the test against the baseline found, in a sentence."""
    comparison = figure.comparison
    if comparison is None or comparison.difference is None:
        return comparison.untested or "" if comparison else ""
    sign = MINUS if comparison.difference < 0 else "+"
    told = f"{sign}{number(abs(comparison.difference), column.measure)} against {results.baseline}"
    if comparison.p is None or comparison.corrected is None:
        return f"{told}, not tested: {comparison.untested}"
    return (
        f"{told}, paired t-test over {comparison.seeds} seeds: {p_value(comparison.p)}, "
        f"corrected (Holm) {p_value(comparison.corrected)}"
    )


def rate(lr: float) -> str:
    """A learning rate as the papers write it: 3e-4."""
    mantissa, exponent = f"{lr:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def how_chosen(results: Results) -> str:
    """The protocol in a sentence."""
    protocol = results.grid.protocol
    if protocol.lr is None:
        return f"Protocol {protocol.name}: one learning rate, given beforehand."
    rates = f"{len(protocol.lr)} learning rates from {rate(min(protocol.lr))} to {rate(max(protocol.lr))}"
    runners = protocol.seeds[: protocol.grid_seeds]
    return (
        f"Protocol {protocol.name}: of {rates} every arm takes the one with the best validation accuracy "
        f"(mean over {len(runners)} seed{'s' * (len(runners) > 1)})."
    )


def reading(results: Results, papers: str) -> list[str]:
    """How to read the table, a sentence each; ``papers`` says where the paper's figures stand."""
    seeds = len(results.grid.protocol.seeds)
    measures = dict.fromkeys(column.measure for column in results.columns)
    over = f"Mean ± standard error over {seeds} seeds" if seeds > 1 else "One seed"
    sentences = [f"{over}, the paper's figure {papers}.", *(DEFINITIONS[measure] for measure in measures)]
    sentences.append(how_chosen(results))
    if (count := tests(results)) > 0:
        sentences.append(
            f"Bold differs from {results.baseline}: paired t-test over seeds, "
            f"p < {SIGNIFICANT:g} after Holm's correction over {count} comparison{'s' * (count > 1)}."
        )
    return sentences


def tests(results: Results) -> int:
    """How many comparisons were tested."""
    return sum(figure.comparison is not None and figure.comparison.p is not None for figure in results.figures.values())


def heading(column: Column, results: Results) -> str:
    """A column's heading, which names the measure where accuracy does not go without saying."""
    if results.grid.table.measures == ("accuracy",) or len(results.grid.table.measures) > 1:
        return column.title
    return f"{column.title}, {MEASURES[column.measure]}"


def chosen_rates(results: Results) -> list[str]:
    """The learning rate of every arm on every task, an arm a line; nothing where none is chosen yet."""
    lines = []
    for arm in results.arms:
        entries: list[tuple[str, Entry]] = [(task.title, results.entry(arm, task)) for task in results.tasks]
        told = [f"{title} {rate(entry.lr)}" for title, entry in entries if entry.lr is not None]
        if told:
            lines.append(f"{arm}: {', '.join(told)}")
    return lines


@dataclass
class Footnotes:
    """Why figures are missing; the same reason is told once."""

    notes: list[str] = field(default_factory=list)

    def mark(self, figure: Figure) -> int | None:
        """The number of the note that a figure needs, from 1."""
        if figure.missing is None:
            return None
        partial = f"mean over {figure.count} of {figure.expected} seeds: " if figure.count else ""
        note = partial + figure.missing
        if note not in self.notes:
            self.notes.append(note)
        return self.notes.index(note) + 1
