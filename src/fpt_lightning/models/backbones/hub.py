"""Config and weights from a local folder in Hugging Face's format, its cache or its hub, or from a GGUF file."""

import io
import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from fpt_lightning.errors import FPTError, UsageError, did_you_mean, first_line
from fpt_lightning.models.backbones.architectures import ARCHITECTURES, EMBEDDED, WITHOUT_WEIGHTS, location
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.backbones.families.base import HubFamily

LARGEST = {
    "num_hidden_layers": 1_000,
    "hidden_size": 2**15,
    "num_attention_heads": 2**12,
    "num_key_value_heads": 2**12,
    "head_dim": 2**15,
    "d_kv": 2**15,
    "n_inner": 2**18,
    "intermediate_size": 2**18,
    "d_ff": 2**18,
    "max_position_embeddings": 2**24,
}
"""Beyond those of any model there is; more would take hours to be found too large."""

# fields of a config that say nothing of the body's sizes, or are set here
NO_SIZES = ("model_type", "dtype", "architectures", "transformers_version", "attribute_map", "quantization_config")

# what transformers and gguf raise for files that are not whole, or of other kinds
UNREADABLE = (OSError, ValueError, KeyError, IndexError, struct.error)


def read_config(choice: BackboneChoice) -> PretrainedConfig:
    """The config of a body, with the fields that ``model.architecture`` changes.

    Raises:
        FPTError: If there is none, or it is not one.
        UsageError: If the choice contradicts itself, or changes a field that is not there, or to another type.
    """
    folder = Path(location(choice.name))
    is_folder = folder.is_dir() and choice.name not in WITHOUT_WEIGHTS  # ./small is
    is_saved = is_folder and (folder / "config.json").is_file()
    by_name = choice.name in ARCHITECTURES or choice.name in CONFIG_MAPPING
    is_drawn = by_name and choice.resolved_initialization == "random" and not is_saved  # a run may be called gpt2, too
    if is_folder and not is_saved and not is_drawn:
        raise FPTError(f"backbone folder {folder} has no config.json: it is not a folder of save_pretrained()")
    if is_drawn:
        model_type, fields = ARCHITECTURES.get(choice.name, (choice.name, {}))
        make = partial(AutoConfig.for_model, model_type)
        # made anew, for what nobody says follows from the other sizes, such as that of a head
        with _quiet_transformers(bars=True):  # it finds fault with defaults of its own, such as Starcoder2's vocabulary
            try:
                config = make(**fields)
            except (StrictDataclassError, ValueError) as error:
                reason = error.__cause__ or shorten(first_line(error), 200, placeholder=" ...")
                raise FPTError(f"a {model_type} cannot be a backbone: {reason}") from error
            config = _changed(config, choice.architecture or {}, lambda changes: make(**{**fields, **changes}))
    else:
        try:
            place, arguments = _source(choice.name)
            config = AutoConfig.from_pretrained(place, trust_remote_code=False, **arguments)
        except UNREADABLE as error:
            raise _unreadable(choice.name, error) from error
        except StrictDataclassError as error:
            raise FPTError(f"backbone '{choice.name}': config.json: {error.__cause__ or error}") from error
        config = _changed(config, choice.architecture or {}, partial(_with_fields, config))
    config.dtype = torch.float32  # whatever the weights are kept in: the Trainer's precision decides
    try:
        _check_sizes(config, "model.architecture" if choice.architecture else f"the config of '{choice.name}'")
    except RuntimeError as error:  # transformers gives no one size then
        reason = shorten(first_line(error), 90, placeholder=" ...")
        raise FPTError(f"a {config.model_type} cannot be a backbone: its layers differ in size ({reason})") from error
    return config


def _changed(
    config: PretrainedConfig, changes: Mapping[str, Any], make: Callable[[dict[str, Any]], PretrainedConfig]
) -> PretrainedConfig:
    """A config with some fields changed by ``make``, which are named as the config names them itself."""
    available = {**config.to_dict(), **config.attribute_map}
    for key in changes:
        if key not in available or key in NO_SIZES:
            near = did_you_mean(str(key), available.keys() - NO_SIZES)
            raise UsageError(f"model.architecture: {config.model_type} has no field '{key}'{near}")
    try:
        return make({config.attribute_map.get(key, key): value for key, value in changes.items()})
    except StrictDataclassError as error:
        raise UsageError(f"model.architecture: {error.__cause__ or error}") from error


def _with_fields(config: PretrainedConfig, fields: Mapping[str, Any]) -> PretrainedConfig:
    for key, value in fields.items():
        setattr(config, key, value)
    return config


def _check_sizes(config: PretrainedConfig, source: str) -> None:
    for field, most in LARGEST.items():
        value = getattr(config, field, None)
        if type(value) is int and not 1 <= value <= most:
            name = config.attribute_map.get(field, field)
            raise UsageError(f"{source} does not make a {config.model_type}: {name} is 1 to {most:,}, got {value:,}")
    heads, groups = (getattr(config, f"num_{name}_heads", None) for name in ("attention", "key_value"))
    if type(heads) is type(groups) is int and heads % groups:
        raise UsageError(
            f"{source} does not make a {config.model_type}: "
            f"num_key_value_heads {groups} does not divide the {heads} heads"
        )


def _source(name: str) -> tuple[str, dict[str, str]]:
    """A folder or a name on the hub, and what else transformers asks for to read a backbone.

    Raises:
        FPTError: If it is a GGUF file that is not there, or that needs packages which are not there.
    """
    path = Path(location(name))
    if path.suffix != ".gguf":
        return location(name), {}
    if not path.is_file():
        raise FPTError(f"backbone: there is no file {path}")
    if find_spec("gguf") is None or find_spec("accelerate") is None:
        raise FPTError(f'{path} needs the packages gguf and accelerate: pip install "fpt-lightning[gguf]"')
    return str(path.parent), {"gguf_file": path.name}


def read_weights(name: str, family: HubFamily) -> nn.Module:
    """Loads a body from safetensors or a GGUF file, all of its weights or none; quantised ones become float32.

    Args:
        name: A local folder in Hugging Face's format, a name on its hub, or a GGUF file.
        family: Its family, configured.

    Raises:
        FPTError: If the weights are not found, damaged, not whole, or of another architecture than the config says.
    """
    if Path(name).is_dir():
        _check_weights(Path(name))
    place, arguments = _source(name)
    if not arguments:
        _check_index(name)
    try:
        with _quiet_transformers(bars=not arguments):
            body, loaded = family.model_class.from_pretrained(
                place,
                config=family.config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **arguments,
            )
    except UNREADABLE as error:
        raise _unreadable(name, error) from error
    except RuntimeError as error:  # what transformers raises for weights of other sizes than the config's
        raise FPTError(f"backbone '{name}': the weights do not fit config.json ({first_line(error)})") from error
    if missing := sorted(key for key in loaded["missing_keys"] if not family.drops(key)):
        raise FPTError(
            f"backbone '{name}' lacks {len(missing)} of its weights, {missing[0]} first: the file is not whole, "
            "or of another architecture than config.json says"
        )
    if left := sorted(key for key in loaded["unexpected_keys"] if _is_of_body(key, family, body)):
        raise FPTError(
            f"backbone '{name}' has {len(left)} weights that config.json has no place for, {left[0]} first: "
            "it is of another architecture; of fewer blocks than there are, model.layers makes a body"
        )
    if arguments:
        del body.config.quantization_config  # it is no longer quantised
    return body


def _is_of_body(key: str, family: HubFamily, body: nn.Module) -> bool:
    """Whether a weight of a file, such as one of a head, is one of those that a body of the family is made of."""
    name = key.removeprefix(f"{body.base_model_prefix}.")
    return name.endswith((".weight", ".bias")) and any(re.fullmatch(pattern, name) for pattern, _ in family.parts)


@contextmanager
def _quiet_transformers(*, bars: bool) -> Iterator[None]:
    """Silences it for a while: it reports every weight of a head that nobody asked for.

    Without ``bars`` those of other packages stay away too, which its own switch does not reach.
    """
    shown, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        with nullcontext() if bars else redirect_stderr(io.StringIO()):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shown:
            transformers_logging.enable_progress_bar()


def _unreadable(name: str, error: Exception) -> FPTError:
    path = Path(location(name))
    if path.suffix == ".gguf":
        return FPTError(
            f"{path} cannot be read ({first_line(error)}): "
            "it is not whole, no GGUF file, or of an architecture that transformers does not read from one"
        )
    if path.is_dir():
        return FPTError(f"backbone '{name}' cannot be read ({first_line(error)})")
    known = [*EMBEDDED, *ARCHITECTURES, *WITHOUT_WEIGHTS]
    return FPTError(
        f"backbone '{name}' is neither a folder here nor in the Hugging Face cache or hub ({first_line(error)})"
        f"{'.' if name in known else did_you_mean(name, [*known, *CONFIG_MAPPING])}\n"
        f"Download it once with a network, give the path of a local folder, use {', '.join(EMBEDDED)}, which need no "
        f"network, or with model.initialization random {', '.join(ARCHITECTURES)} or a model_type such as llama."
    )


def _check_weights(folder: Path) -> None:
    """Opens the weight files of a folder, so that a broken one is named."""
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FPTError(
            f"backbone folder {folder} has no weights: expected model.safetensors "
            "(pickled .bin files are not read; convert them with save_pretrained())"
        )
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        except SafetensorError as error:
            raise FPTError(f"{file} is damaged ({error}): fetch or copy it again") from error


def _check_index(name: str) -> None:
    """Refuses an index of several weight files that names another than a safetensors file beside it.

    transformers would read such a one as a pickle, whatever ``use_safetensors`` says.
    """
    try:
        found = cached_file(location(name), SAFE_WEIGHTS_INDEX_NAME)
    except OSError:  # there is none: the weights are one file, or missing
        return
    try:
        files = json.loads(Path(str(found)).read_text())["weight_map"].values()
        strange = sorted({str(file) for file in files if not re.fullmatch(r"[^/\\]+\.safetensors", str(file))})
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise FPTError(f"{found} is damaged ({first_line(error)}): fetch or copy it again") from error
    if strange:
        raise FPTError(
            f"{found} names {strange[0]!r}: only safetensors files beside it are read, pickled ones never; "
            "convert them with save_pretrained()"
        )
