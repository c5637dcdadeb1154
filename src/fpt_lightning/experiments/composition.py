"""Configs and options put together as the command line does it, without importing torch: what a run's id is made of."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from fpt_lightning.config_files import find_config, read_config
from fpt_lightning.errors import UsageError

PLACES = frozenset(
    {
        "baselines",
        "cache_features",
        "checkpoint.auto_insert_metric_name",
        "checkpoint.dirpath",
        "checkpoint.verbose",
        "ckpt_path",
        "data.cache_folder",
        "data.device_resident_mb",
        "data.num_workers",
        "last_checkpoint.auto_insert_metric_name",
        "last_checkpoint.dirpath",
        "last_checkpoint.verbose",
        "pause_at",
        "predictions",
        "progress",
        "protocol",
        "run_folder",
        "test",
        "trainer.accelerator",
        "trainer.default_root_dir",
        "trainer.devices",
        "trainer.enable_progress_bar",
        "trainer.logger",
        "trainer.num_nodes",
    }
)
"""Options that say where and how a run is made rather than what it is: its id does not depend on them."""

_NAMES = ("data.path", "data.root", "model.backbone")  # of folders

PUBLISHED = frozenset(
    {
        "BitMemory", "BitXOR", "CIFAR10", "CIFAR10LRA", "CopiedTokens", "ListOps", "MNIST", "MemorisedTokens",
        "RemoteHomology", "ShuffleDyck",
    }
)  # fmt: skip
"""Our tasks whose data is published or generated: the same wherever ``data.root`` lies."""


def compose(configs: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Merges configs from left to right, then settings: the last value of a name is taken whole, a mapping too.

    Args:
        configs: Names or paths, as after ``--config``.
        settings: Values by dotted name, such as ``{"trainer.max_steps": 100}``, as options on the command line.

    Returns:
        Values by dotted name; ``init_args`` is left out of the names, as on the command line.

    Raises:
        UsageError: If a config does not exist, is not YAML, or has no options.
    """
    return over(*map(_read, configs), settings)


def contents(configs: Sequence[str]) -> str:
    """A hash of what the files of configs hold now: a run that waits is to be made of what its id was made of.

    Raises:
        UsageError: If a config does not exist.
    """
    read = hashlib.sha256()
    for config in configs:
        read.update(Path(find_config(config)).read_bytes())
    return read.hexdigest()[:12]


def over(*levels: Mapping[str, Any]) -> dict[str, Any]:
    """Options by dotted name, those of later levels over earlier ones, by either name that an option has.

    As on the command line a mapping takes the place of what was said of its keys, and keys that follow change it.
    """
    merged: dict[str, Any] = {}
    for name, value in ((without_init_args(name), value) for level in levels for name, value in level.items()):
        if value is None or isinstance(value, dict):
            for key in [other for other in merged if other.startswith(f"{name}.")]:
                del merged[key]
        merged[name] = value
    return merged


def identity(values: Mapping[str, Any]) -> str:
    """The id of a run: a hash of what :func:`compose` gives, without :data:`PLACES`.

    Equal experiments on different machines, in different folders, have equal ids, but for data of the user's own: its
    folder stands for it.

    Raises:
        UsageError: If a number is not finite.
    """
    what = {name: value for name, value in values.items() if not is_place(name)}
    what.pop("data.root", None)
    if (folder := _own_folder(values)) is not None:
        what["data.root"] = str(folder.absolute())
    try:
        text = json.dumps(what, sort_keys=True, default=str, allow_nan=False)
    except ValueError as error:
        wrong = {name: value for name, value in what.items() if re.search(r"\b(nan|inf)\b", str(value))}
        said = " and ".join(f"{name}: {value}" for name, value in wrong.items())
        raise UsageError(f"expected finite numbers, got {said}") from error
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _own_folder(values: Mapping[str, Any]) -> Path | None:
    """Where data of the user's own lies; None of data that is ours, on the hub, or wherever ``--texts`` says."""
    root, data = values.get("data.root"), values.get("data.class_path", values.get("data"))
    module, _, task = str(data).rpartition(".")
    is_ours = not module or module.startswith("fpt_lightning.")
    if is_ours and task in PUBLISHED:
        return None
    if root is not None:
        return Path(str(root))
    if is_ours and task == "HubDataset":
        return folder if (folder := Path(str(values.get("data.path")))).is_dir() else None
    # where no folder is named, the current one is, or its folder data
    return Path() if data is not None and not (is_ours and task == "TextFolder") else None


def as_words(settings: Mapping[str, Any]) -> list[str]:
    """Settings as options of the command line: ``--name=value``."""
    # json writes all that YAML reads; a date, which it cannot, is text
    return [f"--{name}={v if isinstance(v, str) else json.dumps(v, default=str)}" for name, v in settings.items()]


def as_settings(words: Sequence[str]) -> dict[str, Any]:
    """Options of the command line as settings: ``--name=value`` or ``--name value``.

    Raises:
        ValueError: If a word is neither an option nor its value, or that is not YAML.
        UsageError: If one adds to a list for the second time.
    """
    settings: dict[str, Any] = {}
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("--"):
            raise ValueError(word)
        name, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            if not waiting or waiting[0].startswith("--"):
                raise ValueError(word)
            value = waiting.pop(0)
        name = without_init_args(name)
        if name.endswith("+") and name in settings:
            raise UsageError(f"--{name} stands twice, of which runs would get the last: --{name}=[A,B] adds both")
        try:
            # a slice of layers and a time stay what they are, which YAML 1.1 reads to the base of 60
            read = value if re.fullmatch(r"\d+(:\d+)+", value) else plain(yaml.safe_load(value))
            if isinstance(read, date) or (name in _NAMES and read is not None):
                read = value  # a folder may be called 2024_01
        except (yaml.YAMLError, ValueError, KeyError, RecursionError) as error:
            raise ValueError(word) from error
        settings[name] = read
    return settings


@cache  # names are few, and runs are many
def without_init_args(name: str) -> str:
    """An option's name as the shorter of two that the command line takes: ``model.lr`` for ``model.init_args.lr``."""
    return re.sub(r"^(\w+)\.init_args(?=\.|$)", r"\1", name)


def plain(value: Any) -> Any:
    """A number where YAML 1.1 reads words: ``1e-3`` has no point and is a string there, a number to jsonargparse."""
    if isinstance(value, str):
        return float(value) if re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)[eE][+-]?\d+", value) else value
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


@cache
def is_place(name: str) -> bool:
    """Whether an option says where and how a run is made, being or belonging to one of :data:`PLACES`."""
    return any(name == place or name.startswith(f"{place}.") for place in PLACES)


@cache
def _read(config: str) -> dict[str, Any]:
    nested = read_config(Path(find_config(config))) or {}
    if not isinstance(nested, dict):
        raise UsageError(f"config {config} must have sections and options, it is a {type(nested).__name__}")
    return dotted(plain(nested))


def dotted(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted names, down to plain values; ``init_args`` disappears."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        name = prefix if key == "init_args" else f"{prefix}.{key}" if prefix else key
        # a section is at the top, or stands below a section's class: deeper mappings are values
        if isinstance(value, dict) and (not prefix or key == "init_args"):
            flat.update(dotted(value, name))
        else:
            flat[name] = value
    return flat
