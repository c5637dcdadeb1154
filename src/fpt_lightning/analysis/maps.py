"""What the answers look at: the attention probabilities of a layer (FPT section 3.5)."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PretrainedConfig

from fpt_lightning.data.spec import Batch
from fpt_lightning.errors import UsageError
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.models.kernels.attention import ATTENTION, is_causal, register_attention

RECORDED = "fpt_lightning_recorded"


class AttentionMaps(NamedTuple):
    """The attention of one layer in a batch, at the tokens that answer.

    Attributes:
        weights: ``[batch, heads, answer tokens, length]``; every row sums to 1.
        allowed: ``[batch, answer tokens, length]`` bool, True where a token may look.
    """

    weights: torch.Tensor
    allowed: torch.Tensor


class MeanMaps(NamedTuple):
    """:class:`AttentionMaps` averaged over examples.

    Attributes:
        heads: ``[heads, answer tokens, length]``; every row sums to 1.
        needed: ``[heads]``, the share of the answers' attention that falls on the tokens needed, averaged over answers
            and examples; None where a task does not say which those are.
        uniform: What it would be if every token looked alike at all it may see; None likewise.
        examples: How many were averaged.
        from_end: Whether examples of differing length are aligned at their last token rather than at the first.
    """

    heads: torch.Tensor
    needed: torch.Tensor | None
    uniform: float | None
    examples: int
    from_end: bool


@torch.no_grad()
def attention_maps(
    model: FrozenPretrainedTransformer, tokens: torch.Tensor, mask: torch.Tensor | None = None, layer: int = 0
) -> AttentionMaps:
    """Runs a batch without dropout through transformers' eager attention, and keeps the probabilities of one layer.

    Args:
        model: The transformer.
        tokens: ``[batch, length, token_width]`` float, or ``[batch, length]`` ids.
        mask: ``[batch, length]`` bool, True for real tokens, padding after them; None if nothing is padded.
        layer: The layer, counted from 0.

    Raises:
        UsageError: If the backbone has no such layer, or no attention of every token to every other.
    """
    depth = model.family.depth(model.backbone)
    if not 0 <= layer < max(depth, 1):
        raise UsageError(f"there is no layer {layer + 1}: backbone '{model.choice.name}' has {depth}")
    recorder = _Recorder(layer)
    with _recording(model, recorder):
        model(tokens, mask)
    if recorder.kept is None:
        raise UsageError(f"backbone '{model.choice.name}' has no attention of every token to every other to show")
    weights, allowed = recorder.kept
    heads = weights.size(1)
    # [batch, length, (heads + 1) * length]: the last tokens' rows are chosen as the output layer chooses them
    rows = torch.cat([weights, allowed.to(weights.dtype)], dim=1).transpose(1, 2).flatten(2)
    chosen = model.last_real_tokens(rows, mask).unflatten(2, (heads + 1, -1)).transpose(1, 2)
    return AttentionMaps(chosen[:, :heads], chosen[:, heads].bool())


def mean_maps(
    model: FrozenPretrainedTransformer, batches: Iterable[tuple[Batch, torch.Tensor | None]], layer: int = 0
) -> MeanMaps:
    """Averages :func:`attention_maps` over examples.

    Args:
        model: The transformer.
        batches: Batches, at least one, each with the tokens that its answers need ``[batch, answer tokens, length]``
            bool, where the task says so.
        layer: The layer, counted from 0.
    """
    length = model.task.max_length
    maps: list[torch.Tensor] = []
    shares: list[torch.Tensor] = []
    uniform: list[torch.Tensor] = []
    from_end = False
    for batch, needed in batches:
        weights, allowed = attention_maps(model, batch.tokens, batch.mask, layer)
        if needed is not None:
            shares.append((weights * needed[:, None]).sum(-1).mean(-1))  # [batch, heads]
            uniform.append(((needed & allowed).sum(-1) / allowed.sum(-1)).mean(-1))  # [batch]
        from_end = from_end or batch.mask is not None or weights.size(-1) < length
        maps.append(_at_the_end(weights, batch.mask, length))
    every = torch.cat(maps)  # [examples, heads, answer tokens, length]
    return MeanMaps(
        every.mean(0),
        torch.cat(shares).mean(0) if shares else None,
        torch.cat(uniform).mean().item() if uniform else None,
        len(every),
        from_end,
    )


class _Recorder:
    """An attention function for transformers: the model's own eager one, of which it keeps a layer's probabilities."""

    def __init__(self, layer: int) -> None:
        self.layer = layer
        self.calls = 0
        self.kept: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attends as ``attn_implementation="eager"`` does; ``attention_mask`` is bool, or None as for sdpa."""
        allowed = attention_mask  # [1 or batch, 1, 1 or queries, keys]
        if allowed is None:
            allowed = torch.ones(1, 1, query.size(2), key.size(2), dtype=torch.bool, device=query.device)
            allowed = allowed.tril() if is_causal(module, **kwargs) else allowed
        added = torch.zeros(allowed.shape, dtype=query.dtype, device=query.device)
        added.masked_fill_(~allowed, torch.finfo(query.dtype).min)
        # every file of transformers that asks for an attention function by name holds its eager one under this name
        eager = sys.modules[type(module).__module__].eager_attention_forward
        out, weights = eager(module, query, key, value, added, **kwargs)
        if self.calls == self.layer:
            self.kept = weights, allowed.expand(len(weights), -1, weights.size(2), -1)
        self.calls += 1
        return out, weights


@contextmanager
def _recording(model: FrozenPretrainedTransformer, recorder: _Recorder) -> Iterator[None]:
    """Lets a model evaluate and its body attend through a recorder for a while, if it asks for attention by name."""
    body, training = model.backbone, model.training
    found = {id(config): config for module in body.modules() if (config := getattr(module, "config", None))}
    # those that never had our attention, such as those that cap their scores, may still ask for one
    asks = getattr(body, "_supports_attention_backend", False)
    before = [
        (config, config._attn_implementation)
        for config in found.values()
        if isinstance(config, PretrainedConfig) and (asks or config._attn_implementation == ATTENTION)
    ]
    try:
        for config, _ in before:
            register_attention(config, RECORDED, recorder)
        model.eval()
        yield
    finally:
        model.train(training)
        for config, implementation in before:
            config._attn_implementation = implementation


def _at_the_end(weights: torch.Tensor, mask: torch.Tensor | None, length: int) -> torch.Tensor:
    """Widens maps to ``length`` tokens, what is missing or padding before the real tokens."""
    if mask is None and weights.size(-1) == length:
        return weights
    widened = weights.new_zeros(*weights.shape[:3], length)
    lengths = [weights.size(-1)] * len(weights) if mask is None else mask.sum(dim=1).tolist()
    for row, real in enumerate(lengths):
        widened[row, :, :, length - real :] = weights[row, :, :, :real]
    return widened
