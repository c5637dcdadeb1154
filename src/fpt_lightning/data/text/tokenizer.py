"""A byte-level BPE made of one's own text (Sennrich et al. 2016; Radford et al. 2019, section 2.2)."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fpt_lightning.errors import FPTError, UsageError

END_OF_TEXT = "<|endoftext|>"
"""The only special token: it stands behind every book, and its id is 0."""

SMALLEST_VOCABULARY = 257
"""Every byte, and the end of a text."""

LARGEST_VOCABULARY = 2**16
"""Ids are kept in 16 bits."""


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Learns a byte-level BPE: any text can be written in it, and read back as it was.

    Args:
        texts: What to learn from.
        vocabulary: Tokens.

    Returns:
        A ``tokenizers.Tokenizer``.

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
    tokenizer.train_from_iterator(texts, trainer)
    if (found := tokenizer.get_vocab_size()) < vocabulary:
        raise UsageError(
            f"data.vocabulary {vocabulary} is larger than the training texts support: they make {found} tokens. "
            f"Use data.vocabulary {found} or less, or more text."
        )
    return tokenizer


def load_tokenizer(folder: Path, vocabulary: int) -> Any:
    """Reads ``tokenizer.json`` of a folder, such as that of a backbone.

    Raises:
        FPTError: If there is none, or it is damaged.
        UsageError: If it has another number of tokens, or no end of text.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise FPTError(f"data.tokenizer: there is no file {path}")
    try:
        content = path.read_text(encoding="utf-8")
        parts = json.loads(content)
    except ValueError as error:
        raise FPTError(f"{path} is not a tokenizer of the tokenizers library, or not whole ({error})") from error
    # checked before the library reads it: whatever is wrong it raises a bare Exception
    if (fault := _fault(parts)) is not None:
        raise FPTError(
            f"{path} is not a tokenizer of the tokenizers library that this program reads: {fault}\n"
            "It takes a byte-level BPE that changes no text and adds no tokens of its own; leave data.tokenizer out to "
            "make one."
        )
    tokenizer = Tokenizer.from_str(content)
    if (found := tokenizer.get_vocab_size()) != vocabulary:
        raise UsageError(f"{path} has {found} tokens, data.vocabulary is {vocabulary}: set data.vocabulary {found}")
    if tokenizer.token_to_id(END_OF_TEXT) is None:
        raise UsageError(f"{path} has no token {END_OF_TEXT}, which ends every text: leave data.tokenizer out")
    return tokenizer


def _fault(parts: Any) -> str | None:
    """What keeps a tokenizer.json from being a whole byte-level BPE; None where nothing does."""
    if not isinstance(parts, dict) or not isinstance(model := parts.get("model"), dict):
        return "it has no model"
    if parts.get("version") != "1.0":
        return f"its version is {parts.get('version')}"
    for name, accepted in _ACCEPTED.items():
        if not accepted(parts.get(name)):
            return f"its {name} is {json.dumps(parts.get(name))[:80]}"
    if not _is_bpe(model):
        return "its model is not a BPE"
    vocabulary, merges = model["vocab"], model["merges"]
    ids = list(vocabulary.values())
    if not all(type(token) is int for token in ids) or len(set(ids)) < len(ids):
        return "its vocabulary does not give every token a number of its own"
    if (every := {*ids, *(token["id"] for token in parts["added_tokens"])}) != set(range(len(every))):
        return "its tokens are not numbered from 0 on"
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(word, str) for word in pair):
            return f"its merge {json.dumps(merge)[:80]} is no pair of tokens"
        if not vocabulary.keys() >= {*pair, "".join(pair)}:
            return f"its merge {json.dumps(merge)[:80]} is of tokens that its vocabulary lacks"
    return None


def _is_bpe(model: dict[str, Any]) -> bool:
    kept = {key: value for key, value in model.items() if key not in ("vocab", "merges")}
    return (
        isinstance(model.get("vocab"), dict)
        and isinstance(model.get("merges"), list)
        and kept.pop("type", "BPE") == "BPE"
        and all(not value or (key == "ignore_merges" and value is True) for key, value in kept.items())
        and all(type(value) in _OPTIONS.get(key, (type(value),)) for key, value in kept.items())
    )


def _is_byte_level(part: Any) -> bool:
    if not isinstance(part, dict) or part.get("type") != "ByteLevel":
        return False
    options = {key: value for key, value in part.items() if key != "type"}
    return options.keys() >= {"add_prefix_space", "trim_offsets"} and all(type(on) is bool for on in options.values())


def _is_added(tokens: Any) -> bool:
    return isinstance(tokens, list) and all(
        isinstance(token, dict)
        and type(token.get("id")) is int
        and 0 <= token["id"] < 2**32
        and isinstance(token.get("content"), str)
        and all(type(token.get(key)) is bool for key in ("single_word", "lstrip", "rstrip", "normalized", "special"))
        for token in tokens
    )


_OPTIONS: Mapping[str, tuple[type, ...]] = {
    "dropout": (type(None), float, int),
    **dict.fromkeys(("unk_token", "continuing_subword_prefix", "end_of_word_suffix"), (type(None), str)),
    **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), (bool,)),
}
"""The options of a BPE, which must all be off but the last."""

_NOTHING_ADDED = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}
"""What transformers writes where a tokenizer adds no special tokens."""

_ACCEPTED: Mapping[str, Callable[[Any], bool]] = {
    "truncation": lambda part: part is None,
    "padding": lambda part: part is None,
    "added_tokens": _is_added,
    "normalizer": lambda part: part in (None, {"type": "NFC"}),
    "pre_tokenizer": _is_byte_level,
    "post_processor": lambda part: part is None or part == _NOTHING_ADDED or _is_byte_level(part),
    "decoder": _is_byte_level,
}
"""The parts of a tokenizer.json beside its model."""


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
