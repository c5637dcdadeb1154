"""Where a run goes on: the checkpoint that was asked for, read before anything starts."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.runs.folder import RunFolder, kept
from fpt_lightning.training.artifacts.checkpoint import read_checkpoint


def way_on(config: Any, trains: bool) -> str | None:
    """The file of the checkpoint that a command asks for, once it was read.

    That may be a file; ``best`` or ``last``, those of the run folder; ``hpc``, which is left to Lightning. A test
    alone is of the best, which the result tells of. A job that SLURM has put in line again goes on unasked.

    Args:
        config: The options of the command.
        trains: Whether a training is to go on; where there is no ``last`` it starts, unless there is a ``best``.

    Raises:
        UsageError: If ``best`` or ``last`` is asked for, and no run folder.
        FPTError: If there is no such checkpoint, or it is none.
    """
    checkpoint, folder, files = config.ckpt_path, config.run_folder, kept(config)
    if config.get("test") == "only":
        trains, checkpoint = False, "best" if checkpoint == "last" else checkpoint
    if trains and checkpoint is None and folder is not None and SLURMEnvironment.detect():
        # Lightning goes on from it by itself, but only when the folder has been taken for that of a new run
        checkpoint = "last" if any(Path(folder).glob("hpc_ckpt_*.ckpt")) else None
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


def name_answers(config: Any) -> None:
    """Lets the answers of a run's checkpoint lie in its folder, under a name of their own where it is not the best."""
    checkpoint, answers = Path(config.ckpt_path), config.predictions
    folder = RunFolder(checkpoint.parent.parent)
    if answers.path is None and folder.config.is_file():
        answers.path = str(folder.as_configured().of_checkpoint(folder.path / "predictions.csv", checkpoint))


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


def set_damaged_aside(run: RunFolder, lost: str = "") -> list[str]:
    """Renames what :func:`damaged` finds and says so; the run goes on from the one that is left, or starts anew.

    Args:
        run: The run.
        lost: What is missing of it and cannot be made without training anew: then no checkpoint is good.
    """
    if lost:
        for path in (run.best, run.last):
            if path.is_file():
                path.replace(path.with_name(f"{path.name}.aside"))
        return [f"{lost}; it starts anew"]
    found = damaged(run)
    for path in found:
        path.replace(path.with_name(f"{path.name}.aside"))
    return [f"{cause}; it was set aside" for cause in dict.fromkeys(found.values())]


def damaged(run: RunFolder) -> dict[Path, str]:
    """Checkpoints that cannot be read, and where it is the best one also those that follow it; and why."""
    found: dict[Path, str] = {}
    for path in (run.best, run.last):
        try:
            if path.is_file() and not found:
                read_checkpoint(path)
        except FPTError as error:
            found[path] = str(error)
        if found and path.is_file():
            found.setdefault(path, next(iter(found.values())))
    return found
