"""What may happen to the input layer before training: its outputs are fitted to the backbone's token embeddings."""

from dataclasses import dataclass

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info

from fpt_lightning.data.datamodule import FPTDataModule
from fpt_lightning.data.spec import Batch
from fpt_lightning.errors import UsageError
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.models.input_layer import match_moments
from fpt_lightning.random_streams import generator

EXAMPLES = 256  # of the task that the input layer is fitted on
DIRECTIONS = 64  # that distributions are compared along
TOKENS = 1024  # compared in a step
LR = 1e-2  # ORCA's ten times the training's (Shen et al. 2023, released configs)


@dataclass(frozen=True)
class FitInput:
    """Fits an input layer to its backbone; true if there is anything to do.

    Args:
        moments: Match mean and standard deviation of every dimension, at once.
        align_steps: Steps of :func:`align`.
    """

    moments: bool = False
    align_steps: int = 0

    def __bool__(self) -> bool:
        return self.moments or self.align_steps > 0

    def check(self, model: FrozenPretrainedTransformer) -> None:
        """Refuses to fit an input layer that does not train: a frozen tensor never changes."""
        if self and "input.weight" not in model.trained_parameters():
            raise UsageError(
                "model.align_steps and model.input_initialization moments change the input layer: "
                "put input into model.trainable"
            )

    def __call__(self, model: FrozenPretrainedTransformer, trainer: L.Trainer) -> None:
        """Fits the input layer in place, on examples of the training split; the same in every process.

        Raises:
            UsageError: If the data does not come from a datamodule of ours.
        """
        datamodule = trainer.datamodule  # type: ignore[attr-defined]  # set by fit
        if not isinstance(datamodule, FPTDataModule):
            raise UsageError("the input layer is fitted on examples of the datamodule: pass one to Trainer.fit")
        batch = datamodule.sample(EXAMPLES, trainer.strategy.root_device)
        assert model.vocabulary is not None
        if self.moments:
            match_moments(model.input, batch.tokens, batch.mask, model.vocabulary)
        if self.align_steps:
            before, after = align(model, batch, self.align_steps, seed=model.choice.seed)
            rank_zero_info(
                f"aligned the input layer in {self.align_steps} steps: "
                f"distance to the token embeddings {before:.4g} -> {after:.4g}"
            )


def align(
    model: FrozenPretrainedTransformer, batch: Batch, steps: int, *, seed: int, lr: float = LR
) -> tuple[float, float]:
    """Trains the input layer alone until its outputs are distributed like token embeddings.

    After ORCA's first stage (Shen et al. 2023), with the sliced Wasserstein distance: both distributions are projected
    on random directions, where the optimal transport between them is that of sorted values.

    Args:
        model: The model, with a ``vocabulary``; its input layer trains and changes in place.
        batch: Examples of the task.
        steps: Steps of Adam.
        seed: Seed of the directions and of the tokens that are compared.
        lr: Learning rate of Adam.

    Returns:
        The distance before and after, each of a sample of its own.
    """
    assert model.vocabulary is not None
    tokens = batch.tokens.flatten(0, 1) if batch.mask is None else batch.tokens[batch.mask]  # [tokens, ...]
    tokens = tokens.to(model.input.weight) if tokens.is_floating_point() else tokens
    vocabulary = model.vocabulary.to(model.input.weight)
    stream = generator(seed, "align")
    optimizer = torch.optim.Adam(model.input.parameters(), lr=lr)

    def distance() -> torch.Tensor:
        ours = model.input(tokens[_draw(len(tokens), stream)])  # [TOKENS, width]
        return sliced_wasserstein(ours, vocabulary[_draw(len(vocabulary), stream)], stream)

    distances: list[float] = []
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            (now := distance()).backward()
            optimizer.step()
            distances.append(now.item())
    return distances[0], distance().item()


def sliced_wasserstein(ours: torch.Tensor, theirs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The squared 2-Wasserstein distance of two samples, averaged over random directions (Bonneel et al. 2015).

    Args:
        ours: ``[samples, width]``.
        theirs: As many.
        generator: Draws the directions.
    """
    directions = torch.randn(ours.size(1), DIRECTIONS, generator=generator).to(ours)
    directions = directions / directions.norm(dim=0)
    difference = (ours @ directions).sort(dim=0).values - (theirs @ directions).sort(dim=0).values
    return difference.square().mean()


def _draw(available: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(available, (TOKENS,), generator=generator)
