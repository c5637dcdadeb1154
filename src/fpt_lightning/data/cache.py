"""Tensors that take long to make, kept for the next start; what is damaged, or of something else, is made anew."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn

from fpt_lightning.files import whole_file
from fpt_lightning.tensors import read_tensors, tensor_bytes, tensors_hash

Tensors = Mapping[str, torch.Tensor]


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/fpt-lightning``, by default ``~/.cache/fpt-lightning``."""
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where a container's user has none
    return Path(os.environ.get("XDG_CACHE_HOME") or Path(home, ".cache")) / "fpt-lightning"


def cache_file(folder: Path, kind: str, *what: object) -> Path:
    """The file of a cache folder for one thing: ``KIND-HASH.safetensors``; what there is in its place is replaced."""
    return folder / f"{kind}-{_digest(what)[:16]}.safetensors"


def kept(path: Path, key: Any, make: Callable[[], Tensors]) -> Tensors:
    """Reads the tensors that a file keeps, or makes them and keeps them there, where it can be written.

    Args:
        path: A file of :func:`cache_file`.
        key: All that the tensors depend on, in what JSON can write.
        make: Makes them.
    """
    name = _digest(key)
    tensors = _read(path, name)
    if tensors is None:
        tensors = make()
        _write(path, name, tensors)
    return tensors


def content_hash(tensors: Iterable[torch.Tensor]) -> str:
    """The sha256 of what tensors hold, one behind the other, in hexadecimal digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def _read(path: Path, key: str) -> Tensors | None:
    """None where there is no such file, or it is damaged, or another."""
    from safetensors import SafetensorError

    try:
        tensors, metadata = read_tensors(path)
    except (SafetensorError, OSError):
        return None
    is_whole = metadata.get("key") == key and metadata.get("sha256") == tensors_hash(tensors)
    return tensors if is_whole else None


def _write(path: Path, key: str, tensors: Tensors) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        with whole_file(path) as part:
            save_file(dict(tensors), part, metadata={"key": key, "sha256": tensors_hash(tensors)})
            part.chmod(0o644)  # safetensors lets its owner alone read it, but a folder may be shared
    except (SafetensorError, OSError) as error:
        rank_zero_warn(
            f"{path.parent} cannot be written ({getattr(error, 'strerror', None) or error}), so every start makes anew "
            f"what {path.name} would keep; data.cache_folder names another folder"
        )


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
