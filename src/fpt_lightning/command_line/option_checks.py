"""Values of options that their types allow and that mean nothing."""

import importlib
import inspect
import math
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, get_args, get_type_hints

from fpt_lightning.errors import UsageError, at_least, brief, check_name, first_line
from fpt_lightning.training.optimizer import RATES

AT_LEAST = {
    "trainer.accumulate_grad_batches": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.num_nodes": 1,
    "trainer.gradient_clip_val": 0,
    "trainer.log_every_n_steps": 0,
    "trainer.min_epochs": 0,
    "trainer.min_steps": 0,
    "trainer.num_sanity_val_steps": -1,
    "early_stopping.min_delta": 0,
    "early_stopping.patience": 0,
    "progress.refresh_rate": 0,
    **{
        f"{name}.{option}": least
        for name in ("checkpoint", "last_checkpoint")
        for option, least in {"save_top_k": -1, "every_n_train_steps": 0, "every_n_epochs": 0}.items()
    },
}
LINKED = ("self", "task", "seed", "params", "optimizer", "lr_scheduler", "max_lr")
"""What no config gives: the command line does."""
ABOVE_ZERO = ("trainer.limit_train_batches", "trainer.val_check_interval")
NO_LIMIT = ("trainer.max_steps", "trainer.max_epochs")  # -1 means none
WAYS_OUT = {
    "No supported gpu backend found": "--trainer.accelerator cpu",
    "`val_check_interval` should be an integer": "for a share of an epoch --trainer.check_val_every_n_epoch 1",
}
"""What to add where Lightning's Trainer says so, by how its sentences begin."""
CHOICES = {f"{name}.mode": ("min", "max") for name in ("checkpoint", "last_checkpoint", "early_stopping")}


def check_options(config: Mapping[str, Any], groups: Mapping[str, type]) -> None:
    """Refuses values that no run could work with.

    Args:
        config: The options of a command, classes as ``class_path`` and ``init_args``.
        groups: The class whose options stand under a name: the Trainer, the callbacks.

    Raises:
        UsageError: If a number is NaN, infinite or too small, a name too long or not printable, or null where the type
            of an option does not have it, or the model does not take the optimizer.
    """
    refuse_infinite(config)
    _refuse_odd_names(config)
    for name in ("seed_everything", "data_seed"):
        if (seed := config.get(name)) is not None and not 0 <= seed < 2**32:
            raise UsageError(f"{name} lies between 0 and 2**32 - 1, got {seed}")
    if (step := config.get("pause_at")) is not None and step < 1:
        raise UsageError(f"pause_at must be at least 1, got {step}")
    for option in RATES:
        if config.get(option) is not None and option not in config["model"]["init_args"]:
            name = config["model"]["class_path"].rpartition(".")[2]
            raise UsageError(f"{name} has {option} and rates of its own: leave --{option} away")
    for name, owner in groups.items():
        _refuse_null(config[name], name, owner)
    for name in config.keys() - groups:
        for option, spec in _classes(config[name], name):
            _refuse_null(spec["init_args"], option, imported(spec["class_path"]))
    _check_numbers(config)


def trainers_refusal(error: Exception) -> UsageError:
    """What Lightning's Trainer says of its options, and what to add where it does not say that."""
    said = first_line(error)
    add = next((f"; add {option}" for begin, option in WAYS_OUT.items() if said.startswith(begin)), "")
    return UsageError(f"trainer: {said}{add}")


def _refuse_odd_names(config: Mapping[str, Any]) -> None:
    for option in ("arm", "protocol"):
        if (name := config.get(option)) is not None:
            try:
                check_name(name)
            except ValueError as error:
                raise UsageError(f"{option}: {error}") from error


def _check_numbers(config: Mapping[str, Any]) -> None:
    for option, least in AT_LEAST.items():
        at_least(least, **{option: _value(config, option)})
    for option in ABOVE_ZERO:
        value = _value(config, option)
        if isinstance(value, int | float) and value <= 0:
            raise UsageError(f"{option} must be above 0, got {value}")
    for option in NO_LIMIT:
        if (value := _value(config, option)) is not None and value < 1 and value != -1:
            raise UsageError(f"{option} must be at least 1, or -1 for no limit, got {value}")
    for option, choices in CHOICES.items():
        if (value := _value(config, option)) is not None and value not in choices:
            raise UsageError(f"{option} is one of {', '.join(choices)}, not {brief(value)}")


def _value(config: Mapping[str, Any], option: str) -> Any:
    group, _, name = option.partition(".")
    return config.get(group, {}).get(name)


def refuse_infinite(value: Any, option: str = "") -> None:
    """Refuses an option that is NaN or infinite, alone or within a list or mapping: nothing can be compared with it."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{option} must be a finite number, got {value}")
    if isinstance(value, dict | list | tuple):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            refuse_infinite(part, option if name == "init_args" else f"{option}.{name}".removeprefix("."))


def _refuse_null(options: Mapping[str, Any], name: str, owner: type) -> None:
    """Refuses null where the type of an option does not have it: jsonargparse takes it for an option left out."""
    for option, hint in _types(owner).items():
        if option in options and options[option] is None and not (hint is Any or NoneType in get_args(hint)):
            kind = hint.__name__ if isinstance(hint, type) else " or ".join(_plain(part) for part in get_args(hint))
            raise UsageError(f"{name}.{option}: expected {kind}, got null")


def _plain(hint: Any) -> str:
    return hint.__name__ if type(hint) is type else str(hint).replace("typing.", "")


def _types(owner: type) -> dict[str, Any]:
    """The types of the options of a class, those of its bases included as far as it passes them on."""
    types: dict[str, Any] = {}
    for base in _that_take_options(owner):
        types = {**get_type_hints(base.__init__), **types}  # type: ignore[misc]
    return {name: types[name] for name in options_of(owner) if name in types}


def options_of(owner: type, linked: tuple[str, ...] = LINKED) -> list[str]:
    """The names that a class takes, those of its bases included as far as it passes them on.

    Args:
        owner: The class.
        linked: What no config gives: the command line does.
    """
    names: list[str] = []
    for base in _that_take_options(owner):
        parameters = inspect.signature(base.__init__).parameters  # type: ignore[misc]
        ordinary = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        names += [name for name, parameter in parameters.items() if parameter.kind in ordinary]
    return [name for name in dict.fromkeys(names) if name not in linked]


def _that_take_options(owner: type) -> Iterator[type]:
    """The class and its bases, down to the first that passes nothing on."""
    for base in owner.__mro__:
        if "__init__" in vars(base):
            yield base
            kinds = [parameter.kind for parameter in inspect.signature(base.__init__).parameters.values()]  # type: ignore[misc]
            if inspect.Parameter.VAR_KEYWORD not in kinds:
                return


def _classes(value: Any, option: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every class within a value, with the option that holds it."""
    if isinstance(value, dict) and isinstance(value.get("init_args"), dict):
        yield option, value
        value = value["init_args"]
    if isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _classes(part, f"{option}.{name}")


def imported(class_path: str) -> type:
    """The class that a path names; an ImportError or AttributeError where there is none."""
    module, _, name = class_path.rpartition(".")
    found: type = getattr(importlib.import_module(module), name)
    return found
