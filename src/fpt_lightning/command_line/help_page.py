"""``fpt COMMAND --help``: the options that people want first, with the values that they have in the configs given."""

import re
import shutil
import textwrap
from argparse import Action
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Never

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from fpt_lightning.command_line.arguments import ArgumentParser
from fpt_lightning.command_line.option_checks import imported
from fpt_lightning.config_files import shipped
from fpt_lightning.data.datamodule import FPTDataModule
from fpt_lightning.errors import UsageError, did_you_mean
from fpt_lightning.training.classification import FPTClassifier

COMMON: Mapping[str, Sequence[str]] = {
    "trainer": (
        "max_steps", "max_epochs", "max_time", "val_check_interval", "limit_val_batches", "accelerator", "devices",
        "precision", "accumulate_grad_batches", "gradient_clip_val", "log_every_n_steps", "fast_dev_run", "logger",
    ),
    "early_stopping": ("patience", "monitor", "mode"),
    "checkpoint": ("monitor", "mode"),
}  # fmt: skip
"""What the first page shows of a group; of model, data and command it shows all."""

OF_CLASSES: Mapping[str, type] = {"model": FPTClassifier, "data": FPTDataModule}
LINKED = {"task", "seed"}
COLUMN = 40


@dataclass(frozen=True)
class Option:
    """An option as a page shows it: its name, the value that it has, what is said of it, and the values it may have."""

    name: str
    value: Any
    about: str
    choices: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The value as a config has it, where it is short."""
        if type(self.value) not in (str, bool, int, float, list, dict):
            return ""
        text = yaml.safe_dump(self.value, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()
        return textwrap.shorten(text, 24, placeholder="...")


def asked_for(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Whether a command line asks for help.

    Returns:
        The group of options asked for, "" for the first page, None where no help is asked for; and the other words.
    """
    asked, others = None, []
    rest = iter(range(len(words)))
    for place in rest:
        word, following = words[place], words[place + 1 : place + 2]
        alone = not following or following[0].startswith("-")
        if word in ("--help", "-h"):
            asked = "" if alone else following[0]
            if not alone:
                next(rest)
        elif word.removeprefix("--").removesuffix(".help") in OF_CLASSES and word.endswith(".help") and alone:
            asked = word.removeprefix("--").removesuffix(".help")
        else:
            others.append(word)
    return asked, others


class HelpPage:
    """What is known of the options of a command.

    Args:
        command: The command.
        parser: Its parser.
        config: Its options, as far as they are known.
    """

    def __init__(self, command: str, parser: LightningArgumentParser, config: Mapping[str, Any]) -> None:
        self.command = command
        self.about = (parser.description or "").strip()
        self.width = min(120, shutil.get_terminal_size((120, 24)).columns)
        self.classes = {name: _class_of(config.get(name), base) for name, base in OF_CLASSES.items()}
        self.groups: dict[str, list[Option]] = {
            "command": [],
            **{name: _options_of_class(name, owner, config) for name, owner in self.classes.items()},
        }
        loads = parser.groups or {}  # --trainer FILE and its like
        for action in parser._actions:
            group, _, name = action.dest.rpartition(".")
            if action.option_strings and name != "help" and group not in self.classes and action.dest not in loads:
                value = None if action.dest == "config" else _value(config, action.dest, action.default)
                self.groups.setdefault(group or "command", []).append(_option(action, value))

    def first(self) -> str:
        """The options that people want first, a line each."""
        lines = [f"usage: fpt {self.command} [CONFIG.yaml ...] [RUN] [--OPTION VALUE ...]", *self._wrapped(self.about)]
        for group, title in {
            "command": "the command",
            "model": f"the model, {self.classes['model'].__name__}",
            "data": self._title_of_data(),
            **{group: f"{group}, the most used of {len(self.groups[group])}" for group in COMMON},
        }.items():
            lines += ["", *self._wrapped(f"{title}:")]
            kept = COMMON.get(group)
            lines += [
                self._line(option)
                for option in self.groups[group]
                if kept is None or option.name.rpartition(".")[2] in kept
            ]
        said = (
            f"Beside an option stands its value now, in the configs given. `fpt {self.command} --help GROUP` says all "
            f"of a group ({', '.join(self.groups)}), `--help-all` all of all."
        )
        return "\n".join([*lines, "", *self._wrapped(said)])

    def of(self, group: str) -> str:
        """All that is known of a group.

        Raises:
            UsageError: If there is none of that name.
        """
        if group not in self.groups:
            nearest = did_you_mean(group, self.groups)
            raise UsageError(
                f"there is no group '{group}' of options{nearest} The groups are {', '.join(self.groups)}."
            )
        lines: list[str] = []
        for option in self.groups[group]:
            lines += [f"--{option.name} {option.shown}".rstrip(), *self._wrapped(option.about, "    ")]
        return "\n".join(lines)

    def _title_of_data(self) -> str:
        if (task := self.classes["data"]) is not FPTDataModule:
            return f"the task, {task.__name__}"
        names = sorted(path.name for path in shipped("configs").glob("*.yaml"))
        return f"the task (its own options with its config: fpt {self.command} --help CONFIG, of {', '.join(names)})"

    def _line(self, option: Option) -> str:
        left = f"  --{option.name} {option.shown}".rstrip()
        sentence = re.split(r"\. (?=[A-Z])", " ".join(option.about.replace("``", "").split()), maxsplit=1)[0]
        line = f"{left:<{COLUMN}}  {sentence.rstrip('.')}"
        return line if len(line) <= self.width else f"{line[: self.width - 4]} ..."

    def _wrapped(self, text: str, indent: str = "") -> list[str]:
        return textwrap.wrap(
            text.replace("``", ""), self.width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
        )


def _options_of_class(group: str, owner: type, config: Mapping[str, Any]) -> list[Option]:
    """The options of a class as its docstring describes them."""
    parser = ArgumentParser()
    parser.add_class_arguments(owner, group, skip=LINKED)
    given = config.get(group) or {}
    return [
        _option(action, _value({group: given.get("init_args", {})}, action.dest, action.default))
        for action in parser._actions
        if action.dest.startswith(f"{group}.") and not action.dest.endswith(".help")
    ]


def _option(action: Action, value: Any) -> Option:
    listed = re.fullmatch(r"\{(.+)\}", str(action.metavar or ""))  # jsonargparse's way to show them
    choices = tuple(listed[1].split(",")) if listed else ()
    return Option(action.dest, value, action.help or "", choices)


def _class_of(given: Any, base: type) -> type:
    if not given or "class_path" not in given:
        return base
    return imported(given["class_path"])


def _value(config: Mapping[str, Any], name: str, default: Any) -> Any:
    value: Any = config
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None if default == "==SUPPRESS==" else default
        value = value[part]
    return value


def show_help(command: str, parser: ArgumentParser, own: Any, group: str, words: Sequence[str]) -> Never:
    """Prints the page of a group of a command's options, or the first, and ends.

    Args:
        command: The command.
        parser: That of all commands.
        own: That of this one.
        group: The group; empty for the first page.
        words: The command line without what asks for help: configs say the values that options have.
    """
    try:
        config = parser.parse_args(list(words))[command].as_dict()
    except UsageError:  # no task is chosen yet
        config = own.get_defaults().as_dict()
    page = HelpPage(command, own, config)
    print(page.of(group) if group else page.first())
    raise SystemExit(0)
