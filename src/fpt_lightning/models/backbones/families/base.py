"""What is asked of every body, and of those that transformers builds."""

import copy
import json
import re
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoModel, PretrainedConfig

from fpt_lightning.errors import FPTError, UsageError, first_line
from fpt_lightning.models.kernels.attention import ATTENTION, nothing_padded, use_attention
from fpt_lightning.models.kernels.last_block import AnswerTokens, BlockForm, only_answers
from fpt_lightning.models.parts import PartTable

# every name under which a config of transformers keeps the dropout of a body
DROPOUT_FIELDS = (
    "resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout_rate",
    "attention_dropout", "hidden_dropout", "residual_dropout", "embedding_dropout",
)  # fmt: skip

# of a config, what hidden states do not hang on, and what is set here; every id of a token beside them
NO_FUNCTION = (
    *DROPOUT_FIELDS, "_name_or_path", "architectures", "dtype", "id2label", "label2id", "use_cache", "vocab_size",
)  # fmt: skip

MISFITS = (ArithmeticError, AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError)
"""What transformers and torch raise for sizes that do not fit, and for functions that they do not have."""


class Family(ABC):
    """A kind of body: where its parameters belong, and how it is run.

    Attributes:
        parts: The part of every parameter that a body keeps.
        blocks: Path of the list of blocks.
        width: Numbers in an embedding.
        learned_positions: Whether a body adds a learned vector to every token that it reads.
    """

    parts: ClassVar[PartTable]
    blocks: ClassVar[str]
    width: int
    learned_positions: bool

    @abstractmethod
    def hidden(self, body: Any, embeddings: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Runs a body.

        Args:
            body: The body, entered.
            embeddings: ``[batch, length, width]``.
            mask: ``[batch, length]`` bool, True for real tokens, padding after them; None if nothing is padded.

        Returns:
            ``[batch, length, width]``; what stands at padded positions means nothing.
        """

    def answers(self, body: Any, embeddings: torch.Tensor, mask: torch.Tensor | None, count: int) -> torch.Tensor:
        """Of what :meth:`hidden` returns the last ``count`` real tokens: ``[batch, count, width]``."""
        return AnswerTokens(count, mask).of(self.hidden(body, embeddings, mask), 1)

    def described(self, body: Any) -> dict[str, Any]:
        """What hidden states hang on and weights may show no trace of, such as heads and activations: plain values."""
        return {}

    def depth(self, body: nn.Module) -> int:
        blocks: Any = body.get_submodule(self.blocks)
        return len(blocks)

    def keep_blocks(self, body: Any, chosen: range) -> None:
        """Keeps some of the blocks, in their order."""
        blocks = body.get_submodule(self.blocks)
        body.set_submodule(self.blocks, nn.ModuleList(blocks[index] for index in chosen))


class HubFamily(Family):
    """An architecture of transformers, with the config of one body.

    A subclass gives the tables, and overrides what its architecture does otherwise than most.

    Attributes:
        position_table: Path of the table of learned positions; None where positions are none or relative.
        dropped: Patterns of the parameters that are dropped, and may therefore be missing from a weight file.
        model_class: The auto class of transformers that builds and loads the body.
        scaled: Pattern of the parameters whose random values begin smaller by sqrt(2 * layers); None if none do.
        form: Where a block keeps its attention; None where the last block computes all tokens.
        first_row: The row of the table of positions that the first token has.
        config: What the body is built from.
    """

    position_table: ClassVar[str | None] = None
    dropped: ClassVar[tuple[str, ...]] = ()
    model_class: ClassVar[Any] = AutoModel
    scaled: ClassVar[str | None] = None
    form: BlockForm | None = None
    first_row = 0

    def __init__(self, config: PretrainedConfig) -> None:
        self.config: Any = config
        self.width = int(self.config.hidden_size)
        self.learned_positions = self.position_table is not None

    @property
    def positions(self) -> int | None:
        """The longest sequence that the body has positions for; None where it has no limit."""
        return int(self.config.max_position_embeddings) - self.first_row

    @property
    def asks_for_attention(self) -> bool:
        """Whether the body asks for its attention function by name, and ours is one that it may ask for."""
        # capped scores are a function that neither our attention nor torch's knows
        capped = getattr(self.config, "attn_logit_softcapping", None) is not None
        plain: Any = MODEL_MAPPING[type(self.config)]
        return bool(plain._supports_attention_backend) and not capped

    def configure(self, max_length: int, dropout: float) -> None:
        """Sets the dropout and the attention function, and leaves out what only writing text needs."""
        for field in DROPOUT_FIELDS:
            if hasattr(self.config, field):
                setattr(self.config, field, dropout)
        self.config.use_cache = False
        if self.asks_for_attention:
            use_attention(self.config)

    def new_body(self) -> nn.Module:
        """Builds a body with the architecture's own random values, from torch's global generator.

        Raises:
            UsageError: If the sizes do not fit each other.
            FPTError: If the body needs a package that is missing.
        """
        config = copy.deepcopy(self.config)
        # the token embedding is dropped, so it need not be filled with random numbers
        config.vocab_size = max(0, getattr(config, "pad_token_id", None) or 0) + 1  # -1 is none
        try:
            return self.model_class.from_config(config, trust_remote_code=False)
        except ImportError as error:
            raise FPTError(f"a {config.model_type} needs a package that is missing: {first_line(error)}") from error
        except MISFITS as error:
            reason = first_line(error)
            raise UsageError(f"model.architecture does not make a {config.model_type}: {reason}") from error

    def expect_runs(self, body: Any, length: int) -> None:
        """Refuses sizes that can be built and not computed with, such as heads too narrow for their rotary positions.

        Raises:
            UsageError: If a sequence of so many tokens cannot be read.
        """
        try:
            with torch.no_grad():
                self.hidden(body.eval(), torch.zeros(1, length, self.width), None)
        except MISFITS as error:
            kind = self.config.model_type
            raise UsageError(f"model.architecture makes a {kind} that cannot run: {first_line(error)}") from error

    def drops(self, name: str) -> bool:
        """Whether a parameter of the model as it is loaded is dropped."""
        return any(re.fullmatch(pattern, name) for pattern in self.dropped)

    def position_rows(self, body: Any, max_length: int | None) -> torch.Tensor | None:
        """The learned positions ``[tokens, width]`` of the first ``max_length`` tokens, or all; if there are any."""
        if self.position_table is None:
            return None
        return body.get_parameter(f"{self.position_table}.weight")[self.first_row :][:max_length]

    def enter(self, body: Any, rows: torch.Tensor | None) -> None:
        """Drops what only token ids need, and puts in learned positions ``[tokens, width]``, if there are any."""
        body.set_input_embeddings(None)
        if rows is not None:
            assert self.position_table is not None
            body.set_submodule(self.position_table, trained_table(rows))

    def keep_blocks(self, body: Any, chosen: range) -> None:
        """Keeps of the config, too, what it says of these blocks alone, such as which windows they have."""
        depth = self.depth(body)
        super().keep_blocks(body, chosen)
        body.config.num_hidden_layers = len(chosen)
        for field, said in list(vars(body.config).items()):
            if isinstance(said, list) and len(said) == depth:
                setattr(body.config, field, [said[index] for index in chosen])

    def described(self, body: Any) -> dict[str, Any]:
        fields = json.loads(body.config.to_json_string(use_diff=False))
        return {
            field: said
            for field, said in fields.items()
            if field not in NO_FUNCTION and not field.endswith("_token_id")
        }

    def hidden(self, body: Any, embeddings: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if mask is None and self.asks_for_attention:
            mask = nothing_padded(embeddings)
        return body(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state

    def answers(self, body: Any, embeddings: torch.Tensor, mask: torch.Tensor | None, count: int) -> torch.Tensor:
        ours = body.config._attn_implementation == ATTENTION  # not while attention maps are recorded
        if self.form is None or not ours or count == embeddings.size(1):
            return super().answers(body, embeddings, mask, count)
        answers = AnswerTokens(count, mask)
        with only_answers(body.get_submodule(self.blocks)[-1], self.form, answers):
            return answers.last_of(self.hidden(body, embeddings, mask))


def trained_table(rows: torch.Tensor) -> nn.Embedding:
    """An embedding table of a copy of ``[tokens, width]``."""
    return nn.Embedding.from_pretrained(rows.detach().clone(), freeze=False)
