"""Which parameter belongs to which part, and which parts train."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fpt_lightning.errors import FPTError, UsageError, did_you_mean

PARTS = ("input", "positions", "layernorm", "attention", "feedforward", "recurrence", "lora", "output")

PAPER = ("input", "output", "layernorm", "positions")
"""What the paper trains (FPT section 2.3)."""


@dataclass(frozen=True)
class Place:
    """Where a parameter sits: its part, and its layer if the part is repeated in every layer."""

    part: str
    layer: int | None = None


PartTable = tuple[tuple[str, str | Place], ...]
"""Patterns of full parameter names, the layer number their first group, and the part of what matches."""


def place_parameters(names: Iterable[str], table: PartTable, architecture: str) -> dict[str, Place]:
    """Places every parameter of a :class:`FrozenPretrainedTransformer`.

    Args:
        names: Parameter names; those of the body begin with ``backbone.``.
        table: The parts of the body's architecture, see :class:`fpt_lightning.models.backbones.families.base.Family`.
        architecture: What the body is called, for the error.

    Returns:
        A place for every name. A final layer norm has no number of its own: it counts with the last layer.

    Raises:
        FPTError: If the table does not know a name; nothing is ever frozen by default.
    """
    found = {name: _place(name, table) for name in names}
    places = {name: place for name, place in found.items() if place is not None}
    if unknown := [name for name in found if name not in places]:
        raise FPTError(
            f"{architecture} cannot be a backbone yet: no part is declared for its parameter "
            f"{unknown[0].removeprefix('backbone.')} ({len(unknown)} such parameters)"
        )
    last = max((place.layer for place in places.values() if place.layer is not None), default=None)
    final = Place("layernorm", last)
    return {name: final if place == Place("layernorm") else place for name, place in places.items()}


def _place(name: str, table: PartTable) -> Place | None:
    top, _, rest = name.partition(".")
    if top in ("input", "output"):
        return Place(top)
    original = rest.replace(".base_layer.", ".")  # where peft keeps what it adapts
    lora = re.fullmatch(r"(.+)\.lora_[AB]\.default(\.weight)", original)
    for pattern, part in table:
        if match := re.fullmatch(pattern, lora[1] + lora[2] if lora else original):
            place = part if isinstance(part, Place) else Place(part, int(match[1]) if match.lastindex else None)
            return Place("lora", place.layer) if lora else place
    return None


def select(places: Mapping[str, Place], trainable: str | Iterable[str]) -> set[str]:
    """Chooses the parameters that train.

    Args:
        places: The place of every parameter.
        trainable: Part names; ``all`` for every part; ``<part>:last<n>`` for a part's last n layers; ``<part>:bias``
            for its biases alone. One may stand without a list.

    Returns:
        The names that train.

    Raises:
        UsageError: If a part does not exist, or not in this body, or has no layers, no biases or fewer layers than
            asked for.
    """
    chosen: set[str] = set()
    for entry in [trainable] if isinstance(trainable, str) else trainable:
        part, _, which = entry.partition(":")
        if entry == "all":
            chosen |= set(places)
            continue
        if part == "all":
            raise UsageError("model.trainable: all takes neither :last nor :bias, a part does: attention:last2")
        if part not in PARTS:
            raise UsageError(
                f"model.trainable: no part is called '{part}'{did_you_mean(part, (*PARTS, 'all'))} "
                f"The parts are {', '.join(PARTS)}, or all."
            )
        names = {name for name, place in places.items() if place.part == part}
        if not names and part not in PAPER:  # of which some bodies have not all
            raise UsageError(f"model.trainable: this backbone has no {part}")
        chosen |= _narrow(names, places, part, which) if which else names
    return chosen


def _narrow(names: set[str], places: Mapping[str, Place], part: str, which: str) -> set[str]:
    """What ``last<n>`` or ``bias`` keeps of a part."""
    if which == "bias":
        if not (biases := {name for name in names if name.rpartition(".")[2].startswith("bias")}):
            raise UsageError(f"model.trainable: '{part}:bias' trains nothing: {part} has no biases")
        return biases
    match = re.fullmatch(r"last([1-9]\d*)", which)
    if match is None:
        raise UsageError(f"model.trainable: '{part}:{which}' is neither of the form {part}:last2 nor {part}:bias")
    layers = sorted({layer for name in names if (layer := places[name].layer) is not None})
    if int(match[1]) > len(layers):
        raise UsageError(f"model.trainable: '{part}:{which}' asks for more layers than the {len(layers)} of {part}")
    kept = layers[-int(match[1]) :]
    return {name for name in names if places[name].layer in kept}
