"""A byte-level BPE made of one's own text (Sennrich et al. 2016; Radford et al. 2019, section 2.2)."""

import re
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from fpt_lightning.errors import FPTError, UsageError

END_OF_TEXT = "<|endoftext|>"
"""The only special token: it stands behind every book, and where a book has these letters itself; its id is 0."""

SMALLEST_VOCABULARY = 257
"""Every byte, and the end of a text."""

LARGEST_VOCABULARY = 2**16
"""Ids are kept in 16 bits."""

LONGEST_WORD = 256
"""Letters, digits, signs or blanks in a row that are learned from as one word."""

LONG_WORD = re.compile("|".join(rf"{kind}{{{LONGEST_WORD}}}" for kind in (r"[^\W\d_]", r"\d", r"(?:[^\w\s]|_)", r"\s")))


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Learns a byte-level BPE, a ``tokenizers.Tokenizer``: any text can be written in it, and read back as it was.

    Raises:
        UsageError: If the texts have too few different words for so many tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((piece for text in texts for piece in _without_long_words(text)), trainer)
    if (size := tokenizer.get_vocab_size()) < vocabulary:
        raise UsageError(
            f"data.vocabulary {vocabulary} is larger than the training texts support: they make {size} tokens. "
            f"Use data.vocabulary {size} or less, or more text."
        )
    return tokenizer


def _without_long_words(text: str) -> Iterator[str]:
    """A text in pieces of which no word is longer than :data:`LONGEST_WORD`: a merge takes the square of its length."""
    start = 0
    for match in LONG_WORD.finditer(text):
        yield text[start : match.end()]
        start = match.end()
    yield text[start:]


class _UnchangingBPE(msgspec.Struct):
    type: Literal["BPE"] = "BPE"
    dropout: Annotated[float, msgspec.Meta(ge=0, le=0)] | None = None  # merges at random
    continuing_subword_prefix: Literal[""] | None = None  # the library panics where one is longer than a token


class _NFC(msgspec.Struct, tag_field="type", tag="NFC"):
    pass


class _TokenizerFile(msgspec.Struct):
    """What must hold of a tokenizer.json that :func:`_lossless` cannot see by trying."""

    version: Literal["1.0"]
    model: _UnchangingBPE
    truncation: None = None
    padding: None = None
    normalizer: _NFC | None = None


_ODD_TEXT = unicodedata.normalize(
    "NFC", "".join(chr(code) for code in (*range(0x800), *range(0x800, 0x110000, 0x800)) if not 0xD800 <= code < 0xE000)
)
"""Every byte that UTF-8 has, in letters, blanks, signs and controls of all sorts; an NFC normalizer leaves it alone."""


def load_tokenizer(folder: Path, vocabulary: int) -> Any:
    """Reads ``tokenizer.json`` of a folder, such as that of a backbone.

    Raises:
        FPTError: If there is none, it is damaged, or it does not give every text back as it was.
        UsageError: If it has another number of tokens, or no end of text.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise FPTError(f"data.tokenizer: there is no file {path}")
    try:
        tokenizer = _lossless(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FPTError(
            f"{path} is not a tokenizer of the tokenizers library that this program reads: "
            f"{textwrap.shorten(str(error), 120)}\n"
            "It takes a byte-level BPE that changes no text and adds no tokens of its own; leave data.tokenizer out to "
            "make one."
        ) from error
    if (size := tokenizer.get_vocab_size()) != vocabulary:
        raise UsageError(f"{path} has {size} tokens, data.vocabulary is {vocabulary}: set data.vocabulary {size}")
    if tokenizer.token_to_id(END_OF_TEXT) is None:
        raise UsageError(f"{path} has no token {END_OF_TEXT}, which ends every text: leave data.tokenizer out")
    return tokenizer


def _lossless(content: str) -> Any:
    """The tokenizer of a tokenizer.json.

    Raises:
        ValueError: If the file is damaged, or texts do not come back from its tokens.
    """
    from tokenizers import Tokenizer

    msgspec.json.decode(content, type=_TokenizerFile)
    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:
        if type(error) is not Exception:  # the library has no narrower one for a file that is wrong
            raise
        raise ValueError(str(error)) from error
    if sorted(tokenizer.get_vocab().values()) != list(range(tokenizer.get_vocab_size())):
        raise ValueError("its tokens are not numbered from 0 on")
    if tokenizer.decode(tokenizer.encode(_ODD_TEXT).ids, skip_special_tokens=False) != _ODD_TEXT:
        raise ValueError("a text does not come back from its tokens as it was")
    return tokenizer


def encode(tokenizer: Any, texts: Sequence[str]) -> np.ndarray:
    """Writes texts one behind the other, each with its end: ``[tokens]`` uint16."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    # by paragraphs: the library splits words with a regular expression that is slow on a whole book
    pieces = []
    for text in texts:
        paragraphs = text.splitlines(keepends=True)
        ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(paragraphs)]
        pieces += [np.fromiter((token for part in ids for token in part), np.uint16), np.array([end], np.uint16)]
    return np.concatenate(pieces) if pieces else np.empty(0, np.uint16)
