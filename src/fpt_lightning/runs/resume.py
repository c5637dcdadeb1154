"""Where a run goes on: the checkpoint that was asked for, read before anything starts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.runs.folder import RunFolder
from fpt_lightning.training.artifacts.checkpoint import read_checkpoint


def kept(config: Any) -> dict[str, Path]:
    """Where ``best`` and ``last`` are kept: within the run folder, or where the config of a command says."""
    callbacks = {"best": config.checkpoint, "last": config.last_checkpoint}
    return {
        word: (Path(own.dirpath).absolute() if own.dirpath else Path("checkpoints")) / f"{own.filename or word}.ckpt"
        for word, own in callbacks.items()
    }


def way_on(checkpoint: str | None, folder: str | None, trains: bool, files: Mapping[str, Path]) -> str | None:
    """The file of the checkpoint that a command asks for, once it was read.

    Args:
        checkpoint: A file; ``best`` or ``last``, those of the run folder; ``hpc``, which is left to Lightning.
        folder: The run folder that was asked for.
        trains: Whether a training is to go on; where there is no ``last`` it starts, unless there is a ``best``.
        files: What :func:`kept` says.

    Raises:
        UsageError: If ``best`` or ``last`` is asked for, and no run folder.
        FPTError: If there is no such checkpoint, or it is none.
    """
    if checkpoint is None or checkpoint == "hpc":
        return checkpoint
    if checkpoint not in ("best", "last"):
        read_checkpoint(checkpoint)
        return checkpoint
    if folder is None:
        raise UsageError(f"--ckpt_path {checkpoint} is one of a run folder: add --run_folder RUN")
    place = Path(folder) / files[checkpoint]
    if checkpoint == "last":
        found = RunFolder(Path(folder)).newest_checkpoint(place, Path(folder) / files["best"])
        if found is None and trains:
            return None
        place = found or place
    try:
        read_checkpoint(place)
    except FPTError as error:
        if not trains or checkpoint == "best":
            raise
        raise FPTError(
            f"{error}\nMove it away to go on from the one before, or to start where there is none."
        ) from None
    return str(place)


def add_what_is_left(stop: BaseException, run: RunFolder) -> None:
    """Adds a note to what stops a run: what it leaves, and how it goes on; and its folder where no file is named."""
    if isinstance(stop, OSError) and stop.errno is not None and stop.filename is None:
        stop.filename = str(run.path)
    newest = run.newest_checkpoint(run.last, run.best)
    if run.result.is_file():
        stop.add_note(f"{run.result} is whole")
    elif newest is not None:
        stop.add_note(f"{newest} is whole: --run_folder {run.path} --ckpt_path {newest} goes on from it")
    elif run.has_begun:
        stop.add_note(f"{run.path} holds no checkpoint yet: with --run_folder {run.path} the same command starts again")


def set_damaged_aside(run: RunFolder) -> list[str]:
    """Renames checkpoints that cannot be read, and where it is the best one also those that follow it; says so.

    The run then goes on from the one that is left, or starts anew.
    """
    said: list[str] = []
    for path in (run.best, run.last):
        try:
            if path.is_file() and not said:
                read_checkpoint(path)
        except FPTError as error:
            said.append(f"{error}; it was set aside")
        if said and path.is_file():
            path.replace(path.with_name(f"{path.name}.aside"))
    return said
