"""A trained body as an ordinary folder of transformers, so that it can be the backbone of other runs."""

import copy
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from transformers.utils import logging as transformers_logging

from fpt_lightning.errors import UsageError
from fpt_lightning.files import whole_folder
from fpt_lightning.models.backbones.families.base import HubFamily
from fpt_lightning.models.fpt import FrozenPretrainedTransformer


class ExportBackbone(callbacks.Callback):
    """Keeps the body of the best validation so far in the run folder's ``backbone``, as ``model.backbone`` takes it.

    A module whose ``model`` is no frozen transformer writes its own: ``save_backbone(folder)``.

    Args:
        enabled: Whether to.
    """

    def __init__(self, enabled: bool = False) -> None:
        self.enabled = enabled
        self.best: float | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuses a body that cannot be written, before it has been trained; without a folder no figure is the best."""
        if not (Path(trainer.default_root_dir) / "backbone").is_dir():  # of a run that goes on elsewhere
            self.best = None
        if self.enabled and isinstance(pl_module.model, FrozenPretrainedTransformer):
            whole_body(pl_module.model)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the folder, every file whole at every moment, if this is the best validation."""
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not self.enabled or not fitting or not self._is_best(trainer) or not trainer.is_global_zero:
            return
        transformers_logging.disable_progress_bar()
        with whole_folder(Path(trainer.default_root_dir) / "backbone") as part:
            if isinstance(pl_module.model, FrozenPretrainedTransformer):
                save_body(pl_module.model, part)
            else:
                pl_module.save_backbone(part)  # type: ignore[operator]

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def _is_best(self, trainer: L.Trainer) -> bool:
        """Whether the figure that chooses the checkpoint is better than ever."""
        chooser = trainer.checkpoint_callback
        if not isinstance(chooser, callbacks.ModelCheckpoint) or chooser.monitor is None:
            return True
        figure = trainer.callback_metrics[chooser.monitor].item()
        better = self.best is None or (figure < self.best if chooser.mode == "min" else figure > self.best)
        if better:
            self.best = figure
        return better


def save_body(model: FrozenPretrainedTransformer, folder: Path) -> None:
    """Writes a body with as many positions as its task has tokens, and a vocabulary of one token, which is 0.

    Raises:
        UsageError: If transformers could not read the body back.
    """
    whole = whole_body(model)
    values = {name: tensor.detach().cpu().clone() for name, tensor in model.backbone.state_dict().items()}
    values = {name: values.get(name, torch.zeros(tensor.shape)) for name, tensor in whole.state_dict().items()}
    whole.load_state_dict(values, assign=True)
    whole.save_pretrained(folder)  # type: ignore[operator]


def whole_body(model: FrozenPretrainedTransformer) -> nn.Module:
    """The model of transformers that a body was, without values.

    Raises:
        UsageError: If there is none: the body is not one of transformers, or has other parameters, shapes or scales.
    """
    body, family = model.backbone, model.family
    if not isinstance(family, HubFamily):
        raise UsageError(
            f"export_backbone: '{model.choice.name}' is not a body of transformers: set export_backbone.enabled false"
        )
    config: Any = copy.deepcopy(body.config)
    if family.first_row:
        raise _not_theirs(body, "its positions begin behind those of its padding")
    config.vocab_size = 1
    config.pad_token_id = config.bos_token_id = config.eos_token_id = None
    config._attn_implementation = "eager"  # the name of ours means nothing to others
    if family.position_table is not None:
        config.max_position_embeddings = len(body.get_parameter(f"{family.position_table}.weight"))
    with torch.device("meta"):
        whole = type(family)(config).new_body()
    theirs, ours = whole.state_dict(), body.state_dict()
    different = [name for name in ours if name not in theirs or theirs[name].shape != ours[name].shape]
    different += [name for name in theirs if name not in ours and not family.drops(name)]
    modules = dict(body.named_modules())  # attention may hang on what the number of a block was before some were left
    different += [name for name, each in whole.named_modules() if _scaling(each) != _scaling(modules.get(name, each))]
    if different:
        raise _not_theirs(body, different[0])
    return whole


def _scaling(module: nn.Module) -> Any:
    return getattr(module, "scaling", None)


def _not_theirs(body: Any, why: str) -> UsageError:
    adapted = any("lora" in name for name, _ in body.named_parameters())
    return UsageError(
        f"export_backbone: a {body.config.model_type} trained in this way is not one of transformers ({why}): "
        f"{'leave out model.lora, or ' if adapted else ''}set export_backbone.enabled false"
    )
