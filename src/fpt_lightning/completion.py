"""``fpt completion SHELL``: the script by which a shell completes commands, options, their values and config names."""

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import fpt_lightning
from fpt_lightning.config_files import find_config, shipped
from fpt_lightning.errors import FPTError
from fpt_lightning.main import COMMANDS, HOME
from fpt_lightning.options import OptionParser

CONFIGS: Mapping[str, str] = {"bash": "_fpt_configs", "zsh": "_fpt_configs"}
TABLES: Mapping[str, str] = {"bash": "_fpt_tables", "zsh": "_fpt_tables"}
PATHS: Mapping[str, str] = {"bash": "_shtab_compgen_files", "zsh": "_files"}
SHELLS = ("bash", "zsh")

Options = dict[str, tuple[str, ...] | None]
"""The values that an option chooses among, which may be any; None of one that takes none."""

BASH = """
_fpt_configs() {{ compgen -W "{configs}" -- "$1"; compgen -f -X '!*.yaml' -- "$1"; compgen -d -S / -- "$1"; }}
_fpt_tables() {{ compgen -W "{tables}" -- "$1"; }}
"""
ZSH = """
_fpt_configs() {{ compadd {configs}; _files }}
_fpt_tables() {{ compadd {tables} }}
"""


def completion(words: Sequence[str]) -> None:
    """Prints the script for a shell.

    Raises:
        UsageError: If the shell is none that shtab knows.
        FPTError: If shtab is missing.
    """
    parser = OptionParser(prog="fpt completion", description="Print the script that makes a shell complete fpt.")
    parser.add_argument("shell", choices=SHELLS, help="bash or zsh")
    shell = parser.parse_args(words).shell
    try:
        shtab: Any = import_module("shtab")
    except ImportError as error:
        raise FPTError(
            'fpt completion needs a package that is missing: pip install "fpt-lightning[completion]"'
        ) from error
    from fpt_lightning.experiments.tables import read_experiments

    names = {
        "configs": _words(path.relative_to(shipped("configs")).as_posix() for path in _configs()),
        "tables": _words(read_experiments(None).tables),
    }
    preamble = {"bash": BASH.format(**names), "zsh": ZSH.format(**names)}
    print(shtab.complete(_all_options(), shell=shell, preamble=preamble))


def _words(names: Iterable[str]) -> str:
    """Names for a list of the shell, without those that it would take for more than a word."""
    return " ".join(name for name in names if shlex.quote(name) == name)


def _configs() -> list[Any]:
    return sorted(shipped("configs").rglob("*.yaml"))


def _all_options() -> argparse.ArgumentParser:
    """Every command with its options, for argparse."""
    parser = argparse.ArgumentParser("fpt")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--debug", action="store_true")
    commands = parser.add_subparsers()
    for command, about in COMMANDS.items():
        own = commands.add_parser(command, help=about)
        options = _plain_options(command) if command in HOME else _lightning_options(command)
        if command not in HOME:
            own.add_argument("--help-all", action="store_true")
        for name, choices in sorted(options.items()):
            if choices is None:
                own.add_argument(f"--{name}", action="store_true")
                continue
            added: Any = own.add_argument(f"--{name}", choices=choices or None, metavar="VALUE")
            if not choices:
                added.complete = CONFIGS if name == "config" else PATHS
        if command == "completion":
            own.add_argument("shell", choices=SHELLS)
            continue
        of_run = command in ("attention", "analyze")
        of_table = command in HOME and not of_run
        what: Any = own.add_argument("what", nargs="?" if of_table else "*")
        what.complete = TABLES if of_table else PATHS if of_run else CONFIGS
    return parser


def _plain_options(command: str) -> Options:
    """The options of a command that is not Lightning's, from its own help."""
    with contextlib.redirect_stdout(io.StringIO()) as page, contextlib.suppress(SystemExit):
        getattr(import_module(HOME[command]), command)(["--help"])
    options: Options = {}
    for name, value in re.findall(r"^  --([\w-]+)(?: (\S+))?", page.getvalue(), re.MULTILINE):
        options[name] = tuple(value.strip("{}").split(",")) if value.startswith("{") else () if value else None
    return options


def _lightning_options(command: str) -> Options:
    """The options of a Lightning command, with those of every model and task of the package."""
    import lightning as L

    from fpt_lightning.command_line.help_page import HelpPage
    from fpt_lightning.command_line.parsed import ParsedCommand
    from fpt_lightning.data.datamodule import FPTDataModule

    parsed = ParsedCommand([command, "--config", find_config("bit_xor.yaml")])
    shipped_classes = [getattr(fpt_lightning, name) for name in fpt_lightning.__all__ if name[0].isupper()]
    known: Options = {}
    for group, base in {"model": L.LightningModule, "data": FPTDataModule}.items():
        for owner in shipped_classes:
            if issubclass(owner, base):
                page = HelpPage(command, parsed._parser(command), {group: {"class_path": _path(owner)}})
                known |= {option.name: option.choices for options in page.groups.values() for option in options}
    return known


def _path(owner: type) -> str:
    return f"{owner.__module__}.{owner.__name__}"
