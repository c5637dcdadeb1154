"""How what trains moves: the optimizer, a learning rate for each part, the schedule and its warm-up."""

import inspect
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from fpt_lightning.errors import UsageError, did_you_mean, first_line
from fpt_lightning.models.fpt import FrozenPretrainedTransformer

RATES = {"optimizer": "lr", "lr_scheduler": "max_lr"}
"""The argument of a class that is the learning rate, which ``model.lr`` and ``model.part_lr`` give."""

T = TypeVar("T")

BY_VALIDATION = 2**62
"""Epochs between two of a plateau's steps that Lightning makes: none, each validation makes one."""


def check_rates(lr: float, part_lr: Mapping[str, float], model: FrozenPretrainedTransformer) -> None:
    """Compares the learning rates, that of single parts and of all others, with what trains.

    Raises:
        UsageError: If nothing trains, a rate is not above 0, or belongs to a part that does not train.
    """
    trained = {model.places[name].part for name in model.trained_parameters()}
    if not trained:
        raise UsageError("model.trainable is empty: nothing would train")
    for name, rate in {"model.lr": lr, **{f"model.part_lr.{part}": rate for part, rate in part_lr.items()}}.items():
        if rate <= 0:
            raise UsageError(f"{name} must be above 0, got {rate}")
    for part in part_lr:
        if part not in trained:
            raise UsageError(
                f"model.part_lr: no part '{part}' trains{did_you_mean(part, trained)} "
                f"Those that train are {', '.join(sorted(trained))}."
            )


def parameter_groups(
    lr: float, part_lr: Mapping[str, float], model: FrozenPretrainedTransformer
) -> list[dict[str, Any]]:
    """The optimizer's groups: one with ``lr``, and one for each part that has a rate of its own."""
    members: dict[str, list[Any]] = {"": [], **{part: [] for part in part_lr}}
    for name, parameter in model.trained_parameters().items():
        part = model.places[name].part
        members[part if part in part_lr else ""].append(parameter)
    return [{"params": parameters, "lr": part_lr.get(part, lr)} for part, parameters in members.items() if parameters]


def chosen(**choices: Mapping[str, Any] | str | None) -> dict[str, dict[str, Any] | None]:
    """What was chosen for ``optimizer`` and ``lr_scheduler``, by :func:`chosen_class`."""
    return {option: chosen_class(choice, option) for option, choice in choices.items()}


def chosen_class(choice: Mapping[str, Any] | str | None, option: str) -> dict[str, Any] | None:
    """What a config or a user of Python chose, as plain values that a checkpoint can hold.

    Args:
        choice: A class by its path or, of torch, its name alone; or ``class_path`` and ``init_args``, as LightningCLI
            writes them; None for the default.
        option: ``optimizer`` or ``lr_scheduler``.

    Raises:
        UsageError: If an argument is neither number nor text nor a list of them, or it is the learning rate.
    """
    if choice is None:
        return None
    if isinstance(choice, str):
        choice = {"class_path": choice}
    arguments = {name: value for name, value in dict(choice.get("init_args") or {}).items() if name != RATES[option]}
    if len(arguments) < len(choice.get("init_args") or {}):
        raise UsageError(rate_given_twice(option))
    for name, value in arguments.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise UsageError(
                f"{option}.{name} must be a number, a word or a list, which a checkpoint can hold: "
                "for anything else override FPTClassifier.configure_optimizers"
            ) from error
    return {"class_path": str(choice["class_path"]), "init_args": arguments}


def build_optimizer(choice: Mapping[str, Any] | None, groups: Sequence[dict[str, Any]], lr: float) -> Optimizer:
    """The optimizer of these groups; without a choice Adam with torch's defaults.

    Raises:
        UsageError: If there is no such class, or it does not take the arguments or what trains.
    """
    if choice is None:
        on_gpu = all(parameter.is_cuda for group in groups for parameter in group["params"])
        adam = torch.optim.Adam(groups, lr=lr, foreach=not on_gpu, fused=on_gpu or None)
        # Lightning unscales and clips gradients; it refuses to where an optimizer could unscale them itself
        adam._step_supports_amp_scaling = False
        return adam
    kind = _imported(choice["class_path"], "optimizer", torch.optim, Optimizer)
    if kind is torch.optim.SparseAdam:
        raise UsageError("optimizer: SparseAdam moves sparse gradients alone, and all gradients here are dense")
    return _built(kind, "optimizer", groups, lr=lr, **choice["init_args"])


def build_schedule(
    choice: Mapping[str, Any] | None, warmup_steps: int, optimizer: Optimizer, figures: Sequence[str], steps: float = 0
) -> list[dict[str, Any]]:
    """The schedules of an optimizer's rates, as Lightning takes them; none for rates that stay.

    Rates rise in a line over ``warmup_steps``; the schedule begins behind them and counts from there, in steps. One
    that waits for a plateau is asked at every validation: it watches the loss, or the metric where its ``mode`` is
    ``max``, or what Lightning's own ``ReduceLROnPlateau`` calls its ``monitor``.

    Args:
        choice: The class and its arguments.
        warmup_steps: Steps until the rates are reached; 0 starts with them.
        optimizer: The optimizer, whose rates change at once.
        figures: What validation measures: the loss first, the metric that judges an answer last.
        steps: Steps of the run, which may not be more than the schedule has: torch would end it there.

    Raises:
        UsageError: If there is no such class, it does not take the arguments or the optimizer, it has fewer steps, or
            validation does not measure what it watches.
    """
    warm = None
    if warmup_steps:
        warm = LinearLR(optimizer, start_factor=1 / warmup_steps, total_iters=max(1, warmup_steps - 1))
    if choice is None:
        return [] if warm is None else [_each_step(warm)]
    kind = _imported(choice["class_path"], "lr_scheduler", torch.optim.lr_scheduler, LRScheduler)
    arguments = dict(choice["init_args"])
    if RATES["lr_scheduler"] in inspect.signature(kind).parameters:
        arguments[RATES["lr_scheduler"]] = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    scheduler = _built(kind, "lr_scheduler", optimizer, **arguments)
    total = getattr(scheduler, "total_steps", None)
    if total is not None and steps - warmup_steps > total:
        raise UsageError(
            f"lr_scheduler: {kind.__name__} has {total} steps in all, trainer.max_steps is {steps:.0f}"
            + (f", less model.warmup_steps {warmup_steps}" if warmup_steps else "")
        )
    if isinstance(scheduler, ReduceLROnPlateau):
        monitor = getattr(scheduler, "monitor", figures[0] if scheduler.mode == "min" else figures[-1])
        if monitor not in figures:
            raise UsageError(
                f"lr_scheduler.monitor: validation measures no '{monitor}'{did_you_mean(monitor, figures)} "
                f"It measures {', '.join(figures)}."
            )
        plateau = {"scheduler": scheduler, "monitor": monitor, "interval": "epoch", "frequency": BY_VALIDATION}
        return [plateau] if warm is None else [_each_step(warm), plateau]
    if warm is None:
        return [_each_step(scheduler)]
    return [_each_step(SequentialLR(optimizer, [warm, scheduler], milestones=[warmup_steps]))]


def _each_step(scheduler: LRScheduler) -> dict[str, Any]:
    return {"scheduler": scheduler, "interval": "step"}


def _imported(path: str, option: str, home: Any, base: type[T]) -> type[T]:
    """The class of a path, or of a name alone in torch's module."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module) if module else home, name)
    except (ImportError, AttributeError) as error:
        known = [known for known, kind in vars(home).items() if isinstance(kind, type) and issubclass(kind, base)]
        raise UsageError(f"{option}: no class is called '{path}'{did_you_mean(name, known)}") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UsageError(f"{option}: {path} is no {base.__name__}")
    return found


def _built(kind: type[T], option: str, *args: Any, **kwargs: Any) -> T:
    try:
        return kind(*args, **kwargs)
    except (TypeError, ValueError, KeyError) as error:
        raise UsageError(f"{option}: {kind.__name__} refuses: {first_line(error)}") from error


def rate_given_twice(option: str) -> str:
    """What is wrong with ``optimizer.lr`` and ``lr_scheduler.max_lr``."""
    return f"the learning rate is model.lr, that of single parts model.part_lr: leave {option}.{RATES[option]} away"
