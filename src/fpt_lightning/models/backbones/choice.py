"""Which body, with which values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fpt_lightning.errors import UsageError, did_you_mean
from fpt_lightning.models.backbones.architectures import WITHOUT_WEIGHTS

Initialization = Literal["pretrained", "random", "statistics"]
Positions = Literal["backbone", "whole", "new"]


@dataclass(frozen=True)
class BackboneChoice:
    """Which body, with which values.

    Args:
        name: A name of :data:`fpt_lightning.models.backbones.architectures.EMBEDDED` or :data:`ARCHITECTURES`, or of
            :data:`fpt_lightning.models.backbones.families.own.OWN_BODIES`, a local folder in Hugging Face's format, a
            name on its hub, or a ``model_type`` of transformers, whose values are random.
        initialization: ``pretrained`` loads weights, ``random`` is the architecture's own initialisation,
            ``statistics`` draws normal values with the mean and standard deviation of every pretrained tensor (FPT
            section 3.8); None is pretrained wherever there are weights. A mapping of parts to these names draws those
            parts alone, and leaves all others pretrained.
        architecture: Fields of the architecture's config to change, such as ``n_layer``; only with ``random``.
        layers: Keep the first so many blocks, or a slice of them such as ``3:9``; None keeps all.
        positions: ``backbone`` takes the body's own positions, as many as the task has tokens; ``whole`` keeps all of
            them, as the paper's reference does, although only the first are used; ``new`` draws new ones for as many
            tokens as the task has.
        residual_scaling: Draw the output projections of a random GPT-2's sublayers with 0.02 / sqrt(2 * layers), as it
            is published and transformers 5 does it, rather than with 0.02 like the rest, as transformers 4 did.
        seed: Seed of random values.
        backbone_seed: Seed of the body alone, its own positions included, in place of ``seed``.

    Raises:
        UsageError: If no initialisation has that name.
    """

    name: str
    initialization: str | Mapping[str, str] | None = None
    architecture: Mapping[str, Any] | None = None
    layers: str | int | None = None
    positions: Positions = "backbone"
    seed: int = 0
    backbone_seed: int | None = None
    residual_scaling: bool = True

    @property
    def body_seed(self) -> int:
        return self.seed if self.backbone_seed is None else self.backbone_seed

    def __post_init__(self) -> None:
        chosen, known = self.initialization or "pretrained", get_args(Initialization)
        for name in [chosen] if isinstance(chosen, str) else chosen.values():
            if name not in known:
                near = did_you_mean(str(name), known)
                raise UsageError(f"model.initialization is one of {', '.join(known)}, not '{name}'{near}")

    @property
    def drawn_parts(self) -> Mapping[str, str]:
        """The parts that are not pretrained where the others are, and how they are drawn."""
        chosen = self.initialization if isinstance(self.initialization, Mapping) else {}
        return {part: name for part, name in sorted(chosen.items()) if name != "pretrained"}

    @property
    def resolved_initialization(self) -> str:
        """``pretrained``, ``random``, ``statistics``, or which parts are not: ``pretrained, feedforward random``.

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
        if isinstance(self.initialization, str):
            return self.initialization
        return ", ".join(["pretrained", *(f"{part} {name}" for part, name in self.drawn_parts.items())])

    def chosen_blocks(self, available: int) -> range:
        """Reads ``layers``: ``6`` as the first six blocks, ``3:9`` as the fourth to the ninth, None as all.

        Raises:
            UsageError: If it is none of these, or asks for blocks that are not there.
        """
        if self.layers is None:
            return range(available)
        start, _, stop = str(self.layers).rpartition(":")
        if not (start or "0").isdecimal() or not stop.isdecimal():
            raise UsageError(
                f"model.layers is a number of blocks such as 6, or a slice such as '3:9', got '{self.layers}'"
            )
        chosen = range(int(start or 0), int(stop))
        if not chosen or chosen.stop > available:
            raise UsageError(f"model.layers {self.layers} does not choose from the {available} blocks of the backbone")
        return chosen

    def __str__(self) -> str:
        sizes = "".join(f", {key}={value}" for key, value in (self.architecture or {}).items())
        layers = f", layers {self.layers}" if self.layers is not None else ""
        positions = f", {self.positions} positions" if self.positions != "backbone" else ""
        positions += "" if self.residual_scaling else ", residuals not scaled"
        drawn = [self.body_seed] if self.resolved_initialization != "pretrained" else []
        drawn += [self.seed] if self.positions == "new" else []
        seeds = f", seed {' and '.join(map(str, dict.fromkeys(drawn)))}" if drawn else ""
        return f"{self.name} ({self.resolved_initialization}{sizes}{layers}{positions}{seeds})"
