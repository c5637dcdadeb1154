"""Decoded images kept in a file, so that only the first start has to read every image."""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from fpt_lightning.data.images.files import ImageFile
from fpt_lightning.errors import FPTError

VERSION = 1
"""To be raised where ``read_image`` makes other pixels of the same file."""


def cache_key(root: Path, files: Sequence[ImageFile], image_size: int, *, grey: bool) -> str:
    """Names what decoded pixels depend on: names, sizes and times of the files, and the parameters.

    Raises:
        FPTError: If a file is not there.
    """
    listed = []
    for file in files:
        try:
            state = os.stat(file.path)  # noqa: PTH116 - a Path for each of many thousands takes seconds
        except OSError as error:
            raise FPTError(f"{file.path} cannot be read ({error.strerror}); mend it or take it away") from error
        listed.append((os.path.relpath(file.path, root), state.st_size, state.st_mtime_ns))
    return hashlib.sha256(json.dumps([VERSION, image_size, grey, listed]).encode()).hexdigest()


def pixels_hash(pixels: torch.Tensor) -> str:
    """Names the pixels themselves."""
    return hashlib.sha256(pixels.cpu().numpy().data).hexdigest()


def read_cache(path: Path, key: str) -> torch.Tensor | None:
    """Reads decoded pixels.

    Args:
        path: The file.
        key: What they have to depend on.

    Returns:
        The pixels; None where the file is missing, damaged or of something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return None
            pixels: torch.Tensor = file.get_tensor("pixels")
    except (SafetensorError, OSError):
        return None
    return pixels if pixels_hash(pixels) == metadata.get("sha256") else None


def write_cache(path: Path, key: str, pixels: torch.Tensor) -> bool:
    """Writes decoded pixels: the whole file or nothing, whoever else writes it.

    Args:
        path: The file; its folder is made.
        key: What the pixels depend on.
        pixels: The pixels.

    Returns:
        Whether it could be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            part = Path(folder) / path.name
            save_file({"pixels": pixels}, part, metadata={"key": key, "sha256": pixels_hash(pixels)})
            part.chmod(0o644)  # safetensors lets its owner alone read it, but a data folder is shared
            part.replace(path)
    except (SafetensorError, OSError):
        return False
    return True
