"""Attention that trains long sequences on a CPU.

torch's fused attention drops no weights there, so with dropout it keeps several tensors of ``[batch, heads, length,
length]`` for the backward pass: at 1,024 tokens they fill gigabytes, and moving them takes most of a step. Here the
weights are made slice by slice, small enough for the processor's cache, and made again in the backward pass (Dao et
al. 2022, FlashAttention, section 3.1); what was dropped is drawn again from the same seed.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fpt_lightning.models.kernels.dropout import LANES, draw_kept, kept_scale
from fpt_lightning.models.kernels.replicas import streams

SLICE = 2**20
"""Weights in a slice: 4 MiB, three times; smaller ones gain nothing, and every operator starts all threads anew."""
QUERIES = 128
"""Queries in a slice: few, so that little is computed above the diagonal of a causal mask."""


class AttentionOptions(NamedTuple):
    """What a call asks for beside query, key and value.

    Attributes:
        mask: ``[1 or batch, 1, 1 or queries, 1 or keys]`` bool, True where a query may look; or None.
        bias: Added to the scores, ``[1 or batch, heads, queries, keys]``; or None.
        causal: A query sees no key after it; only without a mask.
        scaling: Factor of the scores.
        dropout: Probability that a weight is dropped, below 1.
    """

    mask: Tensor | None
    bias: Tensor | None
    causal: bool
    scaling: float
    dropout: float


def sliced_attention(query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
    """Attention in memory that grows with the length, not with its square; 16-bit types are computed in fp32.

    Draws one number a run from its :func:`streams`, the seed of everything dropped. Differentiable once, in query, key,
    value and bias. There may be fewer queries than keys where nothing is causal.
    """
    runs = streams()
    seeds = [int(torch.randint(2**63 - 1, (), generator=stream)) for stream in runs]
    if len(runs) == 1:
        # autograd follows tensors that are arguments themselves, so the bias stands beside the options
        return _SlicedAttention.apply(query, key, value, options.bias, options, seeds[0])
    size = len(query) // len(runs)
    taken = []
    for start, seed in zip(range(0, len(query), size), seeds, strict=True):
        own = slice(start, start + size)
        mask, bias = (x if x is None or len(x) == 1 else x[own] for x in (options.mask, options.bias))
        of_run = options._replace(mask=mask, bias=bias)
        taken.append(_SlicedAttention.apply(query[own], key[own], value[own], bias, of_run, seed))
    return torch.cat(taken)


class _SlicedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        options: AttentionOptions,
        seed: int,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, bias, options.mask)
        ctx.options = options._replace(mask=None, bias=None)
        ctx.seed = seed
        with torch.autocast("cpu", enabled=False):
            return _Slices(query, key, value, options, seed).attend().to(query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias, mask = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            slices = _Slices(query, key, value, ctx.options._replace(mask=mask, bias=bias), ctx.seed)
            of_query, of_key, of_value, of_bias = slices.differentiate(_precise(gradient), ctx.needs_input_grad[3])
        of_inputs = (grad.to(query.dtype) for grad in (of_query, of_key, of_value))
        return *of_inputs, None if of_bias is None else of_bias.to(bias.dtype), None, None


def added_mask(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores: the lowest number where a key is hidden, 0 elsewhere."""
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)


def _precise(x: Tensor) -> Tensor:
    """Sums over a thousand keys need 32 bits."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class _Slice(NamedTuple):
    """Some queries of some heads of one example, the keys that they may see, and what is added to their scores."""

    row: int
    heads: slice
    queries: slice
    keys: slice
    hidden: Tensor | None  # [queries, keys], 0 or the lowest number


class _Slices:
    """The slices of a call in a fixed order, and the memory that they share.

    A slice's random numbers follow those of the slice before it, so both passes go through all of them in order.
    """

    def __init__(self, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions, seed: int) -> None:
        self.query, self.key, self.value = _precise(query), _precise(key), _precise(value)
        self.batch, self.heads, self.length, _ = key.shape
        self.asked = query.shape[2]
        self.options = options
        self.generator = torch.Generator().manual_seed(seed)
        self.queries = min(QUERIES, self.asked)
        self.together = min(self.heads, max(1, SLICE // (self.queries * self.length)))
        size = self.together * self.queries * self.length
        self.memory = torch.empty(3, size, dtype=self.query.dtype)
        self.words = torch.empty(-(-size // LANES), dtype=torch.int64)

    def attend(self) -> Tensor:
        """The values that each query takes up: ``[batch, length, heads, head width]``."""
        out = torch.empty_like(self.query.transpose(1, 2), memory_format=torch.contiguous_format)
        for part in self._all():
            row, heads, queries, keys, _ = part
            weights, kept = self._weights(part)
            taken = torch.bmm(weights.mul_(kept), self.value[row, heads, keys])  # [heads, queries, head width]
            out[row, queries, heads] = taken.transpose(0, 1)
        return out.mul_(kept_scale(self.options.dropout))

    def differentiate(self, gradient: Tensor, with_bias: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """The gradients of query, key, value and, if asked for, bias, given that of what :meth:`attend` returned."""
        gradient = gradient.transpose(1, 2) * kept_scale(self.options.dropout)  # [batch, heads, length, head width]
        # heads beside each other in memory, as the layer that made the inputs reads their gradients
        of_query, of_key, of_value = (
            torch.zeros_like(x.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
            for x in (self.query, self.key, self.value)
        )
        bias = self.options.bias
        of_bias = torch.zeros_like(bias, dtype=self.query.dtype) if with_bias and bias is not None else None
        for part in self._all():
            row, heads, queries, keys, _ = part
            weights, kept = self._weights(part)
            above = gradient[row, heads, queries]  # [heads, queries, head width]
            dropped = kept.mul_(weights)
            of_value[row, heads, keys] += torch.bmm(dropped.transpose(1, 2), above)
            # w the weights, d their dropped copy, g the gradient of d: that of the scores is d * g - w * sum(d * g)
            product = torch.bmm(above, self.value[row, heads, keys].transpose(1, 2), out=self._scores(part))
            product.mul_(dropped)
            of_scores = product.addcmul_(weights, product.sum(-1, keepdim=True), value=-1)
            of_query[row, heads, queries] = torch.bmm(of_scores, self.key[row, heads, keys])
            of_key[row, heads, keys] += torch.bmm(of_scores.transpose(1, 2), self.query[row, heads, queries])
            if of_bias is not None:
                of_bias[row % len(of_bias), heads, queries, keys] += of_scores
        return of_query.mul_(self.options.scaling), of_key.mul_(self.options.scaling), of_value, of_bias

    def _all(self) -> Iterator[_Slice]:
        for row in range(self.batch):
            for start in range(0, self.asked, self.queries):
                queries = slice(start, min(start + self.queries, self.asked))
                keys, hidden = self._visible(row, queries)
                for head in range(0, self.heads, self.together):
                    yield _Slice(row, slice(head, min(head + self.together, self.heads)), queries, keys, hidden)

    def _visible(self, row: int, queries: slice) -> tuple[slice, Tensor | None]:
        """The keys up to the last that any of these queries may see, and which of them are hidden from which query."""
        if self.options.mask is not None:
            visible = self.options.mask.expand(self.batch, 1, self.asked, self.length)[row, 0, queries]
            seen = visible.any(dim=0).nonzero()
            keys = slice(0, int(seen[-1]) + 1 if len(seen) else self.length)
            hidden = ~visible[:, keys]
        elif self.options.causal:
            keys = slice(0, queries.stop)
            hidden = torch.ones(queries.stop - queries.start, queries.stop, dtype=torch.bool).triu_(queries.start + 1)
        else:
            return slice(0, self.length), None
        return keys, added_mask(hidden, self.memory.dtype)

    def _weights(self, part: _Slice) -> tuple[Tensor, Tensor]:
        """The softmax of a slice's scores, and 1 or 0 for what dropout keeps of it: ``[heads, queries, keys]``."""
        row, heads, queries, keys, added = part
        scores = self._scores(part)
        if (bias := self.options.bias) is not None:
            bias = bias[row % len(bias), heads, queries, keys].to(scores.dtype)
            added = bias if added is None else bias + added
        torch.baddbmm(
            scores if added is None else added.expand_as(scores),
            self.query[row, heads, queries],
            self.key[row, heads, keys].transpose(1, 2),
            beta=0 if added is None else 1,
            alpha=self.options.scaling,
            out=scores,
        )
        weights = torch.softmax(scores, dim=-1, out=self._memory(1, scores.shape))
        kept = draw_kept(self.words, scores.numel(), self.options.dropout, self.generator)
        return weights, self._memory(2, scores.shape).copy_(kept.view(scores.shape))

    def _scores(self, part: _Slice) -> Tensor:
        """The memory of a slice's scores ``[heads, queries, keys]``, free again once the weights are made."""
        sizes = (range_.stop - range_.start for range_ in (part.heads, part.queries, part.keys))
        return self._memory(0, torch.Size(sizes))

    def _memory(self, index: int, shape: torch.Size) -> Tensor:
        return self.memory[index, : shape.numel()].view(shape)
