"""What can a frozen pretrained transformer compute outside the modality it was trained on?"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fpt_lightning.data.bits import BitMemory as BitMemory
    from fpt_lightning.data.bits import BitXOR as BitXOR
    from fpt_lightning.data.columnar.hub import HubDataset as HubDataset
    from fpt_lightning.data.columnar.sequence_file import SequenceFile as SequenceFile
    from fpt_lightning.data.datamodule import FPTDataModule as FPTDataModule
    from fpt_lightning.data.images.cifar import CIFAR10 as CIFAR10
    from fpt_lightning.data.images.cifar import CIFAR10LRA as CIFAR10LRA
    from fpt_lightning.data.images.folder import ImageFolder as ImageFolder
    from fpt_lightning.data.images.mnist import MNIST as MNIST
    from fpt_lightning.data.listops.datamodule import ListOps as ListOps
    from fpt_lightning.data.proteins.datamodule import RemoteHomology as RemoteHomology
    from fpt_lightning.data.spec import Batch as Batch
    from fpt_lightning.data.spec import Prediction as Prediction
    from fpt_lightning.data.spec import TaskSpec as TaskSpec
    from fpt_lightning.data.text.datamodule import TextFolder as TextFolder
    from fpt_lightning.data.text.generated import CopiedTokens as CopiedTokens
    from fpt_lightning.data.text.generated import MemorisedTokens as MemorisedTokens
    from fpt_lightning.data.text.generated import ShuffleDyck as ShuffleDyck
    from fpt_lightning.models.fpt import FrozenPretrainedTransformer as FrozenPretrainedTransformer
    from fpt_lightning.runs.saved import load as load
    from fpt_lightning.training.artifacts.export import export_trained as export_trained
    from fpt_lightning.training.artifacts.export import load_trained as load_trained
    from fpt_lightning.training.classification import FPTClassifier as FPTClassifier
    from fpt_lightning.training.language.pretraining import LanguageModel as LanguageModel
    from fpt_lightning.training.trainer import FPTTrainer as FPTTrainer

__version__ = metadata.version("fpt-lightning")

# Imported at first use, so that `fpt --help` does not wait for torch.
_HOME = {
    "Batch": "data.spec",
    "BitMemory": "data.bits",
    "BitXOR": "data.bits",
    "CIFAR10": "data.images.cifar",
    "CIFAR10LRA": "data.images.cifar",
    "CopiedTokens": "data.text.generated",
    "FPTClassifier": "training.classification",
    "FPTDataModule": "data.datamodule",
    "FPTTrainer": "training.trainer",
    "FrozenPretrainedTransformer": "models.fpt",
    "HubDataset": "data.columnar.hub",
    "ImageFolder": "data.images.folder",
    "LanguageModel": "training.language.pretraining",
    "ListOps": "data.listops.datamodule",
    "MNIST": "data.images.mnist",
    "MemorisedTokens": "data.text.generated",
    "Prediction": "data.spec",
    "RemoteHomology": "data.proteins.datamodule",
    "SequenceFile": "data.columnar.sequence_file",
    "ShuffleDyck": "data.text.generated",
    "TaskSpec": "data.spec",
    "TextFolder": "data.text.datamodule",
    "export_trained": "training.artifacts.export",
    "load": "runs.saved",
    "load_trained": "training.artifacts.export",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
