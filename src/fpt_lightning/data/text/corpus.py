"""A folder of books as three rows of tokens, made once and kept under a name that its content decides."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from fpt_lightning.data.cache import Tensors, cache_file, kept
from fpt_lightning.data.datamodule import SPLITS, Split
from fpt_lightning.data.text.files import read_book
from fpt_lightning.data.text.tokenizer import encode, load_tokenizer, train_tokenizer

VERSION = 2
"""To be raised where other tokens are made of the same books."""


class Corpus(NamedTuple):
    """Books in tokens, how many characters they had, and a hash of tokens and tokenizer."""

    tokens: Mapping[Split, np.ndarray]  # ``[tokens]`` uint16
    tokenizer: Any  # the ``tokenizers.Tokenizer`` that wrote them
    characters: Mapping[Split, int]
    sha256: str


def open_corpus(
    root: Path, books: Mapping[Split, list[Path]], vocabulary: int, tokenizer_folder: Path | None, cache_folder: Path
) -> Corpus:
    """Reads a corpus from the cache, or makes it and keeps it there.

    The tokenizer is made of the training books alone, unless there is a folder of one.

    Raises:
        UsageError: If the training books are too small for the vocabulary.
        FPTError: If a book cannot be read or is not text.
    """
    from tokenizers import Tokenizer

    read = {split: [read_book(path, root) for path in books[split]] for split in SPLITS}
    texts = {split: [book.text for book in read[split]] for split in SPLITS}
    given = load_tokenizer(tokenizer_folder, vocabulary) if tokenizer_folder else None

    def make() -> Tensors:
        rank_zero_info(f"making tokens of {sum(map(len, books.values()))} books, once")
        tokenizer = given or train_tokenizer(texts["train"], vocabulary)
        made = {"tokenizer": torch.frombuffer(bytearray(tokenizer.to_str().encode()), dtype=torch.uint8)}
        for split in SPLITS:
            made[split] = torch.from_numpy(encode(tokenizer, texts[split]))
        return made

    listed = {split: [(book.name, book.sha256) for book in read[split]] for split in SPLITS}
    key = [VERSION, vocabulary, given.to_str() if given else None, listed]
    tensors = kept(cache_file(cache_folder, "text", key), key, make)
    tokens = {split: tensors[split].numpy() for split in SPLITS}
    tokenizer = bytes(tensors["tokenizer"].numpy())
    return Corpus(
        tokens,
        Tokenizer.from_str(tokenizer.decode()),
        {split: sum(map(len, texts[split])) for split in SPLITS},
        _hash(tokens, tokenizer),
    )


def _hash(tokens: Mapping[Split, np.ndarray], tokenizer: bytes) -> str:
    digest = hashlib.sha256(tokenizer)
    for split in SPLITS:
        digest.update(f"{split} {len(tokens[split])}".encode())
        digest.update(tokens[split].data)
    return digest.hexdigest()
