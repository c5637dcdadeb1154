"""Language modelling on any folder of text files."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fpt_lightning.data.datamodule import SPLITS, FPTDataModule, Split
from fpt_lightning.data.loading import BatchDataset, CountedStream
from fpt_lightning.data.spec import Batch, TaskSpec
from fpt_lightning.data.text.corpus import Corpus, open_corpus
from fpt_lightning.data.text.files import divide, list_books
from fpt_lightning.data.text.tokenizer import LARGEST_VOCABULARY, SMALLEST_VOCABULARY
from fpt_lightning.errors import UsageError, are_shares, at_least

SHORTEST_REPEAT = 8


class TextFolder(FPTDataModule):
    """Every ``.txt`` file of a folder, in tokens of a byte-level BPE made of the training files.

    Whole files ("books") are set aside for validation and for the test, by a hash of their names. A training example
    is a window of ``context`` tokens at a random place of the training books written one behind the other; window i is
    a function of the seed and i alone. Validation and test go through their books window by window, each once.

    Tokenizer and tokens are made at the first start and kept in ``cache_folder`` under a name made of the content of
    all files and the size of the vocabulary.

    Args:
        root: Folder of the text files, UTF-8.
        context: Tokens in a window.
        vocabulary: Tokens that the BPE has.
        validation_books: Files set aside for validation.
        test_books: Files set aside for the test.
        evaluation_windows: Judge only so many windows, spread evenly over the books; None takes all.
        repeat_share: Share of the training windows in which a span is copied to a later place. 0 trains on the text as
            it is; more makes a model copy from its context after fewer steps (Olsson et al. 2022 on induction heads).
            Validation and test are never changed.
        tokenizer: A folder whose ``tokenizer.json`` is used instead of making one.
        kwargs: Those of :class:`FPTDataModule`.
    """

    shuffle = False

    def __init__(
        self,
        root: str = "",
        context: int = 256,
        vocabulary: int = 4096,
        validation_books: int = 4,
        test_books: int = 4,
        evaluation_windows: int | None = None,
        repeat_share: float = 0.0,
        tokenizer: str | None = None,
        **kwargs: Any,
    ) -> None:
        if not root:
            raise UsageError("data.root: say which folder holds the texts, as --data.root FOLDER")
        super().__init__(root=root, **kwargs)
        self.context = context
        self.vocabulary = vocabulary
        self.validation_books = validation_books
        self.test_books = test_books
        self.evaluation_windows = evaluation_windows
        self.repeat_share = repeat_share
        self.tokenizer_folder = Path(tokenizer) if tokenizer else None
        at_least(
            1, "data.", validation_books=validation_books, test_books=test_books, evaluation_windows=evaluation_windows
        )
        at_least(2 * SHORTEST_REPEAT, "data.", context=context)
        if not SMALLEST_VOCABULARY <= vocabulary <= LARGEST_VOCABULARY:
            raise UsageError(
                f"data.vocabulary lies between {SMALLEST_VOCABULARY} and {LARGEST_VOCABULARY}, got {vocabulary}"
            )
        are_shares("data.", with_0=True, with_1=True, repeat_share=repeat_share)

    @property
    def task(self) -> TaskSpec:
        """An answer for every token: the one behind it."""
        return next_tokens("language", self.context, self.vocabulary)

    @cached_property
    def corpus(self) -> Corpus:
        root = Path(self.root)
        books = divide(list_books(root), root, self.validation_books, self.test_books)
        corpus = open_corpus(root, books, self.vocabulary, self.tokenizer_folder, self.cache_folder)
        for split in SPLITS:
            if (tokens := len(corpus.tokens[split])) <= self.context:
                raise UsageError(
                    f"the {split} books of {root} have {tokens} tokens, fewer than a window of data.context "
                    f"{self.context} and the token behind it: lower data.context, or use more text"
                )
        return corpus

    @property
    def tokenizer(self) -> Any:
        return self.corpus.tokenizer

    def prepare_data(self) -> None:
        _ = self.corpus

    def dataset(self, split: Split) -> BatchDataset:
        tokens = self.corpus.tokens[split]
        if split == "train":
            return RandomWindows(tokens, self.context, self.seed, self.repeat_share)
        return ConsecutiveWindows(tokens, self.context, self.evaluation_windows)

    def facts(self) -> dict[str, Any]:
        """Sizes, and the hash of the tokens; the training stream also depends on the run's seed."""
        return {
            "corpus": self.corpus.sha256,
            "context": self.context,
            "evaluation_windows": self.evaluation_windows,
            "repeat_share": self.repeat_share,
        }

    def describe(self) -> list[str]:
        lines = []
        for split, count in zip(SPLITS, (None, self.validation_books, self.test_books), strict=True):
            tokens, characters = len(self.corpus.tokens[split]), self.corpus.characters[split]
            books = f"{count} books, " if count else ""
            lines.append(f"{split}: {books}{tokens:,} tokens, {characters / tokens:.2f} characters a token")
        return [
            *lines,
            f"windows of {self.context} tokens, ids below {self.vocabulary}",
            f"fingerprint {self.fingerprint()}",
        ]


class RandomWindows(CountedStream):
    """An endless stream of windows of tokens ``[tokens]`` uint16: the seed names the stream, the index the window."""

    def __init__(self, tokens: np.ndarray, context: int, seed: int, repeat_share: float = 0.0) -> None:
        super().__init__(self._windows, 5, (seed, 0))
        self.tokens = tokens
        self.context = context
        self.repeat_share = repeat_share

    def _windows(self, uniform: np.ndarray) -> Batch:
        starts = (uniform[:, 0] * (len(self.tokens) - self.context)).astype(np.int64)
        windows = _windows_at(self.tokens, starts, self.context)
        for window, (_, repeat, *span) in zip(windows, uniform, strict=True):
            if repeat < self.repeat_share:
                repeat_span(window, *span)
        return as_batch(windows)


class ConsecutiveWindows(BatchDataset):
    """Windows side by side, so that every token but the first is asked for once; a rest shorter than one is left out.

    Args:
        tokens: ``[tokens]`` uint16.
        context: Tokens that a model reads at a time.
        limit: Take only so many windows, spread evenly.
    """

    def __init__(self, tokens: np.ndarray, context: int, limit: int | None = None) -> None:
        self.tokens = tokens
        self.context = context
        available = (len(tokens) - 1) // context
        chosen = min(available, limit or available)
        self.windows = np.arange(chosen) * available // chosen

    def __len__(self) -> int:
        return len(self.windows)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        return as_batch(_windows_at(self.tokens, self.windows[np.asarray(indices)] * self.context, self.context))


def _windows_at(tokens: np.ndarray, starts: np.ndarray, context: int) -> np.ndarray:
    """The windows that begin at some places, each with the token behind it: ``[batch, context + 1]`` int64."""
    return tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64)


def next_tokens(name: str, context: int, vocabulary: int) -> TaskSpec:
    """The task of a language: behind each of ``context`` tokens the next, one of ``vocabulary``."""
    return TaskSpec(
        name=name, max_length=context, classes=vocabulary, vocabulary_size=vocabulary, answer_tokens=context
    )


def as_batch(windows: np.ndarray) -> Batch:
    """Tokens ``[batch, context]`` and the one behind each as target, of windows ``[batch, context + 1]``."""
    whole = torch.from_numpy(windows)
    return Batch(tokens=whole[:, :-1], target=whole[:, 1:])


def repeat_span(window: np.ndarray, length: float, source: float, place: float) -> None:
    """Copies a span of a window to a later place of it, which it overwrites.

    Args:
        window: ``[tokens]``.
        length: In [0, 1): the span has from :data:`SHORTEST_REPEAT` tokens to half the window.
        source: In [0, 1): where it lies.
        place: In [0, 1): where it is copied to, nowhere over itself.
    """
    tokens = SHORTEST_REPEAT + int(length * (len(window) // 2 - SHORTEST_REPEAT + 1))
    start = int(source * (len(window) - 2 * tokens + 1))
    to = start + tokens + int(place * (len(window) - start - 2 * tokens + 1))
    window[to : to + tokens] = window[start : start + tokens].copy()
