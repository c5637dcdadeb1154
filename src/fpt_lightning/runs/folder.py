"""The run folder: ``config.yaml``, ``metrics.csv``, ``checkpoints/`` and, once the run is finished, ``result.json``."""

import json
import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from fpt_lightning.errors import UsageError
from fpt_lightning.files import write_whole

PACKAGES = (
    "fpt-lightning",
    "torch",
    "lightning",
    "transformers",
    "torchvision",
    "torchmetrics",
    "jsonargparse",
)
_ENVIRONMENT = "FPT_RUN_FOLDER"  # how the processes of one run learn the folder that the first has chosen


class RunFolder:
    """Where one run lives.

    Attributes:
        config: The resolved config, enough to repeat the run.
        metrics: Every logged figure.
        checkpoints: The folder of ``best.ckpt`` and ``last.ckpt``.
        best: The checkpoint that validation chose.
        result: The outcome; there only when the run is finished.
        failure: Why the last attempt of a sweep failed; there only if it did.
        attention: The attention maps as a picture, where somebody asked for them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.csv"
        self.checkpoints = path / "checkpoints"
        self.best = self.checkpoints / "best.ckpt"
        self.result = path / "result.json"
        self.failure = path / "failure.json"
        self.attention = path / "attention.png"

    def write_result(self, result: dict[str, Any], status: str = "finished") -> None:
        """Writes the result whole or not at all, with the versions of what made it."""
        versions = {name: metadata.version(name) for name in PACKAGES}
        write_whole(self.result, json.dumps({**result, "versions": versions, "status": status}, indent=2) + "\n")


def open_run_folder(name: str, folder: str | None, checkpoint: str | None) -> RunFolder:
    """Chooses the folder of a run that is about to start.

    Args:
        name: What runs are numbered under: the task.
        folder: The folder that the user asked for.
        checkpoint: The checkpoint that the run goes on from; its run folder is used again.

    Returns:
        The folder asked for; that of the checkpoint; or the next free ``runs/<name>/<number>``.

    Raises:
        UsageError: If the folder holds a run already, or several processes were started from outside without a folder.
    """
    inherited = os.environ.get(_ENVIRONMENT)
    if inherited is not None and os.environ.get("LOCAL_RANK", "0") != "0":  # a process that Lightning started
        return RunFolder(Path(inherited))
    if folder is None and checkpoint is not None and Path(checkpoint).parent.name == "checkpoints":
        folder = str(Path(checkpoint).parent.parent)
    if folder is None and ("TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1):
        raise UsageError("processes started from outside must agree on a run folder: pass --run_folder PATH")
    run = RunFolder(Path(folder) if folder is not None else _next_free(Path("runs") / name))
    if run.result.is_file() and checkpoint is None:
        raise UsageError(f"{run.path} holds a finished run: choose another --run_folder, or delete it")
    if checkpoint is None and any(run.checkpoints.glob("*.ckpt")):
        raise UsageError(
            f"{run.path} holds an unfinished run: add --ckpt_path {run.checkpoints / 'last.ckpt'} to go on with it, "
            "or choose another --run_folder"
        )
    os.environ[_ENVIRONMENT] = str(run.path.absolute())
    return run


def _next_free(parent: Path) -> Path:
    """The number after the highest in use."""
    numbers = [int(child.name) for child in parent.glob("*") if re.fullmatch(r"\d+", child.name)]
    return parent / f"{max(numbers, default=-1) + 1:03d}"
