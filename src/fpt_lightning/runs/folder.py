"""The run folder: ``config.yaml``, ``metrics.csv``, ``checkpoints/`` and, once the run is finished, ``result.json``."""

import json
import math
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from fpt_lightning.config_files import read_config
from fpt_lightning.errors import UsageError
from fpt_lightning.files import STALE, clear_parts, write_whole

PACKAGES = (
    "fpt-lightning",
    "torch",
    "lightning",
    "transformers",
    "torchvision",
    "torchmetrics",
    "jsonargparse",
)

OF_CHECKPOINT = ("attention.png", "attention.json", "analysis.png", "analysis.json", "predictions.csv")
"""What is made of a checkpoint, see :meth:`RunFolder.of_checkpoint`."""

OUTCOME = (
    "result.json",
    "failure.json",
    "paused.json",
    "learning_curve.png",
    "trained.safetensors",
    "trained.json",
    *OF_CHECKPOINT,
)
"""What the end of a run leaves, and what is made of it."""

OWN = (
    *OUTCOME,
    "analysis-*",
    "attention-*",
    "predictions-*",
    "metrics.csv",
    "hpc_ckpt_*.ckpt",
    "checkpoints/*.ckpt",
    "tensorboard/events.*",
)
"""What is written over when a run is made anew; whatever else lies in its folder stays."""


def finite(content: Any) -> Any:
    """What JSON can hold of it: null in place of numbers that are not finite."""
    return json.loads(json.dumps(content), parse_constant=lambda _: None)


def with_nan(content: Any, name: str = "") -> Any:
    """What was read of results, with NaN where :func:`finite` has put null in place of a figure."""
    split, _, figure = name.partition("_")
    if content is None and split in ("val", "test") and figure != "accuracy":  # which is finite, or was not measured
        return math.nan
    if isinstance(content, dict) and name != "config":  # of an archive
        return {key: with_nan(value, key) for key, value in content.items()}
    return content


def kept(config: Any) -> dict[str, Path]:
    """Where ``best`` and ``last`` are kept: within the run folder, or where a config says."""
    callbacks = {"best": config.get("checkpoint") or {}, "last": config.get("last_checkpoint") or {}}
    return {
        word: (Path(own["dirpath"]).absolute() if own.get("dirpath") else Path("checkpoints"))
        / f"{own.get('filename') or word}.ckpt"
        for word, own in callbacks.items()
    }


class RunFolder:
    """Where one run lives.

    Args:
        path: The folder; it need not exist.
        files: What :func:`kept` says.

    Attributes:
        config: The resolved config, enough to repeat the run.
        metrics: Every logged figure.
        checkpoints: The folder of ``best.ckpt`` and ``last.ckpt``.
        best: The checkpoint that validation chose.
        last: The checkpoint to go on from.
        result: The outcome; there only when the run is finished.
        failure: Why the last attempt of a sweep failed; there only if it did.
        pause: Where the run pauses; there only until it goes on.
        attention: The attention maps as a picture, where somebody asked for them.
        analysis: What its layers hold, likewise.
        overwritten: Files of an earlier run that go when this one begins.
        has_begun: Whether this run has.
    """

    overwritten: frozenset[Path] = frozenset()
    has_begun = False

    def __init__(self, path: Path, files: Mapping[str, Path] | None = None) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.csv"
        self.checkpoints = path / "checkpoints"
        self.best, self.last = (path / file for file in (files or kept({})).values())
        self.result = path / "result.json"
        self.failure = path / "failure.json"
        self.pause = path / "paused.json"
        self.attention = path / "attention.png"
        self.analysis = path / "analysis.json"

    def as_configured(self) -> Self:
        """The same folder, its checkpoints where its config says; where it does not, in their usual place."""
        try:
            return type(self)(self.path, kept(read_config(self.config)))
        except (UsageError, AttributeError, TypeError):  # there is none, or one that holds something else
            return self

    def has_checkpoint(self) -> bool:
        """Whether there is one to go on from, or one that a run made anew would write over."""
        return any(self.checkpoints.glob("*.ckpt")) or self.best.is_file() or self.last.is_file()

    def of_checkpoint(self, file: Path, checkpoint: Path) -> Path:
        """The name of a file that tells of a checkpoint: that of the run where it is the chosen one."""
        is_chosen = checkpoint.resolve() == self.best.resolve()
        return file if is_chosen else file.with_stem(f"{file.stem}-{checkpoint.stem}")

    def write_result(self, result: dict[str, Any], status: str = "finished") -> None:
        """Writes the result whole or not at all, with the versions of what trained it; see :func:`finite`."""
        versions = {name: metadata.version(name) for name in PACKAGES}
        content = finite({**result, "versions": result.get("versions", versions), "status": status})
        write_whole(self.result, json.dumps(content, indent=2) + "\n")
        self.has_begun = True
        for left in self.path.glob("hpc_ckpt_*.ckpt"):  # from which Lightning would go on unasked, under SLURM
            left.unlink(missing_ok=True)

    def write_pause(self, step: int) -> None:
        """Says that the run pauses behind so many gradient steps, until it goes on or is made anew."""
        write_whole(self.pause, json.dumps({"step": step}) + "\n")
        self.failure.unlink(missing_ok=True)

    def paused_at(self) -> int | None:
        """Gradient steps done where the run pauses; None where it does not, or the file is damaged."""
        try:
            return int(json.loads(self.pause.read_text())["step"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def own_files(self) -> frozenset[Path]:
        """What is there that a run made anew writes over."""
        found = (path for name in OWN for path in self.path.glob(name))
        return frozenset(found) | {path for path in (self.best, self.last) if path.is_file()}

    def files(self) -> frozenset[Path]:
        """What is there of the run's own, and the folders that it lies in."""
        folders = (self.checkpoints, self.path / "tensorboard")
        return self.own_files() | {path for path in (self.config, *folders) if path.exists()}

    def newest_checkpoint(self, last: Path, best: Path) -> Path | None:
        """Where to go on: ``last``, or what SLURM's signal left later; ``best`` where a kill came between the two."""
        found = [path for path in (last, *self.path.glob("hpc_ckpt_*.ckpt")) if path.is_file()]
        return max(found, key=lambda path: path.stat().st_mtime, default=best if best.is_file() else None)

    def begin(self) -> None:
        """Takes away what an earlier end of the run left, or all of an earlier run, and what kills left of files.

        Only for whoever holds the folder, once nothing is left that could refuse the run.
        """
        self.has_begun = True
        for name in OUTCOME:
            (self.path / name).unlink(missing_ok=True)
        for name in OF_CHECKPOINT:  # the training goes on from the last, and writes over it
            self.of_checkpoint(self.path / name, self.last).unlink(missing_ok=True)
        for path in self.overwritten:
            path.unlink(missing_ok=True)
        self.clear_parts()

    def clear_parts(self) -> None:
        """Takes away what kills left of files that were being written; a prediction, which holds no lock, may go on."""
        for folder in (self.path, self.checkpoints, self.path / "backbone"):
            for pattern in (".[!p]*.part", ".p[!r]*.part"):
                clear_parts(folder, pattern)
        clear_parts(self.path, ".predictions*.part", STALE)
