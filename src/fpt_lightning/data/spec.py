"""All that a model may know of a task."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch


@dataclass(frozen=True)
class TaskSpec:
    """The sizes that a datamodule promises and a model is built from.

    Args:
        name: The task's name, as in tables: ``bit_memory``, ``mnist``.
        max_length: Tokens in the longest sequence.
        classes: Classes that every answer chooses among.
        token_width: Numbers in a continuous token; None where tokens are ids.
        vocabulary_size: Distinct token ids; None where tokens are continuous.
        answer_tokens: How many of the last real tokens carry the answer.
        answers_per_token: Answers read from each of them.

    Raises:
        ValueError: If not exactly one of ``token_width`` and ``vocabulary_size`` is given.
    """

    name: str
    max_length: int
    classes: int
    token_width: int | None = None
    vocabulary_size: int | None = None
    answer_tokens: int = 1
    answers_per_token: int = 1

    def __post_init__(self) -> None:
        if (self.token_width is None) == (self.vocabulary_size is None):
            raise ValueError("a task has either continuous tokens (token_width) or ids (vocabulary_size)")

    @property
    def answers(self) -> int:
        """Answers in one example."""
        return self.answer_tokens * self.answers_per_token

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, for files that a person may read."""
        return asdict(self)


class Batch(NamedTuple):
    """What a model reads and what it should answer.

    Attributes:
        tokens: ``[batch, length, token_width]`` float, or ``[batch, length]`` int64 ids.
        target: ``[batch, answers]`` int64 classes.
        mask: ``[batch, length]`` bool, True for real tokens, padding after the content; None if nothing is padded.
    """

    tokens: torch.Tensor
    target: torch.Tensor
    mask: torch.Tensor | None = None
