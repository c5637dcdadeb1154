"""``experiments.yaml``: tables, their arms and tasks, profiles and protocols, as data."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from fpt_lightning.config_files import shipped
from fpt_lightning.errors import UsageError, did_you_mean
from fpt_lightning.experiments.composition import plain

T = TypeVar("T")

MEASURES = {
    "accuracy": "test accuracy, %",
    "train_accuracy": "training accuracy, %",
    "steps_to_convergence": "gradient steps to convergence",
    "trained_parameters": "trained parameters",
}
"""What a column of a table may hold, and its heading."""

CHANGES = ("backbone", "configs", "settings", "lr")
"""What of an arm may be otherwise on a single task."""


@dataclass(frozen=True)
class Reference:
    """A figure of a paper: its mean and, where it was given, its standard error, in the column's units."""

    mean: float
    standard_error: float | None = None


@dataclass(frozen=True)
class Task:
    """A column: a task config, the paper's learning rate and the accuracy of guessing, in percent.

    Attributes:
        metric: What judges it: ``accuracy``, or ``r2`` of a regression.
    """

    name: str
    title: str
    config: str
    lr: float
    chance: float
    metric: str = "accuracy"


@dataclass(frozen=True)
class Making:
    """A run whose exported body is the backbone of other runs: the paper's "Bit"."""

    configs: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Backbone:
    """What a profile takes for a backbone that arms name by its role.

    Attributes:
        configs: Configs behind that of the task.
        settings: Options; ``tasks`` holds those for single tasks.
        lr: The learning rate of the paper protocol where it is not the task's.
        made_by: The run that makes it.
        missing: Why the profile leaves it out, if it does.
    """

    configs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    lr: float | None = None
    made_by: Making | None = None
    missing: str | None = None


@dataclass(frozen=True)
class Arm:
    """A row of a table.

    Attributes:
        name: As the report prints it.
        backbone: A role, which the profile turns into configs.
        configs: Configs behind those of the backbone.
        settings: Options.
        lr: The learning rate of the paper protocol where it is not the backbone's or the task's.
        tasks: What is otherwise on single tasks: ``backbone``, ``configs``, ``settings``, ``lr``.
        reference: The paper's figures by column: ``task``, or ``task.measure`` of a table with several.
    """

    name: str
    backbone: str
    configs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    lr: float | None = None
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reference: Mapping[str, Reference] = field(default_factory=dict)

    def on(self, task: str) -> "Arm":
        """The arm as it is on one task."""
        changes = self.tasks.get(task, {})
        configs = (*self.configs, *changes.get("configs", ()))
        settings = {**self.settings, **changes.get("settings", {})}
        return dataclasses.replace(self, **{**changes, "configs": configs, "settings": settings})


@dataclass(frozen=True)
class Table:
    """A set of arms and tasks with a reference column.

    Attributes:
        name: After ``fpt sweep``.
        title: Above the table.
        source: Paper, section and table.
        tasks: Columns.
        measures: What each column holds, of :data:`MEASURES`.
        arms: Rows.
        protocol: The protocol where the command line names none.
        configs: Configs behind those of the backbone, before those of the arm.
        settings: Options of all arms.
        baseline: The arm that others are compared with; the first where it is None.
        attention: Whether every run leaves its attention maps.
        note: A sentence below the table.
    """

    name: str
    title: str
    source: str
    tasks: tuple[str, ...]
    arms: tuple[Arm, ...]
    measures: tuple[str, ...] = ("accuracy",)
    protocol: str = "paper"
    configs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    baseline: str | None = None
    attention: bool = False
    note: str = ""


@dataclass(frozen=True)
class Protocol:
    """How the learning rate of an arm is chosen.

    Attributes:
        name: ``paper`` or ``fair``.
        lr: The grid; None takes the one learning rate of arm, backbone or task.
        seeds: Seeds of every figure.
        grid_seeds: So many of the seeds run the whole grid, and choose; the others run with what was chosen. None runs
            the grid with all.
        settings: Options of every run; ``tasks`` holds those for single tasks.
    """

    name: str
    lr: tuple[float, ...] | None = None
    seeds: tuple[int, ...] = (0,)
    grid_seeds: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Profile:
    """A budget: ``smoke``, ``laptop`` or ``paper``.

    Attributes:
        name: After ``--profile``.
        about: One line on what it is for.
        backbones: By role.
        settings: Options of every run; ``tasks`` holds those for single tasks.
        protocols: Changes of the protocols' fields, such as a shorter grid.
    """

    name: str
    about: str = ""
    backbones: Mapping[str, Backbone] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    protocols: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiments:
    """All that an ``experiments.yaml`` declares."""

    path: Path
    tasks: Mapping[str, Task]
    protocols: Mapping[str, Protocol]
    profiles: Mapping[str, Profile]
    tables: Mapping[str, Table]

    def table(self, name: str) -> Table:
        """A table by name.

        Raises:
            UsageError: If there is none.
        """
        return self._named(self.tables, name, "table")

    def profile(self, name: str) -> Profile:
        """A profile by name.

        Raises:
            UsageError: If there is none.
        """
        return self._named(self.profiles, name, "profile")

    def protocol(self, name: str, profile: Profile) -> Protocol:
        """A protocol by name, as the profile changes it.

        Raises:
            UsageError: If there is none.
        """
        protocol = self._named(self.protocols, name, "protocol")
        return _build(
            Protocol, {**_fields(protocol), **profile.protocols.get(name, {})}, f"{self.path}: protocol {name}"
        )

    def _named(self, group: Mapping[str, T], name: str, kind: str) -> T:
        if name not in group:
            raise UsageError(
                f"no {kind} is called '{name}'{did_you_mean(name, group)} {self.path} has {', '.join(group)}."
            )
        return group[name]


def read_experiments(path: str | None = None) -> Experiments:
    """Reads an ``experiments.yaml``.

    Args:
        path: The file; by default the one here, or the one that is shipped.

    Raises:
        UsageError: If it does not exist, is not YAML, or declares something that there is not.
    """
    here = Path("experiments.yaml")
    file = Path(path) if path else here if here.is_file() else shipped("experiments.yaml")
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    sections = ("tasks", "protocols", "profiles", "tables")
    if not isinstance(content, dict) or set(content) != set(sections):
        raise UsageError(f"{file} must have exactly the sections {', '.join(sections)}")
    content = plain(content)

    def group(section: str, made: Any) -> dict[str, Any]:
        return {str(name): made(str(name), entry or {}) for name, entry in content[section].items()}

    experiments = Experiments(
        file,
        group("tasks", lambda name, entry: _build(Task, {**entry, "name": name}, f"{file}: task {name}")),
        group("protocols", lambda name, entry: _build(Protocol, {**entry, "name": name}, f"{file}: protocol {name}")),
        group("profiles", lambda name, entry: _profile(name, entry, file)),
        group("tables", lambda name, entry: _table(name, entry, file)),
    )
    _check(experiments)
    return experiments


def _build(kind: type[T], entry: Mapping[str, Any], where: str) -> T:
    """A dataclass of an entry: lists as tuples, every key known, every required one there."""
    known = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in entry:
        if key not in known:
            raise UsageError(f"{where} has no field '{key}'{did_you_mean(key, known)}")
    missing = [
        name
        for name, item in known.items()
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING and name not in entry
    ]
    if missing:
        raise UsageError(f"{where} lacks {', '.join(missing)}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()})


def _fields(value: Any) -> dict[str, Any]:
    return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}


def _profile(name: str, entry: Mapping[str, Any], file: Path) -> Profile:
    where = f"{file}: profile {name}"
    backbones = {}
    for role, given in entry.get("backbones", {}).items():
        backbone = dict(given)
        if "made_by" in backbone:
            backbone["made_by"] = _build(Making, backbone["made_by"], f"{where}, made_by of {role}")
        backbones[role] = _build(Backbone, backbone, f"{where}, backbone {role}")
    return _build(Profile, {**entry, "name": name, "backbones": backbones}, where)


def _table(name: str, entry: Mapping[str, Any], file: Path) -> Table:
    where = f"{file}: table {name}"
    tasks, measures = entry.get("tasks", []), entry.get("measures", ["accuracy"])
    columns = columns_of(tasks, measures)
    arms = []
    for title, given in (entry.get("arms") or {}).items():
        arm = dict(given)
        figures = arm.pop("reference", [])
        if figures and len(figures) != len(columns):
            raise UsageError(f"{where}, arm {title}: {len(figures)} reference figures for {len(columns)} columns")
        reference = {
            column: Reference(*figure) if isinstance(figure, list) else Reference(figure)
            for column, figure in zip(columns, figures, strict=bool(figures))
            if figure is not None
        }
        arms.append(_build(Arm, {**arm, "name": str(title), "reference": reference}, f"{where}, arm {title}"))
    return _build(Table, {**entry, "name": name, "arms": arms}, where)


def columns_of(tasks: Any, measures: Any) -> list[str]:
    """Names of a table's columns: its tasks, or ``task.measure`` where it has several measures."""
    if len(measures) == 1:
        return list(tasks)
    return [f"{task}.{measure}" for task in tasks for measure in measures]


def _check(experiments: Experiments) -> None:
    """Every name stands for something."""
    for profile in experiments.profiles.values():
        _check_profile(experiments, profile)
    for table in experiments.tables.values():
        where = f"{experiments.path}: table {table.name}"
        for task in table.tasks:
            if task not in experiments.tasks:
                raise UsageError(f"{where}: no task is called '{task}'{did_you_mean(task, experiments.tasks)}")
        for measure in table.measures:
            if measure not in MEASURES:
                raise UsageError(f"{where}: no measure is called '{measure}'{did_you_mean(measure, MEASURES)}")
        if table.protocol not in experiments.protocols:
            raise UsageError(f"{where}: no protocol is called '{table.protocol}'")
        if table.baseline is not None and table.baseline not in [arm.name for arm in table.arms]:
            raise UsageError(f"{where}: the baseline '{table.baseline}' is no arm of it")
        for arm in table.arms:
            for task in arm.tasks:
                if task not in table.tasks:
                    raise UsageError(f"{where}, arm {arm.name}: '{task}' is no task of this table")
                for key in arm.tasks[task]:
                    if key not in CHANGES:
                        raise UsageError(
                            f"{where}, arm {arm.name}, task {task} has no field '{key}'{did_you_mean(key, CHANGES)}"
                        )
            for role in {arm.backbone, *(arm.on(task).backbone for task in table.tasks)}:
                for profile in experiments.profiles.values():
                    if role not in profile.backbones:
                        raise UsageError(
                            f"{where}, arm {arm.name}: profile {profile.name} has no backbone '{role}'"
                            f"{did_you_mean(role, profile.backbones)}"
                        )


def _check_profile(experiments: Experiments, profile: Profile) -> None:
    where = f"{experiments.path}: profile {profile.name}"
    for name in profile.protocols:
        if name not in experiments.protocols:
            raise UsageError(f"{where}: no protocol is called '{name}'{did_you_mean(name, experiments.protocols)}")
        experiments.protocol(name, profile)  # says which field there is not
    named = [
        *profile.tasks,
        *(task for backbone in profile.backbones.values() for task in backbone.tasks),
        *(task for name in experiments.protocols for task in experiments.protocol(name, profile).tasks),
    ]
    for task in named:
        if task not in experiments.tasks:
            raise UsageError(f"{where}: no task is called '{task}'{did_you_mean(task, experiments.tasks)}")
