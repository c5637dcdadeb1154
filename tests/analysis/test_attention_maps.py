"""Attention maps are the probabilities that the backbone attends with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, Gemma2Config, Gemma2Model, GPT2Model, T5Config, T5EncoderModel

from fpt_lightning.analysis.maps import MeanMaps, attention_maps, mean_maps
from fpt_lightning.data.sequences import SequenceTable
from fpt_lightning.data.spec import Batch, TaskSpec
from fpt_lightning.errors import UsageError
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer

TASK = TaskSpec("bits", 12, 2, token_width=5, answer_tokens=4)
SMALL: dict[str, dict[str, int]] = {
    "tiny": {},
    "one_attention": {"width": 32, "heads": 2},
    "bert-base-uncased": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8},
    "google/vit-base-patch16-224-in21k": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    "t5-base": {"d_model": 32, "num_layers": 2, "num_heads": 2, "d_kv": 16, "d_ff": 8},
    "EleutherAI/pythia-160m": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8},
    "Qwen/Qwen2.5-0.5B": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 8},
}  # fmt: skip
CAUSAL = {"tiny", "one_attention", "EleutherAI/pythia-160m", "Qwen/Qwen2.5-0.5B"}


def _model(name: str, **options: Any) -> FrozenPretrainedTransformer:
    return FrozenPretrainedTransformer(TASK, BackboneChoice(name, **options), dropout=0.1)


def _tokens(batch: int = 3, length: int = 12) -> torch.Tensor:
    return torch.randn(batch, length, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def t5_folder(tmp_path: Path) -> Path:
    T5EncoderModel(T5Config(vocab_size=9, **SMALL["t5-base"])).save_pretrained(tmp_path / "t5")
    return tmp_path / "t5"


@pytest.fixture
def capped_folder(tmp_path: Path) -> Path:
    """A decoder whose scores are capped, with fewer heads of keys than of queries, every other layer in a window."""
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    config = Gemma2Config(vocab_size=9, intermediate_size=8, sliding_window=6, attn_logit_softcapping=0.5, **sizes)
    Gemma2Model(config).save_pretrained(tmp_path / "capped")
    return tmp_path / "capped"


@pytest.fixture
def bert_folder(tmp_path: Path) -> Path:
    BertModel(BertConfig(vocab_size=9, **SMALL["bert-base-uncased"])).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.mark.parametrize(
    ("fixture", "model_class", "layer"),
    [("gpt2_folder", GPT2Model, 0), ("gpt2_folder", GPT2Model, 2), ("bert_folder", BertModel, 1), ("t5_folder", T5EncoderModel, 1), ("capped_folder", Gemma2Model, 1)],
)  # fmt: skip
def test_maps_are_those_of_transformers(
    fixture: str, model_class: Any, layer: int, request: pytest.FixtureRequest
) -> None:
    folder = str(request.getfixturevalue(fixture))
    ours = _model(folder)
    theirs = model_class.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = theirs(inputs_embeds=ours.input(_tokens()), output_attentions=True).attentions[layer]
    maps = attention_maps(ours, _tokens(), layer=layer)
    torch.testing.assert_close(maps.weights, expected[:, :, -4:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SMALL)
def test_rows_are_probabilities_over_what_may_be_seen(name: str) -> None:
    model = _model(name, initialization="random", architecture=SMALL[name])
    maps = attention_maps(model, _tokens())
    assert maps.weights.shape == (3, SMALL[name].get("num_attention_heads", 2), 4, 12)
    torch.testing.assert_close(maps.weights.sum(-1), torch.ones(maps.weights.shape[:3]))
    assert (maps.weights >= 0).all()
    assert (maps.weights.masked_select(~maps.allowed[:, None]) == 0).all()
    later = torch.ones(4, 12, dtype=torch.bool).triu(9)  # the first answers at token 8, counted from 0
    assert torch.equal(maps.allowed, (~later if name in CAUSAL else torch.ones_like(later)).expand(3, -1, -1))


@pytest.mark.parametrize("name", SMALL)
def test_a_model_answers_before_and_after_as_it_did(name: str) -> None:
    model = _model(name, initialization="random", architecture=SMALL[name]).eval()
    with torch.no_grad():
        expected = model(_tokens())
        attention_maps(model, _tokens())
        assert not model.training
        assert torch.equal(model(_tokens()), expected)
    attention_maps(model.train(), _tokens())
    assert model.training


def test_padding_is_never_seen() -> None:
    model = _model("bert-base-uncased", initialization="random", architecture=SMALL["bert-base-uncased"])
    mask = torch.arange(12) < torch.tensor([[12], [7]])
    tokens = _tokens(2)
    maps = attention_maps(model, tokens, mask)
    alone = attention_maps(model, tokens[1:, :7])
    assert (maps.weights[1, :, :, 7:] == 0).all()
    torch.testing.assert_close(maps.weights[1:, :, :, :7], alone.weights, atol=1e-5, rtol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_the_mean_counts_every_example_once(masked: bool) -> None:
    model = _model("tiny")
    tokens = _tokens(5)
    mask = torch.arange(12) < torch.tensor([[12], [7], [9], [12], [4]]) if masked else None
    parts = [slice(0, 3), slice(3, 5)]
    needed = torch.rand(5, 4, 12, generator=torch.Generator().manual_seed(1)) < 0.3
    batches = [
        (Batch(tokens[part], torch.zeros(0), None if mask is None else mask[part]), needed[part]) for part in parts
    ]
    mean = mean_maps(model, batches)
    maps = attention_maps(model, tokens, mask)
    assert (mean.examples, mean.from_end) == (5, masked)
    torch.testing.assert_close(mean.heads.sum(-1), torch.ones(2, 4))
    shares = (maps.weights * needed[:, None]).sum(-1).mean(dim=(0, 2))
    assert mean.needed is not None
    torch.testing.assert_close(mean.needed, shares)
    if mask is None:
        torch.testing.assert_close(mean.heads, maps.weights.mean(0))
        allowed = torch.tensor([9.0, 10.0, 11.0, 12.0])
        seen = needed & (torch.arange(12) < allowed[:, None])
        assert mean.uniform == pytest.approx((seen.sum(-1) / allowed).mean().item(), rel=1e-5)
    else:  # the last column is the last real token: what each example's last answer gives to itself
        itself = torch.stack([maps.weights[row, :, -1, int(real) - 1] for row, real in enumerate(mask.sum(1))])
        torch.testing.assert_close(mean.heads[:, -1, -1], itself.mean(0))


def test_examples_of_differing_length_end_together_whatever_batch_they_are_in() -> None:
    """Also where those of a batch, or all that are shown, happen to be of one length, and nothing is padded."""
    model = FrozenPretrainedTransformer(TaskSpec("words", 8, 2, vocabulary_size=5), BackboneChoice("tiny"), dropout=0.0)
    lengths = torch.tensor([5, 5, 8, 3])
    ids = torch.randint(5, (21,), generator=torch.Generator().manual_seed(0))
    table = SequenceTable(ids, lengths, torch.zeros(4, 1, dtype=torch.long))

    def mean(*batches: list[int]) -> MeanMaps:
        return mean_maps(model, [(table.__getitems__(batch), None) for batch in batches])

    together, apart = mean([0, 1, 2, 3]), mean([0, 1], [2, 3])
    torch.testing.assert_close(apart.heads, together.heads)
    few = mean([0, 1])
    assert few.heads.shape == (2, 1, 8)
    assert few.from_end
    assert (few.heads[..., :3] == 0).all()


@pytest.mark.parametrize("name", ["lstm", "two_layer"])
def test_a_backbone_without_attention_says_so(name: str) -> None:
    with pytest.raises(UsageError, match=f"backbone '{name}' has no attention"):
        attention_maps(_model(name, architecture={"width": 32}), _tokens())


def test_attention_in_a_window_is_not_shown() -> None:
    sizes = SMALL["bert-base-uncased"] | {"attention_window": 4}
    model = _model("allenai/longformer-base-4096", initialization="random", architecture=sizes)
    with pytest.raises(UsageError, match="has no attention of every token to every other"):
        attention_maps(model, _tokens())


@pytest.mark.parametrize("layer", [-1, 2])
def test_a_layer_that_is_not_there_is_named(layer: int) -> None:
    with pytest.raises(UsageError, match=f"there is no layer {layer + 1}: backbone 'tiny' has 2"):
        attention_maps(_model("tiny"), _tokens(), layer=layer)
