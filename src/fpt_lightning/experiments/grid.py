"""A table as runs: what a cell consists of, which run is which, and which are due."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from msgspec import structs

from fpt_lightning.errors import UsageError, did_you_mean
from fpt_lightning.experiments.composition import as_words, compose, identity, plain
from fpt_lightning.experiments.tables import Arm, Backbone, Experiments, Making, Profile, Protocol, Reference, Table
from fpt_lightning.runs.archive import Archive, RunFolders, open_runs
from fpt_lightning.runs.outcome import Outcome, State

DEFAULT_FOLDER = Path("runs/tables")


@dataclass(frozen=True)
class Selection:
    """What is asked for: a table under a profile and a protocol, by default its own, or a part of it.

    Attributes:
        arms: Only these rows, and only the columns of ``tasks``; all where there are none.
        rates: Other learning rates than the protocol's, and other ``seeds``.
        overrides: Options of every run, by dotted name; the last word.
    """

    table: str
    profile: str = "laptop"
    protocol: str | None = None
    arms: Sequence[str] = ()
    tasks: Sequence[str] = ()
    rates: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)


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


@dataclass(frozen=True)
class Grid:
    """All cells of a table under one profile and protocol."""

    table: Table
    profile: Profile
    protocol: Protocol
    cells: tuple[Cell, ...]
    experiments: Experiments
    folder: Path

    @cached_property
    def records(self) -> RunFolders | Archive:
        """What its runs left."""
        return open_runs(self.folder)

    def due(self, outcomes: Mapping[str, Outcome]) -> list[Run]:
        """Every run decided on so far once, those first that others need."""
        asked = [run for cell in self.cells for run in cell.due(outcomes)]
        makers = [run.needs for run in asked if run.needs is not None]
        # one that two cells share is tested where either asks for it
        by_id = {run.id: run for run in [*makers, *asked]} | {run.id: run for run in asked if run.test}
        return list(by_id.values())

    def size(self) -> int:
        """Different runs in all, a lower bound where seeds wait for a choice."""
        decided = {run.id for cell in self.cells for run in cell.grid_runs()}
        makers = {run.id for run in self.all_runs() if run.makes_backbone}
        return len(decided | makers) + sum(cell.size() - len(cell.grid_runs()) for cell in self.cells)

    def all_runs(self) -> list[Run]:
        """Every run that the table may ever ask for, once."""
        runs = {run.id: run for cell in self.cells for run in cell.runs.values()}
        return list((runs | {run.needs.id: run.needs for run in runs.values() if run.needs is not None}).values())

    def outcomes(self) -> dict[str, Outcome]:
        """What became of :meth:`all_runs`, by id."""
        return {run.id: self.records.outcome(run.folder.name, run.makes_backbone) for run in self.all_runs()}


def make_grid(experiments: Experiments, selection: Selection, folder: Path = DEFAULT_FOLDER) -> Grid:
    """Works out the runs of a table.

    Args:
        experiments: Where it is declared.
        selection: Which table, how, and what of it.
        folder: Where the run folders lie.

    Raises:
        UsageError: If one of the names does not exist.
    """
    table, profile = experiments.table(selection.table), experiments.profile(selection.profile)
    protocol = experiments.protocol(selection.protocol or table.protocol, profile)
    protocol = structs.replace(protocol, lr=selection.rates or protocol.lr, seeds=selection.seeds or protocol.seeds)
    arms = _chosen(table.arms, selection.arms, "arm", table.name)
    tasks = _chosen(table.tasks, selection.tasks, "task", table.name)
    maker = _CellMaker(experiments, table, profile, protocol, selection.overrides, folder)
    cells = tuple(maker.cell(table.arms[arm].on(task), task) for arm in arms for task in tasks)
    return Grid(table, profile, protocol, cells, experiments, folder)


@dataclass(frozen=True)
class _CellMaker:
    experiments: Experiments
    table: Table
    profile: Profile
    protocol: Protocol
    overrides: Mapping[str, Any]
    folder: Path

    def cell(self, arm: Arm, task: str) -> Cell:
        backbone, reference = self.profile.backbones[arm.backbone], self.table.reference(arm, task)
        if backbone.missing is not None:
            return Cell(arm, task, reference=reference, missing=backbone.missing)
        seeds = self.protocol.seeds
        rates = self.protocol.lr or (arm.lr or backbone.lr or self.experiments.tasks[task].lr,)
        runs = {(lr, seed): self._run(arm, backbone, task, lr, seed) for lr in rates for seed in seeds}
        # one learning rate is no choice: all its seeds are decided on
        first = self.protocol.grid_seeds if len(rates) > 1 else None
        return Cell(arm, task, runs, seeds[:first], seeds, reference)

    def _run(self, arm: Arm, backbone: Backbone, task: str, lr: float, seed: int) -> Run:
        configs = (self.experiments.tasks[task].config, *backbone.configs, *self.table.configs, *arm.configs)
        settings: dict[str, Any] = {
            **self.profile.settings,
            **self.profile.tasks.get(task, {}),
            **backbone.settings,
            **backbone.tasks.get(task, {}),
            **self.table.settings,
            **arm.settings,
            **self.protocol.settings,
            **self.protocol.tasks.get(task, {}),
            "model.lr": lr,
            "seed_everything": seed,
            **self.overrides,
        }
        settings = plain(settings)
        maker = self._maker(backbone.made_by) if backbone.made_by else None
        # where the backbone lies tells nothing of what it is
        made = {} if maker is None else {"model.backbone": f"made by {maker.id}"}
        values = compose(configs, {**settings, **made})
        if maker is not None:
            settings["model.backbone"] = f"{maker.folder}/backbone"
        name = identity(values)
        return Run(
            name,
            self.folder / f"{task}-{name}",
            (*_words(configs, settings), f"--protocol={self.protocol.name}"),
            task,
            lr,
            seed,
            steps=values.get("trainer.max_steps"),
            needs=maker,
            attention=self.table.attention,
        )

    def _maker(self, making: Making) -> Run:
        """The run that makes a backbone: one for all learning rates and seeds of those that use it."""
        settings = plain({**making.settings, "export_backbone.enabled": True, "seed_everything": 0})
        places = {name: value for name, value in self.overrides.items() if name.startswith("trainer.accelerator")}
        name = identity(compose(making.configs, settings))
        words = _words(making.configs, {**settings, **places})
        return Run(name, self.folder / f"backbone-{name}", words, "backbone", None, 0, makes_backbone=True)


def _words(configs: Iterable[str], settings: Mapping[str, Any]) -> tuple[str, ...]:
    return ("run", *(word for config in configs for word in ("--config", config)), *as_words(settings))


def _chosen(names: Collection[str], asked: Collection[str], kind: str, table: str) -> list[str]:
    """Those of a table that were asked for; all where none were."""
    for name in asked:
        if name not in names:
            raise UsageError(
                f"table {table} has no {kind} '{name}'{did_you_mean(name, names)} It has {', '.join(names)}."
            )
    return [name for name in names if not asked or name in asked]
