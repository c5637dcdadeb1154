"""What a task calls its tokens, and which of them an answer needs: for the words of an attention map."""

from functools import singledispatch
from string import ascii_lowercase
from typing import NamedTuple

import torch

from fpt_lightning.data.bits import BitMemory, BitXOR
from fpt_lightning.data.datamodule import FPTDataModule
from fpt_lightning.data.images.datamodule import ImageTask
from fpt_lightning.data.spec import Batch


class TokenWords(NamedTuple):
    """The words for an example's tokens.

    Attributes:
        names: One a token.
        groups: The first token of each run of tokens that has a name of its own, and that name; empty where names say
            enough.
        grid: Rows and columns, where tokens are places of a picture.
    """

    names: tuple[str, ...]
    groups: tuple[tuple[int, str], ...] = ()
    grid: tuple[int, int] | None = None


@singledispatch
def token_words(data: FPTDataModule) -> TokenWords:
    """The words of a task; numbers, unless a task registers its own (``token_words.register``)."""
    return TokenWords(tuple(str(number) for number in range(1, data.task.max_length + 1)))


@singledispatch
def needed_tokens(data: FPTDataModule, batch: Batch) -> torch.Tensor | None:
    """The tokens that each answer follows from, ``[batch, answer tokens, length]`` bool; None where that is unknown."""
    return None


@token_words.register
def _(data: BitXOR) -> TokenWords:
    names = ascii_lowercase if data.strings <= len(ascii_lowercase) else [f"{i}:" for i in range(1, data.strings + 1)]
    tokens = data.task.answer_tokens
    return TokenWords(tuple(f"{names[i // tokens]}{i % tokens + 1}" for i in range(data.task.max_length)))


@needed_tokens.register
def _(data: BitXOR, batch: Batch) -> torch.Tensor:
    one = torch.eye(data.task.answer_tokens, dtype=torch.bool).repeat(1, data.strings)
    return one.expand(len(batch.tokens), -1, -1)


@token_words.register
def _(data: BitMemory) -> TokenWords:
    tokens = data.task.answer_tokens
    strings = [f"string {number}" for number in range(1, data.patterns + 1)] + ["masked string"]
    return TokenWords(
        tuple(f"{string}, patch {patch}" for string in strings for patch in range(1, tokens + 1)),
        tuple((place * tokens, string) for place, string in enumerate(strings)),
    )


@needed_tokens.register
def _(data: BitMemory, batch: Batch) -> torch.Tensor:
    """The patch of the string that is shown again; its masked copy holds half of the bits only."""
    tokens = data.task.answer_tokens
    strings = batch.tokens[:, : data.patterns * tokens].unflatten(1, (data.patterns, tokens)).flatten(2) > 0
    again = (strings == batch.target.bool()[:, None]).all(dim=2)  # [batch, patterns]
    patch = torch.eye(tokens, dtype=torch.bool)
    needed = again[:, None, :, None] & patch[None, :, None, :]  # [batch, answer tokens, patterns, tokens]
    masked = torch.zeros(len(needed), tokens, tokens, dtype=torch.bool)
    return torch.cat([needed.flatten(2), masked], dim=2)


@token_words.register
def _(data: ImageTask) -> TokenWords:
    side = data.image_size // data.patch_size
    names = (f"row {row}, column {column}" for row in range(1, side + 1) for column in range(1, side + 1))
    return TokenWords(tuple(names), grid=(side, side))
