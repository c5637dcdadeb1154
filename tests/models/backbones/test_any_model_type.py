"""Whatever architecture transformers knows is a backbone, or says in a line why it cannot be one."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.backbones.families import family_of
from fpt_lightning.models.backbones.hub import read_config
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.models.lora import LoraOptions

TASK = TaskSpec("words", max_length=12, classes=7, vocabulary_size=9)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("gemma4_text", "a gemma4_text cannot be a backbone: its layers differ in size"),
        ("gemma4_assistant", "a gemma4_assistant cannot be a backbone: hidden_size_per_layer_input must be 0"),
        ("nougat", "cannot be a backbone: Unrecognized model type"),
        ("dbrx", "does not make a dbrx: "),
        ("chameleon", "does not make a chameleon: "),
        ("voxtral_realtime_text", "transformers has no plain body of this kind"),
        ("higgs_audio_v2_tokenizer", "a higgs_audio_v2_tokenizer needs a package that is missing: .*torchaudio"),
        ("detr", "a detr needs a package that is missing: .*timm"),
    ],
)
def test_what_cannot_be_one_says_why(name: str, problem: str) -> None:
    if name not in hf.CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {name}")
    with pytest.raises(FPTError, match=problem) as caught:
        family_of(read_config(BackboneChoice(name, "random")))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.slow
def test_none_is_a_bug_of_ours() -> None:
    names, refused = list(hf.CONFIG_MAPPING), dict[str, str]()
    for name in names:
        try:
            family_of(read_config(BackboneChoice(name, "random")))
        except FPTError as error:
            refused[name] = str(error)
    assert {name for name, said in refused.items() if len(said) > 400} == set()
    assert len(names) - len(refused) > 60


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"attention_bias": False}, r"8 weights .*, model\.layers\.0\.self_attn\.k_proj\.bias first"),
        ({"num_hidden_layers": 1}, r"13 weights .*, model\.layers\.1\.input_layernorm\.weight first"),
        ({}, None),
    ],
    ids=["biases", "blocks", "none"],
)
def test_weights_that_the_config_leaves_out_are_no_others_to_miss(
    change: dict[str, object], first: str | None, tmp_path: Path
) -> None:
    """transformers warns of them, among those of a head."""
    sizes: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "vocab_size": 11}
    config = hf.LlamaConfig(**sizes, intermediate_size=40, attention_bias=True, num_key_value_heads=3)
    hf.LlamaForCausalLM(config).save_pretrained(str(tmp_path))
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(FPTError, match=first) if first else nullcontext():
        FrozenPretrainedTransformer(TASK, BackboneChoice(str(tmp_path)))


def test_a_router_of_experts_keeps_its_own_forward(tmp_path: object) -> None:
    config = hf.PhimoeConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3, intermediate_size=16,
        num_local_experts=3, vocab_size=11, max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    reference = hf.PhimoeModel(config).eval()
    reference.save_pretrained(str(tmp_path))
    embeddings = torch.randn(3, 9, 24)
    for lora in (None, LoraOptions(rank=2)):  # which starts as nothing
        model = FrozenPretrainedTransformer(
            TASK, BackboneChoice(str(tmp_path)), ["output"], dropout=0, lora=lora
        ).eval()
        with torch.no_grad():
            ours = model.family.hidden(model.backbone, embeddings, None)
            expected = reference(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "meant"), [("llma", "llama"), ("gemma_2", "gemma2"), ("poket", "pocket")])
def test_a_name_that_is_nearly_one_is_asked_for(name: str, meant: str) -> None:
    with pytest.raises(FPTError, match=rf"did you mean '{meant}'\?"):
        read_config(BackboneChoice(name, "random"))


TINY: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}


def test_the_norm_of_a_feed_forward_network_is_a_layer_norm() -> None:
    choice = BackboneChoice("bitnet", "random", {**TINY, "intermediate_size": 64})
    trained = FrozenPretrainedTransformer(TASK, choice).trained_parameters()
    assert {"backbone.layers.0.mlp.ffn_sub_norm.weight", "backbone.layers.0.self_attn.attn_sub_norm.weight"} <= {
        *trained
    }


def test_groups_whose_values_are_narrower_train_with_dropout() -> None:
    sizes = {**TINY, "intermediate_size": 64, "head_dim": 24, "v_head_dim": 16}
    model = FrozenPretrainedTransformer(TASK, BackboneChoice("mimo_v2_flash", "random", sizes), dropout=0.1).train()
    model(torch.arange(9).repeat(2, 1)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.trained_parameters().values())


def test_what_never_trains_stays_frozen() -> None:
    """The correction of a router is read for the order of its numbers alone."""
    sizes = {**TINY, "intermediate_size": 64, "moe_intermediate_size": 16, "moe_num_experts": 4, "moe_k": 2}
    choice = BackboneChoice("ernie4_5_moe", "random", {**sizes, "moe_layer_start_index": 0})
    trained = FrozenPretrainedTransformer(TASK, choice, "all").trained_parameters()
    assert not [name for name in trained if name.endswith("e_score_correction_bias")]
    assert "backbone.layers.0.mlp.gate.weight" in trained


def test_a_pad_token_below_0_is_none() -> None:
    hf.LlamaModel(hf.LlamaConfig(**TINY, vocab_size=8, intermediate_size=64)).save_pretrained("body")
    config = json.loads(Path("body/config.json").read_text())
    Path("body/config.json").write_text(json.dumps({**config, "pad_token_id": -1}))
    assert FrozenPretrainedTransformer(TASK, BackboneChoice("body"))(torch.arange(9).repeat(2, 1)).shape == (2, 1, 7)


def test_an_image_size_may_be_a_height_and_a_width() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    hf.ViTModel(hf.ViTConfig(**sizes, image_size=[32, 16], patch_size=8)).save_pretrained("body")
    task = TaskSpec("image", max_length=8, classes=3, token_width=4)
    assert FrozenPretrainedTransformer(task, BackboneChoice("body"))(torch.zeros(2, 8, 4)).shape == (2, 1, 3)


def test_sizes_that_cannot_run_are_refused_before_a_step() -> None:
    """Its rotary positions are made for wider heads."""
    sizes = {**TINY, "intermediate_size": 40}
    with pytest.raises(UsageError, match=r"model\.architecture makes a qwen2_vl_text that cannot run: "):
        FrozenPretrainedTransformer(TASK, BackboneChoice("qwen2_vl_text", "random", sizes))
