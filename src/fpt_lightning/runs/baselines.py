"""What stands beside a result: guesses without a model, and a linear layer on the user's own data."""

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info

from fpt_lightning.data.datamodule import CHUNK, SPLITS, FPTDataModule, Split
from fpt_lightning.data.spec import Batch, TaskSpec, Trivial
from fpt_lightning.models.linear_fit import LinearFit
from fpt_lightning.training.features import FeatureData

KNOWN = ("BitMemory", "BitXOR", "CIFAR10", "CIFAR10LRA", "ListOps", "MNIST", "RemoteHomology")
"""Tasks whose linear baseline is an arm of the tables: the backbone ``none``."""

EXAMPLES = 4096  # of the training split that the linear layer learns from, at most
NUMBERS = 2**26  # that they are held in, at most: 256 MiB
WORK = 2**28  # products of a pass over them, at most: some seconds in all
MOST_WEIGHTS = 2**23  # of the layer: half a minute
PLACES = 2**13  # ids are told apart by their place up to so many features, and counted beyond
DECAYS = (1e-3, 1e-2, 1e-1)  # of which validation chooses


def baselines(datamodule: FPTDataModule) -> dict[str, dict[str, float]]:
    """The metric on ``val`` and ``test`` of what needs no backbone, by its name, as ``result.json`` holds it."""
    if isinstance(datamodule, FeatureData):
        datamodule = datamodule.data
    worth = datamodule.trivial_baselines()
    ours = type(datamodule).__module__.startswith("fpt_lightning.") and type(datamodule).__name__ in KNOWN
    if not ours:
        weights = _features_of(datamodule.task) * datamodule.task.answers * datamodule.task.logits_per_answer
        if weights <= MOST_WEIGHTS:
            worth["linear"] = linear_baseline(datamodule)
        else:
            rank_zero_info(f"no linear baseline: its {weights:,} weights would take minutes and gigabytes")
    return {name: trivial._asdict() for name, trivial in worth.items()}


def linear_baseline(datamodule: FPTDataModule) -> Trivial:
    """A linear layer on the flattened tokens, fitted to some thousands of training examples.

    Logistic regression, or least squares for numbers, on features in standard units, by L-BFGS from zero; validation
    chooses among three weight decays. Ids enter as one-hot at their places where those are few, else as counts.
    """
    task = datamodule.task
    features, outputs = _features_of(task), task.answers * task.logits_per_answer
    count = max(CHUNK, min(EXAMPLES, NUMBERS // features, WORK // (features * outputs)))
    batches = list(datamodule.met("train", datamodule.some("train", count)))
    inputs = torch.cat([_flat(batch, task) for batch in batches])  # [examples, features]
    target = torch.cat([batch.target for batch in batches])  # [examples, answers]
    linear = LinearFit(inputs, target, task)
    for decay in DECAYS:
        linear.fit(decay)
    answers: dict[Split, list[torch.Tensor]] = {}
    for split in SPLITS[1:]:
        every = range(len(datamodule.examples(split)))
        parts = [linear.answers(_flat(batch, task)) for batch in datamodule.met(split, every)]
        answers[split] = [torch.cat(of_layer) for of_layer in zip(*parts, strict=True)]
    worth = [datamodule.worth(lambda split, index=index: answers[split][index]) for index in range(len(DECAYS))]  # type: ignore[misc]
    return max(worth, key=lambda trivial: trivial.val)


def _features_of(task: TaskSpec) -> int:
    if task.vocabulary_size is None:
        return task.max_length * (task.token_width or 0)
    placed = task.max_length * task.vocabulary_size
    return placed if placed <= PLACES else task.vocabulary_size


def _flat(batch: Batch, task: TaskSpec) -> torch.Tensor:
    """``[batch, features]`` of a batch's tokens; padding is zero."""
    tokens = batch.tokens
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool) if batch.mask is None else batch.mask
    if task.vocabulary_size is None:
        flat = tokens.float() * mask[..., None]
        return F.pad(flat.flatten(1), (0, _features_of(task) - flat[0].numel()))
    features = _features_of(task)
    placed = features > task.vocabulary_size
    index = tokens + task.vocabulary_size * torch.arange(tokens.size(1)) if placed else tokens
    return torch.zeros(len(tokens), features).scatter_add_(1, index, mask.float())
