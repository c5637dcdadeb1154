"""Streams of random numbers, one for every tensor and every epoch, so that no two are drawn from the same numbers."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generator(seed: int, name: str) -> torch.Generator:
    """The stream of that name under a seed; streams of other names or other seeds have nothing in common with it."""
    return torch.Generator().manual_seed(key(seed, name))


@contextmanager
def drawn_from(seed: int, name: str) -> Iterator[None]:
    """Lets what draws from torch's global generator draw from a stream, and leaves the generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, name))
        yield


def key(seed: int, name: str) -> int:
    """63 bits of a hash: what nearby seeds have in common does not reach the generator.

    torch's own on a CPU looks at the lower 32 of a seed alone, so nothing may be said in the upper.
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8]) >> 1
