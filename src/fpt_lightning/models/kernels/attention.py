"""The attention of every model here, under the names by which transformers asks for it."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from fpt_lightning.models.kernels.blockwise_attention import blockwise_attention
from fpt_lightning.models.kernels.last_block import AnswerTokens
from fpt_lightning.models.kernels.linear import lacks_bf16
from fpt_lightning.models.kernels.sliced_attention import AttentionOptions, sliced_attention
from fpt_lightning.models.kernels.whole_attention import whole_attention

ATTENTION = "fpt_lightning"
BLOCKWISE_ATTENTION = "fpt_lightning_causal"
SLICED_FROM = 192
"""Tokens from which slices take no longer than whole tensors; shorter ones fit into the cache as they are."""


def use_attention(config: PretrainedConfig, *, blockwise: bool = False) -> None:
    """Makes a model of transformers use :func:`attention`; ``blockwise`` serves one that trains in bf16 as a whole."""
    if blockwise:
        register_attention(config, BLOCKWISE_ATTENTION, partial(attention, blockwise=True))
    else:
        register_attention(config, ATTENTION, attention)


def register_attention(config: PretrainedConfig, name: str, function: Any) -> None:
    """Makes a model of transformers use an attention function of ours, with the bool masks of sdpa."""
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, bool_mask)
    config._attn_implementation = name


def bool_mask(*, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """The mask of sdpa; on a GPU made without a look at what is padded, for which the host would wait."""
    if attention_mask is not None and attention_mask.device.type != "cpu":
        if not any(attention_mask.stride()):
            attention_mask = None
        else:
            options |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return sdpa_mask(attention_mask=attention_mask, **options)


def nothing_padded(embeddings: Tensor) -> Tensor | None:
    """The mask ``[batch, length]`` of a batch without padding: one number for all, by which :func:`bool_mask` knows it.

    With no mask at all transformers reads position ids, and waits for a GPU to find several sequences in a row.
    """
    if embeddings.device.type == "cpu":
        return None
    return torch.ones(1, 1, dtype=torch.bool, device=embeddings.device).expand(embeddings.shape[:2])


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    blockwise: bool = False,
    answers: AnswerTokens | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """What transformers calls: torch's own attention but where a kernel of ours is faster on a CPU.

    ``attention_mask`` is ``[batch, 1, length, length]`` bool, True where a query may look, a size of 1 standing for
    all; None for all that causality allows. ``scaling`` is the inverse root of the head width where it is None.
    ``blockwise`` serves causal bf16 calls without dropout too. With ``answers`` their queries alone are computed: what
    these take up ends the result, and all before it is zero.

    Returns:
        ``[batch, length, heads, head width]`` and None, as transformers expects it.
    """
    if lacks_bf16(query):
        mask, wide = _in_fp32(attention_mask), {name: _in_fp32(option) for name, option in kwargs.items()}
        query, key, value = query.float(), key.float(), value.float()
        with torch.autocast("cpu", enabled=False):
            out, _ = attention(module, query, key, value, mask, dropout, scaling, answers=answers, **wide)
        return out.bfloat16(), None
    if answers is not None:
        asked, mask = _asked(answers, module, query, attention_mask, kwargs)
        out, _ = attention(module, answers.of(query, 2), key, value, mask, dropout, scaling, **asked)
        return answers.behind_zeros(out, query.shape[2]), None
    keys, values = key, value
    if query.device.type == "cpu" and 0 < dropout < 1:
        # what torch does with groups draws dropout for all runs of a pack at once
        keys, values = _for_all_heads(key, query), _for_all_heads(value, query)
    if query.device.type == "cpu" and _plain(query, keys, values, attention_mask, kwargs):
        causal = attention_mask is None and is_causal(module, **kwargs)
        factor = query.shape[-1] ** -0.5 if scaling is None else scaling
        options = AttentionOptions(attention_mask, kwargs.get("position_bias"), causal, factor, dropout)
        if 0 < dropout < 1:
            large = query.shape[2] * key.shape[2] >= SLICED_FROM**2
            kernel = sliced_attention if large else whole_attention
            return kernel(query, keys, values, options), None
        if blockwise and dropout == 0 and causal and options.bias is None and query.dtype == torch.bfloat16:
            return blockwise_attention(query, key, value, factor), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)


def _in_fp32(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.is_floating_point() else x


def _for_all_heads(grouped: Tensor, query: Tensor) -> Tensor:
    """Keys or values ``[batch, groups, length, width]`` for every head of the queries: ``[batch, heads, ...]``."""
    # the gradients are added where they lie, which torch sums in twice the time behind a repetition
    return torch.stack([grouped] * (query.shape[1] // grouped.shape[1]), dim=2).flatten(1, 2)


def is_causal(module: torch.nn.Module, is_causal: bool | None = None, **kwargs: Any) -> bool:
    """Whether queries see no later keys where no mask says so: as the call says, or else the layer."""
    return getattr(module, "is_causal", True) if is_causal is None else is_causal


def _plain(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> bool:
    """Whether a call asks for nothing beyond a bool mask for all heads and a position bias."""
    masked = mask is None or (mask.dtype == torch.bool and mask.dim() == 4 and mask.shape[1] == 1)
    special = any(kwargs.get(name) is not None for name in ("softcap", "cache", "s_aux"))
    heads = query.shape[:2] == key.shape[:2] and query.shape[3] == key.shape[3]
    return heads and key.shape == value.shape and query.numel() > 0 and masked and not special


def _asked(
    answers: AnswerTokens, module: torch.nn.Module, query: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
) -> tuple[dict[str, Any], Tensor | None]:
    """The options and the mask of a call that asks the queries of the answer tokens alone."""
    if mask is not None:
        mask = mask if mask.shape[2] == 1 else answers.of(mask, 2)
    elif is_causal(module, **kwargs):
        mask = answers.causal_mask(query.shape[2], query.device)
    bias = kwargs.get("position_bias")
    return {**kwargs, "is_causal": False, "position_bias": None if bias is None else answers.of(bias, 2)}, mask
