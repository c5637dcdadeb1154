"""What a table is made of: its columns and rows, and the backbones that rows name, as ``experiments.yaml`` has them."""

from collections.abc import Mapping
from math import isnan, nan
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import force_setattr, replace

from fpt_lightning.experiments.composition import without_init_args
from fpt_lightning.experiments.typed_yaml import Entry

LARGEST = 1e30  # of a number: msgspec has no other way to refuse infinity

Name = Annotated[str, Meta(min_length=1)]
Names = tuple[Name, ...]
Pair = tuple[Name, Name]
Rate = Annotated[float, Meta(gt=0, le=LARGEST)]
Rates = Annotated[tuple[Rate, ...], Meta(min_length=1)]
Seeds = Annotated[tuple[Annotated[int, Meta(ge=0, lt=2**32)], ...], Meta(min_length=1)]
Finite = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]


DECIDED = {"model.lr": "that is lr of arms, backbones and protocols", "seed_everything": "that is seeds of protocols"}
"""What the protocol gives to every run, chosen or a factor in any case, and where a table says it."""

SHARED = dict.fromkeys(
    ("checkpoint.dirpath", "last_checkpoint.dirpath"),
    "is one folder for all runs, each of which keeps checkpoints of its own: leave it out",
)
"""Options that would be of all runs what each has of its own, and why."""


class Configured(Entry, frozen=True):
    """An entry with options of its runs, by dotted name: ``settings``, perhaps those of single tasks in ``tasks``."""

    def __post_init__(self) -> None:
        tasks = getattr(self, "tasks", ())
        of_tasks = {f"tasks.{task}": tasks[task] for task in tasks if isinstance(tasks, Mapping)}
        for path, settings in {"settings": getattr(self, "settings", {}), **of_tasks}.items():
            if not isinstance(settings, Mapping):  # what is of a task is an entry itself
                continue
            for name, value in ((without_init_args(name), value) for name, value in settings.items()):
                if name in SHARED:
                    raise ValueError(f"{path}.{name} {SHARED[name]}")
                if name in self._decided():
                    raise ValueError(f"{path}.{name}: no option here, {self._decided()[name]}")
                if "." not in name and isinstance(value, Mapping):  # which nothing that plans runs would see
                    raise ValueError(
                        f"{path}.{name}: expected options by dotted name, such as {name}.NAME, got a mapping"
                    )

    def _decided(self) -> Mapping[str, str]:
        """Options that something else gives to the runs, and what does."""
        return DECIDED


class Reference(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A figure of a paper: its mean and, where it was given, its standard error, in the column's units."""

    mean: Finite
    standard_error: Annotated[float, Meta(ge=0, le=LARGEST)] | None = None


class Task(Configured, frozen=True):
    """A column: a task config, the paper's learning rate, and what judges a run, the higher the better.

    ``settings`` are options behind those of its config, such as a ``data.fraction``: a column of its own;
    ``chance`` is what guessing reaches, in percent: 0 by default for ``r2``, where the mean is guessed;
    ``reference_split`` is the split that the published figures are of, where it is not the test split.
    """

    name: str
    title: str
    config: Name
    lr: Rate
    chance: Annotated[float, Meta(ge=0, le=100)] = nan
    settings: Mapping[str, Any] = {}
    metric: Literal["accuracy", "r2"] = "accuracy"
    reference_split: Literal["test", "validation"] = "test"

    def __post_init__(self) -> None:
        super().__post_init__()
        if "/" in self.name:
            raise ValueError("name: expected one without '/', as the folders of its runs begin with it")
        if isnan(self.chance):
            if self.metric == "accuracy":
                raise ValueError("chance: expected the accuracy of guessing in percent, got none")
            force_setattr(self, "chance", 0.0)


class Making(Configured, frozen=True):
    """A run whose exported body is the backbone of other runs: the paper's "Bit"."""

    configs: Names
    settings: Mapping[str, Any] = {}

    def _decided(self) -> Mapping[str, str]:
        return {"seed_everything": "a backbone is made with seed 0"}


class Backbone(Configured, frozen=True):
    """What a profile takes for a backbone that arms name by its role, or why the profile leaves it out.

    Its configs stand behind that of the task; ``lr`` is that of the paper protocol where it is not the task's.
    """

    configs: Names = ()
    settings: Mapping[str, Any] = {}
    tasks: Mapping[str, Mapping[str, Any]] = {}
    lr: Rate | None = None
    made_by: Making | None = None
    missing: str | None = None


class Change(Configured, frozen=True):
    """What of an arm is otherwise on a single task: another backbone or learning rate, more configs and options."""

    backbone: str | None = None
    configs: Names = ()
    settings: Mapping[str, Any] = {}
    lr: Rate | None = None


class Arm(Configured, frozen=True):
    """A row of a table.

    Attributes:
        backbone: A role, which the profile turns into configs.
        configs: Configs behind those of the backbone and of the table.
        lr: The learning rate of the paper protocol where it is not the backbone's or the task's.
        reference: The paper's figures in the order of the table's columns, None where it has none.
    """

    name: str
    backbone: str
    configs: Names = ()
    settings: Mapping[str, Any] = {}
    lr: Rate | None = None
    tasks: Mapping[str, Change] = {}
    reference: tuple[Finite | Reference | None, ...] = ()

    def on(self, task: str) -> "Arm":
        """The arm as it is on one task."""
        change = self.tasks.get(task, Change())
        return replace(
            self,
            backbone=change.backbone or self.backbone,
            configs=(*self.configs, *change.configs),
            settings={**self.settings, **change.settings},
            lr=change.lr or self.lr,
        )
