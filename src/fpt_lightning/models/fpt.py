"""The frozen pretrained transformer: input layer, frozen backbone, output layer."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self, get_args

import torch
import torch.nn.functional as F
from torch import nn

from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.errors import UsageError
from fpt_lightning.models.backbones.build import build_backbone
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.flat_layer import FlatLayer
from fpt_lightning.models.input_layer import InputInitialization, build_input_layer
from fpt_lightning.models.kernels.dropout import Dropout
from fpt_lightning.models.kernels.last_block import AnswerTokens
from fpt_lightning.models.kernels.linear import FrozenDtype, replace_linears
from fpt_lightning.models.lora import LoraOptions, add_adapters
from fpt_lightning.models.parts import PAPER, Place, place_parameters, select
from fpt_lightning.models.token_shuffle import TokenShuffle
from fpt_lightning.random_streams import drawn_from
from fpt_lightning.tensors import tensors_hash


class FrozenPretrainedTransformer(nn.Module):
    """A transformer driven through its embedding entrance, trained only in the chosen parts (FPT section 2.3).

    Args:
        task: The sizes of the task.
        choice: The body.
        trainable: The parts that train, see :func:`fpt_lightning.models.parts.select`; every other parameter is frozen.
        dropout: Probability of every dropout in the body.
        input_dropout: Probability of dropout behind the linear input layer of continuous tokens; ids have none, as in
            the paper's reference.
        input_initialization: See :func:`fpt_lightning.models.input_layer.build_input_layer`.
        lora: Adapters beside frozen linear layers; they train.
        shuffle_tokens: Read every example's tokens in a random order (a control, see :class:`TokenShuffle`).
        keep_vocabulary: Keep a sample of the body's token embeddings, to fit the input layer to.
        frozen_dtype: What the matrices of the body's frozen linear layers are kept in; all else is in float32.

    Raises:
        UsageError: If the arguments contradict each other or the task.
        FPTError: If the body cannot be read.

    Attributes:
        places: The part and layer of every parameter.
        vocabulary: That sample ``[tokens, width]``, or None.
        reads_features: Whether :meth:`forward` is given :meth:`features` in place of tokens.
    """

    reads_features = False

    def __init__(
        self,
        task: TaskSpec,
        choice: BackboneChoice,
        trainable: str | Iterable[str] = PAPER,
        dropout: float = 0.1,
        input_initialization: InputInitialization = "orthogonal",
        lora: LoraOptions | None = None,
        *,
        input_dropout: float = 0.0,
        shuffle_tokens: bool = False,
        keep_vocabulary: bool = False,
        frozen_dtype: FrozenDtype = "float32",
    ) -> None:
        super().__init__()
        if frozen_dtype not in get_args(FrozenDtype):
            raise UsageError(f"model.frozen_dtype is one of {', '.join(get_args(FrozenDtype))}, not '{frozen_dtype}'")
        self._hashed: tuple[list[tuple[int, int]], str] | None = None
        self.task = task
        self.choice = choice
        self.frozen_dtype = frozen_dtype
        self.shuffle = TokenShuffle() if shuffle_tokens else None
        built = build_backbone(choice, task.max_length, dropout, keep_vocabulary=keep_vocabulary)
        self.backbone, self.family, self.vocabulary = built.body, built.family, built.vocabulary
        self.input_dropout = Dropout(input_dropout if task.vocabulary_size is None else 0.0)
        self._build_layers(built.family.width, input_initialization)
        parts = [trainable] if isinstance(trainable, str) else list(trainable)
        if lora is not None:
            add_adapters(self.backbone, self._place(), lora, choice.seed)
            parts.append("lora")
        self.places = self._place()
        trained = select(self.places, parts)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in trained and parameter.requires_grad)  # some are none that train
        # adapters, which train, are too small to gain, and packs multiply small layers together
        replace_linears(self.backbone, frozen_dtype=getattr(torch, frozen_dtype), trained=lora is None)

    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor | None = None, places: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Answers a batch.

        Args:
            tokens: ``[batch, length, token_width]`` float, or ``[batch, length]`` ids.
            mask: ``[batch, length]`` bool, True for real tokens, padding after them; None if nothing is padded.
            places: The place of every example in its split, by which evaluation shuffles tokens where it does.

        Returns:
            Logits ``[batch, answers, classes]``; ``[batch, answers, 1]`` for a regression.
        """
        if self.shuffle is not None:
            tokens = self.shuffle(tokens, mask, places)
        if self.reads_features:
            logits = self.output(tokens)
        elif self.choice.name == "none":
            logits = self.output(tokens, mask)  # [batch, answers * logits_per_answer]
        elif self.choice.name == "two_layer":
            logits = self.output(F.gelu(self.input(tokens, mask)))  # the same
        else:
            logits = self.output(self.features(tokens, mask))  # of each of the last tokens
        return logits.reshape(-1, self.task.answers, self.task.logits_per_answer)

    def features(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """What the output layer of a model with a body reads: ``[batch, answer_tokens, width]``."""
        # pixels come as float32 also where all of the model is in another precision, such as 64-true
        own = tokens.to(self.input.weight.dtype) if tokens.is_floating_point() else tokens
        embeddings = self.input_dropout(self.input(own))  # [batch, length, width]
        return self.family.answers(self.backbone, embeddings, mask, self.task.answer_tokens)

    def _build_layers(self, width: int, initialization: InputInitialization) -> None:
        """The layers before and behind the body; where there is no body, one or both read all tokens at once."""
        task, seed = self.task, self.choice.seed
        self.input: Any = nn.Identity()
        if self.choice.name == "two_layer":
            with drawn_from(seed, "input"):
                self.input = FlatLayer(task, width)
        elif self.choice.name != "none":
            learned_positions = self.family.learned_positions
            self.input = build_input_layer(task, width, initialization, seed, learned_positions=learned_positions)
        with drawn_from(seed, "output"):
            if self.choice.name == "none":
                self.output: nn.Module = FlatLayer(task, task.answers * task.logits_per_answer)
            else:
                answers = task.answers if self.choice.name == "two_layer" else task.answers_per_token
                self.output = nn.Linear(width, answers * task.logits_per_answer)

    def _place(self) -> dict[str, Place]:
        return place_parameters([name for name, _ in self.named_parameters()], self.family.parts, self.choice.name)

    def last_real_tokens(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Of ``[batch, length, width]`` the last ``answer_tokens`` real tokens: ``[batch, answer_tokens, width]``."""
        return AnswerTokens(self.task.answer_tokens, mask).of(hidden, 1)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def frozen_parameters(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.named_parameters() if not parameter.requires_grad}

    def identity(self) -> dict[str, Any]:
        """What trained parameters belong to, as plain values: task, body, frozen weights, names and shapes."""
        return {
            "task": self.task.as_dict(),
            "backbone": str(self.choice),
            "architecture": dict(self.choice.architecture or {}),
            "config": self.family.described(self.backbone),
            "shuffle_tokens": self.shuffle is not None,
            "frozen": self.frozen_hash(),
            "frozen_dtype": self.frozen_dtype,
            "trained": {name: list(parameter.shape) for name, parameter in self.trained_parameters().items()},
        }

    def frozen_hash(self) -> str:
        """A hash over the names and values of all frozen parameters: the identity of what a checkpoint leaves out.

        Values that bf16 holds exactly are the same in it as in fp32, and what is computed of them is.
        """
        # hashing a large body takes seconds, and every checkpoint asks: only once as long as nothing is written to it
        versions = self._versions()
        if self._hashed is None or self._hashed[0] != versions:
            self._hashed = (versions, tensors_hash(self.frozen_parameters(), by_value=True)[:16])
        return self._hashed[1]

    def keep_hash(self, hashed: str) -> None:
        """Says what the frozen hash is, as long as nothing is written to the frozen parameters."""
        self._hashed = (self._versions(), hashed)

    def _versions(self) -> list[tuple[int, int]]:
        return [(parameter.data_ptr(), parameter._version) for parameter in self.frozen_parameters().values()]

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Moves or casts all tensors; the frozen ones are the same still in another type, such as ``64-true`` has."""
        dtypes = {parameter.dtype for parameter in self.frozen_parameters().values()}
        become = {dtype: fn(torch.zeros(0, dtype=dtype)).dtype for dtype in dtypes}
        hashed = None  # back in fp32 they are what rounding made of them
        if all(dtype == now or now != torch.float32 for dtype, now in become.items()):
            known = dtypes != {torch.float32} and self._hashed is not None and self._hashed[0] == self._versions()
            if known or any(dtype != now for dtype, now in become.items()):
                hashed = self.frozen_hash()
        frequencies = {name: each for name, each in self.named_buffers() if name.endswith("inv_freq")}
        super()._apply(fn, recurse)
        for name, wide in frequencies.items():
            self._widen(name, wide)
        if hashed is not None:
            self.keep_hash(hashed)
        return self

    def _widen(self, name: str, wide: torch.Tensor) -> None:
        """Takes back the rounding of a buffer, which transformers keeps in fp32: by rotary positions it grows."""
        narrow, (path, _, leaf) = self.get_buffer(name), name.rpartition(".")
        if narrow.element_size() < wide.element_size():
            setattr(self.get_submodule(path), leaf, wide.to(narrow.device))
