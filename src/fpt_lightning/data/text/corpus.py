"""A folder of books as three rows of tokens, made once and kept under a name that its content decides."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from fpt_lightning.data.datamodule import SPLITS, Split
from fpt_lightning.data.text.files import Book, read_book
from fpt_lightning.data.text.tokenizer import encode, load_tokenizer, train_tokenizer
from fpt_lightning.errors import FPTError

VERSION = 1
"""To be raised where other tokens are made of the same books."""


class Corpus(NamedTuple):
    """Books in tokens.

    Attributes:
        tokens: ``[tokens]`` uint16 of every split.
        tokenizer: The ``tokenizers.Tokenizer`` that wrote them.
        characters: Characters of every split.
        sha256: A hash of the tokens and the tokenizer.
    """

    tokens: Mapping[Split, np.ndarray]
    tokenizer: Any
    characters: Mapping[Split, int]
    sha256: str


def open_corpus(
    root: Path, books: Mapping[Split, list[Path]], vocabulary: int, tokenizer_folder: Path | None, cache: Path
) -> Corpus:
    """Reads a corpus from the cache, or makes it and keeps it there.

    Args:
        root: The folder of the books.
        books: Those of every split; the tokenizer is made of the training books alone.
        vocabulary: Tokens of the tokenizer.
        tokenizer_folder: A tokenizer to use instead.
        cache: The folder of the cache; where it cannot be written, nothing is kept.

    Raises:
        UsageError: If the training books are too small for the vocabulary.
        FPTError: If a book cannot be read or is not text.
    """
    texts = {split: [read_book(path, root) for path in books[split]] for split in SPLITS}
    given = load_tokenizer(tokenizer_folder, vocabulary) if tokenizer_folder else None
    folder = cache / _key(texts, vocabulary, given)
    if (found := _read(folder, vocabulary)) is not None:
        return found
    rank_zero_info(f"making tokens of {sum(map(len, books.values()))} books, once")
    contents = {split: [book.text for book in texts[split]] for split in SPLITS}
    tokenizer = given or train_tokenizer(contents["train"], vocabulary)
    tokens = {split: encode(tokenizer, contents[split]) for split in SPLITS}
    characters = {split: sum(map(len, contents[split])) for split in SPLITS}
    corpus = Corpus(tokens, tokenizer, characters, _hash(tokens, tokenizer))
    try:
        _write(folder, corpus)
    except OSError as error:
        rank_zero_warn(f"{cache} cannot be written ({error.strerror}), so every start makes the tokens anew")
    return corpus


def _key(texts: Mapping[Split, list[Book]], vocabulary: int, tokenizer: Any) -> str:
    listed = {split: [(book.name, book.sha256) for book in texts[split]] for split in SPLITS}
    given = tokenizer.to_str() if tokenizer else None
    return hashlib.sha256(json.dumps([VERSION, vocabulary, given, listed]).encode()).hexdigest()[:16]


def _hash(tokens: Mapping[Split, np.ndarray], tokenizer: Any) -> str:
    digest = hashlib.sha256(tokenizer.to_str().encode())
    for split in SPLITS:
        digest.update(f"{split} {len(tokens[split])}".encode())
        digest.update(np.ascontiguousarray(tokens[split]).data)
    return digest.hexdigest()


def _read(folder: Path, vocabulary: int) -> Corpus | None:
    """What the cache holds; None where it holds nothing, or not what was written."""
    try:
        facts = json.loads((folder / "corpus.json").read_text())
        tokens = {split: np.load(folder / f"{split}.npy", mmap_mode="r") for split in SPLITS}
        tokenizer = load_tokenizer(folder, vocabulary)
    except (OSError, ValueError, FPTError):
        return None
    if facts.get("sha256") != _hash(tokens, tokenizer):
        return None
    return Corpus(tokens, tokenizer, facts["characters"], facts["sha256"])


def _write(folder: Path, corpus: Corpus) -> None:
    """Writes a folder of the cache whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    try:
        for split in SPLITS:
            np.save(part / f"{split}.npy", corpus.tokens[split])
        (part / "tokenizer.json").write_text(corpus.tokenizer.to_str(), encoding="utf-8")
        facts = {"sha256": corpus.sha256, "characters": corpus.characters}
        (part / "corpus.json").write_text(json.dumps(facts) + "\n")
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
