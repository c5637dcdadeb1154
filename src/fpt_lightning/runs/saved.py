"""A run as it was left: found by its folder, and its model ready to answer."""

from importlib import import_module
from pathlib import Path

from huggingface_hub.constants import CONFIG_NAME

from fpt_lightning.config_files import read_config
from fpt_lightning.errors import FPTError
from fpt_lightning.runs.find import find_run
from fpt_lightning.runs.folder import RunFolder
from fpt_lightning.runs.result import read_json
from fpt_lightning.training.classification import FPTClassifier


def load(path: str | Path) -> FPTClassifier:
    """Builds the model of a finished run, with the weights that validation chose, ready to answer.

    Args:
        path: A run folder, one of its checkpoints, or a folder that ``save_pretrained`` or the Hugging Face hub left.

    Returns:
        The model on the CPU, in evaluation mode; :attr:`FPTClassifier.figures` say what was measured of it.

    Raises:
        FPTError: If it is neither, it is a language model's, or the frozen weights are not those that it was trained
            on.
    """
    path = Path(path)
    if (path / CONFIG_NAME).is_file():
        return FPTClassifier.from_pretrained(path)
    folder, checkpoint = find_run(path)
    model = _class_of(folder).load_from_checkpoint(checkpoint)
    if checkpoint == folder.best:
        result = read_json(folder.result) or {}
        model.figures |= {name: value for name, value in result.items() if name.startswith("test_")}
    return model.eval()


def _class_of(folder: RunFolder) -> type[FPTClassifier]:
    """The class that a run's config names, one of the user's own perhaps."""
    try:
        module, _, name = str(read_config(folder.config)["model"]["class_path"]).rpartition(".")
    except (LookupError, TypeError) as error:
        raise FPTError(f"{folder.config} names no model: it is not the config of a run") from error
    try:
        kind: type[FPTClassifier] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise FPTError(f"{folder.config}: {module}.{name} cannot be imported: {error}") from error
    return kind if issubclass(kind, FPTClassifier) else FPTClassifier  # which says that it cannot load another
