"""Language modelling through the command line, and the folder it leaves."""

import json
import math
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from conftest import Fpt, read_rows
from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.errors import UsageError
from fpt_lightning.training.language.generation import copying_gain
from fpt_lightning.training.language.pretraining import LanguageModel
from fpt_lightning.training.language.schedule import decayed_groups, warm_cosine

TEXT = TaskSpec("language", 32, 300, vocabulary_size=300, answer_tokens=32)


def test_a_run_logs_its_figures_and_leaves_a_folder_that_transformers_reads(
    fpt: Fpt, small_language: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fpt("fit", *small_language, "--run_folder=run") == 0
    rows = read_rows(Path("run/metrics.csv"))
    for row in (row for row in rows if row["val_loss"]):
        assert float(row["val_perplexity"]) == pytest.approx(math.exp(float(row["val_loss"])), rel=1e-4)
        assert abs(float(row["val_copying_gain"])) < 1
    assert [float(row["lr"]) for row in rows if row["lr"]] == pytest.approx([5e-4, 1e-3, 1e-3, 5.5e-4])
    model, found = AutoModelForCausalLM.from_pretrained("run/backbone", output_loading_info=True)
    assert not any(found.values())
    best = torch.load("run/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, best[f"model.{name}"])
    tokenizer = AutoTokenizer.from_pretrained("run/backbone")
    assert len(tokenizer) == model.config.vocab_size == 300
    assert tokenizer.decode(tokenizer("abc def").input_ids) == "abc def"


def test_a_run_that_goes_on_elsewhere_leaves_a_folder_there(
    fpt: Fpt, small_language: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where no validation there is as good as the best of before."""
    assert fpt("fit", *small_language, "--run_folder=run") == 0
    longer = [*small_language, "--ckpt_path=run/checkpoints/last.ckpt", "--trainer.max_steps=6", "--run_folder=on"]
    file = Path("run/checkpoints/last.ckpt")
    content = torch.load(file, weights_only=True)
    content["callbacks"]["ExportBackbone"]["best"] = 0.0
    torch.save(content, file)
    assert fpt("fit", *longer) == 0
    assert Path("on/backbone/model.safetensors").is_file()
    capsys.readouterr()
    assert fpt("fit", *small_language, "--checkpoint.monitor=val_los", "--run_folder=wrong") == 2
    assert "checkpoint.monitor is one of val_loss," in capsys.readouterr().err


def test_the_end_of_text_is_the_tokenizers() -> None:
    """Which of another folder has it anywhere, as GPT-2's has it last."""
    words = {"a": 0, "b": 1, "<|endoftext|>": 2}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<|endoftext|>"))
    text = TaskSpec("language", 8, 3, vocabulary_size=3, answer_tokens=8)
    LanguageModel(text, width=16, layers=1, heads=2, positions=8).save_backbone(Path("body"), tokenizer)
    model = AutoModelForCausalLM.from_pretrained("body")
    for config in (model.config, model.generation_config):
        assert config.bos_token_id == config.eos_token_id == 2


def test_any_config_takes_that_folder_as_a_backbone(fpt: Fpt, small_language: list[str], tiny: list[str]) -> None:
    assert fpt("fit", *small_language, "--run_folder=run") == 0
    words = [word for word in tiny if "backbone" not in word]
    assert fpt("run", "--config=bit_xor.yaml", *words, "--model.backbone=run/backbone", "--run_folder=next") == 0
    assert json.loads(Path("next/result.json").read_text())["initialization"] == "pretrained"


def test_resuming_repeats_the_run_bit_for_bit(fpt: Fpt, small_language: list[str]) -> None:
    words = [*small_language, "--data.repeat_share=0.5"]
    assert fpt("fit", *words, "--run_folder=whole") == 0
    assert fpt("fit", *words, "--run_folder=part", "--trainer.limit_train_batches=3", "--trainer.max_epochs=1",
               "--trainer.val_check_interval=2") == 0  # fmt: skip
    assert fpt("fit", *words, "--ckpt_path=part/checkpoints/last.ckpt") == 0
    whole, part = (torch.load(f"{name}/checkpoints/last.ckpt", weights_only=True) for name in ("whole", "part"))
    assert whole["global_step"] == part["global_step"] == 4
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, part["state_dict"][name]), name
    losses = [
        [row["train_loss"] for row in read_rows(Path(name, "metrics.csv")) if row["train_loss"]]
        for name in ("whole", "part")
    ]
    assert losses[0] == losses[1]


def test_a_run_goes_on_at_the_rate_it_began_with(
    fpt: Fpt, small_language: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fpt("fit", *small_language, "--run_folder=run") == 0
    longer = [*small_language, "--ckpt_path=run/checkpoints/last.ckpt", "--trainer.max_steps=6"]
    capsys.readouterr()
    assert fpt("fit", *longer, "--model.lr=0.5") == 2
    assert "and is 0.5 here: leave it as it was, or start another run" in capsys.readouterr().err
    assert fpt("fit", *longer) == 0


def test_a_checkpoint_of_another_tokenizer_is_refused(
    fpt: Fpt, small_language: list[str], text_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fpt("fit", *small_language, "--run_folder=run") == 0
    for book in text_root.glob("*.txt"):
        book.write_text(book.read_text().upper())
    capsys.readouterr()
    assert fpt("fit", *small_language, "--ckpt_path=run/checkpoints/last.ckpt", "--trainer.max_steps=6") == 1
    assert "another tokenizer than this run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--model.positions=16"], "model.positions 16 are fewer than the tokens of data.context 32"),
        (["--model.heads=3"], "model.heads 3 does not divide model.width 16"),
        (["--model.moved_share=1.5"], "model.moved_share lies between 0 and 1"),
        (["--model.lr=0"], "model.lr must be above 0"),
        (["--data.vocabulary=9000"], "data.vocabulary 9000 is larger than the training texts support"),
        (["--trainer.max_steps=-1", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1"], "trainer.max_steps must be above 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_before_it_starts(
    fpt: Fpt, small_language: list[str], words: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fpt("fit", *small_language, *words, "--run_folder=run") == 2
    assert fault in capsys.readouterr().err
    assert not list(Path().rglob("*.ckpt"))


def test_a_run_says_what_was_learnt(fpt: Fpt, small_language: list[str]) -> None:
    assert fpt("run", *small_language, "--arm=novels", "--run_folder=run") == 0
    result = json.loads(Path("run/result.json").read_text())
    assert (result["task"], result["arm"], result["steps"]) == ("language", "novels", 4)
    assert result["test_loss"] < math.log(300) + 1
    assert "baselines" not in result
    assert Path("run/backbone/model.safetensors").is_file()


def test_a_language_model_learns_from_text_alone() -> None:
    with pytest.raises(UsageError, match="learns from text"):
        LanguageModel(TaskSpec("bit_xor", 10, 2, token_width=1))


def test_validate_and_predict_read_a_checkpoint(fpt: Fpt, small_language: list[str]) -> None:
    assert fpt("fit", *small_language, "--run_folder=run") == 0
    for command in ("validate", "test", "predict"):
        assert fpt(command, *small_language, "--ckpt_path=run/checkpoints/best.ckpt") == 0
    predicted = read_rows(Path("run/predictions.csv"))
    assert len(predicted) == 6
    assert len(predicted[0]["prediction"].split()) == 32


def test_matrices_alone_decay_and_each_once() -> None:
    model = LanguageModel(TEXT, width=16, layers=1, heads=2, positions=64).model
    decayed, kept = decayed_groups(model, 0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(parameter)] for parameter in decayed["params"]} == {
        "transformer.wte.weight", "transformer.wpe.weight", "transformer.h.0.attn.c_attn.weight",
        "transformer.h.0.attn.c_proj.weight", "transformer.h.0.mlp.c_fc.weight", "transformer.h.0.mlp.c_proj.weight",
    }  # fmt: skip
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) + len(kept["params"]) == len(names)


def test_the_rate_rises_in_a_line_and_falls_along_a_cosine() -> None:
    factor = warm_cosine(10, 110)
    assert [factor(step) for step in (0, 4, 9, 10, 60, 110, 500)] == pytest.approx([0.1, 0.5, 1, 1, 0.55, 0.1, 0.1])


def _drawn(moved_share: float) -> torch.Tensor:
    model = LanguageModel(TEXT, width=16, layers=1, heads=2, positions=100, moved_share=moved_share)
    torch.manual_seed(0)
    drawn = model._drawn_positions(torch.zeros(20_000, 32, dtype=torch.long))
    assert (drawn.diff(dim=1) == 1).all()
    return drawn


def test_moved_windows_train_every_position_about_as_often() -> None:
    share = _drawn(1.0).flatten().bincount(minlength=100) / 20_000
    assert len(share) == 100
    assert share.min() > 0.9 * 32 / 132


def test_the_other_windows_begin_at_the_first_position() -> None:
    # of the moved ones a quarter is pushed back from before the first: 32 places of 132
    first = (_drawn(0.25)[:, 0] == 0).float().mean().item()
    assert first == pytest.approx(0.75 + 0.25 * 33 / 133, abs=0.02)
    assert not _drawn(0.0)[:, 0].any()


def test_copying_gain_tells_a_model_that_copies_from_one_that_cannot() -> None:
    config = GPT2Config(vocab_size=50, n_positions=128, n_embd=16, n_layer=1, n_head=2)
    config.bos_token_id = config.eos_token_id = 0
    model = GPT2LMHeadModel(config).eval()
    assert abs(copying_gain(model).item()) < 0.1

    class Copies(GPT2LMHeadModel):
        def forward(self, input_ids: torch.Tensor, **_: object) -> object:  # type: ignore[override]
            logits = torch.zeros(*input_ids.shape, 50)
            logits[:, 63:] = torch.nn.functional.one_hot(input_ids.roll(63, dims=1), 50)[:, 63:] * 20.0
            return type("Output", (), {"logits": logits})

    assert copying_gain(Copies(config)).item() == pytest.approx(math.log(50), abs=0.1)
