"""The values of a body: pretrained, random, or random with the statistics of the pretrained ones."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.utils import logging as transformers_logging

from fpt_lightning.errors import FPTError, UsageError, did_you_mean
from fpt_lightning.models.backbones.architectures import ARCHITECTURES, EMBEDDED, WITHOUT_WEIGHTS
from fpt_lightning.models.backbones.families.base import Family


def load_pretrained(name: str, config: PretrainedConfig, family: Family) -> nn.Module:
    """Loads weights from safetensors, all of them or none.

    Args:
        name: A local folder in Hugging Face's format, or a name on its hub.
        config: Its config.
        family: Its family.

    Raises:
        FPTError: If the weights are not found, damaged, not whole, or of another architecture than the config says.
    """
    if Path(name).is_dir():
        _check_weights(Path(name))
    bars, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # it reports every weight of a head that nobody asked for
    try:
        body, loaded = family.model_class.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **family.class_arguments,
        )
    except (OSError, ValueError) as error:
        raise FPTError(not_found(name, error)) from error
    except RuntimeError as error:  # what transformers raises for weights of other sizes than the config's
        raise FPTError(f"backbone '{name}': the weights do not fit config.json ({_first_line(error)})") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
    if missing := sorted(key for key in loaded["missing_keys"] if not family.drops(key)):
        raise FPTError(
            f"backbone '{name}' lacks {len(missing)} of its weights, {missing[0]} first: the file is not whole, "
            "or of another architecture than config.json says"
        )
    return body


def draw_random(config: PretrainedConfig, family: Family, seed: int) -> nn.Module:
    """Draws the architecture's own initialisation: the "Random" rows (FPT table 2).

    Raises:
        UsageError: If the sizes do not fit each other.
    """
    # the token embedding is dropped, so it need not be filled with random numbers
    config.vocab_size = (getattr(config, "pad_token_id", None) or 0) + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            if "from_config" in dir(family.model_class):
                return family.model_class.from_config(config, trust_remote_code=False, **family.class_arguments)
            return family.model_class(config, **family.class_arguments)
        except (ValueError, TypeError, RuntimeError, AssertionError, ZeroDivisionError) as error:
            # what transformers and torch say of sizes that do not fit
            raise UsageError(f"model.architecture does not make a {config.model_type}: {_first_line(error)}") from error


def keep_statistics(body: nn.Module, seed: int) -> None:
    """Replaces every parameter by normal values of its own mean and standard deviation (FPT section 3.8, table 9)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in body.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn.mul_(parameter.std(correction=0)).add_(parameter.mean()))


def check_enters_by_embeddings(model_class: type[nn.Module], model_type: str) -> None:
    """Refuses a body without the entrance that this framework uses.

    Raises:
        FPTError: If it does not take ``inputs_embeds``.
    """
    if "inputs_embeds" not in inspect.signature(model_class.forward).parameters:
        raise FPTError(
            f"a {model_type} cannot be a backbone: {model_class.__name__} of transformers takes token ids only, "
            "no embeddings (inputs_embeds)"
        )


def not_found(name: str, error: Exception) -> str:
    """What to say where a backbone is nowhere."""
    known = [*EMBEDDED, *ARCHITECTURES, *WITHOUT_WEIGHTS]
    return (
        f"backbone '{name}' is neither a folder here nor in the Hugging Face cache or hub ({_first_line(error)})"
        f"{'.' if name in known else did_you_mean(name, known)}\n"
        f"Download it once with a network, give the path of a local folder, use {', '.join(EMBEDDED)}, which needs no "
        f"network, or one of {', '.join(ARCHITECTURES)} with model.initialization random."
    )


def checked_fields(config: PretrainedConfig) -> Mapping[str, Any]:
    """The fields of a config that ``model.architecture`` may change."""
    return {**config.to_dict(), **dict.fromkeys(config.attribute_map)}


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


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".:")
