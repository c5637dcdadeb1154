"""A model that leaves its run: as a small checkpoint, or a repository in the Hugging Face hub's layout; and back."""

import json
from pathlib import Path
from typing import Any, Self

import lightning as L
import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData, ModelHubMixin, hf_hub_download
from huggingface_hub.constants import CONFIG_NAME, SAFETENSORS_SINGLE_FILE
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision
from lightning.pytorch.trainer.states import TrainerFn

from fpt_lightning.data.datamodule import FPTDataModule
from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.errors import FPTError
from fpt_lightning.files import write_whole
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.models.lora import LoraOptions
from fpt_lightning.training.artifacts import checkpoint as checkpoints
from fpt_lightning.training.artifacts.export import load_trained, write_trained
from fpt_lightning.training.precision import spare_targets

LIBRARY = "fpt-lightning"
CHOICES = ("optimizer", "lr_scheduler")
OURS = ("torch.optim.", "lightning.pytorch.")  # classes that a file may name: those of others are code of others

CARD = """# {task} on {backbone}

The trained parts of a frozen transformer ([fpt-lightning](https://pypi.org/project/fpt-lightning/)): {trained:,} of
{total:,} parameters. The others are those of `{backbone}`, which is read from where it is at home; on other frozen
weights than `{frozen}` these parts are refused.

```python
from fpt_lightning import FPTClassifier

model = FPTClassifier.from_pretrained("REPOSITORY OR FOLDER")
logits = model.eval()(tokens)  # tokens {tokens} -> [batch, {answers}, {logits}]
```

{figures}{classes}"""


class PortableModule(L.LightningModule, ModelHubMixin, library_name=LIBRARY):
    """Saves what trains, and all that is needed to build the rest again, as plain values.

    Attributes:
        task: The sizes of the task.
        model: The frozen transformer.
        encoding: How new data is read to mean what the training data did, see :meth:`FPTDataModule.encoding`.
        figures: What was measured of the weights, under the names of ``result.json``.
    """

    task: TaskSpec
    model: FrozenPretrainedTransformer
    encoding: dict[str, Any]
    figures: dict[str, float]

    def __init__(self) -> None:
        super().__init__()
        self.encoding, self.figures = {}, {}
        # checkpoints hold what trains and no more; keys are compared in on_load_checkpoint
        self.strict_loading = False

    def setup(self, stage: str) -> None:
        """Tells the datamodule how the training data was read; a training asks it, and leaves no figure as it was."""
        if stage == TrainerFn.FITTING:
            self.figures = {}
        plugin = None if self._trainer is None else self.trainer.precision_plugin
        if isinstance(plugin, DoublePrecision | HalfPrecision):
            # the Trainer would behind a checkpoint's values, which would lose by it
            plugin.convert_module(self.model)
        if plugin is not None and str(plugin.precision).endswith("16-true"):
            spare_targets(plugin)
        if (datamodule := self._datamodule()) is None:
            return
        if stage == TrainerFn.FITTING:
            self.encoding = datamodule.encoding()
        else:
            datamodule.use_encoding(self.encoding)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves out what is frozen, and names it."""
        checkpoints.shrink(checkpoint, self.model)
        checkpoints.add_run(checkpoint, self.trainer)
        checkpoint[checkpoints.ENCODING] = self.encoding

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another task, other trained parts or other frozen weights, or of other rates."""
        checkpoints.verify(checkpoint, self.model)
        checkpoints.check_resumed(checkpoint, self)
        self.encoding = checkpoint.get(checkpoints.ENCODING, {})
        self.figures = checkpoint.get(checkpoints.VALIDATION, {})
        if self._trainer is not None and self.trainer.state.fn is not None:
            self.setup(self.trainer.state.fn)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # ours are files of tensors and plain values, on the CPU
        cls, checkpoint_path: str | Path, map_location: str | torch.device | None = None, **kwargs: Any
    ) -> Self:
        """Builds the model of a checkpoint, with the weights that trained; ``kwargs`` replace arguments of it.

        Raises:
            FPTError: If it is no checkpoint of such a model, or it was trained on other frozen weights.
        """
        content = checkpoints.read_checkpoint(checkpoint_path)
        if checkpoints.IDENTITY not in content:
            raise FPTError(f"{checkpoint_path} holds no model of a task: it is of a language model or another program")
        arguments = {name: value for name, value in content[cls.CHECKPOINT_HYPER_PARAMS_KEY].items() if name[0] != "_"}
        arguments["task"] = content[checkpoints.IDENTITY]["task"]
        module = cls(**_as_arguments(arguments, kwargs))
        module.on_load_checkpoint(content)
        module.load_state_dict(content["state_dict"], strict=False)  # the frozen rest was compared
        return module if map_location is None else module.to(map_location)

    def _datamodule(self) -> FPTDataModule | None:
        datamodule = getattr(self._trainer, "datamodule", None)
        return datamodule if isinstance(datamodule, FPTDataModule) else None

    def _save_pretrained(self, save_directory: Path) -> None:
        """Writes ``model.safetensors``, what trains, and ``config.json``, all else."""
        write_trained(self.model, save_directory / SAFETENSORS_SINGLE_FILE)
        arguments = {name: value for name, value in self.hparams.items() if name[0] != "_"}
        about = {"encoding": self.encoding, "figures": self.figures, "frozen": self.model.frozen_hash()}
        config = {**arguments, "trained_parts": None, "task": self.task.as_dict(), LIBRARY: about}
        write_whole(save_directory / CONFIG_NAME, json.dumps(config, indent=2) + "\n")

    @classmethod
    def _from_pretrained(cls, *, model_id: str, config: dict[str, Any] | None = None, **kwargs: Any) -> Self:
        """Builds the model of a folder or repository that :meth:`_save_pretrained` wrote.

        Raises:
            FPTError: If it is none, or the frozen weights are not those that it was trained on.
        """
        where = {name: kwargs.pop(name) for name in ("revision", "cache_dir", "force_download", "local_files_only")}
        where["token"] = kwargs.pop("token")
        if config is None or not config.get(LIBRARY):
            raise FPTError(
                f"{model_id} has no {CONFIG_NAME} of fpt-lightning: save_pretrained and push_to_hub write it"
            )
        # the mixin has put what the file says among what the user gives
        given = {name: value for name, value in kwargs.items() if name not in config or value is not config[name]}
        saved = {name: value for name, value in config.items() if name != LIBRARY}
        module = cls(**_as_arguments(saved, given))
        file = Path(model_id) / SAFETENSORS_SINGLE_FILE
        if not Path(model_id).is_dir():
            file = Path(hf_hub_download(model_id, SAFETENSORS_SINGLE_FILE, **where))
        load_trained(module.model, file)
        module.encoding, module.figures = config[LIBRARY]["encoding"], config[LIBRARY]["figures"]
        return module.eval()

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """What the parts are, how they are loaded and what was measured of them."""
        task, choice = self.task, self.model.choice
        measured = [EvalResult("other", task.name, task.name, name, value) for name, value in self.figures.items()]
        data = ModelCardData(
            library_name=LIBRARY, tags=["frozen-pretrained-transformer", task.name], model_name=f"{task.name} {choice}",
            eval_results=measured or None,
        )  # fmt: skip
        rows = [f"| {name} | {value:.4f} |\n" for name, value in self.figures.items()]
        names = self.encoding.get("class_names")
        shape = "[batch, length] ids" if task.token_width is None else f"[batch, length, {task.token_width}]"
        text = CARD.format(
            task=task.name, backbone=choice, frozen=self.model.frozen_hash(), tokens=shape, answers=task.answers,
            trained=sum(part.numel() for part in self.model.trained_parameters().values()),
            total=sum(part.numel() for part in self.model.parameters()), logits=task.logits_per_answer,
            figures="".join(["| figure | value |\n|---|---|\n", *rows]) if rows else "",
            classes=f"\nClasses: {', '.join(map(str, names))}.\n" if names else "",
        )  # fmt: skip
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def _as_arguments(saved: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a model from plain values of a file, those that are given instead on top."""
    arguments = {**saved, "trained_parts": None, **given}
    if isinstance(arguments["task"], dict):
        arguments["task"] = TaskSpec(**arguments["task"])
    if isinstance(arguments.get("lora"), dict):
        arguments["lora"] = LoraOptions(**arguments["lora"])
    for name in CHOICES:
        choice = saved.get(name)
        path = str(choice["class_path"]) if choice else ""
        if "." in path and name not in given and not path.startswith(OURS):  # a name alone is one of torch's
            raise FPTError(f"it was trained with the {name} {path}: pass {name}=... to say what that is")
    return arguments
