"""Tensors by name: read from a safetensors file, and told from others by a hash."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch


def read_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and its metadata.

    What is read lies in the file until it is looked at: large tensors cost no copy, and processes share them.

    Raises:
        OSError: If it cannot be read.
        SafetensorError: If it is no such file, or not whole.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        return tensors, file.metadata() or {}


def tensors_hash(tensors: Mapping[str, torch.Tensor], *, by_value: bool = False) -> str:
    """The sha256 of names, types, shapes and values, whatever the order, in hexadecimal digits.

    Args:
        tensors: The tensors, by name.
        by_value: Let one in bfloat16 have the hash of the same numbers in float32.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if by_value and tensor.dtype == torch.bfloat16:
            tensor = tensor.float()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """What a tensor holds, row by row; of one on the CPU that lies in one piece without a copy."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
