"""Which learning rate an arm takes, and which runs that asks for: by outcomes, without training."""

from collections.abc import Mapping
from dataclasses import replace
from math import nan
from pathlib import Path

import pytest

from fpt_lightning.experiments.arms import Arm
from fpt_lightning.experiments.cells import Cell, Run
from fpt_lightning.experiments.tables import Protocol
from fpt_lightning.runs.outcome import Outcome, State
from fpt_lightning.runs.result import Result

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
FAILED = Outcome(State.FAILED, cause="out of memory")
MISSING = Outcome(State.MISSING)
DIVERGED = Outcome(State.DIVERGED, Result(steps=9, lr=0, seed=0, versions={}, status="diverged", diverged_step=7))

Said = float | Outcome


def _outcome(said: Said) -> Outcome:
    if isinstance(said, Outcome):
        return said
    return Outcome(State.FINISHED, Result(steps=9, best_step=9, lr=0, seed=0, versions={}, val_accuracy=said))


class Table:
    """A cell whose outcomes are given seed by seed, in the order of its rates; what is not given is missing."""

    def __init__(self, *by_seed: Mapping[float, Said], rates: tuple[float, ...] = RATES, grid_seeds: int = 1) -> None:
        runs = {(lr, seed): Run(f"{lr:g}-{seed}", Path(), (), "task", lr, seed) for lr in rates for seed in range(3)}
        self.cell = Cell(Arm("arm", "body"), "task", runs, tuple(range(grid_seeds)), (0, 1, 2))
        said = {self.cell.runs[lr, seed].id: value for seed, rates in enumerate(by_seed) for lr, value in rates.items()}
        self.outcomes = {run.id: _outcome(said.get(run.id, MISSING)) for run in runs.values()}

    @property
    def chosen(self) -> float | None:
        return self.cell.chosen(self.outcomes)

    def due(self, test: bool) -> set[str]:
        return {run.id for run in self.cell.due(self.outcomes) if run.test is test}


def _first(*values: Said) -> dict[float, Said]:
    return dict(zip(RATES, values, strict=True))


def test_the_two_best_of_the_first_seed_run_all_seeds_and_their_means_decide() -> None:
    first = _first(0.1, 0.2, 0.3, 0.7, 0.6)
    table = Table(first)
    assert table.chosen is None
    grid = {f"{lr:g}-0" for lr in RATES}
    later = {f"{lr:g}-{seed}" for lr in (3e-3, 1e-2) for seed in (1, 2)}
    assert (table.due(test=True), table.due(test=False)) == (set(), grid | later)
    table = Table(first, {3e-3: 0.5, 1e-2: 0.8}, {3e-3: 0.5})
    assert table.chosen is None
    table = Table(first, {3e-3: 0.5, 1e-2: 0.8}, {3e-3: 0.5, 1e-2: 0.7})
    assert table.chosen == 1e-2  # the first seed alone prefers 3e-3
    tested = {f"{1e-2:g}-{seed}" for seed in range(3)}
    assert (table.due(test=True), table.due(test=False)) == (tested, (grid | later) - tested)
    assert table.cell.size(table.outcomes) == Table().cell.size(Table().outcomes) == 9


@pytest.mark.parametrize(
    ("first", "finalists", "chosen"),
    [
        ((1.0, 1.0, 1.0, 0.2, 0.1), [3e-4, 1e-4], 3e-4),
        ((1.0, 1.0, 1.0, 1.0, 1.0), [1e-3, 3e-4], 1e-3),
        ((0.1, 1.0, 1.0, 1.0 - 1e-12, 1.0), [1e-3, 3e-3], 1e-3),
        ((0.1, 0.5, 0.5, 0.9, 0.2), [3e-3, 3e-4], 3e-3),
    ],
)
def test_of_equal_rates_the_middle_is_taken(first: tuple[float, ...], finalists: list[float], chosen: float) -> None:
    table = Table(_first(*first))
    assert table.cell.finalists(table.outcomes) == finalists
    later = dict.fromkeys(finalists, 0.9)
    assert Table(_first(*first), later, later).cell.finalists(table.outcomes) == finalists
    equal = {lr: 1.9 - value for lr, value in _first(*first).items() if lr in finalists}
    assert Table(_first(*first), equal, dict.fromkeys(finalists, 0.9)).chosen == chosen


@pytest.mark.parametrize("lost", [DIVERGED, FAILED, nan])
def test_a_rate_that_diverged_or_failed_is_passed_over(lost: Said) -> None:
    table = Table(_first(0.1, 0.2, 0.3, 0.7, lost))
    assert table.cell.finalists(table.outcomes) == [3e-3, 1e-3]
    # a later seed takes it out as well, and the next best comes in
    first = _first(0.1, 0.2, 0.3, 0.7, 0.8)
    table = Table(first, {3e-3: 0.7, 1e-2: lost}, {3e-3: 0.7, 1e-2: 0.8})
    assert table.chosen is None
    assert {f"{1e-3:g}-1", f"{1e-3:g}-2", f"{1e-2:g}-1"} < table.due(test=False)
    assert table.cell.size(table.outcomes) == len(table.cell.due(table.outcomes))
    table = Table(first, {1e-3: 0.3, 3e-3: 0.7, 1e-2: lost}, {1e-3: 0.3, 3e-3: 0.7, 1e-2: 0.8})
    assert table.chosen == 3e-3
    assert Table(_first(*[lost] * 5)).chosen is None
    assert Table(_first(*[lost] * 5)).due(test=True) == set()


def test_a_failed_test_takes_nothing_from_the_choice() -> None:
    result = _outcome(0.9).result
    table = Table({1e-4: 0.1, 1e-3: Outcome(State.FAILED, result, "no checkpoint")}, {}, {}, rates=(1e-4, 1e-3))
    assert table.cell.finalists(table.outcomes) == [1e-3, 1e-4]


def test_a_grid_of_all_seeds_or_of_one_rate_asks_for_nothing_more() -> None:
    seeds = [_first(0.1, 0.2, 0.3, 0.9, 0.5), _first(0.1, 0.2, 0.8, 0.5, 0.5), _first(0.1, 0.2, 0.8, 0.5, 0.5)]
    table = Table(*seeds, grid_seeds=3)
    assert (table.chosen, table.cell.size(table.outcomes)) == (1e-3, 15)
    one = Table({1e-3: DIVERGED}, rates=(1e-3,), grid_seeds=3)
    assert one.due(test=True) == {f"{1e-3:g}-{seed}" for seed in range(3)}
    assert all(run.is_done(DIVERGED) for run in one.cell.due(one.outcomes))


@pytest.mark.parametrize(
    ("grid_seeds", "said"),
    [
        (1, "takes the better of the two that are best with one seed by mean validation accuracy over 3 seeds; of"),
        (2, "takes the better of the two that are best with 2 seeds by"),
        (
            None,
            "takes the best by mean validation accuracy over 3 seeds; of equal ones the middle, and none that diverged",
        ),
    ],
)
def test_the_rule_is_a_sentence(grid_seeds: int | None, said: str) -> None:
    protocol = Protocol("fair", lr=RATES, seeds=(0, 1, 2), grid_seeds=grid_seeds)
    assert said in protocol.how_chosen("accuracy")


def test_by_the_rule_of_version_0_1_the_first_seed_decides_and_of_equal_rates_the_smallest() -> None:
    first = _first(0.1, 0.7, 0.3, 0.7, 0.6)
    table = Table(first)
    table.cell = replace(table.cell, most_finalists=1)
    assert table.chosen is None
    assert {name for name in table.due(test=False) if not name.endswith("-0")} == {f"{3e-4:g}-1", f"{3e-4:g}-2"}
    table = Table(first, {3e-4: 0.1}, {3e-4: 0.1})
    table.cell = replace(table.cell, most_finalists=1)
    assert table.chosen == 3e-4
    said = Protocol("fair", lr=RATES, seeds=(0, 1, 2), grid_seeds=1, finalists=1).how_chosen("accuracy")
    assert said == "takes the best by mean validation accuracy over one seed, of equal ones the smallest"
