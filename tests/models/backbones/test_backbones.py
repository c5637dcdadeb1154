import json
import shutil
from pathlib import Path

import pytest
import torch

from conftest import Fpt
from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.models.backbones.architectures import ARCHITECTURES
from fpt_lightning.models.backbones.build import build_backbone
from fpt_lightning.models.backbones.choice import BackboneChoice, Initialization
from fpt_lightning.models.backbones.hub import read_config


def test_pretrained_weights_are_those_of_the_folder(gpt2_folder: Path) -> None:
    from safetensors.torch import load_file

    stored = load_file(gpt2_folder / "model.safetensors")
    body = build_backbone(BackboneChoice(str(gpt2_folder)), max_length=16, dropout=0.1).body
    own = body.state_dict()
    assert torch.equal(own["wpe.weight"], stored["transformer.wpe.weight"][:16])
    for name in own.keys() - {"wpe.weight"}:
        assert torch.equal(own[name], stored[f"transformer.{name}"]), name
    assert "wte.weight" not in own


def test_random_weights_follow_the_seed_and_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, same, other = (build_backbone(BackboneChoice("tiny", seed=seed), 8, 0.1).body for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    for name, value in first.state_dict().items():
        assert torch.equal(value, same.state_dict()[name])
    assert not torch.equal(first.state_dict()["h.0.attn.c_attn.weight"], other.state_dict()["h.0.attn.c_attn.weight"])


def test_the_random_row_takes_a_folders_architecture_not_its_weights(gpt2_folder: Path) -> None:
    folder = str(gpt2_folder)
    random = build_backbone(BackboneChoice(folder, "random"), 8, 0.1).body
    pretrained = build_backbone(BackboneChoice(folder, "pretrained"), 8, 0.1).body
    assert len(random.h) == len(pretrained.h) == 3
    assert not torch.equal(random.h[0].attn.c_attn.weight, pretrained.h[0].attn.c_attn.weight)


def test_architecture_changes_the_sizes() -> None:
    body = build_backbone(BackboneChoice("gpt2", "random", {"n_layer": 1, "n_embd": 24, "n_head": 2}), 8, 0.1).body
    assert (len(body.h), body.config.n_embd) == (1, 24)


def test_gpt2s_sizes_are_the_papers() -> None:
    sizes = {
        name: (fields["n_layer"], fields["n_embd"])
        for name, (model_type, fields) in ARCHITECTURES.items()
        if model_type == "gpt2"
    }
    assert sizes["gpt2"] == (12, 768)
    assert sizes["gpt2-medium"] == (24, 1024)
    assert sizes["gpt2-large"] == (36, 1280)


@pytest.mark.parametrize(
    ("name", "theta", "share"),
    [
        ("EleutherAI/pythia-160m", 1e4, 0.25),
        ("Qwen/Qwen2.5-0.5B", 1e6, 1.0),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 1e5, 1.0),
    ],
)
def test_rotary_positions_turn_as_fast_as_in_the_published_model(name: str, theta: float, share: float) -> None:
    """Or a random arm differs from the pretrained one in more than its weights: as the hub's config.json has it."""
    rope = read_config(BackboneChoice(name, "random")).rope_parameters
    assert (rope["rope_theta"], rope.get("partial_rotary_factor", 1.0)) == (theta, share)


def test_dropout_is_set_everywhere() -> None:
    body = build_backbone(BackboneChoice("tiny"), 8, 0.25).body
    rates = {module.p for module in body.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.25}


@pytest.mark.parametrize(
    ("name", "initialization", "architecture", "message"),
    [
        ("tiny", "pretrained", None, "has no pretrained weights"),
        ("gpt2", "pretrained", {"n_layer": 3}, "cannot follow"),
        ("gpt2", "random", {"n_layers_": 3}, "did you mean 'n_layer'"),
        ("tiny", "random", {"n_head": 5}, "model.architecture does not make a gpt2"),
        ("tiny", "random", {"n_embd": -8}, "model.architecture does not make a gpt2"),
        ("tiny", "random", {"n_embd": 0}, "does not make a gpt2: n_embd is 1 to 32,768, got 0"),
        ("tiny", "random", {"n_layer": 0}, "does not make a gpt2: n_layer is 1 to 1,000, got 0"),
        ("tiny", "random", {"n_layer": 10**9}, "n_layer is 1 to 1,000, got 1,000,000,000"),
        ("tiny", "random", {"n_head": -1}, "n_head is 1 to 4,096, got -1"),
        ("tiny", "random", {"n_positions": -1}, "does not make a gpt2|only -1 positions"),
        ("t5-base", "random", {"d_model": 10**9}, "d_model is 1 to 32,768, got 1,000,000,000"),
        ("tiny", "random", {"n_embd": "8"}, "model.architecture: Field 'n_embd' expected int, got str"),
        ("tiny", "random", {"activation_function": "glue"}, "model.architecture does not make a gpt2: 'glue'"),
        ("Qwen/Qwen2.5-0.5B", "random", {"hidden_size": -8}, "model.architecture does not make a qwen2"),
        ("google/vit-base-patch16-224-in21k", "random", {"patch_size": 0}, "model.architecture does not make a vit"),
    ],
)
def test_a_choice_that_contradicts_itself_is_refused(
    name: str, initialization: Initialization, architecture: dict[str, int] | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build_backbone(BackboneChoice(name, initialization, architecture), 8, 0.1)


def test_a_sequence_longer_than_the_positions_is_refused(gpt2_folder: Path) -> None:
    with pytest.raises(UsageError, match=r"the task has 41 tokens.*only 40 positions.*as data\.limit 40 where"):
        build_backbone(BackboneChoice(str(gpt2_folder)), max_length=41, dropout=0.1)


def test_offline_and_neither_folder_nor_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FPTError, match="neither a folder here nor in the Hugging Face cache") as caught:
        build_backbone(BackboneChoice("nobody/nothing"), 8, 0.1)
    assert str(caught.value).count("\n") == 1
    assert "use pocket, pocket-novels, pocket-brackets, which need no network" in str(caught.value)


def test_a_name_in_the_hubs_cache_is_found_offline(
    fpt: Fpt,
    tiny: list[str],
    gpt2_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The hub's own layout: refs name a commit, snapshots hold its files."""
    repository = tmp_path / "hub" / "models--someone--gpt2"
    shutil.copytree(gpt2_folder, repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    words = [word for word in tiny if "backbone" not in word]
    assert fpt("fit", "--config=bit_xor.yaml", *words, "--model.backbone=someone/gpt2") == 0
    assert "bit_xor on someone/gpt2 (pretrained)" in caplog.text


def _copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(FPTError, match=r"has no config\.json"):
        build_backbone(BackboneChoice(str(tmp_path)), 8, 0.1)


def test_a_folder_without_weights(gpt2_folder: Path, tmp_path: Path) -> None:
    folder = _copy(gpt2_folder, tmp_path / "copy")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FPTError, match="has no weights"):
        build_backbone(BackboneChoice(str(folder)), 8, 0.1)


@pytest.mark.parametrize("damage", ["truncated", "corrupted"])
def test_damaged_weights_are_named(gpt2_folder: Path, tmp_path: Path, damage: str) -> None:
    folder = _copy(gpt2_folder, tmp_path / "copy")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"\xff" * 64 + whole[64:])
    with pytest.raises(FPTError, match=r"model\.safetensors is damaged"):
        build_backbone(BackboneChoice(str(folder)), 8, 0.1)


def test_weights_that_are_not_whole_are_refused(gpt2_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = _copy(gpt2_folder, tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.h.1.ln_1.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FPTError, match=r"lacks 1 of its weights, h\.1\.ln_1\.weight"):
        build_backbone(BackboneChoice(str(folder)), 8, 0.1)


def test_weights_of_other_sizes_are_refused(gpt2_folder: Path, tmp_path: Path) -> None:
    folder = _copy(gpt2_folder, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_embd": 48}))
    with pytest.raises(FPTError, match=r"do not fit config\.json"):
        build_backbone(BackboneChoice(str(folder)), 8, 0.1)


@pytest.mark.parametrize("initialization", ["pretrained", "random"])
@pytest.mark.parametrize(("field", "value"), [("n_head", 5), ("n_layer", 0), ("n_embd", -24)])
def test_a_config_whose_sizes_do_not_fit_each_other(
    gpt2_folder: Path, tmp_path: Path, initialization: Initialization, field: str, value: int
) -> None:
    """It was said to be neither here nor on the hub."""
    folder = _copy(gpt2_folder, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, field: value}))
    message = r"divisible|does not make a gpt2: \w+ is 1 to"
    with pytest.raises(FPTError, match=message) as caught:
        build_backbone(BackboneChoice(str(folder), initialization), 8, 0.1)
    assert "\n" not in str(caught.value)
    assert "hub" not in str(caught.value)


def test_a_config_of_other_types(gpt2_folder: Path, tmp_path: Path) -> None:
    folder = _copy(gpt2_folder, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_embd": "wide"}))
    with pytest.raises(FPTError, match=r"copy': config\.json: Field 'n_embd' expected int, got str"):
        build_backbone(BackboneChoice(str(folder)), 8, 0.1)


def test_a_config_that_is_not_json(gpt2_folder: Path, tmp_path: Path) -> None:
    folder = _copy(gpt2_folder, tmp_path / "copy")
    (folder / "config.json").write_text("{")
    with pytest.raises(FPTError, match=r"config\.json"):
        build_backbone(BackboneChoice(str(folder)), 8, 0.1)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if "xl" not in name and "large" not in name])
def test_every_architecture_known_by_name_needs_no_hub(name: str) -> None:
    """At its width but two layers deep."""
    built = build_backbone(BackboneChoice(name, "random", {"num_hidden_layers": 2} | _narrow(name)), 16, 0.1)
    hidden = built.family.hidden(built.body, torch.zeros(1, 16, built.family.width), None)
    assert hidden.shape == (1, 16, built.family.width)


@pytest.mark.parametrize("name", ["starcoder2", "stablelm", "llama", "roberta"])
def test_any_architecture_of_transformers_by_its_model_type(
    fpt: Fpt, tiny: list[str], name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    groups = ", num_key_value_heads: 1" if name == "stablelm" else ""  # it has 32 whatever the heads
    sizes = f"{{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 40{groups}}}"
    words = [f"--model.backbone={name}", "--model.initialization=random", f"--model.architecture={sizes}"]
    assert fpt("run", "--config=bit_xor.yaml", *tiny, *words, "--run_folder=run") == 0
    assert "[transformers]" not in capfd.readouterr().err


def test_sizes_that_nobody_gives_follow_from_the_others() -> None:
    """A head of Llama is 128 wide only as long as it has 32 of them in 4,096."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
    attention = build_backbone(BackboneChoice("llama", "random", sizes), 8, 0.1).body.layers[0].self_attn
    assert (attention.head_dim, attention.k_proj.weight.shape) == (12, (24, 24))
    with pytest.raises(UsageError, match="does not make a llama: num_key_value_heads 3 does not divide the 2 heads"):
        build_backbone(BackboneChoice("llama", "random", sizes | {"num_key_value_heads": 3}), 8, 0.1)


def test_an_architecture_of_transformers_has_no_weights() -> None:
    with pytest.raises(FPTError, match=r"with model\.initialization random .* or a model_type such as llama\."):
        build_backbone(BackboneChoice("starcoder2"), 8, 0.1)


def test_slices_of_blocks_on_the_command_line_and_in_a_config(fpt: Fpt, tiny: list[str]) -> None:
    """A number is one in what is kept of a run, whoever says it."""
    Path("number.yaml").write_text("model: {layers: 1}\n")
    again = ["--overwrite", "--ckpt_path=last"]

    def kept(run: str) -> object:
        return torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]["layers"]

    for word, layers in (("1:2", "1:2"), ("1", 1)):
        folder = f"--run_folder={word}"
        assert fpt("fit", "--config=bit_xor.yaml", *tiny, f"--model.layers={word}", folder) == 0
        assert kept(word) == layers
        assert fpt("fit", f"--config={word}/config.yaml", "--trainer.max_steps=6", folder, *again) == 0
        assert kept(word) == layers
    more = ["--config=number.yaml", "--trainer.max_steps=8", "--run_folder=1"]
    assert fpt("fit", "--config=bit_xor.yaml", *tiny, *more, *again) == 0
    assert kept("1") == 1


@pytest.mark.parametrize("layers", ["²", "1:²", "two", "2:1", "0:99"])
def test_a_slice_that_is_none_is_named(layers: str) -> None:
    with pytest.raises(UsageError, match=rf"model\.layers.*{layers}"):
        build_backbone(BackboneChoice("tiny", layers=layers), 8, 0.1)


def _narrow(name: str) -> dict[str, object]:
    return {"attention_window": [512] * 2} if "longformer" in name else {}


def test_a_longformers_window_is_no_wider_than_the_task_needs() -> None:
    sizes = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 8}
    built = build_backbone(BackboneChoice("allenai/longformer-base-4096", "random", sizes, layers=1), 16, 0.1)
    assert built.body.config.attention_window == [32]
