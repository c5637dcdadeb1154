"""The parser of the command line: configs found by name, short messages for wrong ones."""

import importlib
import inspect
import math
import re
from collections.abc import Sequence
from typing import Any, Never

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, ReduceLROnPlateau
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fpt_lightning.config_files import find_config
from fpt_lightning.errors import UsageError, did_you_mean

# what no config gives: the command line does
LINKED = ("self", "task", "seed", "params", "optimizer", "lr_scheduler", "max_lr")
RATES = {"optimizer": "lr", "lr_scheduler": "max_lr"}
"""The argument of a class that is the learning rate, which ``model.lr`` and ``model.part_lr`` give."""


def with_configs_found(words: Sequence[str]) -> list[str]:
    """Replaces the value of every ``--config`` (``-c``) by the path of the file it names."""
    located: list[str] = []
    for word in words:
        if located and located[-1] in ("--config", "-c"):
            word = find_config(word)
        elif word.startswith("--config="):
            word = f"--config={find_config(word.removeprefix('--config='))}"
        located.append(word)
    return located


class ArgumentParser(LightningArgumentParser):
    """LightningCLI's parser with errors of two lines instead of two hundred."""

    def add_subcommands(self, *args: Any, **kwargs: Any) -> Any:
        """Keeps the parsers of the subcommands: an error in a config file reaches the main parser alone."""
        self._commands = super().add_subcommands(*args, **kwargs)
        return self._commands

    def add_optimizer_options(self) -> None:
        """Adds ``optimizer`` and ``lr_scheduler``, which the model gets as class and arguments, not built.

        As LightningCLI's own, but for the rates: these are the model's, which a sweep changes.
        """
        for option, bases in {"optimizer": (Optimizer,), "lr_scheduler": (ReduceLROnPlateau, LRScheduler)}.items():
            skip = {"params", "optimizer", RATES[option]}
            self.add_subclass_arguments(bases, option, instantiate=False, fail_untyped=False, skip=skip)
            self.link_arguments(option, f"model.init_args.{option}", compute_fn=_as_dict)

    def error(self, message: str, ex: Exception | None = None) -> Never:
        """Raises a UsageError, but for a parser that jsonargparse makes for the options of a single class."""
        if not self.exit_on_error:
            super().error(message, ex)
        raise UsageError(f"{self._summarise(message)}\n`fpt COMMAND --help` lists every option.") from ex

    def _summarise(self, message: str) -> str:
        keys = re.findall(r'[Kk]ey "([^"]+)"', message)
        path = ".".join(keys)
        if re.search(r"arguments are required: .*\bdata$", message):
            return "no task is chosen: pass a config of one, such as --config bit_xor.yaml"
        if match := re.search(r"unrecognized arguments: (?:--)?([^\s=]+)", message):
            return _no_such_option(match[1], self)
        if match := re.search(r"Subcommand '(\w+)' does not accept (?:nested key|option) '([^']+)'", message):
            return _no_such_option(match[2], self._commands.choices[match[1]])
        if match := re.search(r"class_path '([^']+)':\s+Option '([^']+)' is not accepted", message):
            owner, option = match.groups()
            if RATES.get(path) == option:
                return rate_given_twice(path)
            known = options_of(owner)
            return (
                f"{path}: {owner.rpartition('.')[2]} has no option '{option}'{did_you_mean(option, known)} "
                f"Its options are {', '.join(known)}."
            )
        if match := re.search(r"class_path '([^']+)':\s+the following arguments are required: (.+)", message):
            missing = ", ".join(f"{path}.{option}" for option in match[2].split(", "))
            return f"{match[1].rpartition('.')[2]} needs {missing}"
        if match := re.search(r"class_path '([^']+)':\s+((?:No module|module '|cannot import) ?.+)", message):
            return (
                f"{path}: {match[1]} cannot be imported: {match[2]}. PYTHONPATH=FOLDER says where modules of yours lie."
            )
        if match := re.search(r"Expected an? (.+?)[.:] Got value: (.*)", message):
            return f"{path}: expected {_plain(match[1])}, got {match[2]!r}"
        if match := re.search(r"typing\.Literal\[(.+?)\].*?Given value: (\S+)", message, re.DOTALL):
            return f"{path}: expected one of {match[1]}, got {match[2]!r}"
        if match := re.search(r"not correspond to a subclass of (\w+).*Given value: (\S+)", message, re.DOTALL):
            return f"{path}: {match[2]} is no {match[1]}"
        if match := re.search(r"Expected a dot import path string: (.*)", message):
            return f"{path}: no class is called '{match[1]}'"
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        return " ".join(lines[:2])


def _no_such_option(option: str, parser: LightningArgumentParser) -> str:
    known = list(parser.get_defaults().keys())
    head = option.partition(".")[0]
    heads = {key.partition(".")[0] for key in known}
    nearest = did_you_mean(option, known) if head in heads else did_you_mean(head, heads)
    return f"there is no option '{option}'{nearest}"


def rate_given_twice(option: str) -> str:
    """What is wrong with ``optimizer.lr`` and ``lr_scheduler.max_lr``."""
    return f"the learning rate is model.lr, that of single parts model.part_lr: leave {option}.{RATES[option]} away"


def refuse_infinite(value: Any, option: str = "") -> None:
    """Refuses an option that is NaN or infinite, alone or within a list or mapping: nothing can be compared with it."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{option} must be a finite number, got {value}")
    if isinstance(value, dict | list | tuple):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            refuse_infinite(part, option if name == "init_args" else f"{option}.{name}".removeprefix("."))


def options_of(class_path: str) -> list[str]:
    """The names that a class takes, those of its bases included as far as it passes them on."""
    module, _, name = class_path.rpartition(".")
    names: list[str] = []
    for base in getattr(importlib.import_module(module), name).__mro__:
        if "__init__" not in vars(base):
            continue
        kinds = {name: parameter.kind for name, parameter in inspect.signature(base.__init__).parameters.items()}
        names += [name for name, kind in kinds.items() if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        if inspect.Parameter.VAR_KEYWORD not in kinds.values():
            break
    return [name for name in dict.fromkeys(names) if name not in LINKED]


def _as_dict(choice: Namespace | None) -> dict[str, Any] | None:
    return None if choice is None else choice.as_dict()


def _plain(type_name: str) -> str:
    """``<class 'int'>`` as ``int``, ``typing.Literal['a', 'b']`` as ``one of 'a', 'b'``."""
    return re.sub(r"typing\.Literal\[([^]]+)\]", r"one of \1", re.sub(r"<class '([^']+)'>", r"\1", type_name))
