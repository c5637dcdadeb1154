"""One door to every backbone: a body that is entered through its embeddings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, PretrainedConfig, PreTrainedModel

from fpt_lightning.errors import FPTError, UsageError, did_you_mean
from fpt_lightning.models.backbones.architectures import ARCHITECTURES, WITHOUT_WEIGHTS, location
from fpt_lightning.models.backbones.families import DECODER, FAMILIES
from fpt_lightning.models.backbones.families.base import Family, chosen_blocks
from fpt_lightning.models.backbones.families.own import OWN_BODIES, OwnBody
from fpt_lightning.models.backbones.initialization import (
    check_enters_by_embeddings,
    checked_fields,
    draw_random,
    keep_statistics,
    load_pretrained,
    not_found,
)
from fpt_lightning.models.kernels.attention import use_attention
from fpt_lightning.models.kernels.dropout import replace_dropouts
from fpt_lightning.models.parts import place_parameters

Initialization = Literal["pretrained", "random", "statistics"]
Positions = Literal["backbone", "new"]

VOCABULARY_SAMPLE = 4096
"""Token embeddings kept where the input layer is fitted to them."""


@dataclass(frozen=True)
class BackboneChoice:
    """Which body, with which values.

    Args:
        name: A name of :data:`fpt_lightning.models.backbones.architectures.EMBEDDED`, :data:`ARCHITECTURES` or
            :data:`OWN_BODIES`, a local folder in Hugging Face's format, or a name on its hub.
        initialization: ``pretrained`` loads weights, ``random`` is the architecture's own initialisation,
            ``statistics`` draws normal values with the mean and standard deviation of every pretrained tensor (FPT
            section 3.8); None is pretrained wherever there are weights.
        architecture: Fields of the architecture's config to change, such as ``n_layer``; only with ``random``.
        layers: Keep the first so many blocks, or a slice of them such as ``3:9``; None keeps all.
        positions: ``backbone`` takes the body's own positions, ``new`` draws new ones for as many tokens as the task
            has.
        seed: Seed of random values.
    """

    name: str
    initialization: Initialization | None = None
    architecture: Mapping[str, Any] | None = None
    layers: int | str | None = None
    positions: Positions = "backbone"
    seed: int = 0

    @property
    def resolved_initialization(self) -> Initialization:
        """``pretrained``, ``random`` or ``statistics``.

        Raises:
            UsageError: If pretrained weights are asked of an architecture that has none, or with sizes of its own.
        """
        if self.initialization is None:
            return "random" if self.name in WITHOUT_WEIGHTS or self.architecture else "pretrained"
        if self.initialization != "random" and self.name in WITHOUT_WEIGHTS:
            raise UsageError(
                f"backbone '{self.name}' has no pretrained weights: "
                "use model.initialization random, or another backbone"
            )
        if self.initialization != "random" and self.architecture:
            raise UsageError(
                "model.architecture changes sizes, which pretrained weights cannot follow: "
                "use model.initialization random, or leave model.architecture out"
            )
        return self.initialization

    def __str__(self) -> str:
        sizes = "".join(f", {key}={value}" for key, value in (self.architecture or {}).items())
        layers = f", layers {self.layers}" if self.layers is not None else ""
        positions = ", new positions" if self.positions == "new" else ""
        drawn = self.resolved_initialization != "pretrained" or self.positions == "new"
        seed = f", seed {self.seed}" if drawn else ""
        return f"{self.name} ({self.resolved_initialization}{sizes}{layers}{positions}{seed})"


class Backbone(NamedTuple):
    """A body and how to use it.

    Attributes:
        body: The module, its unused embeddings dropped, its positions as many as the task has tokens.
        family: Enters it, and knows its parts.
        width: Numbers in an embedding.
        vocabulary: Token embeddings ``[at most VOCABULARY_SAMPLE, width]`` that the body was made for, where asked for.
    """

    body: nn.Module
    family: Family
    width: int
    vocabulary: torch.Tensor | None = None


def build_backbone(
    choice: BackboneChoice, max_length: int, dropout: float, *, keep_vocabulary: bool = False
) -> Backbone:
    """Builds a body that reads embeddings only.

    The unused token embedding is dropped and the positions are cut to ``max_length``, so every parameter takes part in
    every step: what trains is what the paper counts, and DDP need not search for unused parameters.

    Args:
        choice: Which body.
        max_length: Tokens in the longest sequence.
        dropout: Probability of every dropout in the body.
        keep_vocabulary: Keep a sample of the token embeddings.

    Raises:
        UsageError: If the choice contradicts itself or the task.
        FPTError: If the backbone cannot be found, read, or entered through embeddings.
    """
    if choice.name in OWN_BODIES:
        return _own_body(OWN_BODIES[choice.name], choice, max_length, dropout, keep_vocabulary)
    config = _config(choice)
    family = _family(config)
    _check_positions(choice, config, family, max_length)
    family.configure(config, max_length, dropout)
    if _takes_our_attention(config):
        use_attention(config)
    body = _values(choice, config, family)
    if choice.layers is not None:
        family.keep_blocks(body, chosen_blocks(choice.layers, family.depth(body)))
    vocabulary = _vocabulary(choice, body, config, family) if keep_vocabulary else None
    family.enter(body, _positions(choice, body, config, family, max_length))
    replace_dropouts(body)
    body.train()
    return Backbone(body, family, family.width(config), vocabulary)


def _own_body(
    family: OwnBody, choice: BackboneChoice, max_length: int, dropout: float, keep_vocabulary: bool
) -> Backbone:
    if choice.positions == "new":
        raise UsageError(f"model.positions new: backbone '{choice.name}' has none, or new ones for every task")
    if choice.resolved_initialization == "random" and keep_vocabulary:
        raise UsageError(f"backbone '{choice.name}' has no token embeddings to fit the input layer to")
    body, width = family.draw(choice.architecture or {}, max_length, dropout, choice.seed)
    if choice.layers is not None:
        family.keep_blocks(body, chosen_blocks(choice.layers, family.depth(body)))
    body.train()
    return Backbone(body, family, width)


def _config(choice: BackboneChoice) -> PretrainedConfig:
    folder = Path(location(choice.name))
    known = choice.name in ARCHITECTURES and choice.resolved_initialization == "random"
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise FPTError(f"backbone folder {folder} has no config.json: it is not a folder of save_pretrained()")
    if known and not folder.is_dir():
        model_type, fields = ARCHITECTURES[choice.name]
        config = AutoConfig.for_model(model_type, **fields)
    else:
        try:
            config = AutoConfig.from_pretrained(location(choice.name), trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise FPTError(not_found(choice.name, error)) from error
    config.dtype = torch.float32  # whatever the weights are kept in: the Trainer's precision decides
    fields = checked_fields(config)
    for key, value in (choice.architecture or {}).items():
        if key not in fields:
            raise UsageError(f"model.architecture: {config.model_type} has no field '{key}'{did_you_mean(key, fields)}")
        setattr(config, key, value)
    return config


def _family(config: PretrainedConfig) -> Family:
    """The family of an architecture; one without a table of its own is tried as a decoder, on its names alone."""
    if config.model_type in FAMILIES:
        return FAMILIES[config.model_type]
    model_class = _model_class(config)
    if model_class is None:
        raise FPTError(f"a {config.model_type} cannot be a backbone: transformers has no plain body of this kind")
    check_enters_by_embeddings(model_class, config.model_type)
    with torch.device("meta"):
        names = [name for name, _ in model_class(config).named_parameters()]
    kept = [f"backbone.{name}" for name in names if not DECODER.drops(name)]
    place_parameters(kept, DECODER.parts, f"a {config.model_type}")
    return DECODER


def _model_class(config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """The body that transformers builds of a config."""
    found: Any = MODEL_MAPPING.get(type(config), None)
    return found


def _takes_our_attention(config: PretrainedConfig) -> bool:
    model_class = _model_class(config)
    # capped scores are a function that neither our attention nor torch's knows
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    # T5 asks for attention by name like the others, but does not say so
    takes = model_class is not None and (model_class._supports_attention_backend or config.model_type == "t5")
    return takes and not capped


def _check_positions(choice: BackboneChoice, config: PretrainedConfig, family: Family, max_length: int) -> None:
    if choice.positions == "new":
        if family.position_table is None:
            raise UsageError(f"model.positions new: a {config.model_type} has no learned positions to replace")
        return
    available = family.positions(config)
    if available is not None and max_length > available:
        new = ", or model.positions new" if family.position_table is not None else ""
        raise UsageError(
            f"the task has {max_length} tokens, backbone '{choice.name}' only {available} positions: "
            f"choose smaller sizes under data, a backbone with more positions{new}"
        )


def _values(choice: BackboneChoice, config: PretrainedConfig, family: Family) -> nn.Module:
    if choice.resolved_initialization == "random":
        return draw_random(config, family, choice.seed)
    body = load_pretrained(location(choice.name), config, family)
    if choice.resolved_initialization == "statistics":
        keep_statistics(body, choice.seed)
    return body


def _vocabulary(choice: BackboneChoice, body: nn.Module, config: PretrainedConfig, family: Family) -> torch.Tensor:
    table = family.vocabulary(body)
    if table is None:
        raise UsageError(f"backbone '{choice.name}' has no token embeddings to fit the input layer to")
    generator = torch.Generator().manual_seed(choice.seed)
    if choice.resolved_initialization == "random":  # its own table was never drawn: it would be like this one
        return torch.randn(VOCABULARY_SAMPLE, table.size(1), generator=generator) * getattr(
            config, "initializer_range", 1.0
        )
    rows = torch.randperm(len(table), generator=generator)[:VOCABULARY_SAMPLE]
    return table.detach()[rows].clone()


def _positions(
    choice: BackboneChoice, body: nn.Module, config: PretrainedConfig, family: Family, max_length: int
) -> torch.Tensor | None:
    if family.position_table is None:
        return None
    if choice.positions == "backbone":
        return family.position_rows(body, max_length)
    generator = torch.Generator().manual_seed(choice.seed)
    return torch.randn(max_length, family.width(config), generator=generator) * config.initializer_range
