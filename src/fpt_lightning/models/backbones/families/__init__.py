"""One file an architecture: which parameter is which part, and how the body is entered through embeddings."""

from collections.abc import Mapping

from transformers import PretrainedConfig

from fpt_lightning.errors import FPTError
from fpt_lightning.models.backbones.families.base import HubFamily
from fpt_lightning.models.backbones.families.bert import BERT, RoBERTa
from fpt_lightning.models.backbones.families.decoders import Decoder
from fpt_lightning.models.backbones.families.gpt2 import GPT2
from fpt_lightning.models.backbones.families.longformer import Longformer
from fpt_lightning.models.backbones.families.t5 import T5Encoder
from fpt_lightning.models.backbones.families.vit import ViT

FAMILIES: Mapping[str, type[HubFamily]] = {
    "gpt2": GPT2,
    "bert": BERT,
    "roberta": RoBERTa,
    "xlm-roberta": RoBERTa,
    "longformer": Longformer,
    "t5": T5Encoder,
    "vit": ViT,
}
"""By ``model_type`` of transformers."""


def family_of(config: PretrainedConfig) -> HubFamily:
    """The family of an architecture; one without a table of its own is tried as a decoder, on its names alone.

    Raises:
        FPTError: If it has none and is no such decoder, or is made of several bodies.
    """
    if not isinstance(getattr(config, "hidden_size", None), int):  # of text and of images, or of two stages
        raise FPTError(
            f"a {config.model_type} cannot be a backbone: its config has no one hidden_size; save the body of its text "
            "alone, such as model.language_model.save_pretrained(FOLDER), and take that folder"
        )
    return FAMILIES.get(config.model_type, Decoder)(config)
