"""What can a frozen pretrained transformer compute outside the modality it was trained on?"""

from importlib import import_module, metadata
from typing import Any

__version__ = metadata.version("fpt-lightning")

# Imported at first use, so that `fpt --help` does not wait for torch.
_HOME = {
    "Batch": "data.spec",
    "BitMemory": "data.bits",
    "BitXOR": "data.bits",
    "CIFAR10": "data.images.cifar",
    "CIFAR10LRA": "data.images.cifar",
    "FPTClassifier": "training.classification",
    "FPTDataModule": "data.datamodule",
    "FPTTrainer": "training.trainer",
    "FrozenPretrainedTransformer": "models.fpt",
    "HubDataset": "data.columnar.hub",
    "ImageFolder": "data.images.folder",
    "LanguageModel": "training.language.pretraining",
    "ListOps": "data.listops.datamodule",
    "MNIST": "data.images.mnist",
    "RemoteHomology": "data.proteins.datamodule",
    "SequenceFile": "data.columnar.sequence_file",
    "TaskSpec": "data.spec",
    "TextFolder": "data.text.datamodule",
    "export_trained": "training.export",
    "load_trained": "training.export",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
