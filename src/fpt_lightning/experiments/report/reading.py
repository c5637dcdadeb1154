"""What stands around a table: how to read it, what the profile made smaller, which learning rates were chosen."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from fpt_lightning.experiments.arms import Task
from fpt_lightning.experiments.composition import is_place, over
from fpt_lightning.experiments.report.results import COUNTS, Entry, Results
from fpt_lightning.experiments.report.statistics import CONFIDENCE, SIGNIFICANT, Comparison
from fpt_lightning.experiments.report.units import SIGNS, UNITS, Unit, p_value, rate
from fpt_lightning.runs.outcome import State

DEFINITIONS = {
    "accuracy": "Test accuracy, in percent, of the checkpoint that validation chose.",
    "train_accuracy": "Training accuracy: the mean over the last fifth of the training batches that were logged, in "
    "percent.",
    "steps_to_convergence": "Steps to convergence: gradient steps up to the first validation that lacks at most 1 % of "
    "the way from chance, or from the best trivial baseline, to the run's best validation.",
    "trained_parameters": "Trained parameters: how many numbers of the model were trained.",
}

OF_REGRESSIONS = {
    "accuracy": "Test R², the coefficient of determination, of the checkpoint that validation chose.",
    "train_accuracy": "Training R²: the mean over the last fifth of the training batches that were logged.",
}


def reading(results: Results, metric: str) -> Iterator[str]:
    """What is measured, of which split the paper's figures are, how learning rates were chosen, what is bold."""
    definitions = {"accuracy": DEFINITIONS, "r2": DEFINITIONS | OF_REGRESSIONS}
    yield from dict.fromkeys(definitions[column.task.metric][column.measure] for column in results.columns)
    yield from _other_splits(results)
    yield from _trivial_baselines(results)
    protocol = results.grid.protocol
    chosen = "one learning rate, given beforehand"
    if protocol.lr is not None and len(protocol.lr) > 1:
        chosen = (
            f"of {len(protocol.lr)} learning rates from {rate(min(protocol.lr))} to {rate(max(protocol.lr))} every arm "
            f"{protocol.how_chosen(metric, _rungs(results))}"
        )
    first = f"; all arms begin with {' and '.join(protocol.configs)}" if protocol.configs else ""
    yield f"Protocol {protocol.name}: {chosen}{first}."
    if tested := sum(comparison.p is not None for comparison in results.comparisons.values()):
        steps = any(column.fewer_is_better for column in results.columns)
        fewer = " (fewer steps are better)" if steps else ""
        asked = tested + results.to_come
        counted = f", of which {results.to_come} lack runs and count as finding nothing" if results.to_come else ""
        yield (
            f"Bold is {SIGNS['better']} better or {SIGNS['worse']} worse than {results.baseline}{fewer}: paired t-test "
            f"over seeds, p < {SIGNIFICANT:g} after Holm's correction over {asked} comparison{'s' * (asked > 1)}"
            f"{counted}."
        )
        if steps:
            yield "Fewer steps to a lower accuracy are not called better. Nor are more to a higher one called worse."
    yield from _left_out(results)


def _rungs(results: Results) -> str:
    """What successive halving leaves, and where: as validations come, that may be elsewhere on every task."""
    titles = defaultdict[str, dict[str, None]](dict)
    for entry in results.entries.values():
        steps = next((run.steps for run in entry.cell.runs.values() if run.steps), 0)
        left = [f"{rung.keeps} from {rung.step / steps:.0%} of the steps on" for rung in entry.cell.rungs]
        if entry.cell.missing is None:
            titles[" and ".join(left) or "all"][entry.task.title] = None
    if set(titles) <= {"all"}:
        return ""
    return (
        next(iter(titles))
        if len(titles) == 1
        else ", ".join(f"{left} ({', '.join(of)})" for left, of in titles.items())
    )


def compared(comparison: Comparison, unit: Unit, baseline: str) -> str:
    """What the test against the baseline found, a sentence."""
    if comparison.difference is None:
        return comparison.untested or ""
    difference = f"{unit.write_signed(comparison.difference)} against {baseline}"
    if comparison.p is None or comparison.corrected is None or comparison.interval is None:
        return f"{difference}, not tested: {comparison.untested}"
    low, high = map(unit.write_signed, comparison.interval)
    return (
        f"{difference}, {100 * CONFIDENCE:g} % interval {low} to {high}, paired t-test over {comparison.seeds} seeds: "
        f"p {p_value(comparison.p)}, corrected (Holm) p {p_value(comparison.corrected)}"
    )


def _other_splits(results: Results) -> Iterator[str]:
    """Published figures that are of the validation split, whose columns they stand in all the same."""
    titles = [
        task.title
        for task in results.tasks
        if task.reference_split == "validation"
        and any(measure not in COUNTS for entry in results.entries_of(task) for measure in entry.cell.reference)
    ]
    if titles:
        yield f"The paper's figures on {' and '.join(titles)} are of the validation split, ours of the test split."


def _trivial_baselines(results: Results) -> Iterator[str]:
    if any(results.baselines.values()) and "accuracy" in results.grid.table.measures:
        yield "The rows at the end are trivial baselines on the test split, without a backbone."
        if some := [task.title for task in results.tasks if _tested_in_part(results, task)]:
            yield f"On {' and '.join(some)} they are of all of it, the arms of a part (trainer.limit_test_batches)."
    if "steps_to_convergence" in results.grid.table.measures:
        best = [(task, results.best_baseline(task, "validation")) for task in results.tasks]
        reached = [
            f"{task.title} {UNITS[task.metric].write(UNITS[task.metric].factor * one.validation)} "
            f"({one.name}) instead of {UNITS[task.metric].write(task.chance)}"
            for task, one in best
            if one is not None
        ]
        if reached:
            raised = "Steps to convergence count from trivial baselines on validation, which lie above chance"
            yield f"{raised}: {', '.join(reached)}."


def _tested_in_part(results: Results, task: Task) -> bool:
    """Whether the file or the command line leaves out a part of a task's test split."""
    grid = results.grid
    share = over(grid.settings(task.name), grid.overrides).get("trainer.limit_test_batches")
    return share not in (None, 1.0) or isinstance(share, int)


def _left_out(results: Results) -> Iterator[str]:
    """Columns and rows of the table that are not asked for."""
    table, tasks = results.grid.table, results.grid.experiments.tasks
    for kind, names in (
        ("column", [tasks[name].title for name in table.tasks if tasks[name] not in results.tasks]),
        ("row", [name for name in table.arms if name not in results.arms]),
    ):
        if names:
            yield f"Left out here: the {kind}{'s' * (len(names) > 1)} {', '.join(names)} of the table."


def contrasts(results: Results) -> Iterator[str]:
    """What the contrasts of the table came to, a pair on a column a line."""
    for column in results.columns:
        for arm, other in results.contrasts(column):
            told = compared(results.comparisons[arm, other, column.name], column.unit, other)
            yield f"{arm} on {column.heading}: {', '.join(filter(None, [results.verdict(arm, column, other), told]))}"


def options(results: Results) -> Iterator[str]:
    """What is changed of the tasks' configs for all arms, a line for tasks with the same changes.

    That is by task, profile, table, protocol and command line; an arm of which one of them does not hold is named.
    """
    grid, titles = results.grid, defaultdict[str, list[str]](list)
    for task in results.tasks:
        asked = [name for name in grid.overrides if not is_place(name) and name != "data.root"]
        names = dict.fromkeys([*grid.settings(task.name), *asked])
        arms = [entry.cell.arm for entry in results.entries_of(task) if entry.cell.missing is None]
        given = {arm.name: {**grid.settings(task.name, arm), **grid.overrides} for arm in arms}
        if not given:
            continue
        changed = [_option(name, {arm: options[name] for arm, options in given.items()}) for name in names]
        if changed:
            titles[", ".join(changed)].append(task.title)
    for line, tasks in titles.items():
        yield f"{', '.join(tasks)}: {line}"


def _option(name: str, by_arm: dict[str, Any]) -> str:
    """An option with its value, and the arms that have another than the first."""
    value = next(iter(by_arm.values()))
    other = [f"{arm} {own}" for arm, own in by_arm.items() if own != value]
    return f"{name} {value}" + (f" ({', '.join(other)})" if other else "")


def rates(results: Results) -> Iterator[str]:
    """The learning rates of every arm on every task, an arm a line; those of runs that were lost are no choice."""
    for arm in results.arms:
        entries = [results.entries[arm, task.name] for task in results.tasks]
        if chosen := [f"{entry.task.title} {_rate(results, entry)}" for entry in entries if entry.lr is not None]:
            yield f"{arm}: {', '.join(chosen)}"


def _rate(results: Results, entry: Entry) -> str:
    lost = [
        f"{' and '.join(map(rate, rates))} {state}"
        for state in (State.DIVERGED, State.FAILED)
        if (rates := entry.passed_over(results.outcomes, state))
    ]
    return rate(entry.lr or 0) + (f" ({', '.join(lost)})" if lost else "")
