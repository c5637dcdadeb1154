"""Checkpoints that are whole files at every moment."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from fpt_lightning.files import whole_file


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there once it is on the disk.

    Lightning collects it in the system's temporary folder; where that is another file system, moving it is a copy over
    the checkpoint before, and a kill leaves neither.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        if "://" in str(path) or storage_options is not None:  # not a file of this machine: Lightning knows how
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        # the first process of a run writes alone, and is killed again and again where jobs are preempted
        with whole_file(Path(path), stale=0.0) as part, part.open("wb") as file:
            torch.save(checkpoint, file)
