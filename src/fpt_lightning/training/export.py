"""The trained parts of a run as two small files that anyone may open: safetensors, and JSON that says what it is."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from fpt_lightning.errors import FPTError
from fpt_lightning.files import whole_file, write_whole
from fpt_lightning.models.fpt import FrozenPretrainedTransformer


def export_trained(
    model: FrozenPretrainedTransformer, path: str | Path, class_names: Sequence[str] | None = None
) -> Path:
    """Writes the trained parameters to a safetensors file, and what they belong to into a JSON file beside it.

    Returns:
        The safetensors file; the JSON file has the same name with ``.json``.
    """
    path = Path(path)
    write_trained(model, path)
    identity = model.identity() | ({} if class_names is None else {"class_names": list(class_names)})
    write_whole(path.with_suffix(".json"), json.dumps(identity, indent=2) + "\n")
    return path


def write_trained(model: FrozenPretrainedTransformer, path: Path) -> None:
    """Writes the safetensors file alone."""
    from safetensors.torch import save_file

    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in model.trained_parameters().items()}
    with whole_file(path) as part:
        save_file(tensors, part, metadata={"format": "pt", "frozen": model.frozen_hash()})


def load_trained(model: FrozenPretrainedTransformer, path: str | Path) -> None:
    """Puts parameters that :func:`export_trained` wrote into a model of the same task, backbone and trained parts.

    Raises:
        FPTError: If the file cannot be read, or belongs to other parts or frozen weights.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            frozen = (file.metadata() or {}).get("frozen")
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FPTError(f"{path}: no trained parts can be read from it ({error})") from error
    own = model.trained_parameters()
    wanted, saved = ({(name, tensor.shape) for name, tensor in parts.items()} for parts in (own, tensors))
    if different := sorted({name for name, _ in wanted ^ saved}):
        raise FPTError(
            f"{path} does not fit this model: {different[0]} differs in being there or in shape "
            f"({len(different)} such). Its JSON file names the task, backbone and parts it belongs to."
        )
    if frozen != model.frozen_hash():
        raise FPTError(
            f"{path} was trained on the frozen weights {frozen}, this model has {model.frozen_hash()} "
            f"of {model.choice}. Its JSON file names the backbone it belongs to."
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])
