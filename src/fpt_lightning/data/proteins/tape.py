"""The files of TAPE's remote homology task: JSON and LMDB (Rao et al. 2019, https://github.com/songlab-cal/tape)."""

import io
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from fpt_lightning.data.cache import cache_file, kept
from fpt_lightning.data.proteins import records
from fpt_lightning.data.sequences import LabelledSequences
from fpt_lightning.errors import FPTError

READER_VERSION = 1
"""Changes whenever the same files give other proteins, or something is refused that was not before."""

EXAMPLES = {
    "train": 12312,
    "valid": 736,
    "test_fold_holdout": 718,
    "test_superfamily_holdout": 1254,
    "test_family_holdout": 1272,
}
"""How many examples TAPE has under each of its own split names."""


def find_split(root: Path, split: str) -> Path | None:
    """Where a split lies in a folder or its subfolder ``remote_homology``; JSON goes before LMDB."""
    for folder in (root / "remote_homology", root):
        text, database = (folder / f"remote_homology_{split}.{kind}" for kind in ("json", "lmdb"))
        if text.is_file():
            return text
        if (database / "data.mdb").is_file():
            return database
    return None


def read_proteins(path: Path, cache_folder: Path) -> LabelledSequences:
    """Reads a split, or what an earlier reading of the same file kept of it: its size and its time tell which it is.

    TAPE's records carry evolutionary profiles a hundred times as long as the sequence, so what the task needs is kept.

    Returns:
        Values are places in :data:`VOCABULARY`, uint8, targets are folds below :data:`FOLDS`.

    Raises:
        FPTError: If the file is damaged or a record is not what TAPE's are.
    """
    state = (path / "data.mdb" if path.is_dir() else path).stat()
    key = [READER_VERSION, state.st_size, state.st_mtime_ns]
    file = cache_file(cache_folder, "proteins", path.resolve())
    return LabelledSequences.from_tensors(kept(file, key, lambda: _parse(path).as_tensors()))


def require_lmdb() -> None:
    """Makes sure that LMDB files can be read.

    Raises:
        FPTError: If the package is not installed.
    """
    if find_spec("lmdb") is None:
        raise FPTError(
            "TAPE's LMDB files need a package that is missing: pip install 'fpt-lightning[proteins]'.\n"
            "Without it, put TAPE's JSON files into data.root."
        )


def _parse(path: Path) -> LabelledSequences:
    if path.suffix == ".json":
        return LabelledSequences(*records.parse(path))
    require_lmdb()
    # damaged pages lead LMDB beyond the end of its map, which no Python survives
    command = [sys.executable, "-P", "-m", records.__name__, str(path)]
    read = subprocess.run(command, capture_output=True, check=False)
    if read.returncode < 0:
        died = signal.Signals(-read.returncode).name
        raise FPTError(f"{path / 'data.mdb'} is damaged (its reader died of {died}); fetch it again")
    if read.returncode:
        raise FPTError(read.stderr.decode(errors="replace").strip() or f"{path / 'data.mdb'} cannot be read")
    with np.load(io.BytesIO(read.stdout)) as arrays:
        return LabelledSequences(**arrays)
