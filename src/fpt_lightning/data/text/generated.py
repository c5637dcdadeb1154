"""Languages that nobody speaks, to pretrain a body on in place of text: which part of text is it that carries over?"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from fpt_lightning.data.bits import EVALUATION_KEY
from fpt_lightning.data.datamodule import SPLITS, FPTDataModule, Split
from fpt_lightning.data.loading import ENDLESS, BatchDataset, CountedStream
from fpt_lightning.data.spec import Batch, TaskSpec
from fpt_lightning.data.text.datamodule import SHORTEST_REPEAT, as_batch, next_tokens, repeat_span
from fpt_lightning.data.text.tokenizer import LARGEST_VOCABULARY
from fpt_lightning.errors import UsageError, are_shares, at_least


class GeneratedLanguage(FPTDataModule):
    """Windows of made-up tokens for a :class:`LanguageModel`, an endless stream of them to train on.

    Window i of a split is a function of the seed, the split and i alone. Validation and test use a key that no training
    seed can reach, so every seed is judged on the same windows, drawn apart from those it was trained on.

    Args:
        context: Tokens in a window.
        vocabulary: Different tokens.
        draws: Uniform numbers that a window uses up.
        evaluation_windows: Windows in validation, and in test.
        kwargs: Those of :class:`FPTDataModule`; ``root`` is unused, nothing is stored.
    """

    name: str
    shuffle = False

    def __init__(self, context: int, vocabulary: int, draws: int, evaluation_windows: int = 256, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.context = context
        self.vocabulary = vocabulary
        self.draws = draws
        self.evaluation_windows = evaluation_windows
        at_least(1, "data.", evaluation_windows=evaluation_windows)
        at_least(2 * SHORTEST_REPEAT, "data.", context=context)
        if not 2 <= vocabulary <= LARGEST_VOCABULARY:
            raise UsageError(f"{self.name} has 2 to {LARGEST_VOCABULARY:,} different tokens, not {vocabulary:,}")

    @property
    def task(self) -> TaskSpec:
        """An answer for every token: the one behind it."""
        return next_tokens(self.name, self.context, self.vocabulary)

    @abstractmethod
    def windows(self, uniform: np.ndarray) -> np.ndarray:
        """Makes windows, each with the token behind it, ``[batch, context + 1]``, of numbers ``[batch, draws]``."""

    def batch(self, uniform: np.ndarray) -> Batch:
        """Tokens ``[batch, context]`` and the one behind each as target."""
        return as_batch(self.windows(uniform))

    def dataset(self, split: Split) -> BatchDataset:
        key = (self.seed if split == "train" else EVALUATION_KEY, SPLITS.index(split))
        return CountedStream(self.batch, self.draws, key, ENDLESS if split == "train" else self.evaluation_windows)

    def facts(self) -> dict[str, Any]:
        """The sizes; the training stream also depends on the run's seed, which a result names itself."""
        return {"evaluation_windows": self.evaluation_windows}


class CopiedTokens(GeneratedLanguage):
    """Random tokens with a span of each window copied to a later place: the copying of text, and nothing else of it.

    All that can be learnt is to find where a span began before and to go on with it (Olsson et al. 2022 on induction
    heads); see :func:`repeat_span`.
    """

    name = "copied_tokens"

    def __init__(self, context: int = 256, vocabulary: int = 4096, **kwargs: Any) -> None:
        super().__init__(context, vocabulary, context + 1 + 3, **kwargs)

    def windows(self, uniform: np.ndarray) -> np.ndarray:
        windows = (uniform[:, :-3] * self.vocabulary).astype(np.int64)
        for window, span in zip(windows, uniform[:, -3:], strict=True):
            repeat_span(window, *span)
        return windows


class ShuffleDyck(GeneratedLanguage):
    """k-shuffle Dyck: balanced brackets of several kinds, woven into each other (Papadimitriou and Jurafsky 2023).

    At each place a bracket of any kind opens, or one of those open closes, each as likely as another; where none is
    open, one opens. Kinds may cross, so a model has to count each, over any distance. A window begins with nothing open
    and may end anywhere.

    Args:
        context: Tokens in a window.
        kinds: Kinds of brackets; the vocabulary is twice as large.
        opens: How likely a bracket opens where one could close.
        kwargs: Those of :class:`GeneratedLanguage`.
    """

    name = "shuffle_dyck"

    def __init__(self, context: int = 256, kinds: int = 64, opens: float = 0.5, **kwargs: Any) -> None:
        super().__init__(context, 2 * kinds, 2 * (context + 1), **kwargs)
        self.kinds = kinds
        self.opens = opens
        are_shares("data.", opens=opens)

    def windows(self, uniform: np.ndarray) -> np.ndarray:
        size, rows = len(uniform), np.arange(len(uniform))
        windows = np.empty((size, self.context + 1), dtype=np.int64)
        open_now = np.zeros((size, self.kinds), dtype=np.int64)  # brackets of each kind
        for place, (opens, which) in enumerate(uniform.reshape(size, -1, 2).transpose(1, 2, 0)):
            many = open_now.sum(axis=1)
            opening = (many == 0) | (opens < self.opens)
            drawn = (which * self.kinds).astype(np.int64)
            # the kind of the n-th that is open
            closing = (open_now.cumsum(axis=1) <= (which * many).astype(np.int64)[:, None]).sum(axis=1)
            kind = np.where(opening, drawn, closing)
            open_now[rows, kind] += np.where(opening, 1, -1)
            windows[:, place] = kind + np.where(opening, 0, self.kinds)
        return windows

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "opens": self.opens}


class MemorisedTokens(GeneratedLanguage):
    """So many windows of random tokens, again and again: nothing to learn but them by heart (Maennel et al. 2020).

    The language of random labels. Nothing of it holds for other windows, so validation and test are the first of those
    that are trained on, and depend on the seed.

    Args:
        context: Tokens in a window.
        vocabulary: Different tokens.
        distinct: Windows to learn.
        kwargs: Those of :class:`GeneratedLanguage`.
    """

    name = "memorised_tokens"

    def __init__(self, context: int = 256, vocabulary: int = 4096, distinct: int = 1024, **kwargs: Any) -> None:
        super().__init__(context, vocabulary, context + 1, **kwargs)
        self.distinct = distinct
        at_least(1, "data.", distinct=distinct)

    def windows(self, uniform: np.ndarray) -> np.ndarray:
        windows: np.ndarray = (uniform * self.vocabulary).astype(np.int64)
        return windows

    def dataset(self, split: Split) -> BatchDataset:
        judged = min(self.distinct, self.evaluation_windows)
        return _Again(self.batch, self.draws, (self.seed, 0), self.distinct, ENDLESS if split == "train" else judged)

    def facts(self) -> dict[str, Any]:
        """The seed is among them, which draws what is judged, too."""
        return {**super().facts(), "distinct": self.distinct, "seed": self.seed}


class _Again(CountedStream):
    """A stream that begins anew after its ``distinct`` first examples."""

    def __init__(self, make: Any, draws: int, key: tuple[int, int], distinct: int, length: int) -> None:
        super().__init__(make, draws, key, length)
        self.distinct = distinct

    def __getitems__(self, indices: Sequence[int]) -> Any:
        return super().__getitems__([index % self.distinct for index in indices])
