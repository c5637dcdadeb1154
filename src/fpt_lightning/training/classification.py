"""The experiment itself: loss, metrics and optimizer of a frozen transformer that answers with classes or numbers."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.regression import MeanAbsoluteError, R2Score

from fpt_lightning.data.datamodule import FPTDataModule, Split
from fpt_lightning.data.spec import Batch, TaskSpec
from fpt_lightning.errors import UsageError
from fpt_lightning.models.backbones.choice import BackboneChoice, Positions
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.models.input_layer import InputInitialization
from fpt_lightning.models.lora import LoraOptions
from fpt_lightning.models.parts import PAPER
from fpt_lightning.training import checkpoint as checkpoints
from fpt_lightning.training.alignment import FitInput
from fpt_lightning.training.export import load_trained
from fpt_lightning.training.logger import is_logging_step
from fpt_lightning.training.rates import check_rates, parameter_groups


class FPTClassifier(L.LightningModule):
    """A frozen transformer that answers with classes: cross-entropy, accuracy, Adam on what trains (FPT section 2).

    Where a task's answers are numbers (``task.classes`` is None) it answers in the standard units of the training
    targets: mean squared error in those units, and the mean absolute error (``mae``) and the coefficient of
    determination (``r2``) in the data's own.

    Args:
        task: The sizes of the task; the command line takes them from the datamodule.
        backbone: ``small`` (4 layers, width 256, random), ``pocket`` (6 layers, width 256, pretrained on novels, ships
            with the package), ``tiny`` (for tests), a name of
            :data:`fpt_lightning.models.backbones.architectures.ARCHITECTURES` such as ``gpt2``, another on the Hugging
            Face hub, a local folder in its format, a GGUF file, ``lstm``, ``lstm_star``, or a control: ``none`` (one
            linear layer on all tokens), ``two_layer`` (two), ``one_attention``, ``one_block``.
        initialization: ``pretrained``, ``random`` or ``statistics`` (normal values with the mean and standard
            deviation of every pretrained tensor); left out, pretrained wherever the backbone has weights. By part, such
            as ``{feedforward: random}``, it draws those parts and leaves all others pretrained.
        architecture: Fields of the backbone's config to change, such as ``n_layer``; only with random weights.
        layers: Keep the first so many blocks of the backbone, or a slice of them such as ``'3:9'``.
        positions: ``backbone`` takes the backbone's own, as many as the task has tokens; ``whole`` keeps and trains all
            of them; ``new`` draws as many as the task has tokens.
        trainable: The parts that train: any of ``input``, ``positions``, ``layernorm``, ``attention``,
            ``feedforward``, ``output`` (an LSTM's weights are its ``recurrence``), or ``all``; ``attention:last2`` is
            a part's last two layers, ``attention:bias`` its biases.
        lora: Low-rank adapters beside frozen linear layers; needs peft.
        input_initialization: ``orthogonal`` as in the paper, ``gaussian``, or ``moments``: fitted to the mean and
            standard deviation of the backbone's token embeddings before training.
        align_steps: Steps that train the input layer alone before training, until its outputs are distributed like the
            backbone's token embeddings (ORCA's first stage); 0 leaves it out.
        shuffle_tokens: A control: every example's tokens in a random order (Tan et al. 2024).
        dropout: Probability of every dropout in the backbone.
        input_dropout: Probability of dropout behind the linear input layer of continuous tokens; the paper's reference
            has 0.1.
        lr: Learning rate of Adam, constant.
        part_lr: Another learning rate for single parts.
        trained_parts: A ``trained.safetensors`` of an earlier run to start from.
        seed: Seed of random weights; the command line links it to ``seed_everything``.
        backbone_seed: Seed of the backbone's random weights alone, so that several runs share one body; left out,
            ``seed``.
        residual_scaling: Draw the output projections of a random GPT-2 smaller than its other weights, as transformers
            5 does; false draws them alike, as transformers 4 and so the paper's reference did.

    Raises:
        UsageError: If the arguments contradict each other or the task.
        FPTError: If the backbone or the trained parts cannot be read.
    """

    def __init__(
        self,
        task: TaskSpec,
        backbone: str = "small",
        initialization: str | dict[str, str] | None = None,
        architecture: dict[str, Any] | None = None,
        layers: int | str | None = None,
        positions: Positions = "backbone",
        trainable: list[str] | str = list(PAPER),  # noqa: B006 - jsonargparse shows it as the default
        lora: LoraOptions | None = None,
        input_initialization: InputInitialization = "orthogonal",
        align_steps: int = 0,
        shuffle_tokens: bool = False,
        dropout: float = 0.1,
        lr: float = 1e-3,
        part_lr: dict[str, float] | None = None,
        trained_parts: str | None = None,
        seed: int = 0,
        backbone_seed: int | None = None,
        input_dropout: float = 0.0,
        residual_scaling: bool = True,
    ) -> None:
        super().__init__()
        for name, share in (("dropout", dropout), ("input_dropout", input_dropout)):
            if not 0 <= share < 1:
                raise UsageError(f"model.{name} lies between 0 and 1, got {share}")
        if align_steps < 0:
            raise UsageError(f"model.align_steps must be 0 or more, got {align_steps}")
        self.save_hyperparameters(ignore=["task", "lora"])
        self.save_hyperparameters({"lora": asdict(lora) if lora else None})  # plain values: checkpoints hold no others
        self.task = task
        self.lr, self.part_lr = lr, dict(part_lr or {})
        self.trainable = [trainable] if isinstance(trainable, str) else list(trainable)
        self.fit_input = FitInput(input_initialization == "moments", align_steps)
        choice = BackboneChoice(
            backbone, initialization, architecture, layers, positions, seed, backbone_seed, residual_scaling
        )
        self.model = FrozenPretrainedTransformer(
            task, choice, self.trainable, dropout, input_initialization, lora,
            input_dropout=input_dropout, shuffle_tokens=shuffle_tokens, keep_vocabulary=bool(self.fit_input),
        )  # fmt: skip
        check_rates(lr, self.part_lr, self.model)
        self.fit_input.check(self.model)
        if trained_parts is not None:
            load_trained(self.model, trained_parts)
            self.fit_input = FitInput()  # it was fitted then
        self.validation_metrics = split_metrics(task, "val_")
        self.test_metrics = split_metrics(task, "test_")
        # checkpoints hold what trains and no more; keys are compared in on_load_checkpoint
        self.strict_loading = False

    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor | None = None, places: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Logits ``[batch, answers, classes]``; see :meth:`FrozenPretrainedTransformer.forward`."""
        logits: torch.Tensor = self.model(tokens, mask, places)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """The mean cross-entropy, or squared error in standard units, over all answers of the batch."""
        answers, target, loss = self._answer(batch)
        # only at the steps that are shown: at the paper's tiny batches a step costs less than its bookkeeping
        if is_logging_step(self.trainer, self.trainer.global_step):
            figures = {"train_loss": loss}
            if self.task.classes is not None:
                figures["train_accuracy"] = (answers.detach().argmax(dim=-1) == target).float().mean()
            self.log_dict(figures, prog_bar=True, sync_dist=True)
        return loss

    def on_validation_start(self) -> None:
        self._seen = 0
        self._count_what_is_left_out(self.validation_metrics, "validation")

    def on_test_start(self) -> None:
        self._seen = 0
        self._count_what_is_left_out(self.test_metrics, "test")

    def on_predict_start(self) -> None:
        self._seen = 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, self.validation_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """The most likely class of every answer, or the number in the data's own units: ``[batch, answers]``."""
        logits = self(batch.tokens, batch.mask, self._places(batch))  # [batch, answers, classes]
        if self.task.classes is not None:
            return logits.argmax(dim=-1)
        return logits.squeeze(-1).float() * self.task.target_std + self.task.target_mean

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with torch's defaults; the optimizer never meets a frozen parameter."""
        groups = parameter_groups(self.lr, self.part_lr, self.model)
        return torch.optim.Adam(groups, lr=self.lr, foreach=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves out what is frozen, and names it."""
        checkpoints.shrink(checkpoint, self.model)
        checkpoints.add_run(checkpoint, self.trainer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another task, other trained parts or other frozen weights, or of other rates."""
        checkpoints.verify(checkpoint, self.model)
        checkpoints.check_resumed(checkpoint, self)

    def on_fit_start(self) -> None:
        """Fits the input layer to the backbone's token embeddings where that is asked for and the run is new."""
        if self.fit_input and self.trainer.ckpt_path is None:
            self.fit_input(self.model, self.trainer)

    def _places(self, batch: Batch) -> range:
        """Where the examples of an evaluation's next batch stand: process r of w reads every w-th from the r-th on."""
        first, self._seen = self._seen, self._seen + len(batch.tokens)
        processes = self.trainer.world_size
        return range(self.global_rank + processes * first, self.global_rank + processes * self._seen, processes)

    def _answer(
        self, batch: Batch, places: Sequence[int] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits ``[batch * answers, classes]``, or numbers ``[batch * answers]`` in standard units; targets; loss."""
        logits = self(batch.tokens, batch.mask, places).flatten(0, 1)  # [batch * answers, classes]
        target = batch.target.flatten()
        if self.task.classes is not None:
            return logits, target, F.cross_entropy(logits, target)
        numbers = logits.squeeze(-1).float()
        target = ((target - self.task.target_mean) / self.task.target_std).float()
        return numbers, target, F.mse_loss(numbers, target)

    def _count_what_is_left_out(self, metrics: nn.ModuleDict, split: Split) -> None:
        """Tells the accuracy what share of a split is read."""
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]  # None where loaders are passed instead
        if isinstance(datamodule, FPTDataModule):
            for metric in metrics.values():
                if isinstance(metric, Accuracy):
                    metric.kept_share = datamodule.kept_share(split)

    def _evaluate(self, batch: Batch, metrics: nn.ModuleDict) -> None:
        answers, target, loss = self._answer(batch, self._places(batch))
        for name, metric in metrics.items():
            assert isinstance(metric, Metric)
            if isinstance(metric, MeanMetric):
                metric.update(loss, weight=target.numel())
            elif isinstance(metric, MeanAbsoluteError):
                metric.update(answers * self.task.target_std, target * self.task.target_std)
            else:
                # R2 is the same in standard units, where its sums neither cancel out nor vanish in rounding
                metric.update(answers, target)
            self.log(name, metric, on_epoch=True, prog_bar=name.endswith(self.task.metric))


def split_metrics(task: TaskSpec, prefix: str) -> nn.ModuleDict:
    """Loss and metrics over a split, exact whatever share of it each device saw, under names with a prefix."""
    metrics: dict[str, Metric] = {"loss": MeanMetric()}
    if task.classes is None:
        metrics |= {"mae": MeanAbsoluteError(), "r2": R2Score()}
    else:
        metrics["accuracy"] = Accuracy(task.classes)
    return nn.ModuleDict({prefix + name: metric for name, metric in metrics.items()})


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
