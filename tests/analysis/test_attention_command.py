"""`fpt attention` on runs, and the words of the tasks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import Fpt, write_table
from fpt_lightning import CIFAR10LRA, MNIST, BitMemory, BitXOR, ListOps, SequenceFile
from fpt_lightning.analysis.attention import _batches
from fpt_lightning.data.spec import Batch

MEMORY = ["--data.n=20", "--data.patch_size=5", "--data.batch_size=4", "--data.test_examples=20"]


def _figures(run: str = "run", name: str = "attention") -> dict[str, Any]:
    assert Path(run, f"{name}.png").read_bytes().startswith(b"\x89PNG")
    figures: dict[str, Any] = json.loads(Path(run, f"{name}.json").read_text())
    for row in figures["mean"]:
        assert sum(row) == pytest.approx(1, abs=1e-4)
        assert len(row) == len(figures["tokens"])
    return figures


def test_a_run_of_bit_xor(fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert fpt("run", "--config=bit_xor.yaml", *tiny, "--run_folder=run") == 0
    assert fpt("attention", "run", "--layer=2", "--examples=40") == 0
    figures = _figures()
    assert figures["tokens"] == ["a1", "a2", "a3", "a4", "a5", "b1", "b2", "b3", "b4", "b5"]
    assert (figures["layer"], figures["examples"], figures["checkpoint"]) == (2, 40, "checkpoints/best.ckpt")
    assert figures["uniform_share"] == pytest.approx(2 / 5 * sum(1 / seen for seen in range(6, 11)))
    assert 0 < figures["needed_share"] < 1
    needed = sum(figures["mean"][i][i] + figures["mean"][i][i + 5] for i in range(5)) / 5
    assert figures["needed_share"] == pytest.approx(needed, abs=1e-4)
    out = capsys.readouterr().out
    assert f"{100 * figures['needed_share']:.1f} % of the answers' attention on the bits needed, 25.8 % if" in out
    assert "run/attention.png, run/attention.json" in out


def test_a_run_is_shown_with_the_weights_of_its_checkpoint(fpt: Fpt, tiny: list[str]) -> None:
    words = ["--config=bit_memory.yaml", *tiny, *MEMORY, "--model.lr=0.1"]
    assert fpt("fit", *words, "--run_folder=run") == 0
    assert fpt("attention", "--checkpoint=run/checkpoints/last.ckpt") == 0
    assert not Path("run/attention.json").exists()  # which a page takes for the run's
    last = _figures(name="attention-last")["mean"]
    for path in ("run/checkpoints/best.ckpt", "run/checkpoints/last.ckpt"):
        content = torch.load(path, weights_only=True)
        content["state_dict"]["model.input.weight"] *= 0
        torch.save(content, path)
    assert fpt("attention", "--checkpoint=run") == 0
    assert _figures()["mean"] != last


def test_a_run_whose_checkpoints_lie_elsewhere(
    fpt: Fpt, tiny: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = ["--checkpoint.dirpath=kept/checkpoints", "--last_checkpoint.dirpath=kept/checkpoints"]
    words = ["--config=bit_xor.yaml", *tiny, *elsewhere]
    assert fpt("run", *words, "--run_folder=run", "--pause_at=2") == 0
    Path("other").mkdir()
    monkeypatch.chdir("other")
    assert fpt("run", "../run") == 0  # it goes on, from where the folder's name was meant
    assert not Path("kept").exists()
    monkeypatch.chdir("..")
    assert len(json.loads(Path("run/result.json").read_text())) > 5
    assert {path.name for path in Path("kept/checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert fpt("attention", "run") == 0
    assert _figures()["checkpoint"] == "../kept/checkpoints/best.ckpt"
    assert fpt("predict", "run") == 0
    assert Path("run/predictions.csv").is_file()
    assert not Path("kept/predictions.csv").exists()
    assert fpt("predict", "run", "--predictions.path=mine.csv") == 0
    assert Path("mine.csv").is_file()
    capsys.readouterr()
    assert fpt("run", *words[:-2], "--run_folder=named", "--checkpoint.filename=best-{step}") == 2
    assert "checkpoint.filename best-{step} is a pattern, by which no run folder is read" in capsys.readouterr().err


def test_the_chosen_checkpoint_is_that_of_the_run_whatever_its_name(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["--checkpoint.filename=chosen", "--last_checkpoint.filename=best"]
    assert fpt("run", "--config=bit_xor.yaml", *tiny, *names, "--run_folder=run") == 0
    assert "run: result.json, metrics.csv, checkpoints/chosen.ckpt, trained.safetensors" in capsys.readouterr().out
    assert fpt("attention", "run") == 0
    assert _figures()["checkpoint"] == "checkpoints/chosen.ckpt"
    assert fpt("attention", "run/checkpoints/best.ckpt", "--examples=10") == 0
    assert _figures(name="attention-best")["checkpoint"] == "checkpoints/best.ckpt"
    assert fpt("attention", "run/checkpoints/chosen.ckpt", "--examples=20") == 0
    assert _figures()["examples"] == 20


def test_a_run_may_be_called_as_its_backbone(fpt: Fpt, tiny: list[str]) -> None:
    words = ["--config=bit_xor.yaml", *tiny, "--model.backbone=gpt2", "--model.initialization=random"]
    words += ["--model.architecture={n_embd: 32, n_layer: 1, n_head: 2}"]
    assert fpt("run", *words, "--run_folder=gpt2") == 0
    assert fpt("test", "gpt2") == 0
    assert fpt("attention", "gpt2") == 0


def test_images_and_sequences_of_differing_length(fpt: Fpt, tiny: list[str], mnist_root: Path) -> None:
    images = [f"--data.root={mnist_root}", "--data.validation_examples=20", "--data.eval_batch_size=8"]
    assert fpt("run", "--config=mnist.yaml", *tiny, *images, "--run_folder=image") == 0
    assert fpt("attention", "--checkpoint=image") == 0
    figures = _figures("image")
    assert (figures["examples"], figures["needed_share"]) == (30, None)
    assert figures["tokens"][-1] == "row 8, column 8"
    lists = [f"--data.{split}_examples=40" for split in ("train", "validation", "test")]
    lists += ["--data.min_length=10", "--data.max_length=60"]
    assert fpt("run", "--config=listops.yaml", *tiny, *lists, "--run_folder=lists") == 0
    assert fpt("attention", "--checkpoint=lists", "--examples=5") == 0
    assert _figures("lists")["aligned_at"] == "last token"


def test_examples_that_lie_class_by_class_are_of_all_classes() -> None:
    classes: list[object] = ["cat"] * 30 + ["dog"] * 30
    write_table(Path("rows.csv"), {"x": list(range(60)), "y": classes})
    table = SequenceFile("y", "rows.csv", test_file="rows.csv")
    targets = torch.cat([batch.target for batch, _ in _batches(table, 20)])
    assert len(targets) == 20
    assert targets.unique().tolist() == [0, 1]
    bits = BitXOR(n=4, test_examples=30)
    tokens = torch.cat([batch.tokens for batch, _ in _batches(bits, 20)])
    assert torch.equal(tokens, bits.examples("test").__getitems__(range(20)).tokens)


def test_what_a_run_folder_lacks_is_named(fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    def error(*words: str) -> str:
        capsys.readouterr()
        assert fpt("attention", *words) in (1, 2)
        message = capsys.readouterr().err
        assert message.startswith("fpt: error: ")
        assert message.count("\n") <= 2
        return message

    assert "there is no run folder nowhere" in error("--checkpoint=nowhere")
    Path("empty").mkdir()
    assert "empty has no config.yaml: it is not a run folder" in error("--checkpoint=empty")
    assert "unrecognized arguments: --layr=3" in error("--checkpoint=run", "--layr=3")
    assert "--examples must be at least 1, got 0" in error("--checkpoint=run", "--examples=0")
    assert fpt("run", "--config=bit_xor.yaml", *tiny, "--run_folder=run") == 0
    assert "there is no layer 3: backbone 'tiny' has 2" in error("--checkpoint=run", "--layer=3")
    Path("run/checkpoints/best.ckpt").rename("run/checkpoints/other.ckpt")
    assert "there is no run/checkpoints/best.ckpt: the run ended before a validation" in error("--checkpoint=run")
    assert "`fpt run run` goes on with it" in error("--checkpoint=run")
    Path("run/checkpoints/best.ckpt").write_bytes(Path("run/checkpoints/last.ckpt").read_bytes()[:2000])
    assert "best.ckpt is not a checkpoint" in error("--checkpoint=run")
    Path("run/config.yaml").write_text("model: [")
    assert "run/config.yaml is not YAML" in error("--checkpoint=run/checkpoints/other.ckpt")


def test_one_run_is_drawn(fpt: Fpt, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["run", "--checkpoint=run"]):
        assert fpt("attention", *words) == 2
        assert "fpt attention RUN draws the attention of one run" in capsys.readouterr().err


def test_runs_without_a_map_say_why(
    fpt: Fpt, tiny: list[str], small_language: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in tiny if "backbone" not in word]
    assert fpt("run", "--config=bit_xor.yaml", "--config=controls/none.yaml", *words, "--run_folder=none") == 0
    assert fpt("attention", "--checkpoint=none") == 2
    assert "backbone 'none' has no attention" in capsys.readouterr().err
    assert fpt("fit", *small_language, "--run_folder=language") == 0
    assert fpt("attention", "--checkpoint=language") == 2
    assert "language trained a language model" in capsys.readouterr().err
    assert fpt("run", "--config=bit_xor.yaml", *tiny, "--model.shuffle_tokens=true", "--run_folder=order") == 0
    assert fpt("attention", "--checkpoint=order") == 2
    assert "order reads its tokens in random orders" in capsys.readouterr().err


def _first(data: BitMemory | BitXOR, examples: int = 8) -> Batch:
    batch: Batch = data.examples("test").__getitems__(range(examples))
    return batch


def test_the_bits_needed_decide_the_answer() -> None:
    memory = BitMemory(n=20, patterns=3, patch_size=5)
    batch = _first(memory)
    needed = memory.needed_tokens(batch)
    assert needed is not None
    assert needed.shape == (8, 4, 16)
    assert (needed.sum(-1) == 1).all()
    for example, answer, token in needed.nonzero().tolist():
        expected = batch.target[example].view(4, 5)[answer] * 2 - 1
        assert torch.equal(batch.tokens[example, token].long(), expected)
    xor = BitXOR(n=4, patterns=3)
    batch = _first(xor)
    needed = xor.needed_tokens(batch)
    assert needed is not None
    assert torch.equal((needed * batch.tokens[:, None, :, 0]).sum(-1) % 2, batch.target.float())


def test_the_words_of_the_tasks() -> None:
    memory = BitMemory().token_words()
    assert memory.groups[0] == (0, "string 1")
    assert memory.groups[-1] == (100, "masked string")
    assert (memory.names[41], len(memory.names)) == ("string 3, patch 2", 120)
    assert BitXOR(n=2, patterns=3).token_words().names == ("a1", "a2", "b1", "b2", "c1", "c2")
    assert len(set(BitXOR(n=2, patterns=30).token_words().names)) == 60
    assert MNIST().token_words().grid == (8, 8)
    assert CIFAR10LRA().token_words().names[33] == "row 2, column 2"
    lists = ListOps(max_length=50, min_length=10)
    assert lists.token_words().names[:2] == ("1", "2")
    assert lists.needed_tokens(Batch(torch.zeros(0), torch.zeros(0))) is None
