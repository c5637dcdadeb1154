"""What a sweep does with a run that another sweep is at."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console
from sweeps import grid_of, write_experiments

from fpt_lightning.experiments import sweep
from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.launchers.base import Launcher
from fpt_lightning.experiments.launchers.verdict import Verdict
from fpt_lightning.experiments.screen import Screen
from fpt_lightning.runs.folder import RunFolder
from fpt_lightning.runs.outcome import State


class Beside(Launcher):
    """Finds somebody at every run, or at every test, when it is asked for the first time, and it finished the next."""

    slots = 1

    def __init__(self, *, tests: bool = False) -> None:
        self.tests = tests
        self.waiting: list[Run] = []
        self.asked: list[tuple[str, bool]] = []

    def submit(self, runs: Sequence[Run]) -> None:
        self.waiting += runs

    def wait(self, seconds: float) -> list[Verdict]:
        verdicts = [self._verdict(run) for run in self.waiting]
        self.waiting.clear()
        return verdicts

    def _verdict(self, run: Run) -> Verdict:
        self.asked.append((run.id, run.test))
        if run.test == self.tests and self.asked.count((run.id, run.test)) == 1:
            return Verdict(run.id, State.RUNNING)
        figures = {"val_accuracy": run.lr, "steps": 4, "best_step": 4, "seed": run.seed, "lr": run.lr, "versions": {}}
        run.folder.mkdir(parents=True, exist_ok=True)
        RunFolder(run.folder).result.write_text(json.dumps(figures | ({"test_accuracy": 0.5} if run.test else {})))
        return Verdict(run.id, State.FINISHED)

    def running(self) -> list[str]:
        return []

    def close(self) -> None:
        self.waiting.clear()


@pytest.mark.parametrize("tests", [False, True])
def test_a_run_that_another_is_at_is_asked_for_again(tests: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "BUSY", 0.01)
    monkeypatch.setattr(sweep, "LOOK", 0.02)
    monkeypatch.setattr(sweep.time, "sleep", _no_longer_than_a_second())
    grid = grid_of(write_experiments(Path("experiments.yaml"), rates=(1e-3, 3e-3, 1e-2)))
    with Beside(tests=tests) as launcher, Screen(grid, 1, Console(quiet=True)) as screen:
        outcomes = sweep.Sweep(grid, launcher, screen).run()
    assert {outcome.state for outcome in outcomes.values()} == {State.FINISHED}
    assert [run.lr for run in grid.all_runs() if outcomes[run.id].is_tested] == [1e-2, 1e-2]
    assert max(map(launcher.asked.count, launcher.asked)) == 2


class Overtaken(Beside):
    """Finds somebody at the second seed of the best rate, who finishes it while its third seed diverges here."""

    def _verdict(self, run: Run) -> Verdict:
        busy = (run.lr, run.seed) == (1e-2, 1) and (run.id, run.test) not in self.asked
        super()._verdict(run)
        super()._verdict(run)
        if (run.lr, run.seed) == (1e-2, 2):
            about = {"steps": 4, "seed": 2, "lr": 1e-2, "versions": {}, "status": "diverged", "diverged_step": 3}
            RunFolder(run.folder).result.write_text(json.dumps(about))
            return Verdict(run.id, State.DIVERGED)
        return Verdict(run.id, State.RUNNING if busy else State.FINISHED)


def test_a_run_of_another_that_is_asked_for_no_more_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "BUSY", 0.01)
    monkeypatch.setattr(sweep, "LOOK", 0.02)
    monkeypatch.setattr(sweep.time, "sleep", _no_longer_than_a_second())
    experiments = write_experiments(Path("experiments.yaml"), seeds=3, rates=(1e-3, 3e-3, 1e-2))
    experiments.write_text(experiments.read_text().replace("  fair:\n", "  fair:\n    grid_seeds: 1\n"))
    grid = grid_of(experiments)
    with Overtaken() as launcher, Screen(grid, 1, Console(quiet=True)) as screen:
        outcomes = sweep.Sweep(grid, launcher, screen).run()
    assert grid.cells[0].chosen(outcomes) == 3e-3


def _no_longer_than_a_second() -> Callable[[float], None]:
    really, begun = time.sleep, time.monotonic()

    def sleep(seconds: float) -> None:
        assert time.monotonic() - begun < 1, "it waits for what nobody makes"
        really(seconds)

    return sleep
