"""What a reader of a table must know before believing it: unequal budgets, other versions, other data, narrow grids."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from fpt_lightning import __version__
from fpt_lightning.experiments.report import wording
from fpt_lightning.experiments.report.results import Entry, Results
from fpt_lightning.experiments.tables import Task
from fpt_lightning.runs.folder import RunFolder
from fpt_lightning.runs.metrics import CONVERGED
from fpt_lightning.runs.outcome import State

BUDGET = {
    "max steps": ("trainer", "max_steps"),
    "accumulated batches": ("trainer", "accumulate_grad_batches"),
    "steps between validations": ("trainer", "val_check_interval"),
    "early stopping patience": ("early_stopping", "patience"),
    "early stopping min_delta": ("early_stopping", "min_delta"),
}
"""What of a run's config.yaml says how much training and choosing an arm was given."""


def warnings_of(results: Results) -> list[str]:
    """Everything that makes the figures of a table less comparable than they look, a sentence each."""
    return [
        *(sentence for task in results.tasks for sentence in _unequal_budgets(results, task)),
        *(sentence for task in results.tasks for sentence in _other_data(results, task)),
        *_narrow_grids(results),
        *_still_rising(results),
        *_other_versions(results),
        *_unreadable(results),
    ]


def _unequal_budgets(results: Results, task: Task) -> Iterator[str]:
    """Arms of a column that were given different budgets; the step at which a run stopped early is none."""
    budgets = {arm: _budget(results, entry) for arm, entry in _with_runs(results, task)}
    for name in dict.fromkeys(name for budget in budgets.values() for name in budget):
        by_value: dict[str, list[str]] = {}
        for arm, budget in budgets.items():
            by_value.setdefault(str(budget.get(name, "unknown")), []).append(arm)
        if len(by_value) > 1:
            told = ", ".join(f"{value} ({', '.join(arms)})" for value, arms in by_value.items())
            yield f"Unequal budgets on {task.title}: {name} {told}."


def _budget(results: Results, entry: Entry) -> dict[str, Any]:
    """What the runs of a cell really had, as far as it may differ between arms."""
    tried = {lr for (lr, _), run in entry.cell.runs.items() if _ended(results, run.id)}
    batches = sorted({result.batch_size for result in entry.results.values() if result.batch_size is not None})
    config = _config(entry.runs[0].folder)
    options = {name: config.get(section, {}).get(key) for name, (section, key) in BUDGET.items()} if config else {}
    return {
        "learning rates": len(tried),
        "seeds": len(entry.results),
        "batch size": " and ".join(map(str, batches)) or "unknown",
        **{name: "none" if value is None else value for name, value in options.items()},
    }


def _ended(results: Results, run: str) -> bool:
    return results.outcomes[run].state in (State.FINISHED, State.FAILED)


def _config(folder: Path) -> dict[str, Any] | None:
    """The resolved config of a run; None where it cannot be read."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # twenty times as fast
    try:
        content = yaml.load(RunFolder(folder).config.read_text(), loader)
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return None
    if not isinstance(content, dict):
        return None
    return {key: value for key, value in content.items() if isinstance(value, dict)}


def _other_data(results: Results, task: Task) -> Iterator[str]:
    by_fingerprint: dict[str, list[str]] = {}
    for arm, entry in _with_runs(results, task):
        for result in entry.results.values():
            if (fingerprint := result.data_fingerprint) is not None:
                by_fingerprint.setdefault(fingerprint, []).append(arm)
    if len(by_fingerprint) > 1:
        told = ", ".join(f"{name} ({', '.join(dict.fromkeys(arms))})" for name, arms in by_fingerprint.items())
        yield f"Different data on {task.title}: the fingerprints are {told}."


def _narrow_grids(results: Results) -> Iterator[str]:
    at_edge: dict[tuple[str, float, str], list[str]] = {}
    for (arm, name), entry in results.entries.items():
        rates, task = entry.cell.rates, results.grid.experiments.tasks[name]
        if len(rates) > 1 and entry.lr in (rates[0], rates[-1]) and not _is_level(results, entry, task):
            edge = "smallest" if entry.lr == rates[0] else "largest"
            at_edge.setdefault((arm, entry.lr, edge), []).append(task.title)
    for (arm, lr, edge), titles in at_edge.items():
        chosen = f"{arm} chose the {edge} learning rate, {wording.rate(lr)}"
        yield f"{chosen}, on {', '.join(titles)}: the grid may be too narrow."


def _is_level(results: Results, entry: Entry, task: Task) -> bool:
    """Whether the rate beside the edge does as well, by the measure of convergence: little lies further out."""
    rates, means = entry.cell.rates, entry.cell.validation(results.outcomes)
    edge, inner = (rates[0], rates[1]) if entry.lr == rates[0] else (rates[-1], rates[-2])
    return inner in means and means[edge] - means[inner] <= CONVERGED * (means[edge] - task.chance / 100)


def _still_rising(results: Results) -> Iterator[str]:
    """Convergence is not known of a run that ends at its best."""
    if "steps_to_convergence" not in results.grid.table.measures:
        return
    for (arm, task), entry in results.entries.items():
        rising = sum(curve.still_rising for curve in entry.curves.values())
        if rising:
            title = results.grid.experiments.tasks[task].title
            ended = f"{rising} of {len(entry.curves)} runs ended at their best"
            yield f"{arm} on {title}: {ended}, so may not have converged."


def _other_versions(results: Results) -> Iterator[str]:
    by_version: dict[str, list[str]] = {}
    for (arm, task), entry in results.entries.items():
        for result in entry.results.values():
            made_by = result.versions.get("fpt-lightning", "unknown")
            if made_by != __version__:
                by_version.setdefault(made_by, []).append(f"{arm} on {results.grid.experiments.tasks[task].title}")
    for version, places in by_version.items():
        told = ", ".join(dict.fromkeys(places))
        yield f"{len(places)} runs were made by fpt-lightning {version}, not by {__version__}: {told}."


def _unreadable(results: Results) -> Iterator[str]:
    for entry in results.entries.values():
        yield from (f"{curve.problem}." for curve in entry.curves.values() if curve.problem)


def _with_runs(results: Results, task: Task) -> Iterable[tuple[str, Entry]]:
    found = ((arm, results.entry(arm, task)) for arm in results.arms)
    return ((arm, entry) for arm, entry in found if entry.results)
