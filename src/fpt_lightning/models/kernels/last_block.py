"""The last block of a body, computed for the tokens that answer alone.

Of what a body returns, only the rows of the answer tokens are read, one of 64 in an image. Blocks mix tokens in their
attention and nowhere else: norms, projections, feed-forward and residual sums take each token for itself. So in the
last block other tokens matter as keys and values alone, and leaving out the rest changes neither an answer nor a
gradient: what is left out reaches no loss. Fewer random numbers are drawn, as for all that is not computed.

Every block of transformers is written for one number of tokens throughout. Hooks, there for one call only, change it on
the way: the block is given the answer tokens, its attention all of them, its attention function the queries of the
answer tokens, and the projection behind it what these took up.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AnswerTokens:
    """Which tokens of a batch answer: the last ``count`` real ones of every example.

    Args:
        count: How many.
        mask: ``[batch, length]`` bool, True for real tokens, padding after them; None if nothing is padded.
    """

    def __init__(self, count: int, mask: Tensor | None) -> None:
        self.count = count
        self._places: Tensor | None = None  # [batch, count]
        if mask is not None:
            self._places = (mask.sum(dim=1) - count)[:, None] + torch.arange(count, device=mask.device)

    def of(self, x: Tensor, dim: int) -> Tensor:
        """Their rows of ``[1 or batch, ...]``, whose dimension ``dim`` is the tokens."""
        if self._places is None:
            return self.last_of(x, dim)
        shape = [1] * x.dim()
        shape[0], shape[dim] = self._places.shape
        return x.take_along_dim(self._places.view(shape), dim)

    def causal_mask(self, length: int, device: torch.device) -> Tensor | None:
        """Which of so many tokens they may see where none sees a later one: ``[1 or batch, 1, count, length]``.

        None for the last token alone, which sees all.
        """
        if self._places is None and self.count == 1:
            return None
        tokens = torch.arange(length, device=device)
        places = tokens[None, -self.count :] if self._places is None else self._places
        return (tokens <= places[:, :, None])[:, None]

    def last_of(self, x: Tensor, dim: int = 1) -> Tensor:
        """Undoes :meth:`behind_zeros`."""
        rows = x.narrow(dim, x.size(dim) - self.count, self.count)
        return rows.contiguous()  # layers may view what they get as a matrix

    def behind_zeros(self, x: Tensor, length: int) -> Tensor:
        """Lengthens their rows ``[batch, count, ...]`` to ``[batch, length, ...]``, for code that expects as many."""
        return F.pad(x, (0, 0) * (x.dim() - 2) + (length - self.count, 0))


class BlockForm(NamedTuple):
    """Where a block keeps its attention, as paths within it.

    Attributes:
        norm: The norm before the attention; None where the attention reads what the block is given.
        attention: What makes queries, keys and values, and asks for an attention function.
        projection: What is given that function's result first.
    """

    norm: str | None
    attention: str
    projection: str


@contextmanager
def only_answers(block: nn.Module, form: BlockForm, answers: AnswerTokens) -> Iterator[None]:
    """Lets a block compute the answer tokens alone; they end what it returns, and all before them is zero.

    The attention function gets ``answers`` as an argument, and returns its result in the same way.
    """
    hooks = _Hooks(block, form, answers)
    handles = [
        block.register_forward_pre_hook(hooks.enter_block, with_kwargs=True),
        block.get_submodule(form.attention).register_forward_pre_hook(hooks.enter_attention, with_kwargs=True),
        block.get_submodule(form.projection).register_forward_pre_hook(hooks.enter_projection),
        block.register_forward_hook(hooks.leave_block),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Hooks:
    """The hooks of one call, between which the hidden states of all tokens are kept."""

    def __init__(self, block: nn.Module, form: BlockForm, answers: AnswerTokens) -> None:
        self.norm = nn.Identity() if form.norm is None else block.get_submodule(form.norm)
        self.answers = answers

    def enter_block(self, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self.hidden: Tensor = args[0] if args else kwargs["hidden_states"]  # [batch, length, width]
        return _given(self.answers.of(self.hidden, 1), args, kwargs)

    def enter_attention(self, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        # the block has normed the answer tokens itself, for nothing
        return _given(self.norm(self.hidden), args, {**kwargs, "answers": self.answers})

    def enter_projection(self, _: nn.Module, args: Any) -> Any:
        return self.answers.last_of(args[0]), *args[1:]

    def leave_block(self, _: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return self.answers.behind_zeros(output, self.hidden.size(1))
        return self.answers.behind_zeros(output[0], self.hidden.size(1)), *output[1:]


def _given(hidden: Tensor, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The arguments of a call with other hidden states."""
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})
