"""The parser of the command line: short messages for wrong words, and configs of one command that serve another."""

import dataclasses
import re
from enum import Enum
from textwrap import shorten
from typing import Any, Never

import yaml
from jsonargparse import Namespace, get_loader, set_dumper, set_loader
from lightning.pytorch.cli import LightningArgumentParser, ReduceLROnPlateau
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fpt_lightning.command_line.option_checks import imported, options_of
from fpt_lightning.errors import UsageError, brief, did_you_mean
from fpt_lightning.models.lora import LoraOptions
from fpt_lightning.plain_yaml import load_plain
from fpt_lightning.training.optimizer import RATES, rate_given_twice

_JSONARGPARSES_OWN = get_loader("yaml")


def _load(text: str) -> Any:
    """What jsonargparse makes of an option or of a file that one names, where that says one thing."""
    try:
        load_plain(text)
    except (ValueError, RecursionError) as error:
        shown = shorten(text, 60, placeholder=" ...")
        raise UsageError(f"{'nested too deep' if isinstance(error, RecursionError) else error}: {shown}") from error
    return _JSONARGPARSES_OWN(text)


set_loader("yaml", _load, exceptions=(yaml.YAMLError,))


class _Dumper(yaml.SafeDumper):
    """Writes a default that is a member of an enumeration, as Lightning's ``Timer`` has one, as its value."""


_Dumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(member.value))


def _dump(values: Any) -> str:
    return str(yaml.dump(values, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False))


set_dumper("yaml", _dump)


class ArgumentParser(LightningArgumentParser):
    """LightningCLI's parser with errors of two lines instead of two hundred.

    Attributes:
        elsewhere: Options of other commands, which a config may hold: one that a run saved serves every command.
    """

    elsewhere: frozenset[str] = frozenset()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Namespace:
        """Reads a config without the options that only other commands have.

        Raises:
            UsageError: If a group of options is none; jsonargparse would take it for one without any.
        """
        config = yaml.safe_load(content)
        for name in (self.groups or {}).keys() - {"model", "data", *RATES}:
            if isinstance(config, dict) and name in config and not isinstance(config[name], dict | str):
                raise UsageError(f"{name} holds options, each with its value; got {brief(config[name])}")
        if isinstance(config, dict) and (foreign := self.elsewhere & config.keys() - self.get_defaults().keys()):
            content = yaml.safe_dump({name: value for name, value in config.items() if name not in foreign})
        return super().parse_string(content, *args, **kwargs)

    def add_subcommands(self, *args: Any, **kwargs: Any) -> Any:
        """Keeps the parsers of the subcommands: an error in a config file reaches the main parser alone."""
        self._commands = super().add_subcommands(*args, **kwargs)
        return self._commands

    def add_run_options(self) -> None:
        """Adds where a run lies, and what it may keep for others."""
        folder_help = "Folder of the run; by default runs/TASK/NUMBER."
        self.add_argument("--run_folder", type=str | None, default=None, help=folder_help)
        self.add_argument("--overwrite", action="store_true", help="Make a run anew, or go on with a finished one.")
        cache_help = (
            "Compute what an output layer that trains alone, without dropout, reads: once for all steps and runs."
        )
        self.add_argument("--cache_features", type=bool, default=False, help=cache_help)

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
        raise UsageError(f"{self._summarise(message)}\n`fpt COMMAND --help` lists the options.") from ex

    def _summarise(self, message: str) -> str:
        path = ".".join(re.findall(r'[Kk]ey "([^"]+)"', message))
        if re.search(r"arguments are required: .*\bdata$", message):
            return "no task is chosen: pass a config of one, such as --config bit_xor.yaml"
        if re.search(r"arguments are required: .*\bmodel$", message):
            return "model is null: leave it out, or name a class"
        if match := re.search(r"(?:unrecognized arguments|ambiguous option): (?:--)?([^\s=]+)", message):
            return _no_such_option(match[1], self)
        if match := re.search(r"Subcommand '(\w+)' does not accept (?:nested key|option) '([^']+)'", message):
            return _no_such_option(match[2], self._commands.choices[match[1]])
        if match := re.search(r"argument --(model|data|optimizer|lr_scheduler): expected one argument", message):
            return f"--{match[1]}, or an option of it such as --{match[1]}.NAME, stands without its value"
        match = re.search(r"class_path '([^']+)':\s+(.+)", message, re.DOTALL)
        if match and (said := _said_of_a_class(path, match[1], match[2])):
            return said
        if match := re.search(r"Import path (\S+) does not correspond to a subclass of (\w+)", message):
            return f"{path}: {match[1]} is not a {match[2]}"
        if match := re.search(r"Expected a dot import path string: (.*)", message):
            return f"{path}: no class is called {brief(match[1])}".removeprefix(": ")  # of --model.help CLASS
        if match := re.search(r"Expected an? (.+?)[.:] Got value: (.*)", message):
            return f"{path}: expected {_kinds(match[1])}, got {brief(match[2])}"
        if match := re.search(r"Not a valid subclass of (\w+)\. Got value: (.*)", message):
            return f"{path}: expected {match[1]}, got {brief(match[2])}"
        if match := re.search(r".*Subtypes: \[(.+?)\]\n(?:.*?)Given value: (.*?)(?:\n|$)", message, re.DOTALL):
            kinds = _kinds(match[1]).removesuffix(" or null" if path in ("model", "data") else "")
            said = f"{path}: expected {kinds}, got {brief(match[2])}"
            if path.endswith("model.lora"):
                said += f": its fields are {', '.join(field.name for field in dataclasses.fields(LoraOptions))}"
            return said
        if match := re.search(r"Unable to load config (.+)", message):
            return f"{path} holds options, or names a file that does; got {match[1]}"
        if match := re.search(r"Unexpected config: (.*)", message):
            return f"a config holds options, such as `trainer: {{max_steps: 100}}`; got {brief(match[1])}"
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        return " ".join(lines[:2])[:500]


def _said_of_a_class(path: str, owner: str, message: str) -> str | None:
    """What is wrong with the options of a class, where it is none of their values."""
    name = owner.rpartition(".")[2]
    if match := re.match(r"Option '([^']+)' is not accepted", message):
        if RATES.get(path) == match[1]:
            return rate_given_twice(path)
        known = options_of(imported(owner))
        return (
            f"{path}: {name} has no option '{match[1]}'{did_you_mean(match[1], known)} "
            f"Its options are {', '.join(known)}."
        )
    if match := re.match(r"the following arguments are required: (.+)", message):
        return f"{name} needs {', '.join(f'{path}.{option}' for option in match[1].split(', '))}"
    if match := re.match(r"((?:No module|module '|cannot import) ?.+)", message):
        return f"{path}: {owner} cannot be imported: {match[1]}. PYTHONPATH=FOLDER says where modules of yours lie."
    if "object has no attribute 'keys'" in message:
        return f"{path}: init_args holds the options of {name}, each with its value"
    return None


def _no_such_option(option: str, parser: LightningArgumentParser) -> str:
    known = list(parser.get_defaults().keys())
    head = option.partition(".")[0]
    heads = {key.partition(".")[0] for key in known}
    nearest = did_you_mean(option, known) if head in heads else did_you_mean(head, heads)
    return f"there is no option '{option}'{nearest}"


def _as_dict(choice: Namespace | None) -> dict[str, Any] | None:
    return None if choice is None else choice.as_dict()


def _kinds(types: str) -> str:
    """``<class 'a.B'>, typing.Literal['c', 'd'], <class 'NoneType'>`` as ``B, 'c', 'd' or null``."""
    plain = re.sub(r"<class '([^']+)'>", r"\1", types)
    plain = re.sub(r"(?:\w+\.)+(\w+)", r"\1", plain)
    plain = re.sub(r"Literal\[([^]]+)\]", r"\1", plain)
    once: dict[str, str] = {}
    for kind in plain.replace("NoneType", "null").split(", "):
        once.setdefault(kind.strip("'"), kind)  # a precision is 16 and '16'
    return " or ".join(", ".join(once.values()).rsplit(", ", 1))
