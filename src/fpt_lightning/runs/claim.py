"""How a run comes by its folder: alone, and without touching what is there before it may."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from fpt_lightning.errors import UsageError
from fpt_lightning.runs.folder import RunFolder
from fpt_lightning.runs.lock import HOLDER, LOCK, hold

_ENVIRONMENT = "FPT_RUN_FOLDER"  # how the processes of one run learn the folder that the first has chosen


@contextmanager
def claim(
    name: str,
    folder: str | None,
    checkpoint: str | None = None,
    *,
    overwrite: bool = False,
    tests_only: bool = False,
    files: Mapping[str, Path] | None = None,
    first: bool = True,
) -> Iterator[RunFolder]:
    """Chooses the folder of a run that is about to start, and holds its lock for the block.

    The folder asked for; that of the checkpoint; or the next free ``runs/<name>/<number>``. If the run does not get as
    far as :meth:`RunFolder.begin`, the folder is afterwards as it was before, or not there.

    Args:
        name: What runs are numbered under: the task.
        folder: The folder that the user asked for.
        checkpoint: The checkpoint that the run goes on from; its run folder is used again.
        overwrite: Whether a run that is there may be gone over.
        tests_only: Whether a finished run is only to be tested.
        files: Where the run keeps its checkpoints, see :func:`fpt_lightning.runs.folder.kept`.
        first: Whether this is the first of the processes of a run: the others hold no lock.

    Raises:
        UsageError: If the folder holds a run already, or the place of its checkpoints does, or several processes were
            started from outside without a folder.
        HeldError: If another process is at the run.
        OSError: If it cannot be written.
    """
    inherited = os.environ.get(_ENVIRONMENT)
    if inherited is not None and os.environ.get("LOCAL_RANK", "0") != "0":  # a process that Lightning started
        yield RunFolder(Path(inherited), files)
        return
    place, made = _choose(name, folder, checkpoint, first)
    run = RunFolder(place, files)
    if not (place / LOCK).exists():
        made = [place / HOLDER, place / LOCK, *made]
    with hold(place) if first else nullcontext():
        before = run.files()
        goes_on = _goes_on(run, checkpoint)
        try:
            if not tests_only:
                _refuse_what_is_there(run, goes_on, overwrite)
                run.overwritten = frozenset() if goes_on else run.own_files()
            os.environ[_ENVIRONMENT] = str(run.path.absolute())
            yield run
        finally:
            if first and not run.has_begun:
                _leave(run.files() - before, made)


@contextmanager
def hold_ahead(place: Path) -> Iterator[None]:
    """Holds the lock of a run folder, made where it is missing, for those who claim it within the block.

    If no run got as far as :meth:`RunFolder.begin`, it is afterwards as it was before, or not there.

    Raises:
        HeldError: If another process is at the run.
        OSError: If it cannot be written.
    """
    made = [path for path in (place / HOLDER, place / LOCK, place, *place.parents) if not path.exists()]
    place.mkdir(parents=True, exist_ok=True)
    with hold(place):
        try:
            yield
        finally:
            if not RunFolder(place).config.exists():
                _leave((), made)


def _choose(name: str, folder: str | None, checkpoint: str | None, first: bool) -> tuple[Path, list[Path]]:
    """The folder, made where it is missing, and what was made: it first, then its parents."""
    if folder is None and checkpoint is not None and Path(checkpoint).parent.name == "checkpoints":
        folder = str(Path(checkpoint).parent.parent)
    if folder is None and ("TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1):
        raise UsageError("processes started from outside must agree on a run folder: pass --run_folder PATH")
    place = Path(folder) if folder is not None else Path("runs") / name
    made = [path for path in (place, *place.parents) if not path.exists()]
    if folder is None:
        place = _make_next(place)
        return place, [place, *made]
    if first:
        place.mkdir(parents=True, exist_ok=True)
    return place, made


def _goes_on(run: RunFolder, checkpoint: str | None) -> bool:
    """Whether the checkpoint is one of this run."""
    if checkpoint is None or checkpoint == "hpc":  # which Lightning looks for in the run folder
        return checkpoint is not None
    places = (run.path, run.best.parent, run.last.parent)
    return any(Path(checkpoint).resolve().is_relative_to(place.resolve()) for place in places)


def _refuse_what_is_there(run: RunFolder, goes_on: bool, overwrite: bool) -> None:
    if overwrite:
        return
    if run.result.is_file():
        again = "go on with it, and test it once more" if goes_on else "make it anew"
        raise UsageError(f"{run.path} holds a finished run: choose another --run_folder, or add --overwrite to {again}")
    if not goes_on and run.has_checkpoint():
        newest = run.newest_checkpoint(run.last, run.best) or run.last
        here = newest.is_relative_to(run.path)
        raise UsageError(
            f"{run.path if here else newest.parent} holds {'an unfinished' if here else 'the checkpoints of a'} run: "
            f"add --ckpt_path {newest} to go on with it, --overwrite to make it anew, or choose another "
            f"{'--run_folder' if here else '--checkpoint.dirpath and --last_checkpoint.dirpath'}"
        )


def _leave(brought: Iterable[Path], made: Iterable[Path]) -> None:
    """Takes away what a run brought that did not begin."""
    for path in (*sorted(brought, reverse=True), *made):  # what lies in a folder before the folder
        with suppress(OSError):  # others have come meanwhile
            path.rmdir() if path.is_dir() else path.unlink()


def _make_next(parent: Path) -> Path:
    """Makes the folder of the number after the highest in use; whoever is second takes the one after that."""
    while True:
        parent.mkdir(parents=True, exist_ok=True)
        numbers = [int(child.name) for child in parent.glob("*") if re.fullmatch(r"\d+", child.name)]
        path = parent / f"{max(numbers, default=-1) + 1:03d}"
        with suppress(FileExistsError, FileNotFoundError):  # another was faster, or took the parent away
            path.mkdir()
            return path
