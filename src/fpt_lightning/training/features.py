"""What a frozen body makes of a task's examples, computed once: training an output layer alone needs no more of it."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.plugins.precision import Precision

from fpt_lightning.data.cache import cache_file, kept
from fpt_lightning.data.datamodule import FPTDataModule, Split
from fpt_lightning.data.loading import ENDLESS, BatchDataset
from fpt_lightning.data.spec import Batch, TaskSpec, Trivial
from fpt_lightning.errors import UsageError
from fpt_lightning.training.classification import FPTClassifier

VERSION = 3
"""Of how features are made: others are made anew."""


class FeatureTable(BatchDataset):
    """Hidden states where the answers are read, in place of tokens.

    Args:
        features: ``[examples, answer_tokens, width]``.
        targets: ``[examples, answers]``.
        lengths: Those of the dataset that they were made of, so that the order of batches stays.
    """

    def __init__(self, features: torch.Tensor, targets: torch.Tensor, lengths: torch.Tensor | None) -> None:
        self.features, self.targets, self.lengths = features, targets, lengths

    def __len__(self) -> int:
        return len(self.features)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        chosen = torch.tensor(indices)
        assert self.targets is not None
        return Batch(self.features.index_select(0, chosen), self.targets.index_select(0, chosen), None)


class FeatureData(FPTDataModule):
    """The examples of another datamodule as the features of a model, which then reads them instead of tokens.

    They are kept in the cache folder, keyed by the backbone, its config, its frozen weights, the data, the precision
    and the split, so all runs of a sweep share them.

    Args:
        data: The task.
        model: The model: its output layer alone trains, and nothing in it is random.

    Raises:
        UsageError: If features would differ from step to step.
    """

    def __init__(self, data: FPTDataModule, model: FPTClassifier) -> None:
        super().__init__(
            data.root, data.batch_size, data.eval_batch_size, data.num_workers, data.seed, str(data.cache_folder)
        )
        refuse_changing(data, model)
        self.data, self.model, self.shuffle = data, model, data.shuffle
        model.model.reads_features = True

    @property
    def task(self) -> TaskSpec:
        return self.data.task

    def prepare_data(self) -> None:
        self.data.prepare_data()

    def setup(self, stage: str) -> None:
        """Makes the features that are not kept, on the Trainer's device."""
        self.data.setup(stage)
        super().setup(stage)

    def dataset(self, split: Split) -> FeatureTable:
        examples = self.data.examples(split)
        if len(examples) >= ENDLESS or examples.counts_epochs:
            why = "has no end" if len(examples) >= ENDLESS else "differs from epoch to epoch: set data.augment false"
            raise UsageError(f"cache_features: the training data of {self.task.name} {why}")
        plugin = self.trainer.precision_plugin if self.trainer else Precision()
        plugin.convert_module(self.model.model)  # whose features they are; the Trainer does so later
        config = getattr(self.model.model.backbone, "config", None)
        key = {
            "backbone": str(self.model.model.choice),
            # heads and activations leave no trace in weights
            "config": config and config.to_json_string(use_diff=False),
            "frozen": self.model.model.frozen_hash(),
            "data": self.data.fingerprint(),
            "split": split,
            "precision": plugin.precision,
            "version": VERSION,
        }
        made = kept(cache_file(self.cache_folder, "features", key), key, lambda: self._made(split, plugin))
        return FeatureTable(made["features"], made["targets"], examples.lengths)

    def facts(self) -> dict[str, Any]:
        return self.data.facts()

    def encoding(self) -> dict[str, Any]:
        return self.data.encoding()

    def use_encoding(self, encoding: dict[str, Any]) -> None:
        self.data.use_encoding(encoding)

    def fingerprint(self) -> str:
        return self.data.fingerprint()

    def kept_share(self, split: Split) -> float:
        return self.data.kept_share(split)

    def trivial_baselines(self) -> dict[str, Trivial]:
        return self.data.trivial_baselines()

    @torch.no_grad()
    def _made(self, split: Split, plugin: Precision) -> dict[str, torch.Tensor]:
        """The features and targets of a split."""
        model, training = self.model.model, self.model.training
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        model.to(device).eval()
        features, targets = [], []
        with plugin.forward_context():
            for chunk in self.data.in_chunks(split):
                batch = self.data.as_met(chunk, device)
                made = model.features(batch.tokens, batch.mask)
                features.append(made.to("cpu", torch.bfloat16 if "bf16" in plugin.precision else made.dtype))
                targets.append(batch.target.cpu())
        model.train(training)
        return {"features": torch.cat(features), "targets": torch.cat(targets)}


def refuse_changing(data: FPTDataModule, model: FPTClassifier) -> None:
    """Refuses what makes the features of an example differ from step to step, or be no more than its tokens.

    Raises:
        UsageError: If something does.
    """
    trained = sorted({model.model.places[name].part for name in model.model.trained_parameters()})
    reasons = {
        f"of model.trainable {', '.join(trained)} only output may train": trained != ["output"],
        "model.dropout must be 0, which is an arm of its own": model.hparams["dropout"] > 0,
        "model.input_dropout must be 0": model.hparams["input_dropout"] > 0 and data.task.vocabulary_size is None,
        "model.shuffle_tokens draws an order for every step": model.model.shuffle is not None,
        "there is no backbone to compute them": model.model.choice.name in ("none", "two_layer"),
        "data.read_at batch_end depends on what shares a batch": getattr(data, "read_at", "") == "batch_end",
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise UsageError(f"cache_features: {found[0]}")
