"""Every family: our logits are those of transformers' own model, and what trains is what its table says."""

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from torch import nn

from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.models.backbones.build import build_backbone
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.models.lora import LoraOptions

TASK = TaskSpec("words", max_length=12, classes=7, vocabulary_size=9)
NUMBERS = TaskSpec("bits", max_length=10, classes=2, token_width=5, answer_tokens=3, answers_per_token=2)
SMALL = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40, "vocab_size": 11}
GROUPED = {**SMALL, "num_key_value_heads": 1, "max_position_embeddings": 64}

# what save_pretrained leaves of models with heads, so that prefixes are stripped as from real checkpoints
MODELS: dict[str, Any] = {
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=11, n_positions=40, n_embd=24, n_layer=3, n_head=3)),
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**SMALL)),
    "roberta": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**SMALL, max_position_embeddings=40)),
    "longformer": lambda: hf.LongformerForMaskedLM(
        hf.LongformerConfig(**SMALL, attention_window=4, max_position_embeddings=40)
    ),
    "t5": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(d_model=24, num_layers=3, num_heads=3, d_kv=8, d_ff=40, vocab_size=11)
    ),
    "vit": lambda: hf.ViTForImageClassification(
        hf.ViTConfig(**{key: value for key, value in SMALL.items() if key != "vocab_size"}, image_size=32, patch_size=8)
    ),
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SMALL, max_position_embeddings=64)),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED, bos_token_id=1, eos_token_id=2)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**GROUPED)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**GROUPED, head_dim=8)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**GROUPED, sliding_window=4)),
    "gemma3_text": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=4)),
    "phi": lambda: hf.PhiForCausalLM(hf.PhiConfig(**SMALL, max_position_embeddings=64)),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**GROUPED, pad_token_id=0)),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every family as ``save_pretrained`` leaves it, with layer norms and biases that are not all ones and zeros."""
    root = tmp_path_factory.mktemp("families")
    for name, build in MODELS.items():
        torch.manual_seed(1)
        model = build()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(root / name)
    return {name: root / name for name in MODELS}


def _batch(task: TaskSpec, padded: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(2)
    length = task.max_length
    if task.vocabulary_size:
        tokens = torch.randint(task.vocabulary_size, (6, length), generator=generator)
    else:
        tokens = torch.randn(6, length, task.token_width or 0, generator=generator)
    lengths = torch.randint(task.answer_tokens, length + 1, (6,), generator=generator)
    return tokens, torch.arange(length) < lengths[:, None] if padded else None


def _reference(name: str, folder: Path, embeddings: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The hidden states of transformers' own model, eager and as it comes."""
    kind = {"t5": hf.T5EncoderModel}.get(name, hf.AutoModel)
    body = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    attention_mask = None if mask is None else mask.long()
    if name != "vit":
        return body(inputs_embeds=embeddings, attention_mask=attention_mask).last_hidden_state

    class Embeddings(nn.Module):
        patch_embeddings = body.embeddings.patch_embeddings

        def forward(self, pixels: torch.Tensor, **_: object) -> torch.Tensor:
            return embeddings + positions[:, 1 : embeddings.size(1) + 1]

    positions = body.embeddings.position_embeddings
    body.embeddings = Embeddings()
    return body(torch.zeros(1), attention_mask=attention_mask).last_hidden_state


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("task", [TASK, NUMBERS], ids=lambda task: task.name)
@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_transformers(folders: dict[str, Path], name: str, task: TaskSpec, padded: bool) -> None:
    model = FrozenPretrainedTransformer(task, BackboneChoice(str(folders[name])), dropout=0.0)
    tokens, mask = _batch(task, padded)
    logits = model(tokens, mask)
    hidden = _reference(name, folders[name], model.input(tokens), mask)
    ends = [task.max_length] * len(tokens) if mask is None else mask.sum(dim=1).tolist()
    rows = torch.stack([hidden[row, end - task.answer_tokens : end] for row, end in enumerate(ends)])
    expected = model.output(rows).reshape(len(tokens), task.answers, -1)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_single_token_is_a_sequence(folders: dict[str, Path], name: str) -> None:
    task = TaskSpec("bit", max_length=1, classes=2, token_width=5)
    model = FrozenPretrainedTransformer(task, BackboneChoice(str(folders[name])), dropout=0.0)
    tokens = torch.randn(1, 1, 5, generator=torch.Generator().manual_seed(2))
    expected = model.output(_reference(name, folders[name], model.input(tokens), None)[:, -1:])
    torch.testing.assert_close(model(tokens), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_what_a_padded_token_holds_does_not_matter(folders: dict[str, Path], name: str) -> None:
    model = FrozenPretrainedTransformer(NUMBERS, BackboneChoice(str(folders[name])), dropout=0.0).eval()
    tokens, mask = _batch(NUMBERS, padded=True)
    assert mask is not None
    changed = torch.where(mask[:, :, None], tokens, torch.full_like(tokens, 1e2))
    torch.testing.assert_close(model(changed, mask), model(tokens, mask), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_everything_takes_part_in_a_step(folders: dict[str, Path], name: str) -> None:
    """So plain DDP works, whatever trains."""
    model = FrozenPretrainedTransformer(TASK, BackboneChoice(str(folders[name])), trainable="all")
    tokens, _ = _batch(TASK, padded=False)
    F.cross_entropy(model(tokens).flatten(0, 1), torch.zeros(6, dtype=torch.long)).backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("name", MODELS)
def test_steps_change_what_trains_and_nothing_else(folders: dict[str, Path], name: str) -> None:
    model = FrozenPretrainedTransformer(TASK, BackboneChoice(str(folders[name])))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.trained_parameters().values(), lr=0.01)
    tokens, mask = _batch(TASK, padded=True)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(tokens, mask).flatten(0, 1), torch.arange(6)).backward()
        optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == set(model.trained_parameters())


@pytest.mark.parametrize("name", MODELS)
def test_frozen_matrices_kept_in_bf16_change_nothing_of_bf16_autocast(folders: dict[str, Path], name: str) -> None:
    """Nor anything but memory of the body that they are rounded to; what trains and all else stays in fp32."""
    choice, (tokens, mask) = BackboneChoice(str(folders[name])), _batch(TASK, padded=True)
    wide, narrow = (
        FrozenPretrainedTransformer(TASK, choice, dropout=0.0, frozen_dtype=dtype) for dtype in ("float32", "bfloat16")
    )
    found = []
    for model in (wide, narrow):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(tokens, mask)
        F.cross_entropy(logits.flatten(0, 1).float(), torch.arange(6)).backward()
        found.append([logits, *(parameter.grad for parameter in model.trained_parameters().values())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    kept = {key for key, parameter in narrow.named_parameters() if parameter.dtype == torch.bfloat16}
    assert kept == {key for key, parameter in narrow.frozen_parameters().items() if parameter.dim() == 2}
    assert wide.frozen_hash() != narrow.frozen_hash()
    with torch.no_grad():
        for key in kept:
            wide.get_parameter(key).copy_(narrow.get_parameter(key))
    assert wide.frozen_hash() == narrow.frozen_hash()
    if name != "t5":  # which rounds what it hands to a matrix in bf16
        torch.testing.assert_close(narrow(tokens, mask), wide(tokens, mask), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt_neox", "phi3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_positions_turn_as_ever_where_all_is_in_16_bits(
    folders: dict[str, Path], name: str, dtype: torch.dtype
) -> None:
    """transformers keeps their frequencies in fp32: at token 1,000 one that is rounded to bf16 is two radians off."""
    model = FrozenPretrainedTransformer(TASK, BackboneChoice(str(folders[name])))
    before = {key: value.clone() for key, value in model.named_buffers() if "inv_freq" in key}
    model.to(dtype)
    assert before
    for key, value in before.items():
        assert torch.equal(model.get_buffer(key), value), key
        assert key not in model.state_dict()
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model(_batch(TASK, padded=True)[0]).dtype == dtype


def _each(template: str, layers: int = 3) -> Iterator[str]:
    return (template.format(layer) for layer in range(layers))


NORMS = ("weight", "bias")
TRAINED = {
    "gpt2": {
        "wpe.weight",
        *(f"ln_f.{kind}" for kind in NORMS),
        *(f"{block}.ln_{n}.{kind}" for block in _each("h.{}") for n in (1, 2) for kind in NORMS),
    },
    "bert": {
        "embeddings.position_embeddings.weight",
        "embeddings.token_type_embeddings.weight",
        *(f"embeddings.LayerNorm.{kind}" for kind in NORMS),
        *(
            f"{block}.{sub}output.LayerNorm.{kind}"
            for block in _each("encoder.layer.{}")
            for sub in ("", "attention.")
            for kind in NORMS
        ),
    },
    "t5": {
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "encoder.final_layer_norm.weight",
        *(f"{block}.layer.{n}.layer_norm.weight" for block in _each("encoder.block.{}") for n in (0, 1)),
    },
    "vit": {
        "embeddings.position_embeddings.weight",
        *(f"layernorm.{kind}" for kind in NORMS),
        *(
            f"{block}.layernorm_{side}.{kind}"
            for block in _each("layers.{}")
            for side in ("before", "after")
            for kind in NORMS
        ),
    },
    "gpt_neox": {
        *(f"final_layer_norm.{kind}" for kind in NORMS),
        *(
            f"{block}.{norm}.{kind}"
            for block in _each("layers.{}")
            for norm in ("input_layernorm", "post_attention_layernorm")
            for kind in NORMS
        ),
    },
    "llama": {
        "norm.weight",
        *_each("layers.{}.input_layernorm.weight"),
        *_each("layers.{}.post_attention_layernorm.weight"),
    },
    "phi": {
        *(f"final_layernorm.{kind}" for kind in NORMS),
        *(f"{block}.input_layernorm.{kind}" for block in _each("layers.{}") for kind in NORMS),
    },
}
TRAINED["roberta"] = TRAINED["longformer"] = TRAINED["bert"]
TRAINED["qwen2"] = TRAINED["mistral"] = TRAINED["phi3"] = TRAINED["llama"]
TRAINED["qwen3"] = TRAINED["llama"] | {
    *_each("layers.{}.self_attn.q_norm.weight"),
    *_each("layers.{}.self_attn.k_norm.weight"),
}
TRAINED["gemma3_text"] = TRAINED["qwen3"] | {*_each("layers.{}.pre_feedforward_layernorm.weight"), *_each("layers.{}.post_feedforward_layernorm.weight")}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_the_exact_names_that_train(folders: dict[str, Path], name: str) -> None:
    model = FrozenPretrainedTransformer(NUMBERS, BackboneChoice(str(folders[name])))
    ours = {"input.weight", "input.bias", "output.weight", "output.bias"}
    assert set(model.trained_parameters()) == ours | {f"backbone.{key}" for key in TRAINED[name]}


@pytest.mark.parametrize("part", ["positions", "layernorm", "attention", "feedforward"])
@pytest.mark.parametrize("name", MODELS)
def test_a_single_part_trains_alone(folders: dict[str, Path], name: str, part: str) -> None:
    model = FrozenPretrainedTransformer(TASK, BackboneChoice(str(folders[name])), trainable=[part])
    has_positions = model.family.position_table is not None or name == "t5"
    expected = {key for key, place in model.places.items() if place.part == part}
    assert set(model.trained_parameters()) == expected
    assert bool(expected) == (part != "positions" or has_positions)


@pytest.mark.parametrize("name", MODELS)
def test_the_last_layer_of_a_part(folders: dict[str, Path], name: str) -> None:
    model = FrozenPretrainedTransformer(TASK, BackboneChoice(str(folders[name])), trainable=["attention:last1"])
    assert {model.places[key].layer for key in model.trained_parameters()} == {2}


@pytest.mark.parametrize(("layers", "kept"), [(2, [0, 1]), ("1:3", [1, 2]), ("2:3", [2])])
@pytest.mark.parametrize("name", MODELS)
def test_a_slice_of_layers(folders: dict[str, Path], name: str, layers: int | str, kept: list[int]) -> None:
    whole = build_backbone(BackboneChoice(str(folders[name])), 12, 0.0)
    part = build_backbone(BackboneChoice(str(folders[name]), layers=layers), 12, 0.0)
    blocks, ours = (built.body.get_submodule(built.family.blocks) for built in (whole, part))
    assert len(ours) == len(kept)  # type: ignore[arg-type]
    for index, block in zip(kept, ours, strict=True):  # type: ignore[arg-type]
        for key, value in blocks[index].state_dict().items():  # type: ignore[index]
            assert torch.equal(block.state_dict()[key], value)
    embeddings = torch.randn(2, 12, 24, generator=torch.Generator().manual_seed(0))
    assert part.family.hidden(part.body, embeddings, None).shape == (2, 12, 24)


@pytest.mark.parametrize("name", MODELS)
def test_the_random_row_of_every_architecture(folders: dict[str, Path], name: str) -> None:
    first, same, other = (
        build_backbone(BackboneChoice(str(folders[name]), "random", seed=seed), 12, 0.0).body.state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(value, same[key]) for key, value in first.items())
    assert any(not torch.equal(value, other[key]) for key, value in first.items())


@pytest.mark.parametrize("name", MODELS)
def test_statistics_alone(folders: dict[str, Path], name: str) -> None:
    """Mean and standard deviation of every tensor stay, its values do not (FPT section 3.8)."""
    real, drawn, again = (
        build_backbone(BackboneChoice(str(folders[name]), kind), 12, 0.0).body  # type: ignore[arg-type]
        for kind in ("pretrained", "statistics", "statistics")
    )
    assert all(torch.equal(a, b) for a, b in zip(drawn.parameters(), again.parameters(), strict=True))
    for ours, theirs in zip(drawn.parameters(), real.parameters(), strict=True):
        assert not torch.equal(ours, theirs)
        if theirs.numel() > 500:
            spread = theirs.std().item()
            assert abs(ours.mean() - theirs.mean()) < 6 * spread / theirs.numel() ** 0.5
            assert ours.std().item() == pytest.approx(spread, rel=0.15)


def test_relative_positions_and_rotary_ones_know_no_table(folders: dict[str, Path]) -> None:
    for name in ("t5", "llama"):
        with pytest.raises(UsageError, match="has no learned positions to replace"):
            build_backbone(BackboneChoice(str(folders[name]), positions="new"), 12, 0.0)


@pytest.mark.parametrize("name", ["gpt2", "bert", "roberta", "longformer", "vit"])
def test_new_positions_serve_longer_tasks(folders: dict[str, Path], name: str) -> None:
    with pytest.raises(UsageError, match=r"the task has 600 tokens.*or model\.positions new"):
        build_backbone(BackboneChoice(str(folders[name])), 600, 0.0)
    built = build_backbone(BackboneChoice(str(folders[name]), positions="new"), 600, 0.0)
    assert built.family.hidden(built.body, torch.zeros(1, 600, 24), None).shape == (1, 600, 24)


def test_a_body_that_takes_no_embeddings(tmp_path: Path) -> None:
    hf.CpmAntConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(FPTError, match="takes token ids only"):
        build_backbone(BackboneChoice(str(tmp_path), "random"), 8, 0.1)


@pytest.mark.parametrize("config", [hf.Gemma3Config(), hf.LlavaConfig()], ids=lambda config: config.model_type)
def test_an_architecture_of_several_widths(tmp_path: Path, config: hf.PretrainedConfig) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(FPTError, match=f"a {config.model_type} cannot be a backbone: .*save_pretrained") as caught:
        build_backbone(BackboneChoice(str(tmp_path), "random"), 8, 0.1)
    assert "\n" not in str(caught.value)


def test_an_architecture_of_several_bodies(tmp_path: Path) -> None:
    hf.FunnelConfig().save_pretrained(tmp_path)
    with pytest.raises(FPTError, match="transformers has no plain body of this kind"):
        build_backbone(BackboneChoice(str(tmp_path), "random"), 8, 0.1)


@pytest.mark.parametrize("name", MODELS)
def test_an_adapter_beside_every_attention(folders: dict[str, Path], name: str) -> None:
    model = FrozenPretrainedTransformer(TASK, BackboneChoice(str(folders[name])), ["output"], lora=LoraOptions(rank=2))
    tokens, mask = _batch(TASK, padded=True)
    F.cross_entropy(model(tokens, mask).flatten(0, 1), torch.zeros(6, dtype=torch.long)).backward()
    adapted = {model.places[key].layer for key in model.trained_parameters() if "lora" in key}
    assert adapted == {0, 1, 2}


def test_a_longformers_windows_of_different_widths(tmp_path: Path) -> None:
    """The widest is narrowed to what the task needs, where the others still divide it."""
    torch.manual_seed(1)
    sizes = {**SMALL, "num_hidden_layers": 2, "max_position_embeddings": 200}
    hf.LongformerModel(hf.LongformerConfig(**sizes, attention_window=[4, 64])).eval().save_pretrained(tmp_path)
    built = build_backbone(BackboneChoice(str(tmp_path)), 9, 0.0)
    assert built.body.config.attention_window == [4, 20]
    embeddings = torch.randn(3, 9, 24, generator=torch.Generator().manual_seed(0))
    expected = _reference("longformer", tmp_path, embeddings, None)
    torch.testing.assert_close(built.family.hidden(built.body, embeddings, None), expected, atol=1e-5, rtol=1e-5)


def test_a_body_of_other_parts_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    hf.MambaConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(FPTError, match="a mamba cannot be a backbone yet: no part is declared for its parameter"):
        build_backbone(BackboneChoice(str(tmp_path)), 8, 0.1)


@pytest.mark.parametrize(
    "config",
    [
        hf.Starcoder2Config(**GROUPED, residual_dropout=0.3, embedding_dropout=0.3, attention_dropout=0.3),
        hf.SeedOssConfig(**GROUPED, head_dim=8, residual_dropout=0.3, attention_dropout=0.3),
        hf.PhiConfig(**SMALL, resid_pdrop=0.3, embd_pdrop=0.3, attention_dropout=0.3),
    ],
    ids=lambda config: config.model_type,
)
def test_no_dropout_is_left_to_a_config(config: hf.PretrainedConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    tokens = torch.arange(24).view(2, 12) % 9
    for dropout, alike in ((0.0, True), (0.2, False)):
        model = FrozenPretrainedTransformer(TASK, BackboneChoice(str(tmp_path), "random"), dropout=dropout).train()
        assert torch.equal(model(tokens), model(tokens)) == alike
        dropouts = {value for name, value in vars(model.family.config).items() if "drop" in name and value is not None}
        assert dropouts == {dropout}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_pickled(folders: dict[str, Path], name: str) -> None:
    model = FrozenPretrainedTransformer(TASK, BackboneChoice(str(folders[name])), dropout=0.0).eval()
    tokens, mask = _batch(TASK, padded=True)
    expected = model(tokens, mask)
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        torch.testing.assert_close(again(tokens, mask), expected)
