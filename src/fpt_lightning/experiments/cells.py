"""What a cell of a table consists of: its runs, and which of them are due."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from fpt_lightning.experiments.tables import Arm, Reference
from fpt_lightning.runs.outcome import Outcome, State


@dataclass(frozen=True)
class Run:
    """One arm, task, learning rate and seed: a folder named after its id.

    Attributes:
        id: Hash of its resolved config; where and by whom it is run does not change it.
        words: What follows ``fpt`` on the command line, but for folder and checkpoint.
        task: The task's name, or that of what is made.
        lr: Learning rate; None of one that makes a backbone.
        steps: Most training steps, where the config says.
        needs: The run that makes its backbone.
        makes_backbone: Whether it leaves a backbone for others.
        attention: Whether it leaves its attention maps.
        test: Whether it is tested; what only helps to choose a learning rate is not.
    """

    id: str
    folder: Path
    words: tuple[str, ...]
    task: str
    lr: float | None
    seed: int
    steps: int | None = None
    needs: "Run | None" = None
    makes_backbone: bool = False
    attention: bool = False
    test: bool = True

    @property
    def command(self) -> list[str]:
        """What follows ``fpt``: starts the run, or goes on with it."""
        untested = [] if self.test else ["--test=never"]
        return [*self.words, *untested, f"--run_folder={self.folder}", "--ckpt_path=last"]

    def is_done(self, outcome: Outcome) -> bool:
        """Whether it left all that is asked of it: also the test, and the attention maps."""
        if outcome.state is not State.FINISHED or (self.test and not outcome.is_tested):
            return False
        return not self.attention or outcome.attention is not None


@dataclass(frozen=True)
class Cell:
    """An arm on a task: its runs, and how the learning rate is chosen among them.

    Attributes:
        runs: By learning rate and seed.
        grid_seeds: Seeds that run every learning rate.
        seeds: Seeds of the figure.
        reference: The paper's figures, by measure.
        missing: Why it has no runs, where it has none.
    """

    arm: Arm
    task: str
    runs: Mapping[tuple[float, int], Run] = field(default_factory=dict)
    grid_seeds: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    reference: Mapping[str, Reference] = field(default_factory=dict)
    missing: str | None = None

    @property
    def rates(self) -> list[float]:
        """The grid."""
        return sorted({lr for lr, _ in self.runs})

    def grid_runs(self) -> list[Run]:
        """The runs that choose the learning rate."""
        return [self.runs[lr, seed] for lr in self.rates for seed in self.grid_seeds]

    def chosen(self, outcomes: Mapping[str, Outcome]) -> float | None:
        """The learning rate of the best mean validation; None as long as a run of the grid is to come.

        A failed run takes its learning rate out of the choice: one that diverges is not chosen.
        """
        if any(outcomes[run.id].state not in (State.FINISHED, State.FAILED) for run in self.grid_runs()):
            return None
        means = self.validation(outcomes)
        return max(means, key=lambda lr: (means[lr], -lr)) if means else None

    def validation(self, outcomes: Mapping[str, Outcome]) -> dict[float, float]:
        """Mean validation accuracy, 0 to 1, by learning rate, without those that diverged or failed on any seed."""
        means = {}
        for lr in self.rates:
            results = [outcomes[self.runs[lr, seed].id].result for seed in self.grid_seeds]
            values = [result.validation for result in results if result is not None]
            if len(values) == len(results) and all(value == value for value in values):
                means[lr] = fmean(values)
        return means

    def due(self, outcomes: Mapping[str, Outcome]) -> list[Run]:
        """All runs that are decided on so far: the grid, and once it is done every seed of what it chose.

        Only these are tested, and leave attention maps, which are of test examples.
        """
        if len(self.rates) == 1:
            return self.grid_runs()
        lr = self.chosen(outcomes)
        chosen = [self.runs[lr, seed] for seed in self.seeds] if lr is not None else []
        rejected = [run for run in self.grid_runs() if run not in chosen]
        return [*(replace(run, test=False, attention=False) for run in rejected), *chosen]

    def size(self) -> int:
        """Runs in all, those included that are not decided on yet."""
        later = [seed for seed in self.seeds if seed not in self.grid_seeds]
        return len(self.rates) * len(self.grid_seeds) + len(later) if self.runs else 0
