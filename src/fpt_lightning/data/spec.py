"""All that a model may know of a task."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

from fpt_lightning.errors import UsageError


@dataclass(frozen=True)
class TaskSpec:
    """The sizes that a datamodule promises and a model is built from.

    Args:
        name: The task's name, as in tables: ``bit_memory``, ``mnist``.
        max_length: Tokens in the longest sequence.
        classes: Classes that every answer chooses among; None where an answer is a number (regression).
        token_width: Numbers in a continuous token; None where tokens are ids.
        vocabulary_size: Distinct token ids; None where tokens are continuous.
        answer_tokens: How many of the last real tokens carry the answer.
        answers_per_token: Answers read from each of them.
        target_mean: Mean of a regression's training targets; the model answers in standard units.
        target_std: Standard deviation of a regression's training targets.

    Raises:
        ValueError: If not exactly one of ``token_width`` and ``vocabulary_size`` is given.
    """

    name: str
    max_length: int
    classes: int | None
    token_width: int | None = None
    vocabulary_size: int | None = None
    answer_tokens: int = 1
    answers_per_token: int = 1
    target_mean: float = 0.0
    target_std: float = 1.0

    def __post_init__(self) -> None:
        if (self.token_width is None) == (self.vocabulary_size is None):
            raise ValueError("a task has either continuous tokens (token_width) or ids (vocabulary_size)")

    @property
    def answers(self) -> int:
        """Answers in one example."""
        return self.answer_tokens * self.answers_per_token

    @property
    def logits_per_answer(self) -> int:
        """Numbers that the model gives for an answer: one a class, or a single one for a regression."""
        return 1 if self.classes is None else self.classes

    @property
    def metric(self) -> str:
        """The figure that judges an answer, the higher the better: ``accuracy``, or ``r2`` of a regression."""
        return "accuracy" if self.classes is not None else "r2"

    def in_standard_units(self, numbers: torch.Tensor) -> torch.Tensor:
        """A regression's targets as the model answers them, in single precision."""
        return ((numbers - self.target_mean) / self.target_std).float()

    def in_own_units(self, numbers: torch.Tensor) -> torch.Tensor:
        """A regression's answers in the units of the data, in double precision on the CPU: an Apple GPU has none."""
        return numbers.cpu().double() * self.target_std + self.target_mean

    def score(self, guess: torch.Tensor, target: torch.Tensor) -> float:
        """The :attr:`metric` of answers in the data's own units, or classes, of one shape or broadcast to it."""
        if self.classes is not None:
            return (target == guess).double().mean().item()
        target = target.double()
        spread = (target - target.mean()).square().sum()
        return 1 - ((target - guess).square().sum() / spread).item() if spread > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Batch(NamedTuple):
    """What a model reads and what it should answer.

    Attributes:
        tokens: ``[batch, length, token_width]`` float, or ``[batch, length]`` int64 ids.
        target: ``[batch, answers]`` int64 classes, or float numbers in the data's own units, in double precision where
            single would round away their spread; ``[batch, 0]`` of new data whose answers nobody knows.
        mask: ``[batch, length]`` bool, True for real tokens, padding after the content; None if nothing is padded.
    """

    tokens: torch.Tensor
    target: torch.Tensor
    mask: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device, as Lightning moves it; an Apple GPU has no double precision: such targets stay."""
        device = torch.device(device)
        waits = device.type in ("cpu", "mps")  # as Lightning has it
        tokens, target = self.tokens.to(device, non_blocking=not waits), self.target
        if device.type != "mps" or target.dtype != torch.float64:
            target = target.to(device, non_blocking=not waits)
        return Batch(tokens, target, None if self.mask is None else self.mask.to(device, non_blocking=not waits))


SAYS = "a batch is fpt_lightning.Batch(tokens, target, mask), or a tuple of these tensors: {} has"


def as_batch(batch: Any, task: TaskSpec) -> Batch:
    """A batch of a loader that is not ours, ``(tokens, target)`` or ``(tokens, target, mask)``, as a :class:`Batch`.

    Raises:
        UsageError: If it is something else, its tensors have other shapes than the task says, or padding is not behind
            the real tokens, of which the last would not be those that answer.
    """
    if isinstance(batch, Batch):
        return batch
    says = SAYS.format(task.name)
    if not (isinstance(batch, list | tuple) and 2 <= len(batch) <= 3 and isinstance(batch[0], torch.Tensor)
            and isinstance(batch[1], torch.Tensor)):  # fmt: skip
        raise UsageError(f"{says} no use for a {type(batch).__name__}")
    tokens, target, *mask = batch
    width = (task.token_width,) if task.token_width is not None else ()
    if tokens.shape[2:] != width or tokens.dim() < 2 or tokens.is_floating_point() != bool(width):
        shape = ", ".join(["batch", "length", *map(str, width)])
        raise UsageError(f"{says} tokens [{shape}] {'float' if width else 'int64'}, got {list(tokens.shape)}")
    if target.numel() != len(tokens) * task.answers or target.is_floating_point() != (task.classes is None):
        kind = "float" if task.classes is None else "int64"
        raise UsageError(f"{says} targets [batch, {task.answers}] {kind}, got {list(target.shape)} {target.dtype}")
    real = mask[0].bool() if mask and mask[0] is not None else None
    expect_padding_behind(tokens, real, task)
    return Batch(tokens, target.reshape(len(tokens), task.answers), real)


def expect_padding_behind(tokens: torch.Tensor, mask: torch.Tensor | None, task: TaskSpec) -> None:
    """Refuses a mask by which the last real tokens are not those that answer.

    Raises:
        UsageError: If it is one.
    """
    if mask is not None and not _ends_in_padding(mask, tokens, task.answer_tokens):
        raise UsageError(
            f"{SAYS.format(task.name)} masks [batch, length], true for real tokens, of which there are at least "
            f"{task.answer_tokens}, and then false for padding, got {list(mask.shape)}"
        )


def _ends_in_padding(mask: torch.Tensor, tokens: torch.Tensor, least: int) -> bool:
    if mask.shape != tokens.shape[:2]:
        return False
    return bool(mask[:, :least].all() & (mask[:, :-1] | ~mask[:, 1:]).all())


class Prediction(NamedTuple):
    """What a model answers.

    Attributes:
        answer: ``[batch, answers]`` int64 classes, -1 where the logits are not finite; or float64 numbers in the data's
            own units, these on the CPU.
        probability: ``[batch, answers]`` of each of these classes, NaN of -1; None where answers are numbers.
    """

    answer: torch.Tensor
    probability: torch.Tensor | None = None


class Trivial(NamedTuple):
    """What a guess without a model is worth in the task's metric, 1 being best; R2 may lie below 0."""

    val: float
    test: float


class TokenWords(NamedTuple):
    """What an example's tokens are called where they are shown to a person.

    Attributes:
        names: One a token.
        groups: The first token of each run of tokens that has a name of its own, and that name; empty where names say
            enough.
        grid: Rows and columns, where tokens are places of a picture.
    """

    names: tuple[str, ...]
    groups: tuple[tuple[int, str], ...] = ()
    grid: tuple[int, int] | None = None
