"""The input layer: from the tokens of a task to the embeddings that a backbone expects."""

from typing import Literal

import torch
from torch import nn

from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.machine import expect_memory
from fpt_lightning.random_streams import drawn_from, generator

InputInitialization = Literal["orthogonal", "gaussian", "moments"]


def build_input_layer(
    task: TaskSpec, width: int, initialization: InputInitialization, seed: int, *, learned_positions: bool
) -> nn.Linear | nn.Embedding:
    """A linear map of continuous tokens, or a table of ids.

    Args:
        task: The sizes of the task.
        width: Numbers in an embedding.
        initialization: ``orthogonal`` is the paper's: an orthogonal map with gain 1.41 and zero bias, a table of
            standard normal values (FPT section 2.3). ``gaussian`` is GPT-2's: normal values of standard deviation 0.02
            and zero bias. ``moments`` starts like ``orthogonal`` and is fitted by :func:`match_moments`.
        seed: Seed of the random values.
        learned_positions: Whether the body adds positions to what it reads. To one that does not, a zero token such as
            a bit 0 or a black patch would be the zero vector, at which every RMS norm multiplies the gradient by the
            inverse root of its epsilon, so that it overflows in a deep body: the bias of a linear map is then drawn
            with standard deviation 0.02.

    Raises:
        UsageError: If there are more ids than the memory has room for.
    """
    with drawn_from(seed, "input"):
        layer = _new_layer(task, width)
        if initialization == "gaussian":
            nn.init.normal_(layer.weight, std=0.02)
    if isinstance(layer, nn.Linear) and not learned_positions:
        nn.init.normal_(layer.bias, std=0.02, generator=generator(seed, "input bias"))
    return layer


def _new_layer(task: TaskSpec, width: int) -> nn.Linear | nn.Embedding:
    if task.vocabulary_size is not None:
        what = (
            f"an embedding for every id below {task.vocabulary_size:,} (data.kind words numbers just those of a table)"
        )
        expect_memory(4 * task.vocabulary_size * width, what)
        return nn.Embedding(task.vocabulary_size, width)
    assert task.token_width is not None
    layer = nn.Linear(task.token_width, width)
    nn.init.orthogonal_(layer.weight, gain=1.41)
    nn.init.zeros_(layer.bias)
    return layer


@torch.no_grad()
def match_moments(
    layer: nn.Linear | nn.Embedding, tokens: torch.Tensor, mask: torch.Tensor | None, vocabulary: torch.Tensor
) -> None:
    """Scales and shifts the layer so that its outputs have the mean and standard deviation of token embeddings.

    Args:
        layer: The input layer; changed in place.
        tokens: A sample of the task, ``[batch, length, token_width]`` or ``[batch, length]``.
        mask: ``[batch, length]`` bool, True for real tokens; None if nothing is padded.
        vocabulary: Token embeddings ``[tokens, width]`` of the backbone.
    """
    outputs = layer(tokens.to(layer.weight) if tokens.is_floating_point() else tokens)  # [batch, length, width]
    outputs = outputs.flatten(0, 1) if mask is None else outputs[mask]  # [tokens, width]
    vocabulary = vocabulary.to(outputs)
    spread = outputs.std(dim=0, correction=0)
    # a dimension that never varies has no scale to match
    scale = torch.where(spread > 1e-6, vocabulary.std(dim=0, correction=0) / spread.clamp(min=1e-6), 1.0)  # [width]
    shift = vocabulary.mean(dim=0) - outputs.mean(dim=0) * scale  # [width]
    if isinstance(layer, nn.Embedding):
        layer.weight.mul_(scale).add_(shift)
    else:
        layer.weight.mul_(scale[:, None])
        layer.bias.mul_(scale).add_(shift)
