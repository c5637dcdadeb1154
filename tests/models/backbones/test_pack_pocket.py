"""What becomes a backbone that ships with the package: a run's best weights in bf16, and a card of what was measured."""

import hashlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

from conftest import Fpt

sys.path.append(str(Path(__file__).parents[3] / "tools"))
import pack_pocket

SMALL_BRACKETS = [
    "--config=pretrain/dyck.yaml",
    "--data.context=16",
    "--data.evaluation_windows=4",
    "--model.width=16",
    "--model.layers=1",
    "--model.heads=2",
    "--model.positions=64",
    "--model.warmup_steps=1",
    "--trainer.max_steps=4",
    "--trainer.val_check_interval=2",
    "--trainer.accelerator=cpu",
]


def _packed(fpt: Fpt, config: str, words: list[str]) -> str:
    """The card of a run, whose folder is checked on the way."""
    assert fpt("run", *words, "--run_folder=run", "--model.lr=0.01") == 0
    Path("ngram.json").write_text(json.dumps({"unigram": 90.0, "5-gram": 70.0}))
    options = ["--run=run", f"--config={config}", "--ngram=ngram.json", "--compute=a minute", "--out=packed"]
    pack_pocket.main(options)
    packed = GPT2LMHeadModel.from_pretrained("packed")
    assert packed.dtype == torch.bfloat16
    best = torch.load("run/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    for name, value in packed.state_dict().items():
        assert torch.equal(value, best[f"model.{name}"].bfloat16())
    card = Path("packed/MODEL_CARD.md").read_text()
    assert hashlib.sha256(Path("packed/model.safetensors").read_bytes()).hexdigest() in card
    assert "{" not in card
    return card


def _loss(card: str) -> float:
    """Nats a token on validation."""
    (found,) = re.findall(r"nats a token \| ([\d.]+)", card)
    return float(found)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_of_books(fpt: Fpt, small_language: list[str], share: float) -> None:
    words = [*small_language, f"--data.repeat_share={share}", "--data.evaluation_windows=null"]
    card = _packed(fpt, "pretrain/language.yaml", words)
    assert ("**The plain text alone**" in card) == (share == 0.0)
    assert ("in 50% of the training windows" in card) == (share == 0.5)
    assert "| 5-gram, interpolated Kneser-Ney, perplexity | 70.0 | |" in card
    assert _loss(card) == pytest.approx(json.loads(Path("run/result.json").read_text())["val_loss"], abs=0.02)
    assert Path("packed/tokenizer.json").is_file()


def test_of_brackets(fpt: Fpt) -> None:
    card = _packed(fpt, "pretrain/dyck.yaml", SMALL_BRACKETS)
    assert "64 kinds of brackets" in card
    assert _loss(card) == pytest.approx(json.loads(Path("run/result.json").read_text())["val_loss"], abs=0.02)
    (told,) = [line.split()[2:] for line in card.splitlines() if line.startswith("    fpt fit")]
    asked = [word for option in SMALL_BRACKETS if not option.endswith("cpu") for word in option.split("=")]
    # as the card says it, so it repeats the run
    assert {*asked, "--model.lr", "0.01", "--seed_everything", "0"} == set(told)
