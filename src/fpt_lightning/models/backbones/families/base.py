"""What the door to the backbones asks of every architecture."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoModel, PretrainedConfig

from fpt_lightning.errors import UsageError
from fpt_lightning.models.parts import Place

# every name under which a config of transformers keeps the dropout of a body
DROPOUT_FIELDS = (
    "resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout_rate",
    "attention_dropout", "hidden_dropout",
)  # fmt: skip


class Family:
    """An architecture of transformers; without state, so that one object serves every body.

    A subclass gives the tables, and overrides what its architecture does otherwise than most.

    Attributes:
        parts: The part of every parameter that a body keeps, by a pattern of its full name; the layer number is the
            pattern's first group.
        blocks: Path of the list of blocks.
        position_table: Path of the table of learned positions; None where positions are none or relative.
        model_class: What builds and loads the body, and the arguments it takes for that.
        dropped: Patterns of the parameters that are dropped, and may therefore be missing from a weight file.
    """

    parts: ClassVar[Mapping[str, str | Place]]
    blocks: ClassVar[str]
    position_table: ClassVar[str | None] = None
    dropped: ClassVar[tuple[str, ...]] = ()
    model_class: ClassVar[Any] = AutoModel
    class_arguments: ClassVar[Mapping[str, Any]] = {}

    def configure(self, config: PretrainedConfig, max_length: int, dropout: float) -> None:
        """Sets what does not change the function of the body, and its dropout."""
        for field in DROPOUT_FIELDS:
            if hasattr(config, field):
                setattr(config, field, dropout)
        for field in ("activation_function", "hidden_act"):
            # the same function as gelu_new, in one kernel instead of eight
            if getattr(config, field, None) == "gelu_new":
                setattr(config, field, "gelu_pytorch_tanh")
        config.use_cache = False

    def drops(self, name: str) -> bool:
        """Whether a parameter of the model as it is loaded is dropped."""
        return any(re.fullmatch(pattern, name) for pattern in self.dropped)

    def width(self, config: PretrainedConfig) -> int:
        """Numbers in an embedding."""
        return int(config.hidden_size)

    def positions(self, config: PretrainedConfig) -> int | None:
        """The longest sequence that the body has positions for; None where it has no limit."""
        return int(config.max_position_embeddings)

    def vocabulary(self, body: nn.Module) -> torch.Tensor | None:
        """The token embeddings ``[tokens, width]``, if the body has any."""
        table = body.get_input_embeddings()  # type: ignore[operator]
        return table.weight if isinstance(table, nn.Embedding) else None

    def position_rows(self, body: nn.Module, max_length: int) -> torch.Tensor:
        """The learned positions of the first ``max_length`` tokens: ``[max_length, width]``."""
        assert self.position_table is not None
        return body.get_parameter(f"{self.position_table}.weight")[:max_length]

    def enter(self, body: nn.Module, rows: torch.Tensor | None) -> None:
        """Drops what only token ids need, and puts in the positions.

        Args:
            body: A model of transformers.
            rows: Learned positions ``[max_length, width]``; None where the architecture has none.
        """
        body.set_input_embeddings(None)  # type: ignore[operator]
        if rows is not None:
            assert self.position_table is not None
            set_module(body, self.position_table, nn.Embedding.from_pretrained(rows.detach().clone(), freeze=False))

    def depth(self, body: nn.Module) -> int:
        """How many blocks a body has."""
        blocks = body.get_submodule(self.blocks)
        return len(blocks) if isinstance(blocks, nn.ModuleList) else 0

    def keep_blocks(self, body: Any, chosen: range) -> None:
        """Keeps some of the blocks, in their order."""
        blocks = body.get_submodule(self.blocks)
        set_module(body, self.blocks, nn.ModuleList(blocks[index] for index in chosen))
        body.config.num_hidden_layers = len(chosen)
        if isinstance(kinds := getattr(body.config, "layer_types", None), list):
            body.config.layer_types = [kinds[index] for index in chosen]

    def hidden(self, body: nn.Module, embeddings: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Runs the body.

        Args:
            body: The body, entered.
            embeddings: ``[batch, length, width]``.
            mask: ``[batch, length]`` bool, True for real tokens, padding after them; None if nothing is padded.

        Returns:
            ``[batch, length, width]``; what stands at padded positions means nothing.
        """
        return body(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state


def set_module(body: nn.Module, path: str, module: nn.Module | None) -> None:
    """Replaces the module at a dotted path."""
    parent, _, name = path.rpartition(".")
    setattr(body.get_submodule(parent), name, module)


def chosen_blocks(layers: int | str, available: int) -> range:
    """Reads ``6`` as the first six blocks and ``3:9`` as the fourth to the ninth.

    Raises:
        UsageError: If it is neither, or asks for blocks that are not there.
    """
    start, _, stop = str(layers).rpartition(":")
    if not (start or "0").isdigit() or not stop.isdigit():
        raise UsageError(f"model.layers is a number of blocks such as 6, or a slice such as '3:9', got '{layers}'")
    chosen = range(int(start or 0), int(stop))
    if not chosen or chosen.stop > available:
        raise UsageError(f"model.layers {layers} does not choose from the {available} blocks of the backbone")
    return chosen
