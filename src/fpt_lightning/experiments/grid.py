"""A table as runs: which run is which, and which are due."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from msgspec import structs

from fpt_lightning.errors import UsageError, did_you_mean
from fpt_lightning.experiments.arms import Arm, Backbone, Making
from fpt_lightning.experiments.cells import Cell, Run
from fpt_lightning.experiments.composition import as_words, compose, contents, dotted, identity, is_place, over, plain
from fpt_lightning.experiments.halving import Rung, rungs_of, shares_of, validation_interval
from fpt_lightning.experiments.packing import shared
from fpt_lightning.experiments.tables import Experiments, Profile, Protocol, Table
from fpt_lightning.runs.archive import Continued, RunFolders, Runs, open_runs
from fpt_lightning.runs.outcome import Outcome, State

DEFAULT_FOLDER = Path("runs/tables")


@dataclass(frozen=True)
class Selection:
    """What is asked for: a table under a profile and a protocol, by default its own, or a part of it.

    Attributes:
        arms: Only these rows, and only the columns of ``tasks``; all where there are none.
        rates: Other learning rates than the protocol's, and other ``seeds``.
        texts: The folder that backbones are made of whose making reads texts and names none.
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
    texts: str | None = None


@dataclass(frozen=True)
class Grid:
    """A table, or the ``arms`` and ``tasks`` of it, under one profile and protocol.

    Its run folders lie in ``folder``; of the archive ``archived`` stand those that have none there.
    """

    experiments: Experiments
    table: Table
    profile: Profile
    protocol: Protocol
    arms: Sequence[str]
    tasks: Sequence[str]
    overrides: Mapping[str, Any]
    folder: Path
    archived: Path | None = None
    texts: str | None = None

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Row by row."""
        return tuple(self._cell(self.table.arms[arm].on(task), task) for arm in self.arms for task in self.tasks)

    @cached_property
    def _known_contents(self) -> dict[tuple[str, ...], str]:
        return {}

    @cached_property
    def records(self) -> Runs:
        """What its runs left."""
        return open_runs(self.folder, self.archived)

    def due(self, outcomes: Mapping[str, Outcome]) -> list[Run]:
        """Every run decided on so far once, those first that others need."""
        asked = [run for cell in self.cells for run in cell.due(outcomes)]
        # of runs that an archive holds, none need be there
        needed = [
            run for run in asked if not run.is_done(outcomes[run.id]) or (run.needs and run.needs.folder.is_dir())
        ]
        makers = [run.needs for run in needed if run.needs is not None]
        by_id: dict[str, Run] = {}
        for run in (*makers, *asked):
            by_id[run.id] = run.and_as(by_id.get(run.id, run))
        return list(by_id.values())

    def size(self, outcomes: Mapping[str, Outcome]) -> int:
        """Different runs in all, a lower bound where seeds wait for a choice."""
        waiting = sum(cell.size(outcomes) - len(cell.due(outcomes)) for cell in self.cells)
        return len(self.due(outcomes)) + waiting

    def all_runs(self) -> list[Run]:
        """Every run that the table may ever ask for, once."""
        runs = {run.id: run for cell in self.cells for run in cell.runs.values()}
        return list((runs | {run.needs.id: run.needs for run in runs.values() if run.needs is not None}).values())

    def outcomes(self) -> dict[str, Outcome]:
        """What became of :meth:`all_runs`, by id."""
        return {run.id: self.outcome(run) for run in self.all_runs()}

    def outcome(self, run: Run) -> Outcome:
        """What became of a run; with its course on validation where rungs ask for it."""
        outcome = self.records.outcome(run.folder.name, run.makes_backbone)
        if run.makes_backbone and outcome.state is State.FINISHED and isinstance(self.records, Continued):
            return replace(outcome, state=State.FAILED, cause=cause) if (cause := self._is_another(run)) else outcome
        if self.protocol.reduction is None or run.makes_backbone or outcome.state is State.MISSING:
            return outcome
        curve = self.records.curve(run.folder.name, self.experiments.tasks[run.task].metric)
        if curve.problem is not None and outcome.state is State.PAUSED:  # at its rung nobody knows what it is worth
            return Outcome(State.FAILED, cause=f"{curve.problem}; without {run.folder} it is made again")
        return replace(outcome, validations=tuple(curve.validation))

    def expect_texts(self, runs: Collection[Run]) -> None:
        """Refuses runs that make a backbone of texts where nobody says of which, or where one is made of others.

        Raises:
            UsageError: If there is one.
        """
        makings = (self.profile.backbones[cell.arm.backbone].made_by for cell in self.cells)
        untold = [making for making in makings if making and _lacks_texts(compose(making.configs, making.settings))]
        for maker in map(self._maker, untold):
            if self.texts is None and maker.id in {run.id for run in runs}:
                raise UsageError(
                    f"table {self.table.name} makes bodies of texts: say which folder holds them by --texts FOLDER"
                )
            made_of = dotted(RunFolders(self.folder).config(maker.folder.name) or {}).get("data.root")
            if made_of and self.texts and Path(made_of).absolute() != Path(self.texts).absolute():
                raise UsageError(
                    f"{maker.folder} is made of the texts in {made_of}: name those by --texts, or another --folder"
                )

    def _is_another(self, run: Run) -> str | None:
        """Why a backbone that was made anew is not the one of which the runs of the archive are; None where it is."""
        assert isinstance(self.records, Continued)
        made, kept = (each.result(run.folder.name) or {} for each in (self.records.runs, self.records.archive))
        for name in ("data_fingerprint", "val_loss"):
            if made and kept and made.get(name) != kept.get(name):
                return (
                    f"it came out otherwise than that of {self.archived} ({name} {made.get(name)}, there "
                    f"{kept.get(name)}), whose runs would be mixed with its own: sweep its arms without --archived, "
                    "in another --folder"
                )
        return None

    def _cell(self, arm: Arm, task: str) -> Cell:
        backbone, reference = self.profile.backbones[arm.backbone], self.table.reference(arm, task)
        if backbone.missing is not None:
            return Cell(arm, task, reference=reference, missing=backbone.missing)
        seeds = self.protocol.seeds
        rates = self.protocol.lr or (arm.lr or backbone.lr or self.experiments.tasks[task].lr,)
        runs = {(lr, seed): self._run(arm, backbone, task, lr, seed) for lr in rates for seed in seeds}
        # one learning rate is no choice: all its seeds are decided on
        first = self.protocol.grid_seeds if len(rates) > 1 else None
        rungs = self._rungs(task, next(iter(runs.values())), len(rates))
        return Cell(arm, task, runs, seeds[:first], seeds, reference, self.protocol.finalists, rungs)

    def _rungs(self, task: str, run: Run, rates: int) -> tuple[Rung, ...]:
        """Where the rates of a cell are left behind, of which this is a run.

        Raises:
            UsageError: If there is nothing to choose from, or nowhere to choose.
        """
        protocol = self.protocol
        if protocol.reduction is None:
            return ()
        try:
            if rates < 2:
                raise ValueError("it chooses among learning rates and the grid has one: name more with --rates")
            if not isinstance(run.steps, int) or run.steps < 1 or run.interval is None:
                raise ValueError("it goes by steps: set trainer.max_steps, and trainer.val_check_interval in steps")
            shares = protocol.rungs or shares_of(rates, protocol.reduction)
            return rungs_of(rates, protocol.reduction, shares, protocol.least, run.steps, run.interval)
        except ValueError as error:
            raise UsageError(f"protocol {protocol.name} on {task}: {error}") from error

    def _run(self, arm: Arm, backbone: Backbone, task: str, lr: float, seed: int) -> Run:
        first = (self.experiments.tasks[task].config, *self.protocol.configs)
        configs = (*first, *backbone.configs, *self.table.configs, *arm.configs)
        its_own = {"model.lr": lr, "seed_everything": seed}
        settings = plain(over(self.settings(task, arm), its_own, self.overrides))
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
            arm.name,
            steps=values.get("trainer.max_steps"),
            interval=validation_interval(values),
            needs=maker,
            contents=self._contents(configs),
            attention=self.table.attention and arm.name not in self.experiments.baselines,
            shared=shared(values),
        )

    def settings(self, task: str, arm: Arm | None = None) -> dict[str, Any]:
        """The options that the file gives to an arm as it is on a task, or to all arms; the later over the earlier."""
        backbone = Backbone() if arm is None else self.profile.backbones[arm.backbone]
        return over(
            self.experiments.tasks[task].settings,
            self.profile.settings,
            self.profile.tasks.get(task, {}),
            backbone.settings,
            backbone.tasks.get(task, {}),
            self.table.settings,
            {} if arm is None else arm.settings,
            self.protocol.settings,
            self.protocol.tasks.get(task, {}),
        )

    def _maker(self, making: Making) -> Run:
        """The run that makes a backbone: one for all learning rates and seeds of those that use it."""
        settings = plain({**making.settings, "export_backbone.enabled": True, "seed_everything": 0})
        values = compose(making.configs, settings)
        name = identity(values)  # wherever the texts lie
        if self.texts is not None and _lacks_texts(values):
            settings["data.root"] = self.texts
        # an option of sections is one of every run, but for that of images
        of_all = [option for option in self.overrides if "." in option and option != "data.device_resident_mb"]
        places = {option: self.overrides[option] for option in of_all if is_place(option)}
        words = _words(making.configs, {**settings, **places})
        return Run(
            name, self.folder / f"backbone-{name}", words, "backbone", None, 0, makes_backbone=True,
            contents=self._contents(making.configs),
        )  # fmt: skip

    def _contents(self, configs: Sequence[str]) -> str:
        """What :func:`contents` says, once for all runs of the same configs."""
        known = self._known_contents
        return known.get(tuple(configs)) or known.setdefault(tuple(configs), contents(configs))


def make_grid(
    experiments: Experiments, selection: Selection, folder: Path = DEFAULT_FOLDER, archived: Path | None = None
) -> Grid:
    """Works out the runs of a table; ``folder`` and ``archived`` are those of :class:`Grid`.

    Raises:
        UsageError: If one of the names does not exist, or two columns come to the same runs.
    """
    table, profile = experiments.table(selection.table), experiments.profile(selection.profile)
    protocol = experiments.protocol(selection.protocol or table.protocol, profile)
    protocol = structs.replace(protocol, lr=selection.rates or protocol.lr, seeds=selection.seeds or protocol.seeds)
    arms = _chosen(table.arms, selection.arms, "arm", table.name)
    tasks = _chosen(table.tasks, selection.tasks, "task", table.name)
    grid = Grid(
        experiments, table, profile, protocol, arms, tasks, selection.overrides, folder, archived, selection.texts
    )
    columns: dict[str, str] = {}
    for run in (run for cell in grid.cells for run in cell.runs.values()):
        if (other := columns.setdefault(run.id, run.task)) != run.task:
            raise UsageError(
                f"{other} and {run.task} of table {table.name} are one task by profile {profile.name} and these "
                "options: choose the columns by --tasks"
            )
    return grid


def _lacks_texts(values: Mapping[str, Any]) -> bool:
    """Whether a run reads a folder of texts, and its options do not say which."""
    return str(values.get("data.class_path")).endswith("TextFolder") and "data.root" not in values


def _words(configs: Iterable[str], settings: Mapping[str, Any]) -> tuple[str, ...]:
    return ("run", *(word for config in configs for word in ("--config", config)), *as_words(settings))


def _chosen(names: Collection[str], words: Collection[str], kind: str, table: str) -> list[str]:
    """Those of a table that were asked for, several in a word with commas between them; all where none were."""
    asked = [name.strip() for word in words for name in ([word] if word in names else word.split(","))]
    for name in asked:
        if name not in names:
            raise UsageError(
                f"table {table} has no {kind} '{name}'{did_you_mean(name, names)} It has {', '.join(names)}."
            )
    return [name for name in names if not asked or name in asked]
