"""The two bit tasks of the paper: generated, endless, seeded."""

from abc import abstractmethod
from string import ascii_lowercase
from typing import Any

import numpy as np
import torch

from fpt_lightning.data.datamodule import SPLITS, FPTDataModule, Split
from fpt_lightning.data.loading import ENDLESS, BatchDataset, CountedStream
from fpt_lightning.data.spec import Batch, TaskSpec, TokenWords, Trivial
from fpt_lightning.errors import UsageError, at_least
from fpt_lightning.machine import expect_memory

EVALUATION_KEY = 2**64 - 1


class BitTask(FPTDataModule):
    """Strings of random bits, cut into patches of ``patch_size`` bits, one patch a token.

    Example i of a split is a function of the seed, the split and i alone: no order of asking and no number of workers
    or devices changes it. Validation and test use a key that no training seed can reach, so their numbers are drawn
    apart, and every seed is judged on the same examples. Where there are few strings at all, they come again: those of
    bit XOR at the paper's sizes make 1,024 examples.

    Args:
        n: Bits in a string.
        patterns: Strings in an example.
        patch_size: Bits in a token; divides ``n``.
        strings: Strings that the model reads.
        draws: Uniform numbers that one example uses up.
        validation_examples: Examples in the validation split.
        test_examples: Examples in the test split.
        kwargs: Those of :class:`FPTDataModule`; ``root`` is unused, nothing is stored.
    """

    name: str
    shuffle = False

    def __init__(
        self,
        n: int,
        patterns: int,
        patch_size: int,
        strings: int,
        draws: int,
        validation_examples: int = 1000,
        test_examples: int = 1000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.n = n
        self.patterns = patterns
        self.patch_size = patch_size
        self.strings = strings
        self.draws = draws
        self.lengths = {"train": ENDLESS, "validation": validation_examples, "test": test_examples}
        at_least(1, "data.", n=n, patterns=patterns, patch_size=patch_size)
        at_least(1, "data.", validation_examples=validation_examples, test_examples=test_examples)
        judged = max(validation_examples, test_examples)
        expect_memory(8 * max(draws, judged * n), f"data.n {n:,} with {judged:,} examples to judge")
        if n % patch_size:
            raise UsageError(f"data.patch_size {patch_size} does not divide data.n {n}")
        if not 0 <= self.seed < EVALUATION_KEY:
            raise UsageError(f"a seed lies between 0 and 2**64 - 2, got {self.seed}")

    @property
    def task(self) -> TaskSpec:
        """One answer of 2 classes for every bit of the last string."""
        answer_tokens = self.n // self.patch_size
        return TaskSpec(
            name=self.name,
            max_length=self.strings * answer_tokens,
            classes=2,
            token_width=self.patch_size,
            answer_tokens=answer_tokens,
            answers_per_token=self.patch_size,
        )

    @abstractmethod
    def batch(self, uniform: np.ndarray) -> Batch:
        """Makes examples of uniform numbers ``[batch, draws]``."""

    def dataset(self, split: Split) -> BatchDataset:
        seed = self.seed if split == "train" else EVALUATION_KEY
        return CountedStream(self.batch, self.draws, (seed, SPLITS.index(split)), self.lengths[split])

    def trivial_baselines(self) -> dict[str, Trivial]:
        """Neither bit is the commoner one, by definition: the guess is 0."""
        return {"commonest class": self.worth(lambda split: torch.tensor(0))}

    def facts(self) -> dict[str, Any]:
        """The sizes; the training stream also depends on the run's seed, which a result names itself."""
        return {"n": self.n, "patterns": self.patterns, "patch_size": self.patch_size, "lengths": self.lengths}


class BitMemory(BitTask):
    """Bit memory: which of the strings was shown again, and what its hidden bits were (FPT section 2.2).

    The model reads ``patterns`` random strings in {-1, +1}, then one of them again with each bit set to 0 with
    probability 0.5; it answers that whole string. The paper's sizes: 5 strings of 1,000 bits, 50 a token, so
    120 tokens x 50, and 50 answers of 2 classes on each of the last 20 tokens.
    """

    name = "bit_memory"

    def __init__(self, n: int = 1000, patterns: int = 5, patch_size: int = 50, **kwargs: Any) -> None:
        # the strings, which of them comes again, and which of its bits are hidden
        super().__init__(n, patterns, patch_size, strings=patterns + 1, draws=patterns * n + 1 + n, **kwargs)

    def batch(self, uniform: np.ndarray) -> Batch:
        """Tokens ``[batch, 120, 50]`` in {-1, 0, +1}, target ``[batch, 1000]`` in {0, 1}, at the paper's sizes."""
        size = len(uniform)
        bits = uniform[:, : self.patterns * self.n].reshape(size, self.patterns, self.n) < 0.5
        chosen = bits[np.arange(size), (uniform[:, self.patterns * self.n] * self.patterns).astype(np.int64)]
        shown = uniform[:, self.patterns * self.n + 1 :] < 0.5
        signs = np.concatenate([bits, chosen[:, None]], axis=1).astype(np.float32) * 2 - 1
        signs[:, -1] *= shown
        return Batch(
            tokens=torch.from_numpy(signs.reshape(size, -1, self.patch_size)),
            target=torch.from_numpy(chosen.astype(np.int64)),
        )

    def trivial_baselines(self) -> dict[str, Trivial]:
        """Adds the last string as it is shown; a hidden bit is guessed to be 0."""
        tokens = self.task.answer_tokens

        def shown(split: Split) -> torch.Tensor:
            return torch.cat([batch.tokens[:, -tokens:].flatten(1) > 0 for batch in self.in_chunks(split)])

        return {**super().trivial_baselines(), "the bits that show": self.worth(shown)}

    def token_words(self) -> TokenWords:
        tokens = self.task.answer_tokens
        strings = [f"string {number}" for number in range(1, self.patterns + 1)] + ["masked string"]
        return TokenWords(
            tuple(f"{string}, patch {patch}" for string in strings for patch in range(1, tokens + 1)),
            tuple((place * tokens, string) for place, string in enumerate(strings)),
        )

    def needed_tokens(self, batch: Batch) -> torch.Tensor:
        """The patch of the string that is shown again; its masked copy holds half of the bits only."""
        tokens = self.task.answer_tokens
        strings = batch.tokens[:, : self.patterns * tokens].unflatten(1, (self.patterns, tokens)).flatten(2) > 0
        again = (strings == batch.target.bool()[:, None]).all(dim=2)  # [batch, patterns]
        patch = torch.eye(tokens, dtype=torch.bool)
        needed = again[:, None, :, None] & patch[None, :, None, :]  # [batch, answer tokens, patterns, tokens]
        masked = torch.zeros(len(needed), tokens, tokens, dtype=torch.bool)
        return torch.cat([needed.flatten(2), masked], dim=2)


class BitXOR(BitTask):
    """Bit XOR: the exclusive or of ``patterns`` strings, bit by bit (FPT section 2.2).

    The paper's sizes: 2 strings of 5 bits in {0, 1}, one bit a token, so 10 tokens x 1, and one answer of 2 classes
    on each of the last 5 tokens.
    """

    name = "bit_xor"

    def __init__(self, n: int = 5, patterns: int = 2, patch_size: int = 1, **kwargs: Any) -> None:
        super().__init__(n, patterns, patch_size, strings=patterns, draws=patterns * n, **kwargs)

    def batch(self, uniform: np.ndarray) -> Batch:
        """Tokens ``[batch, 10, 1]`` and target ``[batch, 5]``, both in {0, 1}, at the paper's sizes."""
        size = len(uniform)
        bits = uniform.reshape(size, self.patterns, self.n) < 0.5
        return Batch(
            tokens=torch.from_numpy(bits.astype(np.float32).reshape(size, -1, self.patch_size)),
            target=torch.from_numpy((bits.sum(axis=1) % 2).astype(np.int64)),
        )

    def token_words(self) -> TokenWords:
        few = self.strings <= len(ascii_lowercase)
        names = ascii_lowercase if few else [f"{number}:" for number in range(1, self.strings + 1)]
        tokens = range(1, self.task.answer_tokens + 1)
        return TokenWords(tuple(f"{name}{token}" for name in names[: self.strings] for token in tokens))

    def needed_tokens(self, batch: Batch) -> torch.Tensor:
        """For answer i token i of every string."""
        of_an_example = torch.eye(self.task.answer_tokens, dtype=torch.bool).repeat(1, self.strings)
        return of_an_example.expand(len(batch.tokens), -1, -1)
