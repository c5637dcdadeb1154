"""The experiment itself: loss, metrics and optimizer of a frozen transformer that answers with classes or numbers."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torchmetrics import Metric

from fpt_lightning.data.datamodule import FPTDataModule, Split
from fpt_lightning.data.spec import Batch, Prediction, TaskSpec, as_batch
from fpt_lightning.errors import UsageError, are_shares, at_least
from fpt_lightning.models.backbones.choice import BackboneChoice, Positions
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.models.input_layer import InputInitialization
from fpt_lightning.models.kernels.linear import FrozenDtype
from fpt_lightning.models.lora import LoraOptions
from fpt_lightning.models.parts import PAPER
from fpt_lightning.training.alignment import FitInput
from fpt_lightning.training.artifacts.export import load_trained
from fpt_lightning.training.artifacts.portable import PortableModule
from fpt_lightning.training.logger import is_logging_step
from fpt_lightning.training.metrics import Accuracy, most_likely, split_metrics, update
from fpt_lightning.training.optimizer import (
    build_optimizer,
    build_schedule,
    check_rates,
    chosen,
    parameter_groups,
)


class FPTClassifier(PortableModule):
    """A frozen transformer that answers with classes: cross-entropy, accuracy, Adam on what trains (FPT section 2).

    Another loss is another :meth:`loss`, in a class of your own that ``--model my_module.MyClassifier`` names.

    Where a task's answers are numbers (``task.classes`` is None) it answers in the standard units of the training
    targets: mean squared error in those units, and the mean absolute error (``mae``) and the coefficient of
    determination (``r2``) in the data's own.

    Args:
        task: The sizes of the task; the command line takes them from the datamodule.
        backbone: ``small`` (4 layers, width 256, random), ``pocket`` (6 layers, width 256, pretrained on novels, some
            with copied spans, ships with the package), ``pocket-novels`` (on novels alone), ``pocket-brackets`` (on
            brackets without meaning), ``tiny`` (for tests), a name of
            :data:`fpt_lightning.models.backbones.architectures.ARCHITECTURES` such as ``gpt2``, another on the Hugging
            Face hub, a local folder in its format, a GGUF file, a ``model_type`` of transformers such as ``llama``
            (random), ``lstm``, ``lstm_star``, or a control: ``none`` (one linear layer on all tokens), ``two_layer``
            (two), ``one_attention``, ``one_block``.
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
        lr: Learning rate; constant, unless a schedule changes it.
        part_lr: Another learning rate for single parts.
        trained_parts: A ``trained.safetensors`` of an earlier run to start from.
        seed: Seed of random weights; the command line links it to ``seed_everything``.
        backbone_seed: Seed of the backbone's random weights alone, so that several runs share one body; left out,
            ``seed``.
        residual_scaling: Draw the output projections of a random GPT-2 smaller than its other weights, as transformers
            5 does; false draws them alike, as transformers 4 and so the paper's reference did.
        optimizer: Another optimizer than Adam for what trains: its class, or ``class_path`` and ``init_args``; the
            command line fills it with ``--optimizer``. Its rates are ``lr`` and ``part_lr``.
        lr_scheduler: A schedule of the rates, likewise, with ``--lr_scheduler``; see :func:`build_schedule`.
        warmup_steps: Steps over which the rates rise to what they are; the schedule begins behind them.
        label_smoothing: Share of every training target that is spread over all classes (Szegedy et al. 2016).
        frozen_dtype: ``bfloat16`` keeps the matrices of frozen linear layers in half the memory, rounded, so that
            nothing casts them at every step of ``trainer.precision bf16-mixed``; all else stays float32.

    Raises:
        UsageError: If the arguments contradict each other or the task.
        FPTError: If the backbone or the trained parts cannot be read.

    Attributes:
        captured: What takes the place of :meth:`answer` in training, see :mod:`fpt_lightning.training.captured`.
    """

    captured: Callable[[Batch], tuple[torch.Tensor, ...]] | None = None

    def __init__(
        self,
        task: TaskSpec,
        backbone: str = "small",
        initialization: str | dict[str, str] | None = None,
        architecture: dict[str, Any] | None = None,
        layers: str | int | None = None,  # in this order: YAML 1.1 reads 3:9 as 189 minutes
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
        optimizer: dict[str, Any] | str | None = None,
        lr_scheduler: dict[str, Any] | str | None = None,
        warmup_steps: int = 0,
        label_smoothing: float = 0.0,
        frozen_dtype: FrozenDtype = "float32",
    ) -> None:
        super().__init__()
        are_shares("model.", with_0=True, dropout=dropout, input_dropout=input_dropout)
        are_shares("model.", with_0=True, label_smoothing=label_smoothing)
        at_least(0, "model.", align_steps=align_steps, warmup_steps=warmup_steps)
        layers = int(layers) if isinstance(layers, str) and layers.isdecimal() else layers
        plain: dict[str, Any] = {"layers": layers, "lora": asdict(lora) if lora else None}
        plain |= chosen(optimizer=optimizer, lr_scheduler=lr_scheduler)
        self.save_hyperparameters(ignore=["task", *plain])
        self.save_hyperparameters(plain)  # checkpoints hold no other values
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
            frozen_dtype=frozen_dtype,
        )  # fmt: skip
        check_rates(lr, self.part_lr, self.model)
        self.fit_input.check(self.model)
        if trained_parts is not None:
            load_trained(self.model, trained_parts)
            self.fit_input = FitInput()  # it was fitted then
        self.validation_metrics, self.test_metrics = split_metrics(task, "val_"), split_metrics(task, "test_")
        self._moving()  # refuses before anything starts

    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor | None = None, places: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Logits ``[batch, answers, classes]``; see :meth:`FrozenPretrainedTransformer.forward`."""
        logits: torch.Tensor = self.model(tokens, mask, places)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """The mean cross-entropy, or squared error in standard units, over all answers of the batch."""
        answers, target, loss = (self.captured or self.answer)(as_batch(batch, self.task))
        self.log_step(answers, target, loss)
        return loss

    def log_step(self, answers: torch.Tensor, target: torch.Tensor, loss: torch.Tensor) -> None:
        """Logs a training step's loss, rate and share of right answers, where it is one of those that are shown."""
        # only at the steps that are shown: at the paper's tiny batches a step costs less than its bookkeeping
        if is_logging_step(self.trainer, self.trainer.global_step):
            figures: dict[str, torch.Tensor | float] = {"train_loss": loss}
            if self.trainer.lr_scheduler_configs:
                figures["lr"] = self.trainer.optimizers[0].param_groups[0]["lr"]
            if self.task.classes is not None:
                figures["train_accuracy"] = (answers.detach().argmax(dim=-1) == target).float().mean()
            self.log_dict(figures, prog_bar=True, sync_dist=True)

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of training, validation and test: mean cross-entropy, or squared error; override it for another.

        Args:
            logits: ``[answers, classes]`` of all answers of a batch; of a regression ``[answers]``, in standard units.
            target: ``[answers]`` int64 classes; of a regression numbers in standard units.

        Returns:
            A scalar, the mean over the answers. ``self.training`` tells whether it is to be learnt from: labels are
            smoothed there alone, so that figures of validation compare.
        """
        if self.task.classes is None:
            return F.mse_loss(logits, target)
        return F.cross_entropy(
            logits, target, label_smoothing=self.hparams["label_smoothing"] if self.training else 0.0
        )

    def losses(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The :meth:`loss` of every run ``[runs]``, of ``[runs, answers, classes]`` and ``[runs, answers]``."""
        if self.task.classes is None:
            return F.mse_loss(logits, target, reduction="none").mean(dim=1)
        smoothing = self.hparams["label_smoothing"]
        each = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none", label_smoothing=smoothing)
        return each.view_as(target).mean(dim=1)

    def on_validation_start(self) -> None:
        self._seen = 0
        self._count_what_is_left_out(self.validation_metrics, "validation")

    def on_test_start(self) -> None:
        self._seen = 0
        self._count_what_is_left_out(self.test_metrics, "test")

    def on_predict_start(self) -> None:
        self._seen = 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(as_batch(batch, self.task), self.validation_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(as_batch(batch, self.task), self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """The most likely class of every answer and its probability, or the number in the data's own units."""
        batch = as_batch(batch, self.task)
        logits = self(batch.tokens, batch.mask, self._places(batch)).float()  # [batch, answers, classes]
        if self.task.classes is not None:
            return Prediction(most_likely(logits), logits.softmax(dim=-1).amax(dim=-1))
        return Prediction(self.task.in_own_units(logits.squeeze(-1)))

    def on_validation_epoch_end(self) -> None:
        """Asks schedules that wait for a plateau; before the checkpoint of this validation is written."""
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            for config in self.trainer.lr_scheduler_configs:
                if config.reduce_on_plateau:
                    metric = self.validation_metrics[str(config.monitor)]
                    assert isinstance(metric, Metric)
                    config.scheduler.step(metric.compute())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam with torch's defaults, or the one chosen; the optimizer never meets a frozen parameter.

        Raises:
            UsageError: If the run is longer than its schedule.
        """
        if self.hparams["lr_scheduler"] is None:
            return self._moving()
        steps = self.trainer.estimated_stepping_batches
        self.trainer.fit_loop._combined_loader = None  # made for it, and before a resumed run knows where it stands
        return self._moving(steps)

    def _moving(self, steps: float = 0) -> OptimizerLRScheduler:
        """Optimizer and schedule of a run of so many steps, where that is known."""
        groups = parameter_groups(self.lr, self.part_lr, self.model)
        options, figures, task = self.hparams, list(self.validation_metrics), self.task
        if options["label_smoothing"] and task.classes is None:
            raise UsageError(f"model.label_smoothing spreads a target over classes: {task.name} answers with numbers")
        optimizer = build_optimizer(options["optimizer"], groups, self.lr)
        schedule = build_schedule(options["lr_scheduler"], options["warmup_steps"], optimizer, figures, steps)
        return ([optimizer], schedule) if schedule else optimizer  # type: ignore[return-value]

    def on_fit_start(self) -> None:
        """Fits the input layer to the backbone's token embeddings where that is asked for and the run is new."""
        if self.fit_input and self.trainer.ckpt_path is None:
            self.fit_input(self.model, self.trainer)

    def _places(self, batch: Batch) -> range:
        """Where the examples of an evaluation's next batch stand: process r of w reads every w-th from the r-th on."""
        first, self._seen = self._seen, self._seen + len(batch.tokens)
        processes = self.trainer.world_size
        return range(self.global_rank + processes * first, self.global_rank + processes * self._seen, processes)

    def answer(
        self, batch: Batch, places: Sequence[int] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits ``[batch * answers, classes]``, or numbers ``[batch * answers]`` in standard units; targets; loss."""
        answers, target = self.as_answers(self(batch.tokens, batch.mask, places), batch.target)
        return answers, target, self.loss(answers, target)

    def as_answers(self, logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What :meth:`loss` compares, of logits ``[batch, answers, classes]`` and targets ``[batch, answers]``."""
        logits, target = logits.flatten(0, 1), target.flatten()  # [batch * answers, classes], [batch * answers]
        if self.task.classes is not None:
            return logits, target
        numbers = logits.squeeze(-1).float()
        return numbers, self.task.in_standard_units(target).to(numbers.device)

    def _count_what_is_left_out(self, metrics: nn.ModuleDict, split: Split) -> None:
        """Tells the accuracy what share of a split is read."""
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]  # None where loaders are passed instead
        if isinstance(datamodule, FPTDataModule):
            for metric in metrics.values():
                if isinstance(metric, Accuracy):
                    metric.kept_share = datamodule.kept_share(split)

    def _evaluate(self, batch: Batch, metrics: nn.ModuleDict) -> None:
        answers, target, loss = self.answer(batch, self._places(batch))
        for name, metric in metrics.items():
            assert isinstance(metric, Metric)
            update(metric, answers, target, loss, self.task.target_std)
            self.log(name, metric, on_epoch=True, prog_bar=name.endswith(self.task.metric))
