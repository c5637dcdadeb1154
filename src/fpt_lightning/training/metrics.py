"""What a split is judged by: loss and metrics, exact whatever share of it each device saw."""

from collections.abc import Callable
from typing import Self

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.regression import MeanAbsoluteError, R2Score

from fpt_lightning.data.spec import TaskSpec

NONE = -1
"""The class of an answer that is none: its logits are not finite."""


def split_metrics(task: TaskSpec, prefix: str) -> nn.ModuleDict:
    """Loss and metrics over a split, exact whatever share of it each device saw, under names with a prefix."""
    metrics: dict[str, Metric] = {"loss": MeanLoss()}
    if task.classes is None:
        metrics |= {"mae": MeanAbsoluteError(), "r2": R2Score()}
    else:
        metrics["accuracy"] = Accuracy(task.classes, prefix.rstrip("_"))
    return _WideMetrics({prefix + name: metric for name, metric in metrics.items()})


class _WideMetrics(nn.ModuleDict):
    """Metrics whose sums are in fp32 at least, whatever a model is cast to: in bf16 a count ends at 256."""

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        return super()._apply(lambda x: _wide(fn(x)), recurse)


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32)) if x.is_floating_point() else x


class MeanLoss(MeanMetric):
    """The mean over a split, in fp32 at least; NaN where a batch's is."""

    def __init__(self) -> None:
        # by default batches whose loss is NaN are left out, and what would disable that forgets the weights
        super().__init__(nan_strategy=torch.nan)

    @property
    def dtype(self) -> torch.dtype:
        """What is added is rounded to it; its own would be torch's default of the moment, 16 bits within a step."""
        return self.mean_value.dtype


def update(metric: Metric, answers: torch.Tensor, target: torch.Tensor, loss: torch.Tensor, std: float = 1.0) -> None:
    """Adds the answers of a batch to one of a split's metrics.

    Args:
        metric: One of :func:`split_metrics`.
        answers: Logits ``[answers, classes]``, or numbers ``[answers]`` in standard units.
        target: ``[answers]`` int64 classes, or numbers in standard units.
        loss: Their mean over the batch.
        std: What a standard unit is in the data's own.
    """
    if isinstance(metric, MeanMetric):
        metric.update(loss, weight=target.numel())
    elif isinstance(metric, MeanAbsoluteError):
        metric.update(answers * std, target * std)
    else:
        # R2 is the same in standard units, where its sums neither cancel out nor vanish in rounding
        metric.update(answers, target)


class Accuracy(MulticlassAccuracy):
    """The share of answers that are right, among those of examples that were left out too (FPT: remote homology).

    Args:
        classes: Classes that an answer chooses among.
        split: What they are answers to, as a message names it.

    Attributes:
        kept_share: The share of the split's examples that were read.
        lost: Answers that are none, see :func:`most_likely`.
    """

    lost: torch.Tensor

    def __init__(self, classes: int, split: str) -> None:
        super().__init__(classes, average="micro", validate_args=False)
        self.kept_share, self.split = 1.0, split
        self.add_state("lost", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Adds answers, of their logits ``[answers, classes]`` and ``[answers]`` int64 classes."""
        answer = most_likely(preds)
        self.lost = self.lost + (answer == NONE).sum()  # anew: it may be a tensor of inference
        super().update(answer, target)

    def compute(self) -> torch.Tensor:
        """The accuracy over the whole split; says how many answers are none."""
        if lost := int(self.lost):
            rank_zero_info(f"{self.split}: {lost:,} answers are wrong because their logits are not finite")
        return super().compute() * self.kept_share


def most_likely(logits: torch.Tensor) -> torch.Tensor:
    """The likeliest class of answers ``[..., classes]``; :data:`NONE` where its logit is not finite."""
    logit, answer = logits.max(dim=-1)  # NaN, where there is one
    return answer.masked_fill(~logit.isfinite(), NONE)
