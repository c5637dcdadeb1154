"""Text as a task: tokens, windows, splits, and folders that are no text."""

import copy
import functools
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fpt_lightning.data.cache import default_folder
from fpt_lightning.data.text.datamodule import RandomWindows, TextFolder, repeat_span
from fpt_lightning.data.text.files import list_books
from fpt_lightning.data.text.tokenizer import _ODD_TEXT, _without_long_words, encode, load_tokenizer, train_tokenizer
from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.models.backbones.architectures import EMBEDDED


def _folder(root: Path, **options: Any) -> TextFolder:
    sizes = {"vocabulary": 300, "context": 32, "validation_books": 2, "test_books": 2}
    return TextFolder(str(root), **{**sizes, **options})


@given(st.text(max_size=200))
def test_any_text_is_read_back_as_it_was(text: str) -> None:
    tokenizer = train_tokenizer(["a small text " * 20], 260)
    tokens = encode(tokenizer, [text])
    assert tokens[-1] == 0
    assert tokenizer.decode(tokens[:-1].tolist(), skip_special_tokens=False) == text


def test_books_are_in_one_split_whatever_lies_beside_them(text_root: Path) -> None:
    def held_out() -> tuple[str, ...]:
        data = _folder(text_root, validation_books=1, test_books=1)
        return tuple(data.tokenizer.decode(data.corpus.tokens[split][:40].tolist()) for split in ("validation", "test"))

    before = held_out()
    assert before[0] != before[1]
    (text_root / "book0.txt").write_text((text_root / "book0.txt").read_text() + "\nmore words")
    assert held_out() == before or any("book0" in text for text in before)
    data = _folder(text_root)
    for split, count in (("train", 4), ("validation", 2), ("test", 2)):
        assert (np.asarray(data.corpus.tokens[split]) == 0).sum() == count  # each book ends with the end of a text


def test_books_have_any_ending_name_and_place(text_root: Path, tmp_path: Path) -> None:
    before = len(list_books(text_root))
    book = (text_root / "book0.txt").read_text()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "linked.txt").write_text(book)
    (text_root / "link").symlink_to(tmp_path / "elsewhere")
    (text_root / "UPPER.TXT").write_text(book)
    (text_root / os.fsdecode(b"caf\xe9.txt")).write_text(book)
    (text_root / "._book0.txt").write_bytes(b"\0")
    assert len(list_books(text_root)) == before + 3
    _folder(text_root).prepare_data()


def test_validation_asks_for_every_token_once(text_root: Path) -> None:
    data = _folder(text_root)
    tokens = torch.from_numpy(np.asarray(data.corpus.tokens["validation"]).astype(np.int64))
    windows = list(data.val_dataloader())
    asked = torch.cat([batch.target.flatten() for batch in windows])
    read = torch.cat([batch.tokens.flatten() for batch in windows])
    assert len(tokens) - 1 - 32 < len(asked) <= len(tokens) - 1
    torch.testing.assert_close(asked, tokens[1 : len(asked) + 1])
    torch.testing.assert_close(read, tokens[: len(read)])


def test_few_windows_are_spread_over_the_books(text_root: Path) -> None:
    every, few = _folder(text_root), _folder(text_root, evaluation_windows=3)
    targets = torch.cat([batch.target for batch in every.val_dataloader()])
    chosen = torch.cat([batch.target for batch in few.val_dataloader()])
    places = [next(place for place, row in enumerate(targets) if torch.equal(row, window)) for window in chosen]
    assert places == [0, len(targets) // 3, 2 * len(targets) // 3]


def test_a_window_is_a_function_of_seed_and_index(text_root: Path) -> None:
    stream, other = (_folder(text_root, seed=seed).examples("train") for seed in (1, 2))
    together = stream.__getitems__([5, 3, 900_000_000])
    for row, index in enumerate([5, 3, 900_000_000]):
        alone = stream.__getitems__([index])
        torch.testing.assert_close(alone.tokens[0], together.tokens[row])
        torch.testing.assert_close(alone.tokens[0, 1:], alone.target[0, :-1])
    assert not torch.equal(other.__getitems__([5]).tokens, stream.__getitems__([5]).tokens)


def test_windows_lie_in_the_text_and_everywhere_in_it() -> None:
    tokens = np.arange(100, dtype=np.uint16)
    batch = RandomWindows(tokens, 20, seed=0).__getitems__(range(2000))
    first = batch.tokens[:, 0]
    assert (batch.target == batch.tokens + 1).all()
    assert set(first.tolist()) == set(range(80))


@given(st.integers(17, 80), *[st.floats(0, 1, exclude_max=True)] * 3)
def test_a_repeated_span_is_copied_from_before_and_nothing_else_changes(
    size: int, length: float, source: float, place: float
) -> None:
    window = np.arange(size)
    repeat_span(window, length, source, place)
    changed = np.flatnonzero(window != np.arange(size))
    assert 8 <= len(changed) <= size // 2
    assert len(changed) == changed[-1] - changed[0] + 1
    copied = window[changed]
    assert (np.diff(copied) == 1).all()
    assert copied[-1] < changed[0]


def test_only_a_share_of_the_training_windows_repeats(text_root: Path) -> None:
    plain, some = (_folder(text_root, repeat_share=share).examples("train") for share in (0.0, 0.25))
    ours, theirs = (stream.__getitems__(range(2000)).tokens for stream in (plain, some))
    assert 0.2 < (ours != theirs).any(dim=1).float().mean() < 0.27
    held_out = [_folder(text_root, repeat_share=share).examples("validation") for share in (0.0, 1.0)]
    torch.testing.assert_close(*(stream.__getitems__([0, 1]).tokens for stream in held_out))


def test_the_cache_is_used_mended_and_renewed(text_root: Path) -> None:
    first = _folder(text_root)
    first.prepare_data()
    (file,) = default_folder().iterdir()
    written = file.stat().st_mtime_ns
    assert _folder(text_root).fingerprint() == first.fingerprint()
    assert file.stat().st_mtime_ns == written
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    assert _folder(text_root).fingerprint() == first.fingerprint()
    assert file.read_bytes() != content
    _folder(text_root, vocabulary=310).prepare_data()
    (text_root / "book3.txt").write_text("other words entirely " * 100)
    assert _folder(text_root).fingerprint() != first.fingerprint()
    assert len(list(default_folder().iterdir())) == 3


def test_a_tokenizer_of_another_folder_is_used_as_it_is(text_root: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    train_tokenizer(["quite another text, of other words " * 9], 270).save(str(tmp_path / "mine" / "tokenizer.json"))
    data = _folder(text_root, vocabulary=270, tokenizer=str(tmp_path / "mine"))
    assert data.tokenizer.token_to_id("other") is not None
    with pytest.raises(UsageError, match=r"has 270 tokens, data\.vocabulary is 300"):
        _folder(text_root, tokenizer=str(tmp_path / "mine")).prepare_data()
    (tmp_path / "mine" / "tokenizer.json").write_text('{"version": "1.0", "mod')
    with pytest.raises(FPTError, match=r"tokenizer\.json is not a tokenizer"):
        _folder(text_root, tokenizer=str(tmp_path / "mine")).prepare_data()


_WHOLE = json.loads(train_tokenizer(["a small text " * 20], 260).to_str())
_DAMAGE = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=3)
    | st.just([])
    | st.just({})
)


def _places(part: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document."""
    children = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    return [path, *(place for key, child in children for place in _places(child, (*path, key)))]


_SPARSE = [place for place in _places(_WHOLE) if place[:2] != ("model", "vocab") or place[2:] in ((), ("a",), ("!",))]


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(_SPARSE), _DAMAGE, st.booleans())
def test_a_damaged_tokenizer_is_an_error_of_ours_or_still_one(
    tmp_path: Path, place: tuple[Any, ...], value: Any, taken_out: bool
) -> None:
    damaged = copy.deepcopy(_WHOLE)
    if not place:
        damaged = value
    else:
        *path, key = place
        parent = functools.reduce(lambda part, step: part[step], path, damaged)
        if taken_out:
            del parent[key]
        else:
            parent[key] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(damaged))
    try:
        tokenizer = load_tokenizer(tmp_path, 260)
    except FPTError as error:
        assert str(error).count("\n") <= 1  # noqa: PT017 - no error is as right
    else:
        text = " a small  text's\n\té\x00"
        assert tokenizer.decode(encode(tokenizer, [text])[:-1].tolist(), skip_special_tokens=False) == text


_BYTE_LEVEL = _WHOLE["pre_tokenizer"]
_BEGINNING = {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "$.normalizer"),
        (
            {"truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}},
            "$.truncation",
        ),
        ({"padding": {"strategy": "BatchLongest"}}, "$.padding"),
        ({"model": {"type": "WordPiece", "vocab": {}}}, "$.model.type"),
        ({"model": _WHOLE["model"] | {"dropout": 0.1}}, "$.model.dropout"),
        ({"model": _WHOLE["model"] | {"continuing_subword_prefix": "##"}}, "$.model.continuing_subword_prefix"),
        ({"model": _WHOLE["model"] | {"merges": [["a", "zz"]]}}, "`zz` out of vocabulary"),
        ({"model": _WHOLE["model"] | {"vocab": {**_WHOLE["model"]["vocab"], "a": 5000}}}, "not numbered from 0 on"),
        ({"model": _WHOLE["model"] | {"merges": [], "vocab": {"<|endoftext|>": 0, "a": 1}}}, "does not come back"),
        ({"pre_tokenizer": _BYTE_LEVEL | {"add_prefix_space": True}}, "does not come back"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "does not come back"),
        ({"decoder": None}, "does not come back"),
        (
            {
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": [
                        {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
                        {"Sequence": {"id": "A", "type_id": 0}},
                    ],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                    "special_tokens": {"<|endoftext|>": _BEGINNING},
                }
            },
            "does not come back",
        ),
        ({"version": "2.0"}, "$.version"),
        ({"version": None}, "$.version"),
    ],
)
def test_a_tokenizer_that_changes_texts_or_is_not_whole_is_named(tmp_path: Path, change: Any, fault: str) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(_WHOLE | change))
    with pytest.raises(FPTError, match=re.escape(fault)):
        load_tokenizer(tmp_path, 260)


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[" * 100_000, b'{"version": "1.0", "model": {"x": ' + b"[" * 100_000]
)
def test_what_is_no_json_is_no_tokenizer(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(FPTError, match="is not a tokenizer of the tokenizers library"):
        load_tokenizer(tmp_path, 260)


def test_a_fault_of_the_library_that_is_not_the_files_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        @staticmethod
        def from_str(content: str) -> None:
            raise TypeError("an interface that changed")

    (tmp_path / "tokenizer.json").write_text(json.dumps(_WHOLE))
    monkeypatch.setattr("tokenizers.Tokenizer", Broken)
    with pytest.raises(TypeError, match="an interface that changed"):
        load_tokenizer(tmp_path, 260)


def test_every_byte_of_a_text_is_tried(tmp_path: Path) -> None:
    never_in_utf8 = {0xC0, 0xC1, *range(0xF5, 0x100)}
    assert set(_ODD_TEXT.encode()) == set(range(256)) - never_in_utf8
    lacking = {**_WHOLE, "normalizer": {"type": "NFC"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(lacking))
    load_tokenizer(tmp_path, 260)
    # the last byte becomes a word that no text has
    vocabulary = {"never" if token == "ł" else token: number for token, number in _WHOLE["model"]["vocab"].items()}
    assert "never" in vocabulary
    lacking["model"] = _WHOLE["model"] | {"vocab": vocabulary}
    (tmp_path / "tokenizer.json").write_text(json.dumps(lacking))
    with pytest.raises(FPTError, match="does not come back"):
        load_tokenizer(tmp_path, 260)


def test_the_tokenizer_of_the_pocket_is_read() -> None:
    assert load_tokenizer(EMBEDDED["pocket"], 4096).get_vocab_size() == 4096


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"one line\nand \xff\xfe another", r"bad\.txt, line 2: byte 0xff is not UTF-8 text"),
        (b"\x7fELF\x01\n\x00\x00binary", r"bad\.txt, line 2: byte 0x00 is not UTF-8 text"),
        (b" \n\n", r"bad\.txt is empty"),
    ],
)
def test_a_file_that_is_no_text_is_named(text_root: Path, content: bytes, fault: str) -> None:
    (text_root / "bad.txt").write_bytes(content)
    with pytest.raises(FPTError, match=fault):
        _folder(text_root).prepare_data()


def test_folders_without_enough_text_say_so(text_root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FPTError, match=r"holds no \.txt file"):
        _folder(tmp_path / "empty").prepare_data()
    with pytest.raises(UsageError, match="no folder"):
        _folder(tmp_path / "nowhere").prepare_data()
    with pytest.raises(UsageError, match=r"8 \.txt files, of which 4 are for validation and 4"):
        _folder(text_root, validation_books=4, test_books=4).prepare_data()
    with pytest.raises(UsageError, match=r"books of .* have \d+ tokens, fewer than a window of data.context 100000"):
        _folder(text_root, context=100_000).prepare_data()
    with pytest.raises(UsageError, match=r"data.vocabulary 20000 is larger than the training texts support"):
        _folder(text_root, vocabulary=20_000).prepare_data()


@pytest.mark.parametrize(
    "options",
    [
        {"root": ""}, {"vocabulary": 256}, {"vocabulary": 70_000}, {"context": 8}, {"validation_books": 0},
        {"test_books": 0}, {"evaluation_windows": 0}, {"repeat_share": 1.5},
    ],
)  # fmt: skip
def test_sizes_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"data.{next(iter(options))}"):
        TextFolder(**{"root": "books", **options})


def test_a_text_without_a_blank_is_learned_from_in_time() -> None:
    """As one word each merge takes the square of it: more than four minutes for a tenth of this."""
    letters = np.random.default_rng(0).choice(list("abcdefghij"), 1_000_000)
    tokenizer = train_tokenizer(["".join(letters)], 300)
    assert tokenizer.get_vocab_size() == 300


@given(st.lists(st.sampled_from(["a", "7", "_", " ", "é", "\n", "!"]), max_size=5), st.integers(1, 600))
def test_no_letter_of_a_long_word_is_lost(letters: list[str], length: int) -> None:
    text = "".join(letter * length for letter in letters)
    pieces = list(_without_long_words(text))
    assert "".join(pieces) == text
    assert all(len(set(piece)) > 1 or len(piece) <= 256 for piece in pieces)
