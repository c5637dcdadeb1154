"""What a reader of a table must know before believing it: unequal budgets, other versions, other data, narrow grids."""

from collections import defaultdict
from collections.abc import Iterator
from statistics import fmean
from typing import Any

from fpt_lightning import __version__
from fpt_lightning.experiments.arms import Task
from fpt_lightning.experiments.report.layers import probed
from fpt_lightning.experiments.report.results import Entry, Results
from fpt_lightning.experiments.report.units import UNITS, rate
from fpt_lightning.runs.metrics import CONVERGED
from fpt_lightning.runs.outcome import State

BUDGET = {
    "max steps": ("trainer", "max_steps"),
    "max epochs": ("trainer", "max_epochs"),
    "max time": ("trainer", "max_time"),
    "training batches an epoch": ("trainer", "limit_train_batches"),
    "validation batches": ("trainer", "limit_val_batches"),
    "test batches": ("trainer", "limit_test_batches"),
    "accumulated batches": ("trainer", "accumulate_grad_batches"),
    "steps between validations": ("trainer", "val_check_interval"),
    "early stopping patience": ("early_stopping", "patience"),
    "early stopping min_delta": ("early_stopping", "min_delta"),
}
"""What of a run's config.yaml says how much training and choosing an arm was given."""

RULES = {
    "learning rates of parts": "part_lr",
    "optimizer": "optimizer",
    "schedule": "lr_scheduler",
    "warm-up steps": "warmup_steps",
}
"""What of a run's result.json says how its rate moves."""


def warnings_of(results: Results) -> list[str]:
    """Everything that makes the figures of a table less comparable than they look, a sentence each."""
    curves = [curve for entry in results.entries.values() for curve in entry.curves.values()]
    return [
        *_unequal(results),
        *(sentence for task in results.tasks for sentence in _other_data(results, task)),
        *_other_bodies(results),
        *_other_metrics(results),
        *_no_better_than_trivial(results),
        *_failed_rates(results),
        *_narrow_grids(results),
        *_still_rising(results),
        *_other_versions(results),
        *(f"{curve.problem}." for curve in curves if curve.problem),
    ]


def _unequal(results: Results) -> Iterator[str]:
    """Arms of a column with other budgets, of which the step where a run stopped early is none, rules or probes."""
    titles = defaultdict[tuple[str, str], list[str]](list)
    for task in results.tasks:
        entries = [entry for entry in results.entries_of(task) if entry.results]
        analysed = [entry for entry in entries if probed(results, entry)]
        rules = ("budgets", _budget, entries), ("learning-rate rules", _rule, entries), ("probes", _probes, analysed)
        for what, asked, of in rules:
            for told in _differing({entry.arm: asked(results, entry) for entry in of}):
                titles[what, told].append(task.title)
    for (what, told), tasks in titles.items():
        yield f"Unequal {what} on {', '.join(tasks)}: {told}."


def _differing(by_arm: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Everything that is not the same for all arms, each with its values."""
    for name in dict.fromkeys(name for of_arm in by_arm.values() for name in of_arm):
        arms = defaultdict[str, list[str]](list)
        for arm, of_arm in by_arm.items():
            arms[str(of_arm.get(name, "unknown"))].append(arm)
        if len(arms) > 1:
            yield f"{name} {_values(arms)}"


def _rule(results: Results, entry: Entry) -> dict[str, Any]:
    """By what rule the rate of a cell's runs is set, as far as it may differ between arms."""
    result = results.grid.records.result(entry.runs[0].folder.name) or {}
    tried = "rate without a search" if len(entry.cell.rates) == 1 else "rates"
    rule = {tried: ", ".join(map(rate, entry.cell.rates))}
    return rule | {name: _said(result.get(option)) for name, option in RULES.items()}


def _said(value: Any) -> str:
    """An option of a model: a class by its name, with its arguments."""
    if isinstance(value, dict) and "class_path" in value:
        arguments = ", ".join(f"{name} {given}" for name, given in (value.get("init_args") or {}).items())
        return str(value["class_path"]).rpartition(".")[2] + (f" with {arguments}" if arguments else "")
    return str(value) if value else "none"


def _budget(results: Results, entry: Entry) -> dict[str, Any]:
    """What the runs of a cell really had, as far as it may differ between arms."""
    begun = {lr for (lr, _), run in entry.cell.runs.items() if results.outcomes[run.id].state is not State.MISSING}
    batches = sorted({result.batch_size for result in entry.results.values() if result.batch_size is not None})
    config = results.grid.records.config(entry.runs[0].folder.name) or {}
    batch = " and ".join(map(str, batches)) or "unknown"
    budget: dict[str, Any] = {"learning rates": len(begun), "seeds": len(entry.results), "batch size": batch}
    for name, (section, option) in BUDGET.items():
        if isinstance(options := config.get(section), dict):
            budget[name] = "none" if options.get(option) is None else options[option]
    if budget.get("early stopping patience") == "none":  # else a run may end early by what its arm is worth
        made = sorted({result.steps for result in entry.results.values() if result.steps is not None})
        budget["steps made"] = "all" if made == [budget.get("max steps")] else " and ".join(map(str, made)) or "unknown"
    return budget


def _probes(results: Results, entry: Entry) -> dict[str, Any]:
    """What was asked of `fpt analyze`: fewer examples to fit to make a probe a worse one."""
    return {"examples": results.grid.records.probe(entry.runs[0].folder.name).examples}


def _other_data(results: Results, task: Task) -> Iterator[str]:
    arms = defaultdict[str, list[str]](list)
    for entry in results.entries_of(task):
        for fingerprint in {result.data_fingerprint: None for result in entry.results.values()}:
            if fingerprint is not None:
                arms[fingerprint].append(entry.arm)
    if len(arms) > 1:
        yield f"Different data on {task.title}: the fingerprints are {_values(arms)}."


def _other_bodies(results: Results) -> Iterator[str]:
    """Figures of runs whose backbone failed since: there are two of it, or none that the others could be made of."""
    for entry in results.entries.values():
        makers = {run.needs.id: results.outcomes[run.needs.id] for run in entry.runs if run.needs is not None}
        for made in makers.values():
            if made.state is State.FAILED:
                yield f"The backbone of {entry.arm} on {entry.task.title}: {made.cause}."


def _values(arms: dict[str, list[str]]) -> str:
    """Every value with the arms that have it."""
    return ", ".join(f"{value} ({', '.join(names)})" for value, names in arms.items())


def _other_metrics(results: Results) -> Iterator[str]:
    """A regression that the table takes for a classification, or the other way round: its figures mean nothing."""
    for task in results.tasks:
        metrics = {result.metric for entry in results.entries_of(task) for result in entry.results.values()}
        for metric in metrics - {task.metric}:
            yield f"Runs on {task.title} measured {metric}: give its task `metric: {metric}`."


def _no_better_than_trivial(results: Results) -> Iterator[str]:
    for task in results.tasks:
        if (best := results.best_baseline(task)) is None:
            continue
        measured = {entry.arm: list(entry.measured("accuracy").values()) for entry in results.entries_of(task)}
        unit = UNITS[task.metric]
        arms = [arm for arm, values in measured.items() if values and fmean(values) <= unit.factor * best.test]
        if arms:
            reached = f"{best.name}, {unit.write(unit.factor * best.test)}"
            yield f"No better than a trivial baseline on {task.title} ({reached}): {', '.join(arms)}."


def _failed_rates(results: Results) -> Iterator[str]:
    """A failure is an accident, and says nothing of the rate that it takes out of the choice."""
    for entry in results.entries.values():
        if entry.lr is not None and (failed := entry.passed_over(results.outcomes, State.FAILED)):
            where = f"{entry.arm} on {entry.task.title}: {' and '.join(map(rate, failed))}"
            yield f"{where} had no part in the choice, as a run failed; the next sweep tries it again."


def _narrow_grids(results: Results) -> Iterator[str]:
    titles = defaultdict[tuple[str, float, str], list[str]](list)
    for entry in results.entries.values():
        rates = entry.cell.rates
        if len(rates) > 1 and entry.lr in (rates[0], rates[-1]) and not _is_level(results, entry):
            edge = "smallest" if entry.lr == rates[0] else "largest"
            titles[entry.arm, entry.lr, edge].append(entry.task.title)
    for (arm, lr, edge), tasks in titles.items():
        where = f"{rate(lr)}, on {', '.join(tasks)}"
        yield f"{arm} chose the {edge} learning rate, {where}: the grid may be too narrow."


def _is_level(results: Results, entry: Entry) -> bool:
    """Whether the rate beside the edge does as well, by the measure of convergence: little lies further out."""
    rates, means = entry.cell.rates, entry.cell.validation(results.outcomes)
    edge, inner = (rates[0], rates[1]) if entry.lr == rates[0] else (rates[-1], rates[-2])
    return inner in means and means[edge] - means[inner] <= CONVERGED * (means[edge] - entry.floor)


def _still_rising(results: Results) -> Iterator[str]:
    """Convergence is not known of a run that ends at its best."""
    if "steps_to_convergence" not in results.grid.table.measures:
        return
    for entry in results.entries.values():
        if rising := sum(curve.still_rising for curve in entry.curves.values()):
            ended = f"{rising} of {len(entry.curves)} runs ended at their best"
            yield f"{entry.arm} on {entry.task.title}: {ended}, so may not have converged."


def _other_versions(results: Results) -> Iterator[str]:
    runs = defaultdict[str, list[Entry]](list)
    for entry in results.entries.values():
        for result in entry.results.values():
            if (version := result.versions.get("fpt-lightning", "unknown")) != __version__:
                runs[version].append(entry)
    for version, entries in runs.items():
        arms = defaultdict[str, dict[str, None]](dict)
        for entry in entries:
            arms[entry.arm][entry.task.title] = None
        where = "; ".join(f"{arm} on {', '.join(tasks)}" for arm, tasks in arms.items())
        yield f"{len(entries)} runs were made by fpt-lightning {version}, not by {__version__}: {where}."
