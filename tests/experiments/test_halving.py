"""Successive halving: the rule as functions of outcomes, and through the command line on runs of seconds."""

import random
from dataclasses import replace
from math import ceil, log, nan
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from fpt_lightning.experiments.arms import Arm
from fpt_lightning.experiments.cells import Cell, Run
from fpt_lightning.experiments.halving import Rung, going_on, rungs_of, shares_of, validation_interval
from fpt_lightning.experiments.tables import Protocol
from fpt_lightning.runs.outcome import Outcome, State
from fpt_lightning.runs.result import Result

STEPS, EVERY = 900, 100


@given(rates=st.integers(2, 60), reduction=st.integers(2, 9), every=st.integers(1, 60), least=st.integers(1, 2))
def test_rungs_lie_at_validations_and_leave_fewer_and_fewer(rates: int, reduction: int, every: int, least: int) -> None:
    steps = 60 * 60
    shares = shares_of(rates, reduction)
    assert len(shares) == max(1, int(log(rates, reduction) + 1e-9))
    assert shares == sorted(shares)
    assert shares[-1] == 1 / reduction
    rungs = rungs_of(rates, reduction, shares, least, steps, every)
    assert all(rung.step % every == 0 and 0 < rung.step < steps for rung in rungs)
    assert [rung.step for rung in rungs] == sorted({rung.step for rung in rungs})
    left = [rates, *(rung.keeps for rung in rungs)]
    assert left == sorted(set(left), reverse=True)
    assert left[-1] == (max(least, ceil(rates / reduction ** len(shares))) if rungs else rates)
    assert least > 1 or rungs[-1].step == ceil(round(steps / reduction / every, 9)) * every


def test_nine_rates_become_three_and_one() -> None:
    assert rungs_of(9, 3, shares_of(9, 3), 1, STEPS, EVERY) == (Rung(100, 3), Rung(300, 1))
    assert rungs_of(9, 3, shares_of(9, 3), 1, STEPS, 400) == (Rung(400, 1),)  # both at one validation
    assert rungs_of(9, 2, [0.5], 1, STEPS, EVERY) == (Rung(500, 5),)  # not before its share
    assert rungs_of(2, 3, shares_of(2, 3), 2, STEPS, EVERY) == ()  # nobody would stop
    with pytest.raises(ValueError, match=r"its rung at 11% of 900 steps has no validation before the end"):
        rungs_of(9, 3, shares_of(9, 3), 1, STEPS, 900)


@given(
    order=st.lists(st.integers(0, 20), unique=True, max_size=9),
    keeps=st.integers(1, 9),
    lost=st.sets(st.integers(0, 20)),
)
def test_who_is_lost_later_takes_nobodys_place(order: list[int], keeps: int, lost: set[int]) -> None:
    gone = going_on(order, keeps, lost)
    assert gone == order[: len(gone)]
    through = [rate for rate in gone if rate not in lost]
    assert len(through) == min(keeps, len([rate for rate in order if rate not in lost]))
    assert not through or len(gone) == len(order) or gone[-1] not in lost


def test_an_interval_is_one_of_gradient_steps() -> None:
    assert validation_interval({"trainer.val_check_interval": 100}) == 100
    assert validation_interval({"trainer.val_check_interval": 100, "trainer.accumulate_grad_batches": 4}) == 25
    for values in (
        {},
        {"trainer.val_check_interval": 0.5},
        {"trainer.val_check_interval": 0},
        {"trainer.val_check_interval": 100, "trainer.accumulate_grad_batches": 3},
        {"trainer.val_check_interval": 100, "trainer.check_val_every_n_epoch": 1},
    ):
        assert validation_interval(values) is None


class Made:
    """A cell whose runs are made in thought: each validates at every :data:`EVERY` steps as its curve says.

    Args:
        curves: By learning rate and seed; one that is shorter than the run diverges behind its end.
        rungs: Of the cell.
        grid_seeds: Seeds that run the grid.
    """

    def __init__(self, curves: dict[tuple[float, int], list[float]], rungs: tuple[Rung, ...], grid_seeds: int) -> None:
        seeds = tuple(sorted({seed for _, seed in curves}))
        runs = {(lr, seed): Run(f"{lr:g}-{seed}", Path(), (), "task", lr, seed) for lr, seed in curves}
        self.cell = Cell(Arm("arm", "body"), "task", runs, seeds[:grid_seeds], seeds, rungs=rungs)
        self.curves = {run.id: curves[key] for key, run in runs.items()}
        self.done = dict.fromkeys(self.curves, 0)

    @property
    def outcomes(self) -> dict[str, Outcome]:
        return {name: self._outcome(name, done) for name, done in self.done.items()}

    def make(self, order: random.Random) -> "Made":
        """Makes one due run after the other, any first, as far as it is asked for."""
        while due := [run for run in self.cell.due(self.outcomes) if not run.is_done(self.outcomes[run.id])]:
            run = order.choice(due)
            self.done[run.id] = STEPS if run.until is None else max(run.until, self.done[run.id])
        return self

    def _outcome(self, name: str, done: int) -> Outcome:
        curve = self.curves[name][: done // EVERY]
        points = tuple((EVERY * number, value) for number, value in enumerate(curve, 1))
        about: dict[str, Any] = {"lr": 0, "seed": 0, "versions": {}}
        if done > EVERY * len(self.curves[name]):
            step = EVERY * len(self.curves[name]) + 1
            result = Result(steps=step, status="diverged", diverged_step=step, **about)
            return Outcome(State.DIVERGED, result, "it diverged", validations=points)
        if done == STEPS:
            result = Result(steps=STEPS, best_step=STEPS, val_accuracy=max(curve), test_accuracy=0.5, **about)
            return Outcome(State.FINISHED, result, validations=points)
        state = State.PAUSED if done else State.MISSING
        return Outcome(state, paused_at=done or None, validations=points)


@st.composite
def made(draw: st.DrawFn) -> tuple[dict[tuple[float, int], list[float]], tuple[Rung, ...], int]:
    rates, seeds = draw(st.integers(2, 6)), draw(st.integers(1, 3))
    value = st.integers(0, 4).map(lambda number: number / 4)
    length = st.sampled_from([9, 9, 9, 9, 1, 4])  # most come to their end
    curves = {
        (10.0**rate, seed): draw(length.flatmap(lambda n: st.lists(value, min_size=n, max_size=n)))
        for rate in range(rates)
        for seed in range(seeds)
    }
    reduction, grid_seeds = draw(st.integers(2, 4)), draw(st.integers(1, seeds))
    least = 2 if grid_seeds < seeds else 1
    return curves, rungs_of(rates, reduction, shares_of(rates, reduction), least, STEPS, EVERY), grid_seeds


Cellar = tuple[dict[tuple[float, int], list[float]], tuple[Rung, ...], int]


@given(made(), st.randoms(use_true_random=False), st.randoms(use_true_random=False))
def test_the_order_of_runs_has_no_part_in_the_choice(cell: Cellar, one: random.Random, other: random.Random) -> None:
    first, second = Made(*cell).make(one), Made(*cell).make(other)
    assert first.cell.chosen(first.outcomes) == second.cell.chosen(second.outcomes)
    assert first.cell.reach(first.outcomes) == second.cell.reach(second.outcomes)
    of_grid = {run.id for run in first.cell.runs.values() if run.seed in first.cell.grid_seeds}
    assert {name: first.done[name] for name in of_grid} == {name: second.done[name] for name in of_grid}


@given(made(), st.randoms(use_true_random=False))
def test_a_rate_is_chosen_wherever_one_comes_through(cell: Cellar, order: random.Random) -> None:
    """However many diverge before or behind a rung, the next best comes in."""
    curves = cell[0]
    sound = {lr for lr, _ in curves if all(len(curve) == 9 for (rate, _), curve in curves.items() if rate == lr)}
    halved = Made(*cell).make(order)
    chosen = halved.cell.chosen(halved.outcomes)
    assert chosen in sound if sound else chosen is None
    # and it is as good at its rungs as whoever was left behind and is sound
    ends = halved.cell.reach(halved.outcomes)
    for rung in halved.cell.rungs:
        behind = [lr for lr, end in ends.items() if end == rung.step and lr in sound]
        worth = {lr: _by(curves, halved.cell.grid_seeds, lr, rung.step) for lr in behind + [chosen] * bool(sound)}
        assert all(worth[lr] <= worth[chosen] + 1e-9 for lr in behind if chosen is not None)


def _by(curves: dict[tuple[float, int], list[float]], seeds: tuple[int, ...], lr: float, step: int) -> float:
    return fmean(max(curves[lr, seed][: step // EVERY]) for seed in seeds)


@given(made(), st.randoms(use_true_random=False))
def test_a_rate_that_leads_everywhere_is_chosen_as_the_whole_grid_would(cell: Cellar, order: random.Random) -> None:
    curves, rungs, grid_seeds = cell
    best = sorted({lr for lr, _ in curves})[1]
    curves |= {(lr, seed): [2.0] * 9 for lr, seed in curves if lr == best}
    halved, whole = Made(curves, rungs, grid_seeds).make(order), Made(curves, (), grid_seeds).make(order)
    assert halved.cell.chosen(halved.outcomes) == whole.cell.chosen(whole.outcomes) == best


@given(made(), st.randoms(use_true_random=False))
def test_runs_that_the_whole_grid_has_made_decide_as_if_they_had_paused(cell: Cellar, order: random.Random) -> None:
    curves, rungs, _ = cell
    seeds = len({seed for _, seed in curves})
    halved, whole = Made(curves, rungs, seeds).make(order), Made(curves, (), seeds).make(order)
    assert halved.cell.reach(whole.outcomes) == halved.cell.reach(halved.outcomes)
    assert halved.cell.chosen(whole.outcomes) == halved.cell.chosen(halved.outcomes)
    assert all(done <= whole.done[name] for name, done in halved.done.items())
    assert all(run.is_done(whole.outcomes[run.id]) for run in halved.cell.due(whole.outcomes))


def test_what_has_no_number_at_a_rung_stays_there() -> None:
    curves = {(lr, 0): [0.1] * 9 for lr in (1.0, 2.0, 3.0)}
    there = Made(curves, (Rung(300, 1),), 1).make(random.Random(0))
    assert there.cell.chosen(there.outcomes) == 2.0
    paused = Outcome(State.PAUSED, paused_at=300)  # its figures were not finite, so nothing of them is kept
    damaged = Result(steps=900, best_step=900, lr=0, seed=0, versions={}, val_r2=nan)
    for lost in (paused, Outcome(State.FINISHED, damaged), Outcome(State.FAILED, cause="out of memory")):
        assert there.cell.reach(there.outcomes | {"2-0": lost}) == {1.0: None, 2.0: 300, 3.0: 300}
    assert there.cell.reach(there.outcomes | {"2-0": Outcome(State.RUNNING)}) == dict.fromkeys((1.0, 2.0, 3.0), 300)


def test_a_run_that_failed_behind_its_rung_is_not_done() -> None:
    run = Run("a", Path(), (), "task", 1.0, 0, until=300)
    course = ((300, 0.5),)
    assert run.is_done(Outcome(State.STOPPED, validations=course))  # killed on its way to the next rung
    assert not run.is_done(Outcome(State.STOPPED, cause="out of memory", validations=course))
    assert not run.is_done(Outcome(State.PAUSED, paused_at=200, validations=((200, 0.5),)))


def test_the_farther_of_two_cells_decides() -> None:
    run = Run("a", Path(), (), "task", 1.0, 0, test=False)
    near, far, end = (replace(run, until=until) for until in (100, 300, None))
    assert near.and_as(far).until == far.and_as(near).until == 300
    assert near.and_as(end).until is end.and_as(near).until is None
    assert near.and_as(replace(end, test=True)).test


def test_the_rule_is_a_sentence() -> None:
    protocol = Protocol("halving", lr=tuple(10.0**-k for k in range(9)), seeds=(0, 1, 2), reduction=3)
    left = "3 from 11% of the steps on and 1 from 33% of the steps on"
    assert protocol.how_chosen("accuracy", left).startswith(
        "by successive halving keeps 3 from 11% of the steps on and 1 from 33% of the steps on, by mean best validation "
        "accuracy so far over 3 seeds, and of those takes the best by mean validation accuracy over 3 seeds"
    )
    assert (
        structs.replace(protocol, lr=(1e-3, 1e-2), grid_seeds=1)
        .how_chosen("r2")
        .startswith("takes the better of the two")
    )
