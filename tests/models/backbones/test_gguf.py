"""A language model in one quantised file, as llama.cpp's world ships it."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from conftest import Fpt
from fpt_lightning.errors import FPTError
from fpt_lightning.models.backbones.build import build_backbone
from fpt_lightning.models.backbones.choice import BackboneChoice

gguf = pytest.importorskip("gguf")

NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def _write(path: Path, model: Any, architecture: str = "llama") -> Path:
    """What llama.cpp's converter writes: rotary rows of queries and keys lie pairwise there."""
    config = model.config
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    for name, value in model.state_dict().items():
        whole = name.removesuffix(".weight")
        prefix, _, rest = whole.removeprefix("model.layers.").partition(".")
        if rest in heads:
            value = value.unflatten(0, (heads[rest], 2, -1)).transpose(1, 2).flatten(0, 2)
        place = NAMES[whole] if whole in NAMES else f"blk.{prefix}.{NAMES[rest]}"
        writer.add_tensor(f"{place}.weight", value.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A file, and a folder with the same weights."""
    root = tmp_path_factory.mktemp("gguf")
    torch.manual_seed(1)
    model = hf.LlamaForCausalLM(
        hf.LlamaConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64,
            vocab_size=16, max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip
    model.save_pretrained(root / "folder")
    return _write(root / "model.gguf", model), root / "folder"


def test_a_file_is_the_body_of_the_folder_with_the_same_weights(
    llama: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    file, folder = (build_backbone(BackboneChoice(str(path)), 12, 0.0) for path in llama)
    assert not capfd.readouterr().err, "no bars"
    own, theirs = file.body.state_dict(), folder.body.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in own.items())
    embeddings = torch.randn(2, 12, 32)
    hidden = file.family.hidden(file.body, embeddings, None)
    torch.testing.assert_close(hidden, folder.family.hidden(folder.body, embeddings, None))


@pytest.mark.parametrize("initialization", ["random", "statistics"])
def test_its_controls(llama: tuple[Path, Path], initialization: Any) -> None:
    file, folder = (build_backbone(BackboneChoice(str(path), initialization), 12, 0.0).body for path in llama)
    assert all(torch.equal(*pair) for pair in zip(file.parameters(), folder.parameters(), strict=True))


def test_a_run(fpt: Fpt, tiny: list[str], llama: tuple[Path, Path]) -> None:
    words = [*(word for word in tiny if "backbone" not in word), "--run_folder=run"]
    assert fpt("run", "--config=bit_xor.yaml", *words, f"--model.backbone={llama[0]}", "--model.layers=1") == 0
    assert json.loads(Path("run/result.json").read_text())["initialization"] == "pretrained"


@pytest.mark.parametrize("damage", ["empty", "header", "half", "end", "text"])
def test_a_damaged_file_is_named(llama: tuple[Path, Path], tmp_path: Path, damage: str) -> None:
    whole = llama[0].read_bytes()
    contents = {"empty": b"", "header": whole[:100], "half": whole[: len(whole) // 2], "end": whole[:-64]}
    file = tmp_path / "bad.gguf"
    file.write_bytes(contents.get(damage, b"hello " * 100))
    with pytest.raises(FPTError, match=r"bad\.gguf cannot be read \(.*it is not whole, no GGUF") as caught:
        build_backbone(BackboneChoice(str(file)), 12, 0.0)
    assert "\n" not in str(caught.value)


def test_an_architecture_without_a_body(llama: tuple[Path, Path], tmp_path: Path) -> None:
    model = hf.LlamaForCausalLM.from_pretrained(llama[1])
    file = _write(tmp_path / "other.gguf", model, "rwkv6")
    with pytest.raises(FPTError, match=r"other\.gguf cannot be read \(.*rwkv6"):
        build_backbone(BackboneChoice(str(file)), 12, 0.0)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(FPTError, match=r"there is no file nowhere/model\.gguf"):
        build_backbone(BackboneChoice("nowhere/model.gguf"), 12, 0.0)


def test_without_the_package(llama: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "fpt_lightning.models.backbones.hub.find_spec", lambda name: None if name == "gguf" else found(name)
    )
    with pytest.raises(FPTError, match=r'pip install "fpt-lightning\[gguf\]"'):
        build_backbone(BackboneChoice(str(llama[0])), 12, 0.0)
