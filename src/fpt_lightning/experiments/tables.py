"""``experiments.yaml``: tables, their arms and tasks, profiles and protocols, as data."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from msgspec import Meta
from msgspec.structs import replace

from fpt_lightning.config_files import shipped
from fpt_lightning.errors import UsageError, did_you_mean
from fpt_lightning.experiments.arms import Arm, Backbone, Configured, Names, Pair, Rates, Reference, Seeds, Task
from fpt_lightning.experiments.crossing import expect_crossed
from fpt_lightning.experiments.typed_yaml import Entry, convert, expect_different, expect_known, read_yaml

T = TypeVar("T")

MEASURES = {
    "accuracy": "test accuracy, %",
    "train_accuracy": "training accuracy, %",
    "steps_to_convergence": "gradient steps to convergence",
    "trained_parameters": "trained parameters",
}
"""What a column of a table may hold, and its heading."""


class Table(Configured, frozen=True):
    """A set of arms and tasks with a reference column.

    Attributes:
        source: Paper, section and table.
        measures: What the columns of each task hold, of :data:`MEASURES`.
        protocol: The protocol where the command line names none.
        configs: Configs behind those of the backbone.
        baseline: The arm that others are compared with; the first where it is None.
        contrasts: Pairs of other arms to be compared too, the first with the second; in one correction with the rest.
        attention: Whether every run leaves its attention maps.
        variance: Options of which the arms are every combination, otherwise alike: draws, whose variance is split.
        note: A sentence below the table.
    """

    name: str
    title: str
    source: str
    tasks: Annotated[Names, Meta(min_length=1)]
    arms: Mapping[str, Arm]
    measures: Annotated[Names, Meta(min_length=1)] = ("accuracy",)
    protocol: str = "paper"
    configs: Names = ()
    settings: Mapping[str, Any] = {}
    baseline: str | None = None
    contrasts: tuple[Pair, ...] = ()
    attention: bool = False
    variance: Names = ()
    note: str = ""

    def reference(self, arm: Arm, task: str) -> dict[str, Reference]:
        """The paper's figures for an arm on a task, by measure; those that it has."""
        first = self.tasks.index(task) * len(self.measures)
        figures = dict(zip(self.measures, arm.reference[first:], strict=False))
        return {
            measure: figure if isinstance(figure, Reference) else Reference(figure)
            for measure, figure in figures.items()
            if figure is not None
        }


class Protocol(Configured, frozen=True):
    """How the learning rate of an arm is chosen.

    Attributes:
        configs: Configs behind those of the tasks: backbones, tables and arms have the last word.
        lr: The grid; None takes the one learning rate of arm, backbone or task.
        seeds: Seeds of every figure.
        grid_seeds: So many of the seeds run the whole grid; the others run with the best rates of it, whose means over
            all seeds then decide. None runs the grid with all.
        finalists: How many rates those are; 1 is the rule of version 0.1, when the grid's seeds alone decided.
        reduction: How many times fewer learning rates go on from every rung (successive halving); None runs the whole
            grid to its end.
        rungs: Where the rungs are, as shares of a run's steps; by default as :func:`shares_of` says.
        tasks: Options for single tasks.
    """

    name: str
    configs: Names = ()
    lr: Rates | None = None
    seeds: Seeds = (0,)
    grid_seeds: Annotated[int, Meta(ge=1)] | None = None
    finalists: Annotated[int, Meta(ge=1, le=2)] = 2
    reduction: Annotated[int, Meta(ge=2)] | None = None
    rungs: tuple[Annotated[float, Meta(gt=0, lt=1)], ...] = ()
    settings: Mapping[str, Any] = {}
    tasks: Mapping[str, Mapping[str, Any]] = {}

    @property
    def least(self) -> int:
        """The fewest learning rates that a rung leaves: those that are to run all seeds."""
        return self.finalists if self.seeds[: self.grid_seeds] != self.seeds else 1

    def how_chosen(self, metric: str, rungs: str = "") -> str:
        """The rule by which an arm takes one of several learning rates, a sentence's end; see :class:`Cell`.

        Args:
            metric: What validation measures.
            rungs: How many learning rates go on, and from where; empty where all do.
        """
        seeds = self.seeds[: self.grid_seeds], self.seeds
        first, every = (f"{len(some)} seeds" if len(some) > 1 else "one seed" for some in seeds)
        worth = f"mean best validation {metric} so far over {first}"
        halved = f"by successive halving keeps {rungs}, by {worth}, and of those " if rungs else ""
        taken = self._how_taken(metric, first, every)
        return halved + taken + (", at a rung the middle" if rungs and self.finalists == 1 and first != every else "")

    def _how_taken(self, metric: str, first: str, every: str) -> str:
        if self.finalists == 1 and first != every:
            return f"takes the best by mean validation {metric} over {first}, of equal ones the smallest"
        best = "the best" if first == every else f"the better of the two that are best with {first}"
        passed_over = "of equal ones the middle, and none that diverged or failed on a seed"
        return f"takes {best} by mean validation {metric} over {every}; {passed_over}"


class Profile(Configured, frozen=True):
    """A budget: backbones by role, options, and changes of the protocols' fields such as a shorter grid."""

    name: str
    about: str = ""
    backbones: Mapping[str, Backbone] = {}
    settings: Mapping[str, Any] = {}
    tasks: Mapping[str, Mapping[str, Any]] = {}
    protocols: Mapping[str, Mapping[str, Any]] = {}


class Experiments(Entry, frozen=True):
    """All that an ``experiments.yaml`` declares; ``baselines`` are arms that stand at the end of every table."""

    path: Path
    tasks: Mapping[str, Task]
    protocols: Mapping[str, Protocol]
    profiles: Mapping[str, Profile]
    tables: Mapping[str, Table]
    baselines: Mapping[str, Arm] = {}

    def __post_init__(self) -> None:
        for name, protocol in self.protocols.items():
            self._check_protocol(protocol, f"protocols.{name}")
        for profile in self.profiles.values():
            self._check_profile(profile)
        for table in self.tables.values():
            self._check_table(table)
        for arm in self.baselines.values():
            expect_known(arm.tasks, self.tasks, f"baselines.{arm.name}.tasks", "task")
            if arm.reference:
                raise ValueError(f"baselines.{arm.name}.reference: expected none, columns differ from table to table")
            self._check_arm(arm, self.tasks, f"baselines.{arm.name}")

    def table(self, name: str) -> Table:
        """A table by name, with the baselines whose backbone none of its arms has.

        Raises:
            UsageError: If there is none, as with profiles and protocols.
        """
        table = self._named(self.tables, name, "table")
        there = {arm.backbone for arm in table.arms.values()}
        missing = {name: arm for name, arm in self.baselines.items() if arm.backbone not in there}
        return replace(table, arms={**table.arms, **missing})

    def profile(self, name: str) -> Profile:
        return self._named(self.profiles, name, "profile")

    def protocol(self, name: str, profile: Profile) -> Protocol:
        protocol = self._named(self.protocols, name, "protocol")
        changes = profile.protocols.get(name, {})
        changed = convert(changes, Protocol, f"profiles.{profile.name}.protocols.{name}", {"name": name})
        return replace(protocol, **{field: getattr(changed, field) for field in changes})

    def _named(self, group: Mapping[str, T], name: str, kind: str) -> T:
        if name not in group:
            raise UsageError(
                f"no {kind} is called '{name}'{did_you_mean(name, group)} {self.path} has {', '.join(group)}."
            )
        return group[name]

    def _check_protocol(self, protocol: Protocol, path: str) -> None:
        expect_different(protocol.lr or (), f"{path}.lr")
        expect_different(protocol.seeds, f"{path}.seeds")
        expect_known(protocol.tasks, self.tasks, f"{path}.tasks", "task")
        if list(protocol.rungs) != sorted(set(protocol.rungs)):
            raise ValueError(f"{path}.rungs: expected shares in rising order, got {list(protocol.rungs)}")
        if protocol.rungs and protocol.reduction is None:
            raise ValueError(f"{path}.rungs: expected a reduction beside them, got none")

    def _check_profile(self, profile: Profile) -> None:
        path = f"profiles.{profile.name}"
        expect_known(profile.tasks, self.tasks, f"{path}.tasks", "task")
        for role, backbone in profile.backbones.items():
            expect_known(backbone.tasks, self.tasks, f"{path}.backbones.{role}.tasks", "task")
        expect_known(profile.protocols, self.protocols, f"{path}.protocols", "protocol")
        for name in profile.protocols:
            self._check_protocol(self.protocol(name, profile), f"{path}.protocols.{name}")

    def _check_table(self, table: Table) -> None:
        path = f"tables.{table.name}"
        expect_known(table.tasks, self.tasks, f"{path}.tasks", "task")
        expect_known(table.measures, MEASURES, f"{path}.measures", "measure")
        expect_known([table.protocol], self.protocols, f"{path}.protocol", "protocol")
        expect_known([table.baseline] if table.baseline else [], table.arms, f"{path}.baseline", "arm")
        expect_different(table.tasks, f"{path}.tasks")
        expect_different(table.measures, f"{path}.measures")
        if not table.arms:
            raise ValueError(f"{path}.arms: expected at least one")
        expect_different(table.variance, f"{path}.variance")
        if table.variance:
            self._check_draws(table, path)
        self._check_contrasts(table, f"{path}.contrasts")
        columns = len(table.tasks) * len(table.measures)
        for arm in table.arms.values():
            within = f"{path}.arms.{arm.name}"
            expect_known(arm.tasks, table.tasks, f"{within}.tasks", "task of this table")
            if len(arm.reference) not in (0, columns):
                raise ValueError(f"{within}.reference: expected {columns} figures, got {len(arm.reference)}")
            self._check_arm(arm, table.tasks, within)
            if self.table(table.name).arms[arm.name] is not arm:
                raise ValueError(f"{within}: expected another name, a baseline of another backbone is called so")

    def _check_contrasts(self, table: Table, path: str) -> None:
        arms = self.table(table.name).arms
        baseline = table.baseline or next(iter(arms))
        expect_different([sorted(pair) for pair in table.contrasts], path)
        for pair in table.contrasts:
            expect_known(pair, arms, path, "arm")
            expect_different(pair, path)
            if baseline in pair:
                raise ValueError(f"{path}: every arm is compared with {baseline}, the baseline: leave {list(pair)} out")
        if table.contrasts and table.variance:
            raise ValueError(f"{path}: arms that are draws (variance) are not compared")

    def _check_draws(self, table: Table, path: str) -> None:
        if "accuracy" not in table.measures:
            raise ValueError(f"{path}: variance is that of accuracy, which measures lacks")
        try:
            expect_crossed(table.arms, table.variance)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def _check_arm(self, arm: Arm, tasks: Iterable[str], path: str) -> None:
        roles = [arm.backbone, *(arm.on(task).backbone for task in tasks)]
        for profile in self.profiles.values():
            expect_known(roles, profile.backbones, f"{path}.backbone", f"backbone of profile {profile.name}")


def read_experiments(path: str | None = None) -> Experiments:
    """Reads an ``experiments.yaml``: by default the one here, or the one that is shipped.

    Raises:
        UsageError: If it does not exist, is not YAML, or declares something that there is not.
    """
    here = Path("experiments.yaml")
    file = Path(path) if path else here if here.is_file() else shipped("experiments.yaml")
    return read_yaml(file, Experiments, {"path": file})
