"""The trained parts of a run as two small files that anyone may open: safetensors, and JSON that says what it is."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from fpt_lightning.errors import FPTError
from fpt_lightning.files import write_whole
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.tensors import read_tensors, tensors_hash
from fpt_lightning.training.artifacts.checkpoint import expect_same_config

HASH, CONFIG = "tensors", "config"
"""The names of the tensors' hash and of the body's config, as JSON, in the file's metadata."""


def export_trained(
    model: FrozenPretrainedTransformer, path: str | Path, class_names: Sequence[str] | None = None
) -> Path:
    """Writes the trained parameters to a safetensors file, and what they belong to into a JSON file beside it.

    The same parameters give the same bytes; with them goes their hash, which :func:`load_trained` compares.

    Returns:
        The safetensors file; the JSON file has the same name with ``.json``, in place of ``.safetensors``.

    Raises:
        OSError: If they cannot be written.
    """
    path = Path(path)
    write_trained(model, path)
    identity = model.identity() | ({} if class_names is None else {"class_names": list(class_names)})
    write_whole(path.with_name(f"{path.name.removesuffix('.safetensors')}.json"), json.dumps(identity, indent=2) + "\n")
    return path


def write_trained(model: FrozenPretrainedTransformer, path: Path) -> None:
    """Writes the safetensors file alone."""
    from safetensors.torch import save

    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in model.trained_parameters().items()}
    metadata = {"format": "pt", "frozen": model.frozen_hash(), "frozen_dtype": model.frozen_dtype}
    metadata |= {HASH: tensors_hash(tensors), CONFIG: json.dumps(model.identity()[CONFIG])}
    write_whole(path, _with_sorted_metadata(save(tensors, metadata)))


def load_trained(model: FrozenPretrainedTransformer, path: str | Path) -> None:
    """Puts parameters that :func:`export_trained` wrote into a model of the same task, backbone and trained parts.

    Raises:
        FPTError: If the file cannot be read, is damaged, or belongs to other parts or frozen weights.
    """
    from safetensors import SafetensorError

    try:
        tensors, metadata = read_tensors(path)
        if metadata.get(HASH, own_hash := tensors_hash(tensors)) != own_hash:  # versions before 0.3 wrote none
            raise ValueError("its tensors are not those that were written")
        config = dict(json.loads(metadata.get(CONFIG, "{}")))
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise FPTError(f"{path}: no trained parts can be read from it ({error})") from error
    own = model.trained_parameters()
    wanted, saved = ({(name, tensor.shape) for name, tensor in parts.items()} for parts in (own, tensors))
    if different := sorted({name for name, _ in wanted ^ saved}):
        raise FPTError(
            f"{path} does not fit this model: {different[0]} differs in being there or in shape "
            f"({len(different)} such). Its JSON file names the task, backbone and parts it belongs to."
        )
    if (frozen := metadata.get("frozen")) != model.frozen_hash():
        dtype = metadata.get("frozen_dtype", "float32")
        other = "" if dtype == model.frozen_dtype else f" It was trained with model.frozen_dtype {dtype}."
        raise FPTError(
            f"{path} was trained on the frozen weights {frozen}, this model has {model.frozen_hash()} "
            f"of {model.choice}.{other} Its JSON file names the backbone it belongs to."
        )
    expect_same_config(str(path), config, model.identity())
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])


def _with_sorted_metadata(content: bytes) -> bytes:
    """A safetensors file whose metadata come in the order of their names: safetensors' own order is another each time.

    The file is the length of its header in eight bytes, the header as JSON, and the tensors.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return content[:8] + text.ljust(end - 8) + content[end:]
