"""What a cell of a table consists of: its runs, and which of them are due."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import isnan
from pathlib import Path
from statistics import fmean

from fpt_lightning.experiments.arms import Arm, Reference
from fpt_lightning.experiments.halving import Rung, going_on
from fpt_lightning.runs.outcome import Outcome, State

ROUNDING = 2**-22
"""Figures that differ by a smaller share are equal: results hold numbers of 24 bits."""


@dataclass(frozen=True)
class Run:
    """One arm, task, learning rate and seed: a folder named after its id.

    Attributes:
        id: Hash of its resolved config; where and by whom it is run does not change it.
        words: What follows ``fpt`` on the command line, but for folder and checkpoint.
        task: The task's name, or that of what is made.
        arm: The first arm that asks for it, by which a reader knows it.
        lr: Learning rate; None of one that makes a backbone.
        steps: Most training steps, where the config says.
        interval: Steps between two validations, where the config says it in steps.
        until: The step of the validation at which it pauses; None of one that goes to its end.
        needs: The run that makes its backbone.
        makes_backbone: Whether it leaves a backbone for others.
        attention: Whether it leaves its attention maps.
        test: Whether it is tested; what only helps to choose a learning rate is not.
        shared: What it has in common with the runs that it may be trained with in one pass; None where it goes alone.
        members: The runs of a pack, whose first this one is.
        contents: The hash of what its configs held when its id was made.
    """

    id: str
    folder: Path
    words: tuple[str, ...]
    task: str
    lr: float | None
    seed: int
    arm: str = ""
    steps: int | None = None
    interval: int | None = None
    until: int | None = None
    needs: "Run | None" = None
    makes_backbone: bool = False
    attention: bool = False
    test: bool = True
    shared: str | None = None
    members: "tuple[Run, ...]" = ()
    contents: str = ""

    @property
    def configs(self) -> list[str]:
        """The configs that its command names."""
        return [name for option, name in pairwise(self.words) if option == "--config"]

    @property
    def command(self) -> list[str]:
        """What follows ``fpt``: starts the run, or goes on with it."""
        untested = [] if self.test else ["--test=never"]
        pausing = [] if self.until is None else [f"--pause_at={self.until}"]
        return [*self.words, *untested, *pausing, f"--run_folder={self.folder}", "--ckpt_path=last"]

    def is_done(self, outcome: Outcome) -> bool:
        """Whether it left all that is asked of it, also the test and the attention maps, or diverged for good."""
        if outcome.state is State.DIVERGED:
            return True
        if self.until is not None:  # what failed behind the rung is tried again
            return outcome.state is State.FINISHED or (outcome.cause is None and outcome.has_reached(self.until))
        if outcome.state is not State.FINISHED or (self.test and not outcome.is_tested):
            return False
        if self.makes_backbone and not (self.folder / "backbone").is_dir():  # an archive has none
            return False
        return not self.attention or outcome.attention is not None

    def and_as(self, other: "Run") -> "Run":
        """The same run where two cells ask for it: tested if either tests it, and as far as the farther goes."""
        ends = (self.until, other.until)
        return replace(
            self,
            test=self.test or other.test,
            attention=self.attention or other.attention,
            until=None if None in ends else max(end for end in ends if end is not None),
        )


@dataclass(frozen=True)
class Cell:
    """An arm on a task: its runs, and how the learning rate is chosen among them.

    Attributes:
        runs: By learning rate and seed.
        grid_seeds: Seeds that run every learning rate; the best of them run all seeds.
        seeds: Seeds of the figure.
        reference: The paper's figures, by measure.
        most_finalists: How many learning rates run all seeds.
        rungs: Where the grid leaves learning rates behind.
        missing: Why it has no runs, where it has none.
    """

    arm: Arm
    task: str
    runs: Mapping[tuple[float, int], Run] = field(default_factory=dict)
    grid_seeds: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    reference: Mapping[str, Reference] = field(default_factory=dict)
    most_finalists: int = 2
    rungs: tuple[Rung, ...] = ()
    missing: str | None = None

    @property
    def rates(self) -> list[float]:
        """The grid."""
        return sorted({lr for lr, _ in self.runs})

    def reach(self, outcomes: Mapping[str, Outcome]) -> dict[float, int | None]:
        """How far the grid's runs of each learning rate go, as far as it is decided: to the step of a rung, or the end.

        At a rung decides the mean over the grid's seeds of the best validation up to it.
        """
        left, reach = self.rates, dict[float, int | None]()
        lost = {lr for (lr, _), run in self.runs.items() if _is_lost(outcomes[run.id])}
        for rung in self.rungs:
            reach |= dict.fromkeys(left, rung.step)
            there = {run.id: outcomes[run.id] for run in self._runs(left, self.grid_seeds)}
            if not all(outcome.has_reached(rung.step) or _has_ended(outcome) for outcome in there.values()):
                return reach
            means = self._means(left, self.grid_seeds, {run: one.best_by(rung.step) for run, one in there.items()})
            left = going_on(_middle_first(means, sorted(means)), rung.keeps, lost)
        return reach | dict.fromkeys(left, None)

    def chosen(self, outcomes: Mapping[str, Outcome]) -> float | None:
        """The better of the :meth:`finalists`, by mean validation over all seeds; None as long as one is to come.

        Of equal ones the first.
        """
        finalists = self.finalists(outcomes)
        if not finalists or not all(_has_ended(outcomes[run.id]) for run in self._runs(finalists, self.seeds)):
            return None
        means = self._means(finalists, self.seeds, _validation(outcomes))
        return _middle_first(means, finalists)[0]

    def finalists(self, outcomes: Mapping[str, Outcome]) -> list[float]:
        """The learning rates of the best :meth:`validation` among those that go to the end.

        None as long as a run of the grid is to come.
        """
        to_the_end = [lr for lr, until in self.reach(outcomes).items() if until is None]
        if not all(_has_ended(outcomes[run.id]) for run in self._runs(to_the_end, self.grid_seeds)):
            return []
        means = {lr: mean for lr, mean in self.validation(outcomes).items() if lr in to_the_end}
        if self.most_finalists == 1 and len(self.grid_seeds) < len(self.seeds):
            return sorted(means, key=lambda lr: (-means[lr], lr))[:1]
        return _middle_first(means, sorted(means))[:2]

    def validation(self, outcomes: Mapping[str, Outcome]) -> dict[float, float]:
        """Mean validation over the seeds of the grid, by learning rate, without those that are passed over.

        A run that diverged or failed takes its learning rate out of the choice, whatever its seed.
        """
        passed = {run.lr for run in self.runs.values() if _is_lost(outcomes[run.id])}
        return self._means([lr for lr in self.rates if lr not in passed], self.grid_seeds, _validation(outcomes))

    def due(self, outcomes: Mapping[str, Outcome]) -> list[Run]:
        """All runs that are decided on so far: the grid, and once it is done every seed of the two best rates.

        Only those of the chosen rate are tested, and leave attention maps, which are of test examples.
        """
        if len(self.rates) == 1:
            return self._runs(self.rates, self.grid_seeds)
        lr = self.chosen(outcomes)
        lost = [run for run in self.runs.values() if _is_lost(outcomes[run.id])]
        ends = self.reach(outcomes).items()
        grid = [replace(run, until=until) for lr, until in ends for run in self._runs([lr], self.grid_seeds)]
        decided: dict[str, Run] = {}
        for run in (*grid, *self._runs(self.finalists(outcomes), self.seeds), *lost):
            decided.setdefault(run.id, run)
        others = [replace(run, test=False, attention=False) for run in decided.values() if run.lr != lr]
        return [*others, *(self.runs[lr, seed] for seed in self.seeds if lr is not None)]

    def size(self, outcomes: Mapping[str, Outcome]) -> int:
        """Runs in all, those included that are not decided on yet."""
        later = len(self.seeds) - len(self.grid_seeds)
        left = self.rungs[-1].keeps if self.rungs else len(self.rates)
        grid = len(self.rates) * len(self.grid_seeds)
        return max(grid + min(self.most_finalists, left) * later, len(self.due(outcomes)))

    def _runs(self, rates: Sequence[float], seeds: Sequence[int]) -> list[Run]:
        return [self.runs[lr, seed] for lr in rates for seed in seeds]

    def _means(
        self, rates: Sequence[float], seeds: Sequence[int], values: Mapping[str, float | None]
    ) -> dict[float, float]:
        """Means by learning rate of what runs have, by their ids; of those that have a number for all seeds."""
        of_rates = {lr: [values[run.id] for run in self._runs([lr], seeds)] for lr in rates}
        numbers = {lr: [value for value in of if value is not None] for lr, of in of_rates.items()}
        return {lr: fmean(of) for lr, of in numbers.items() if len(of) == len(seeds)}


def _has_ended(outcome: Outcome) -> bool:
    return outcome.state in (State.FINISHED, State.DIVERGED, State.FAILED)


def _is_lost(outcome: Outcome) -> bool:
    """Whether a run ended without a number on validation; one whose test failed has it."""
    return _has_ended(outcome) and (outcome.result is None or isnan(outcome.result.validation))


def _validation(outcomes: Mapping[str, Outcome]) -> dict[str, float | None]:
    return {run: None if outcome.result is None else outcome.result.validation for run, outcome in outcomes.items()}


def _middle_first(means: Mapping[float, float], rates: Sequence[float]) -> list[float]:
    """Learning rates from the best mean to the worst; of equal ones the middle first, of two middles the smaller."""
    left, order = list(rates), list[float]()
    while left:
        best = max(means[lr] for lr in left)
        equal = [lr for lr in left if means[lr] >= best - ROUNDING * abs(best)]
        order.append(equal[(len(equal) - 1) // 2])
        left.remove(order[-1])
    return order
