"""Configs found by name, and short messages for wrong ones."""

import importlib
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Never

from lightning.pytorch.cli import LightningArgumentParser

from fpt_lightning.errors import UsageError, did_you_mean


def config_folder() -> Path:
    """Where the shipped configs lie: inside an installed package, or beside ``src`` in a checkout."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parents[1] / "configs"


def find_config(name: str) -> str:
    """Finds a config: a file from here, or one that is shipped, with or without ``configs/`` before its name.

    Raises:
        UsageError: If there is no such file.
    """
    if Path(name).is_file():
        return name
    folder = config_folder()
    shipped = folder / name.removeprefix("configs/")
    if shipped.is_file():
        return str(shipped)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml"))
    raise UsageError(
        f"config '{name}' is neither a file here nor shipped{did_you_mean(name.removeprefix('configs/'), names)}\n"
        f"Shipped are {', '.join(names)}."
    )


def with_configs_found(words: Sequence[str]) -> list[str]:
    """Replaces the value of every ``--config`` (``-c``) by the path of the file it names."""
    found: list[str] = []
    for word in words:
        if found and found[-1] in ("--config", "-c"):
            found.append(find_config(word))
        elif word.startswith("--config="):
            found.append(f"--config={find_config(word.removeprefix('--config='))}")
        else:
            found.append(word)
    return found


class ArgumentParser(LightningArgumentParser):
    """LightningCLI's parser with errors of two lines instead of two hundred."""

    def error(self, message: str, ex: Exception | None = None) -> Never:
        """Raises the error that :mod:`fpt_lightning.main` prints.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"{self._summarise(message)}\n`{self.prog} --help` lists every option.") from ex

    def _summarise(self, message: str) -> str:
        keys = re.findall(r'[Kk]ey "([^"]+)"', message)
        path = ".".join(keys)
        if match := re.search(r"unrecognized arguments: (?:--)?([^\s=]+)", message):
            return self._unknown(match[1])
        if match := re.search(r"does not accept (?:nested key|option) '([^']+)'", message):
            return self._unknown(match[1])
        if match := re.search(r"class_path '([^']+)':\s+Option '([^']+)' is not accepted", message):
            owner, option = match.groups()
            known = options_of(owner)
            return (
                f"{path}: {owner.rpartition('.')[2]} has no option '{option}'{did_you_mean(option, known)} "
                f"Its options are {', '.join(known)}."
            )
        if match := re.search(r"Expected an? (.+?)[.:] Got value: (.*)", message):
            return f"{path}: expected {_plain(match[1])}, got {match[2]!r}"
        if match := re.search(r"Expected a dot import path string: (.*)", message):
            return f"{path}: no class is called '{match[1]}'"
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        return " ".join(lines[:2])

    def _unknown(self, option: str) -> str:
        known = self.get_defaults().keys()
        return f"there is no option '{option}'{did_you_mean(option, known)}"


def options_of(class_path: str) -> list[str]:
    """The names that a class takes, those of its bases included as far as it passes them on."""
    module, _, name = class_path.rpartition(".")
    names: list[str] = []
    for base in getattr(importlib.import_module(module), name).__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        kinds = {parameter.kind for parameter in parameters}
        names += [
            parameter.name
            for parameter in parameters
            if parameter.name != "self" and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ]
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return list(dict.fromkeys(names))


def _plain(type_name: str) -> str:
    """``<class 'int'>`` as ``int``."""
    return re.sub(r"<class '([^']+)'>", r"\1", type_name)
