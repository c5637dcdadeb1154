"""One file an architecture: which parameter is which part, and how the body is entered through embeddings."""

from collections.abc import Mapping

from fpt_lightning.models.backbones.families.base import Family
from fpt_lightning.models.backbones.families.bert import BERT, RoBERTa
from fpt_lightning.models.backbones.families.decoders import Decoder
from fpt_lightning.models.backbones.families.gpt2 import GPT2
from fpt_lightning.models.backbones.families.longformer import Longformer
from fpt_lightning.models.backbones.families.t5 import T5Encoder
from fpt_lightning.models.backbones.families.vit import ViT

FAMILIES: Mapping[str, Family] = {
    "gpt2": GPT2(),
    "bert": BERT(),
    "roberta": RoBERTa(),
    "xlm-roberta": RoBERTa(),
    "longformer": Longformer(),
    "t5": T5Encoder(),
    "vit": ViT(),
}
"""By ``model_type`` of transformers."""

DECODER = Decoder()
"""What every other architecture tries."""
