"""Configs and what else ships beside the code, found by name."""

from pathlib import Path
from typing import Any

from fpt_lightning.errors import UsageError, did_you_mean
from fpt_lightning.plain_yaml import faults_named, load_plain


def shipped(name: str) -> Path:
    """A file or folder that ships with the package: inside it where it is installed, beside ``src`` in a checkout."""
    package = Path(__file__).parent
    installed = package / name
    return installed if installed.exists() else package.parents[1] / name


def find_config(name: str) -> str:
    """Finds a config: a file from here, or one that is shipped, with or without ``configs/`` before its name.

    Raises:
        UsageError: If there is no such file, or it is not YAML.
    """
    folder = shipped("configs")
    for path in (Path(name), folder / name.removeprefix("configs/")):
        if path.is_file():
            read_config(path)
            return str(path)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml"))
    if not name.endswith((".yaml", ".yml")) and "/" in name:
        raise UsageError(f"there is no run folder or config {name}")
    raise UsageError(
        f"config '{name}' is neither a file here nor shipped{did_you_mean(name.removeprefix('configs/'), names)}\n"
        f"Shipped are {', '.join(name for name in names if '/' not in name)}, "
        f"and more in the folders {', '.join(sorted({name.partition('/')[0] for name in names if '/' in name}))} "
        f"of {folder}."
    )


def read_config(path: Path) -> Any:
    """The content of a config.

    Raises:
        UsageError: If it cannot be read, is not YAML, or does not say one thing, see :mod:`fpt_lightning.plain_yaml`.
    """
    with faults_named(f"config {path}"):
        return load_plain(path.read_text(encoding="utf-8"))
