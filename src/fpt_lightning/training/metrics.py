"""What a split is judged by: loss and metrics, exact whatever share of it each device saw."""

import torch
from torch import nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.regression import MeanAbsoluteError, R2Score

from fpt_lightning.data.spec import TaskSpec


def split_metrics(task: TaskSpec, prefix: str) -> nn.ModuleDict:
    """Loss and metrics over a split, exact whatever share of it each device saw, under names with a prefix."""
    metrics: dict[str, Metric] = {"loss": MeanMetric()}
    if task.classes is None:
        metrics |= {"mae": MeanAbsoluteError(), "r2": R2Score()}
    else:
        metrics["accuracy"] = Accuracy(task.classes)
    return nn.ModuleDict({prefix + name: metric for name, metric in metrics.items()})


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

    Attributes:
        kept_share: The share of the split's examples that were read.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(classes, average="micro", validate_args=False)
        self.kept_share = 1.0

    def compute(self) -> torch.Tensor:
        """The accuracy over the whole split."""
        return super().compute() * self.kept_share
