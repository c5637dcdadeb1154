"""The words of a command line: configs are found by name, and a config or a run needs no option before it."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from fpt_lightning.config_files import find_config
from fpt_lightning.errors import UsageError
from fpt_lightning.runs.find import find_folder, find_run

CONFIG = ("--config", "-c")
ALONE = ("--help", "-h", "--help-all", "--model.help", "--data.help", "--overwrite", "--print_config")
"""Options that need no value: a config may follow them."""


def with_configs_found(words: Sequence[str]) -> list[str]:
    """Replaces every config by the path of the file it names.

    ``fpt run mnist.yaml`` is ``fpt run --config PATH/mnist.yaml``. A run folder stands for its config and for the
    checkpoint that the command is about: the best one, or for ``run`` and ``fit`` the last one, to go on with it;
    a test alone makes the best one of it. It stands first, wherever it was said, behind it every config: options have
    the last word.

    Args:
        words: The command and what follows it.

    Raises:
        UsageError: If there is no such config, or more runs than one.
        FPTError: If it is a folder, but not of a run; or its run has no such checkpoint.
    """
    of_run: list[str] = []
    configs: list[str] = []
    others = [*_located(words[0], words[1:], of_run, configs)]
    runs = dict.fromkeys(config for option, config in pairwise(of_run) if option == "--config")
    if len(runs) > 1:
        named = " and ".join(str(Path(config).parent) for config in runs)
        raise UsageError(f"fpt {words[0]} is about one run, got {named}")
    return [words[0], *of_run, *configs, *others]


def _located(command: str, words: Sequence[str], of_run: list[str], configs: list[str]) -> Iterator[str]:
    """The other words; what stands for a run and for configs goes into these lists."""
    option: str | None = None  # that waits for its value
    for word in words:
        waits, option = option, None
        if waits in CONFIG:
            configs += (waits, find_config(word))
        elif word.startswith("--config="):
            configs.append(f"--config={find_config(word.removeprefix('--config='))}")
        elif word in CONFIG:
            option = word
        elif word.startswith("--") or word == "-h":
            yield word
            option = None if "=" in word else word
        elif waits is None or (waits in ALONE and _is_config(word)):
            if Path(word).is_dir() or word.endswith(".ckpt"):
                of_run += _of_run(command, Path(word))
            else:
                configs += ("--config", find_config(word))
        else:
            yield word
    if option in CONFIG:
        yield option  # without a file


def _is_config(word: str) -> bool:
    """Whether a word is a config or a run, also where it could be a value: ``--help data`` is no folder of images."""
    return word.endswith((".yaml", ".yml")) or Path(word, "config.yaml").is_file()


def _of_run(command: str, path: Path) -> list[str]:
    """The options that a run folder, or a checkpoint in one, stands for."""
    if command == "prepare":
        return ["--config", str(find_folder(path).config)]
    if command in ("run", "fit") and path.is_dir():
        folder = find_folder(path)
        return ["--config", str(folder.config), "--run_folder", str(folder.path), "--ckpt_path", "last"]
    folder, checkpoint = find_run(path)
    file = folder.of_checkpoint(folder.path / "predictions.csv", checkpoint)
    answers = [f"--predictions.path={file}"] if command == "predict" else []
    return ["--config", str(folder.config), "--ckpt_path", str(checkpoint), *answers]
