"""Making a backbone: causal language modelling with GPT-2's architecture (Radford et al. 2019)."""

import hashlib
import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torchmetrics import MeanMetric, Metric
from transformers import GPT2Config, GPT2LMHeadModel

from fpt_lightning.data.spec import Batch, TaskSpec
from fpt_lightning.errors import FPTError, UsageError, are_shares, at_least
from fpt_lightning.models.backbones.room import cut, expect_room
from fpt_lightning.models.kernels.attention import use_attention
from fpt_lightning.models.kernels.gelu import replace_gelus
from fpt_lightning.models.kernels.linear import replace_linears
from fpt_lightning.training.artifacts import checkpoint as checkpoints
from fpt_lightning.training.language.generation import continue_texts, copying_gain
from fpt_lightning.training.language.schedule import decayed_groups, warm_cosine
from fpt_lightning.training.logger import is_logging_step
from fpt_lightning.training.metrics import split_metrics, update

SAMPLE_STARTS = ("The ", "It was ")
SAMPLE_TOKENS = 48
LANGUAGE_MODEL = "language_model"  # its identity in a checkpoint


class LanguageModel(L.LightningModule):
    """A GPT-2 that learns to predict the next token: cross-entropy, AdamW, a cosine with a warm-up.

    A window is shorter than the ``positions``: most windows begin at the first, a share of them at a random one, so
    that all are trained. Were each at a random one, a small model would take several times as many steps to learn to
    look at the token before, and with it to copy. Validation begins at the first.

    Weights begin with a standard deviation of ``width ** -0.5``, at which attention scores have the size they have in
    wider models; GPT-2's 0.02 is made for 768 and more. The saved config says so: a random arm begins like this one.

    Args:
        task: The sizes of the text; the command line takes them from the datamodule.
        width: Numbers in an embedding.
        layers: Blocks.
        heads: Attention heads of a block; divides ``width``.
        positions: Tokens that the model has positions for, at least those of a window.
        moved_share: Share of the training windows that begin at a random position.
        lr: Highest learning rate.
        warmup_steps: Steps until it is reached; from there it falls along a cosine to a tenth at ``trainer.max_steps``.
        weight_decay: Of matrices; biases and layer norms have none.
        seed: Seed of the initial weights; the command line links it to ``seed_everything``.

    Raises:
        UsageError: If the sizes do not fit each other or the text.
    """

    def __init__(
        self,
        task: TaskSpec,
        width: int = 256,
        layers: int = 6,
        heads: int = 8,
        positions: int = 1024,
        moved_share: float = 0.25,
        lr: float = 1e-3,
        warmup_steps: int = 200,
        weight_decay: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if task.vocabulary_size is None or task.classes != task.vocabulary_size:
            raise UsageError(f"a language model learns from text, not from {task.name}: use --data TextFolder")
        at_least(1, "model.", width=width, layers=layers, heads=heads)
        at_least(0, "model.", warmup_steps=warmup_steps, weight_decay=weight_decay)
        are_shares("model.", with_0=True, with_1=True, moved_share=moved_share)
        if width % heads:
            raise UsageError(f"model.heads {heads} does not divide model.width {width}")
        if positions < task.max_length:
            raise UsageError(f"model.positions {positions} are fewer than the tokens of data.context {task.max_length}")
        if lr <= 0:
            raise UsageError(f"model.lr must be above 0, got {lr}")
        self.save_hyperparameters(ignore=["task"])
        self.task = task
        self.lr = lr
        self.moved_share = moved_share
        self.warmup_steps = warmup_steps
        self.weight_decay = weight_decay
        config = GPT2Config(
            vocab_size=task.vocabulary_size, n_positions=positions, n_embd=width, n_layer=layers, n_head=heads,
            initializer_range=width**-0.5, activation_function="gelu_pytorch_tanh",
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, use_cache=False,
        )  # fmt: skip
        use_attention(config, blockwise=True)
        expect_room(lambda blocks: GPT2LMHeadModel(cut(config, blocks)), layers, f"model.layers {layers:,}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = GPT2LMHeadModel(config)
        replace_gelus(self.model)
        replace_linears(self.model)
        self.model.train()
        self.validation_metrics = split_metrics(task, "val_")
        self.test_metrics = split_metrics(task, "test_")

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """Logits ``[batch, length, vocabulary]`` of the token behind each of ``[batch, length]`` ids.

        Positions ``[batch, length]`` count from 0 on where they are None.
        """
        logits: torch.Tensor = self.model(input_ids=tokens, position_ids=positions).logits
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """The mean cross-entropy of the next tokens."""
        logits = self(batch.tokens, self._drawn_positions(batch.tokens))
        loss = F.cross_entropy(logits.flatten(0, 1), batch.target.flatten())
        if is_logging_step(self.trainer, self.trainer.global_step):
            self.log("train_loss", loss, prog_bar=True, sync_dist=True)
            self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, self.validation_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """The most likely next token everywhere: ``[batch, length]``."""
        return self(batch.tokens).argmax(dim=-1)

    def on_validation_epoch_end(self) -> None:
        """Logs perplexity and what is copied from the context, and shows what the model says."""
        self._log_perplexity(self.validation_metrics)
        self.log("val_copying_gain", copying_gain(self.model), sync_dist=True)
        if self.trainer.is_global_zero:
            self._show_texts()

    def on_test_epoch_end(self) -> None:
        self._log_perplexity(self.test_metrics)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with the betas of GPT-3 (Brown et al. 2020, appendix B)."""
        if self.trainer.max_steps < 1:
            raise UsageError("trainer.max_steps must be above 0: the learning rate falls until that step")
        groups = decayed_groups(self.model, self.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=(0.9, 0.95), fused=True)
        optimizer._step_supports_amp_scaling = False  # Lightning, which clips too, unscales fp16
        factor = warm_cosine(self.warmup_steps, self.trainer.max_steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[LANGUAGE_MODEL] = self.identity()
        checkpoints.add_run(checkpoint, self.trainer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of other sizes, another tokenizer or other rates."""
        saved = checkpoint.get(LANGUAGE_MODEL)
        if saved is None:
            raise FPTError("this checkpoint is not one of a language model")
        for name, own in self.identity().items():
            if saved.get(name) != own:
                raise FPTError(
                    f"this checkpoint has another {name} than this run: {saved.get(name)} there, {own} here.\n"
                    "Pass the config.yaml of its run folder with --config, and the texts it was trained on."
                )
        checkpoints.check_resumed(checkpoint, self)

    def identity(self) -> dict[str, Any]:
        """What the weights belong to, as plain values: sizes, and the hash of the tokenizer."""
        config, tokenizer = self.model.config, self._tokenizer
        return {
            "vocabulary": config.vocab_size,
            "width": config.n_embd,
            "layers": config.n_layer,
            "heads": config.n_head,
            "positions": config.n_positions,
            "tokenizer": None if tokenizer is None else hashlib.sha256(tokenizer.to_str().encode()).hexdigest()[:16],
        }

    def save_backbone(self, folder: Path, tokenizer: Any = None) -> None:
        """Writes the model and a ``tokenizers.Tokenizer``, by default the datamodule's, as transformers does."""
        from transformers import PreTrainedTokenizerFast

        from fpt_lightning.data.text.tokenizer import END_OF_TEXT

        if tokenizer is None:
            tokenizer = self._tokenizer
        if tokenizer is not None:
            end = tokenizer.token_to_id(END_OF_TEXT)
            for config in (self.model.config, self.model.generation_config):
                config.bos_token_id = config.eos_token_id = end
        self.model.save_pretrained(folder)
        if tokenizer is not None:
            PreTrainedTokenizerFast(
                tokenizer_object=tokenizer,
                bos_token=END_OF_TEXT,
                eos_token=END_OF_TEXT,
                unk_token=END_OF_TEXT,
                model_max_length=self.model.config.n_positions,
            ).save_pretrained(folder)

    @property
    def _tokenizer(self) -> Any:
        """The datamodule's ``tokenizers.Tokenizer``, where there is one."""
        return getattr(getattr(self._trainer, "datamodule", None), "tokenizer", None)

    def _drawn_positions(self, tokens: torch.Tensor) -> torch.Tensor:
        """Positions ``[batch, length]`` of training windows.

        The place of those that are moved is drawn as if they could hang over both ends and then moved inside, so that
        the first and the last positions are trained as often as those between.
        """
        batch, length = tokens.shape
        spare = self.model.config.n_positions - length
        first = torch.randint(-length, self.model.config.n_positions + 1, (batch, 1)).clamp(0, spare)
        first *= torch.rand(batch, 1) < self.moved_share
        return (first + torch.arange(length)).to(tokens.device)

    def _evaluate(self, batch: Batch, metrics: nn.ModuleDict) -> None:
        logits = self(batch.tokens).flatten(0, 1).float()  # [batch * length, vocabulary]
        target = batch.target.flatten()
        loss = F.cross_entropy(logits, target)
        for name, metric in metrics.items():
            assert isinstance(metric, Metric)
            update(metric, logits, target, loss)
            self.log(name, metric, on_epoch=True)

    def _log_perplexity(self, metrics: nn.ModuleDict) -> None:
        (name, loss), *_ = metrics.items()
        assert isinstance(loss, MeanMetric)
        self.log(name.replace("loss", "perplexity"), math.exp(min(50.0, loss.compute().item())), prog_bar=True)

    def _show_texts(self) -> None:
        if self._tokenizer is None:
            return
        texts = continue_texts(self.model, self._tokenizer, list(SAMPLE_STARTS), SAMPLE_TOKENS)
        shown = "\n".join(f"  | {' '.join(text.split())}" for text in texts)
        rank_zero_info(f"step {self.trainer.global_step:,}:\n{shown}")
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("samples", shown, self.trainer.global_step)
