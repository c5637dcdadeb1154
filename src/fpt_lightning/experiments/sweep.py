"""A table's missing runs, one launcher, until nothing is left to do."""

import time
from collections.abc import Sequence
from dataclasses import replace

from rich.text import Text

from fpt_lightning.errors import FPTError
from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.grid import Grid
from fpt_lightning.experiments.launchers.base import Launcher
from fpt_lightning.experiments.launchers.verdict import Verdict
from fpt_lightning.experiments.packing import packed
from fpt_lightning.experiments.screen import Screen
from fpt_lightning.runs.folder import RunFolder
from fpt_lightning.runs.lock import is_locked
from fpt_lightning.runs.outcome import Outcome, State

LOOK = 1.0
"""Seconds between two looks at what runs."""

BUSY = 5.0
"""Seconds until a run that another sweep is at is asked for again."""


def check_commands(grid: Grid, runs: Sequence[Run], launcher: Launcher) -> None:
    """Has the command line read one command of every cell before anything runs.

    Raises:
        FPTError: If it refuses one: an option that does not apply, a config that is gone.
    """
    asked = {run.id for run in runs}
    of_cells = [next((run for run in cell.runs.values() if run.id in asked), None) for cell in grid.cells]
    first = {run.id: run for run in of_cells if run is not None} | {run.id: run for run in runs if run.makes_backbone}
    answers = launcher.check([run.command for run in first.values()])
    for run, answer in zip(first.values(), answers, strict=True):
        if answer is not None:
            raise FPTError(f"table {grid.table.name}, task {run.task}: {answer}")


class Sweep:
    """Makes every run of a table that is missing, stopped or failed; each once.

    Runs that another sweep is making are waited for, and taken over if it dies. Those of a pack whose process died go
    on alone, so that none is lost to another's fault, or to memory that is enough for one.

    Args:
        grid: The table.
        launcher: Who makes the runs.
        screen: Who shows them.
        pack: Runs that are trained in one pass, at most.
    """

    def __init__(self, grid: Grid, launcher: Launcher, screen: Screen, pack: int = 1) -> None:
        self.grid = grid
        self.launcher = launcher
        self.pack = pack
        self.screen = screen
        # what failed another time is tried again, and until then it decides nothing
        self.outcomes = {
            name: replace(outcome, state=State.STOPPED) if outcome.state is State.FAILED else outcome
            for name, outcome in grid.outcomes().items()
        }
        self.packs: dict[str, list[str]] = {}  # the ids of the runs that were handed over together
        self.alone: set[str] = set()  # runs whose pack died
        for run in grid.all_runs():
            if self.outcomes[run.id].state is State.FINISHED and not is_locked(run.folder):
                RunFolder(run.folder).clear_parts()  # of a kill that came behind the result
        self.given: dict[str, Run] = {}  # runs without a verdict
        self.ended: set[tuple[str, bool, int | None]] = set()  # with a test or without, and as far as it was to go
        self.later: dict[str, float] = {}  # runs of other sweeps, and when to ask again

    def run(self) -> dict[str, Outcome]:
        """Gives what became of every run, by id."""
        while True:
            self._submit()
            self.screen.show(self.outcomes, [name for pack in self.launcher.running() for name in self.packs[pack]])
            if self.given:
                self._collect()
            elif self.later:
                time.sleep(LOOK)
            else:
                return self.outcomes

    def _submit(self) -> None:
        now = time.monotonic()
        due = [run for run in self.grid.due(self.outcomes) if not run.is_done(self.outcomes[run.id])]
        wanted = {run.id for run in due if _asked(run) not in self.ended}
        self.later = {name: when for name, when in self.later.items() if name in wanted}  # no choice needs the others
        ready = [run for run in due if self._is_ready(run, now)]
        if ready:
            for run in ready:
                if run.makes_backbone:  # an archive's end is not its own, and its folder is there before it ends
                    self.outcomes[run.id] = Outcome(State.MISSING)
            self.given.update({run.id: run for run in ready})
            shared = [replace(run, shared=None) if run.id in self.alone else run for run in ready]
            packs = packed(shared, self.pack, self.launcher.slots or 1)
            self.packs.update({pack.id: [run.id for run in pack.members or (pack,)] for pack in packs})
            self.launcher.submit(packs)

    def _is_ready(self, run: Run, now: float) -> bool:
        if run.id in self.given or _asked(run) in self.ended or self.later.get(run.id, 0.0) > now:
            return False
        if run.id in self.later and is_locked(run.folder):  # a look is cheaper than a job
            self.later[run.id] = now + BUSY
            return False
        if run.needs is None:
            return True
        made = self.outcomes[run.needs.id]  # which may have left a body before it diverged
        return made.state is State.FINISHED and run.needs.is_done(made)

    def _collect(self) -> None:
        for verdict in self.launcher.wait(LOOK):
            if not verdict.members:
                self._take(verdict)
            elif verdict.cause:
                self._unpack(verdict)
            else:
                for member in verdict.members:
                    self._take(member)

    def _take(self, verdict: Verdict) -> None:
        """Keeps what became of one run."""
        run = self.given.pop(verdict.id)
        if verdict.state is State.RUNNING:
            self.later[run.id] = time.monotonic() + BUSY
            if self.outcomes[run.id].result is None:  # a test elsewhere takes nothing from the choice that asked for it
                self.outcomes[run.id] = replace(self.outcomes[run.id], state=State.RUNNING)
            return
        self.later.pop(run.id, None)
        self.ended.add(_asked(run))
        outcome = self.grid.outcome(run)
        if verdict.state is State.FAILED:  # a failed test takes nothing from the choice that asked for it
            outcome = replace(outcome, state=State.FAILED, cause=verdict.cause)
        self.outcomes[run.id] = outcome
        if verdict.state is State.FINISHED and verdict.cause:
            self._say(f"{run.folder.name}  {verdict.cause}")
        self.screen.ended(run, outcome)

    def _unpack(self, dead: Verdict) -> None:
        """Has the runs of a pack whose process died made again, each alone."""
        self._say(f"{len(dead.members)} runs in one pass ended by: {dead.cause}; they go on alone")
        for member in dead.members:
            del self.given[member.id]
            self.alone.add(member.id)

    def _say(self, line: str) -> None:
        self.screen.console.print(Text(line), soft_wrap=True)


def _asked(run: Run) -> tuple[str, bool, int | None]:
    """What is asked of a run, once: to go so far, and to be tested or not."""
    return run.id, run.test, run.until
