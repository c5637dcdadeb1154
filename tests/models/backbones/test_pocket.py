"""The backbones that ship with the package: load by name from anywhere, know their data, are a GPT-2 to transformers."""

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel, GPT2Model

from conftest import Fpt
from fpt_lightning.data.text.generated import ShuffleDyck
from fpt_lightning.models.backbones.architectures import EMBEDDED, location
from fpt_lightning.models.backbones.build import Backbone, build_backbone
from fpt_lightning.models.backbones.choice import BackboneChoice

PASSAGE = (
    "The old man did not answer at once. He went to the window, looked out upon the garden, and stood there for some "
    "time with his hands behind his back. When he turned to his daughter again she saw that his face was very pale. "
    '"You must not think that I am angry with you," he said in a low voice; "but I had hoped that you would come to me '
    'before you gave him your word." She could say nothing, and the tears came into her eyes.'
)


def _body(name: str = "pocket", max_length: int = 64, **options: object) -> Backbone:
    return build_backbone(BackboneChoice(name, **options), max_length, dropout=0.0)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=EMBEDDED)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str) -> Path:
    return EMBEDDED[name]


@pytest.fixture(scope="module")
def language_model(folder: Path) -> GPT2LMHeadModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_it_is_small_and_has_positions_for_the_longest_task_of_the_paper(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 16 * 2**20
    assert json.loads((folder / "config.json").read_text())["n_positions"] >= 1024
    assert {"config.json", "model.safetensors", "MODEL_CARD.md"} <= {path.name for path in folder.iterdir()}
    assert not [path for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]


def test_the_card_names_the_backbone_and_the_file(name: str, folder: Path) -> None:
    card = (folder / "MODEL_CARD.md").read_text()
    assert card.startswith(f"# {name}\n")
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() in card


@pytest.mark.parametrize("name", ["pocket", "pocket-novels"], indirect=True)
def test_it_predicts_english_that_it_has_not_read(folder: Path, language_model: GPT2LMHeadModel) -> None:
    tokens = torch.tensor([AutoTokenizer.from_pretrained(folder)(PASSAGE).input_ids])
    # a word split into its letters would make any model look good
    assert len(PASSAGE) / tokens.numel() > 3
    chance = math.log(language_model.config.vocab_size)
    with torch.no_grad():
        loss = language_model(tokens, labels=tokens).loss.item()
        shuffled = tokens[:, torch.randperm(tokens.numel(), generator=torch.Generator().manual_seed(0))]
        disordered = language_model(shuffled, labels=shuffled).loss.item()
    assert loss < 0.6 * chance
    assert disordered > loss + 1.5


@pytest.mark.parametrize("name", ["pocket-brackets"], indirect=True)
def test_it_closes_brackets_that_are_open(language_model: GPT2LMHeadModel) -> None:
    data = ShuffleDyck(context=128, batch_size=8)
    batch = data.sample(8, torch.device("cpu"))
    with torch.no_grad():
        shares = language_model(batch.tokens).logits.softmax(dim=-1)
    opened = F.one_hot(batch.tokens, 128).cumsum(dim=1)
    still_open = (opened[..., :64] - opened[..., 64:]) > 0  # [windows, tokens, kinds]
    closings = shares[..., 64:]
    assert closings[still_open].mean() > 10 * closings[~still_open].mean()


def test_its_body_is_that_of_transformers(name: str, language_model: GPT2LMHeadModel) -> None:
    built = _body(name)
    assert built.family.width == language_model.config.n_embd
    built.body.eval()
    theirs = language_model.transformer
    tokens = torch.randint(language_model.config.vocab_size, (1, 64), generator=torch.Generator().manual_seed(0))
    embeddings = theirs.wte(tokens)
    with torch.no_grad():
        hidden = built.family.hidden(built.body, embeddings, None)
        expected = language_model(tokens).logits
        torch.testing.assert_close(language_model.lm_head(hidden), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("initialization", ["random", "statistics"])
def test_its_controls_have_its_shapes_and_other_values(initialization: str) -> None:
    pretrained, control = _body().body, _body(initialization=initialization).body
    assert isinstance(control, GPT2Model)
    own, other = pretrained.state_dict(), control.state_dict()
    assert {name: value.shape for name, value in own.items()} == {name: value.shape for name, value in other.items()}
    matrices = [name for name, value in own.items() if value.dim() == 2]
    assert matrices
    assert not any(torch.allclose(own[name], other[name]) for name in matrices)
    if initialization == "statistics":
        for name in ("h.0.attn.c_attn.weight", "h.1.mlp.c_fc.weight"):
            assert other[name].std().item() == pytest.approx(own[name].std().item(), rel=0.02)


def test_a_slice_of_it() -> None:
    whole, part = _body().body, _body(layers="2:4").body
    assert len(part.h) == 2  # type: ignore[arg-type]
    assert torch.equal(part.h[0].attn.c_attn.weight, whole.h[2].attn.c_attn.weight)  # type: ignore[index, union-attr]


def test_a_folder_of_the_users_does_not_take_its_name(gpt2_folder: Path) -> None:
    Path("pocket").symlink_to(gpt2_folder)
    assert _body(max_length=8).family.width == 256
    assert build_backbone(BackboneChoice("./pocket"), 8, 0.0).family.width == 24
    assert location("gpt2") == "gpt2"


def test_a_run_by_name(fpt: Fpt, tiny: list[str]) -> None:
    words = [word for word in tiny if "backbone" not in word]
    assert fpt("run", "--config=bit_xor.yaml", *words, "--model.backbone=pocket", "--run_folder=run") == 0
    result = json.loads(Path("run/result.json").read_text())
    assert (result["backbone"], result["initialization"]) == ("pocket", "pretrained")
    assert "assets" not in Path("run/config.yaml").read_text()  # the run repeats wherever the package lies
