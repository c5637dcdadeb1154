"""The run folder and the checkpoint that somebody means."""

from pathlib import Path

from fpt_lightning.errors import FPTError
from fpt_lightning.runs.folder import RunFolder


def find_folder(path: Path) -> RunFolder:
    """Finds a run folder.

    Args:
        path: The folder, or one of its checkpoints.

    Raises:
        FPTError: If it is neither.
    """
    if not path.exists():
        raise FPTError(f"there is no run folder {path}")
    folder = RunFolder(path if path.is_dir() else path.parent.parent)
    if not folder.config.is_file():
        raise FPTError(
            f"{folder.path} has no config.yaml: it is not a run folder\n"
            "Give the folder that `fpt run` printed, or a file in its checkpoints/."
        )
    return folder


def find_run(path: Path) -> tuple[RunFolder, Path]:
    """Finds a run folder, and a checkpoint in it.

    Args:
        path: The folder, whose ``best.ckpt`` is meant wherever its config keeps it, or one of its checkpoints.

    Raises:
        FPTError: If it is neither.
    """
    plain = find_folder(path)
    folder = plain.as_configured()
    if not folder.best.is_file() and plain.best.is_file():  # where a config says another place it may be gone
        folder = plain
    if path.is_file():
        return folder, path
    if not folder.best.is_file():
        again = f"fpt run --config {folder.config} --run_folder {folder.path}"
        way_out = f"`fpt run {folder.path}` goes on with it" if folder.last.is_file() else f"`{again}` starts it again"
        raise FPTError(
            f"there is no {folder.best}: the run ended before a validation\n"
            f"{way_out}, or give another of its checkpoints."
        )
    return folder, folder.best
