"""One door to every backbone: a body that is entered through its embeddings."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import nn

from fpt_lightning.errors import UsageError
from fpt_lightning.machine import usable_memory
from fpt_lightning.models.backbones.architectures import location
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.backbones.families import family_of
from fpt_lightning.models.backbones.families.base import Family, HubFamily
from fpt_lightning.models.backbones.families.own import OWN_BODIES, OwnBody
from fpt_lightning.models.backbones.hub import read_config, read_weights
from fpt_lightning.models.backbones.initialization import draw_embeddings, draw_parts, keep_statistics, random_body
from fpt_lightning.models.backbones.room import bytes_of, expect_room, expect_room_of
from fpt_lightning.models.kernels.dropout import replace_dropouts
from fpt_lightning.models.kernels.gelu import replace_gelus
from fpt_lightning.models.kernels.rms_norm import replace_rms_norms
from fpt_lightning.random_streams import drawn_from, generator

VOCABULARY_SAMPLE = 4096
"""Token embeddings kept where the input layer is fitted to them."""

FEW_TOKENS = 8
"""Of the sequence that a body of unusual sizes reads once before it is used."""

ROOM = 4
"""Times that memory holds a body of which one more is kept, to be copied."""


class Backbone(NamedTuple):
    """A body and how to use it.

    Attributes:
        body: The module, its unused embeddings dropped, its positions as many as the task has tokens.
        family: Runs it, and knows its parts.
        vocabulary: Token embeddings ``[at most VOCABULARY_SAMPLE, width]`` that the body was made for, where asked for.
    """

    body: nn.Module
    family: Family
    vocabulary: torch.Tensor | None = None


_at_hand: ContextVar[dict[Any, Backbone] | None] = ContextVar("at_hand", default=None)


@contextmanager
def built_once() -> Iterator[None]:
    """Lets the same body be a copy of the last one within the block: to draw or read it may take a second."""
    before = _at_hand.set({})
    try:
        yield
    finally:
        _at_hand.reset(before)


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
        UsageError: If the choice contradicts itself or the task, or the memory could not hold the body.
        FPTError: If the backbone cannot be found, read, or entered through embeddings.
    """
    at_hand = _at_hand.get()
    if at_hand is None:
        return _built(choice, max_length, dropout, keep_vocabulary)
    same = str(choice), max_length, dropout, choice.seed if keep_vocabulary else None
    if same in at_hand:
        return copy.deepcopy(at_hand[same])
    at_hand.clear()
    built = _built(choice, max_length, dropout, keep_vocabulary)
    if ROOM * bytes_of(built.body) <= usable_memory():
        at_hand[same] = copy.deepcopy(built)
    return built


def _built(choice: BackboneChoice, max_length: int, dropout: float, keep_vocabulary: bool) -> Backbone:
    if choice.name in OWN_BODIES:
        built = _own_backbone(choice, max_length, dropout)
    else:
        built = _hub_backbone(choice, max_length, dropout, keep_vocabulary)
    if keep_vocabulary and built.vocabulary is None:
        raise UsageError(f"backbone '{choice.name}' has no token embeddings to fit the input layer to")
    built.family.keep_blocks(built.body, choice.chosen_blocks(built.family.depth(built.body)))
    replace_dropouts(built.body)
    replace_gelus(built.body)
    replace_rms_norms(built.body)
    built.body.train()
    return built


def _own_backbone(choice: BackboneChoice, max_length: int, dropout: float) -> Backbone:
    if choice.positions == "new":
        raise UsageError(f"model.positions new: backbone '{choice.name}' has none, or new ones for every task")
    assert choice.resolved_initialization == "random"  # it refuses all else for these names
    family = OwnBody(choice.name, choice.architecture or {})
    depth = family.sizes.get("layers", 1)
    expect_room(lambda blocks: family.new_body(max_length, dropout, blocks), depth, f"backbone '{choice.name}'")
    with drawn_from(choice.body_seed, "backbone"):
        return Backbone(family.new_body(max_length, dropout), family)


def _hub_backbone(choice: BackboneChoice, max_length: int, dropout: float, keep_vocabulary: bool) -> Backbone:
    family = family_of(read_config(choice))
    _check_positions(choice, family, max_length)
    family.configure(max_length, dropout)
    expect_room_of(family, choice.name)
    body = _values(choice, family)
    vocabulary = _vocabulary(choice, family, body) if keep_vocabulary else None
    rows = family.position_rows(body, None if choice.positions == "whole" else max_length)
    if choice.positions == "new":
        rows = draw_embeddings(family, max_length, generator(choice.seed, "positions"))
    family.enter(body, rows)
    if choice.architecture:
        family.expect_runs(body, min(max_length, FEW_TOKENS))
    return Backbone(body, family, vocabulary)


def _check_positions(choice: BackboneChoice, family: HubFamily, max_length: int) -> None:
    learned, available = family.learned_positions, family.positions
    if choice.positions == "new":
        if not learned:
            raise UsageError(f"model.positions new: a {family.config.model_type} has no learned positions to replace")
    elif available is not None and max_length > available:
        raise UsageError(
            f"the task has {max_length} tokens, backbone '{choice.name}' only {available} positions: choose smaller "
            f"sizes under data, as data.limit {available} where there is one, a backbone with more positions"
            f"{', or model.positions new' if learned else ''}"
        )


def _values(choice: BackboneChoice, family: HubFamily) -> nn.Module:
    if choice.resolved_initialization == "random":
        return random_body(family, choice.body_seed, residual_scaling=choice.residual_scaling)
    body = read_weights(location(choice.name), family)
    if choice.resolved_initialization == "statistics":
        keep_statistics(body.named_parameters(), choice.body_seed)
    draw_parts(body, family, choice.drawn_parts, choice.body_seed, residual_scaling=choice.residual_scaling)
    return body


def _vocabulary(choice: BackboneChoice, family: HubFamily, body: Any) -> torch.Tensor | None:
    table = body.get_input_embeddings()
    if not isinstance(table, nn.Embedding):
        return None
    stream = generator(choice.seed, "vocabulary")
    if choice.resolved_initialization == "random":  # its own table was never drawn: it would be like this one
        table.weight = nn.Parameter(draw_embeddings(family, VOCABULARY_SAMPLE, stream))
        rows = torch.arange(VOCABULARY_SAMPLE)
    elif len(table.weight) == 1:  # of a body that was written here, whose token stands for none
        return None
    else:
        rows = torch.randperm(len(table.weight), generator=stream)[:VOCABULARY_SAMPLE]
    return table(rows).detach().clone()  # Gemma's scales what it holds, and the body reads that
