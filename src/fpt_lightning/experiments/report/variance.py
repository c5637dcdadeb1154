"""Where the luck of a figure comes from: its variance over arms that are draws, split into what was drawn."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fpt_lightning.experiments.arms import Task
from fpt_lightning.experiments.crossing import levels_of
from fpt_lightning.experiments.report.results import Results
from fpt_lightning.experiments.report.statistics import CONFIDENCE
from fpt_lightning.experiments.report.units import UNITS, p_value

FACTORS = {"model.backbone_seed": "random body", "data_seed": "order of the data"}
"""What options draw, in words."""
SEED, REST = "seed_everything", "rest"

_NOTHING = 1e-12  # of a variance, beside the square of the largest value


@dataclass(frozen=True)
class Component:
    """A factor, or the rest.

    Attributes:
        name: What it draws.
        variance: Its estimate, at least 0.
        below: Whether the estimate was below 0, which says that it is too small to be seen.
        p: That of the F test; None of the rest, and where there is no rest to test against.
        interval: Where its share of its own variance and the rest's lies, with 95 % confidence; None where p is.
    """

    name: str
    variance: float
    below: bool = False
    p: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Split:
    """The variance on a task; no ``components`` where ``why_not`` says why."""

    task: Task
    components: Sequence[Component] = ()
    why_not: str = ""

    def share(self, component: Component) -> float:
        return component.variance / sum(one.variance for one in self.components)


@dataclass(frozen=True)
class SplitText:
    """Where the variance on a task comes from.

    Attributes:
        task: Its title.
        rows: Every factor and the rest: name, share in percent, standard deviation, p.
        unit: Of the standard deviation.
        note: What is to be known of the rows, or why there are none.
    """

    task: str
    rows: list[tuple[str, str, str, str]]
    unit: str
    note: str

    @property
    def header(self) -> list[str]:
        """What stands above the rows of a table."""
        return [self.task, "share, %", f"standard deviation, {self.unit}", "p"]


def about(metric: str) -> str:
    """How the split is made, in words."""
    return (
        f"Where the variance of test {metric} comes from: random effects, estimated by the method of moments. The rest "
        "holds what no factor explains alone, combinations of them too; p is that of an F test against it."
    )


def in_words(split: Split) -> SplitText:
    """The split as a report writes it."""
    unit = UNITS[split.task.metric]
    rows = [
        (
            one.name,
            f"{100 * split.share(one):.1f}",
            f"{math.sqrt(one.variance):.{unit.digits + 1}f}",
            "" if one.p is None else p_value(one.p).removeprefix("= "),
        )
        for one in split.components
    ]
    below = [one.name for one in split.components if one.below]
    sure = [
        f"{one.name} {' to '.join(f'{100 * end:.0f}' for end in one.interval)} %"
        for one in split.components
        if one.interval is not None
    ]
    notes = [
        f"Estimated below 0 and shown as 0: {', '.join(below)}." if below else "",
        f"Share beside the rest alone, {100 * CONFIDENCE:g} % interval: {', '.join(sure)}." if sure else "",
        f"Not split: {split.why_not}." if split.why_not else "",
    ]
    return SplitText(split.task.title, rows, unit.difference, " ".join(filter(None, notes)))


def splits(results: Results) -> Iterator[Split]:
    """The split on every task of a table that asks for it."""
    table = results.grid.table
    if not table.variance:
        return
    draws = [name for name in table.arms if name not in results.grid.experiments.baselines]
    for task in results.tasks:
        try:
            yield Split(task, _components(results, task, draws))
        except ValueError as error:
            yield Split(task, why_not=str(error))


def _components(results: Results, task: Task, draws: Sequence[str]) -> list[Component]:
    """Raises ValueError, which says why, if there is none."""
    table, seeds = results.grid.table, results.grid.protocol.seeds
    if absent := [name for name in draws if name not in results.arms]:
        raise ValueError(f"{', '.join(absent)} left out of {len(draws)} arms")
    entries = {name: results.entries[name, task.name] for name in draws}
    runs = [run.id for entry in entries.values() for run in entry.cell.runs.values()]
    if len(set(runs)) < len(runs):
        raise ValueError(f"arms are the same runs: something sets {' or '.join(table.variance)} for all of them")
    values = {name: entry.measured("accuracy") for name, entry in entries.items()}
    if missing := sum(seed not in of_arm for of_arm in values.values() for seed in seeds):
        raise ValueError(f"{missing} of {len(draws) * len(seeds)} runs have no test figure yet")
    measured = {
        (*levels_of(table.arms[name], table.variance), str(seed)): of_arm[seed]
        for name, of_arm in values.items()
        for seed in seeds
    }
    return split(measured, [*(FACTORS.get(option, option) for option in table.variance), _seeds(table.variance)])


def _seeds(options: Sequence[str]) -> str:
    """What the run's seed draws beside these options."""
    return "trained initialisation and dropout" if set(FACTORS) <= set(options) else f"all else of {SEED}"


def split(values: Mapping[tuple[str, ...], float], factors: Sequence[str]) -> list[Component]:
    """Splits a variance by a balanced analysis with random effects and no interactions, one value a combination.

    With N values, a factor of n levels has E[mean square] = variance of the rest + N / n * its variance; so the
    difference of both mean squares, times n / N, estimates it (Searle, Casella and McCulloch 1992, "Variance
    components", section 4). How it stands to the rest is known as exactly as the F ratio is (their section 3.6).

    Args:
        values: By the levels of all factors, every combination once; a factor with one level is left out.
        factors: Their names.

    Returns:
        The factors and the rest.

    Raises:
        ValueError: If nothing varies, or one factor alone does, which leaves no rest.
    """
    import numpy as np
    from scipy import stats  # most of a second

    levels = [list(dict.fromkeys(of_factor)) for of_factor in zip(*values, strict=True)]
    grid = np.empty([len(of_factor) for of_factor in levels])
    for place, value in values.items():
        grid[tuple(of.index(level) for of, level in zip(levels, place, strict=True))] = value
    names = [name for name, count in zip(factors, grid.shape, strict=True) if count > 1]
    grid = grid.squeeze()
    if grid.ndim < 2:
        raise ValueError("one factor alone leaves no rest to compare with: more seeds are needed")
    centred = grid - grid.mean()
    squares, rest = dict[str, tuple[float, int]](), centred.copy()
    for axis, name in enumerate(names):
        effect = centred.mean(axis=tuple(other for other in range(grid.ndim) if other != axis), keepdims=True)
        rest = rest - effect
        freedom = grid.shape[axis] - 1
        squares[name] = (float((effect**2).sum()) * grid.size / grid.shape[axis] / freedom, freedom)
    freedom = grid.size - 1 - sum(count for _, count in squares.values())
    error = float((rest**2).sum()) / freedom
    nothing = _NOTHING * float((grid**2).max())
    if max(error, *(square for square, _ in squares.values())) <= nothing:
        raise ValueError("nothing varies")
    found = []
    for (name, (square, own)), count in zip(squares.items(), grid.shape, strict=True):
        variance = (square - error) * count / grid.size
        p = interval = None
        if error > nothing:
            p = float(stats.f.sf(square / error, own, freedom))
            ends = [
                square / error / stats.f.isf(tail, own, freedom)
                for tail in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
            ]
            ratios = [max(0.0, float(end) - 1) * count / grid.size for end in ends]
            interval = (ratios[0] / (1 + ratios[0]), ratios[1] / (1 + ratios[1]))
        found.append(Component(name, max(0.0, variance), variance < 0, p, interval))
    return [*found, Component(REST, error)]
