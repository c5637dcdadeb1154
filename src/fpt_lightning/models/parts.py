"""Which parameter belongs to which part, and which parts train."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fpt_lightning.errors import FPTError, UsageError, did_you_mean

PARTS = ("input", "positions", "layernorm", "attention", "feedforward", "output")

PAPER = ("input", "output", "layernorm", "positions")
"""What the paper trains (FPT section 2.3)."""

# One table an architecture: every parameter of its body by full name, the layer number in the first group. The final
# layer norm has no number: it follows the last block and counts with it.
GPT2 = {
    r"wpe\.weight": "positions",
    r"h\.(\d+)\.ln_[12]\.(?:weight|bias)": "layernorm",
    r"ln_f\.(?:weight|bias)": "layernorm",
    r"h\.(\d+)\.attn\.(?:c_attn|c_proj)\.(?:weight|bias)": "attention",
    r"h\.(\d+)\.mlp\.(?:c_fc|c_proj)\.(?:weight|bias)": "feedforward",
}

BACKBONE_PARTS: Mapping[str, Mapping[str, str]] = {"gpt2": GPT2}
"""Part tables by ``model_type`` of transformers."""


@dataclass(frozen=True)
class Place:
    """Where a parameter sits: its part, and its layer if the part is repeated in every layer."""

    part: str
    layer: int | None = None


def place_parameters(names: Iterable[str], model_type: str) -> dict[str, Place]:
    """Places every parameter of a :class:`FrozenPretrainedTransformer`.

    Args:
        names: Parameter names; those of the body begin with ``backbone.``.
        model_type: The body's architecture, a key of :data:`BACKBONE_PARTS`.

    Returns:
        A place for every name.

    Raises:
        FPTError: If the architecture's table does not know a name; nothing is ever frozen by default.
    """
    places = {name: _place(name, BACKBONE_PARTS[model_type]) for name in names}
    if unknown := [name for name, place in places.items() if place is None]:
        raise FPTError(f"{model_type}: no part is declared for {unknown[0]} ({len(unknown)} such parameters)")
    known = {name: place for name, place in places.items() if place is not None}
    last = max((place.layer for place in known.values() if place.layer is not None), default=None)
    return {
        name: Place(place.part, last) if place.part == "layernorm" and place.layer is None else place
        for name, place in known.items()
    }


def _place(name: str, table: Mapping[str, str]) -> Place | None:
    top, _, rest = name.partition(".")
    if top in ("input", "output"):
        return Place(top)
    for pattern, part in table.items():
        if match := re.fullmatch(pattern, rest):
            return Place(part, int(match[1]) if match.lastindex else None)
    return None


def select(places: Mapping[str, Place], trainable: str | Iterable[str]) -> set[str]:
    """Chooses the parameters that train.

    Args:
        places: The place of every parameter.
        trainable: Part names; ``all`` for every part; ``<part>:last<n>`` for a part's last n layers. One alone may
            stand without a list.

    Returns:
        The names that train.

    Raises:
        UsageError: If a part does not exist, or has no layers or fewer than asked for.
    """
    chosen: set[str] = set()
    for entry in [trainable] if isinstance(trainable, str) else trainable:
        part, _, layers = entry.partition(":")
        if part == "all" and not layers:
            return set(places)
        if part not in PARTS:
            raise UsageError(
                f"model.trainable: no part is called '{part}'{did_you_mean(part, (*PARTS, 'all'))} "
                f"The parts are {', '.join(PARTS)}, or all."
            )
        first = _first_layer(places, part, layers) if layers else None
        chosen |= {
            name
            for name, place in places.items()
            if place.part == part and (first is None or (place.layer is not None and place.layer >= first))
        }
    return chosen


def _first_layer(places: Mapping[str, Place], part: str, layers: str) -> int:
    """The lowest layer that ``last<n>`` keeps."""
    numbers = {place.layer for place in places.values() if place.part == part and place.layer is not None}
    match = re.fullmatch(r"last([1-9]\d*)", layers)
    if match is None:
        raise UsageError(f"model.trainable: '{part}:{layers}' is not of the form {part}:last2")
    if int(match[1]) > len(numbers):
        raise UsageError(f"model.trainable: '{part}:{layers}' asks for more layers than the {len(numbers)} of {part}")
    return sorted(numbers)[-int(match[1])]
