"""`fpt analyze` on runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from conftest import Fpt, write_table
from fpt_lightning.analysis.layers import layers_of
from fpt_lightning.analysis.rebuild import rebuild
from fpt_lightning.runs.find import find_run


def _figures(run: str) -> dict[str, Any]:
    assert Path(run, "analysis.png").read_bytes().startswith(b"\x89PNG")
    figures: dict[str, Any] = json.loads(Path(run, "analysis.json").read_text())
    return figures


def test_two_runs_side_by_side(fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        seed = f"--seed_everything={len(name) + ord(name[0])}"
        assert fpt("run", "--config=bit_xor.yaml", *tiny, f"--run_folder={name}", seed) == 0
    assert fpt("analyze", "one", "two", "--examples=80") == 0
    figures = _figures("one")
    assert figures["layers"] == ["embeddings", "block 1", "end"]
    assert [run["run"] for run in figures["runs"]] == ["one", "two"]
    assert all(0.3 < score <= 1 for run in figures["runs"] for score in run["probe"])
    assert all(-0.5 < alike < 1.001 for row in figures["cka"] for alike in row)
    first, second, where = capsys.readouterr().out.splitlines()[-3:]
    assert first.startswith("tiny random in one: a linear layer reads 0.")  # two of a kind need their folders
    assert second.startswith("tiny random in two: a linear layer reads 0.")
    assert where == "80 validation examples: one/analysis.png, one/analysis.json"
    assert fpt("analyze", "one") == 0
    alone = _figures("one")["cka"]
    assert [alone[layer][layer] for layer in range(3)] == pytest.approx([1, 1, 1])
    kept = Path("one/analysis.json").read_bytes()
    assert fpt("analyze", "one/checkpoints/last.ckpt", "--examples=80") == 0  # not the one that the run's test is of
    assert Path("one/analysis.json").read_bytes() == kept
    assert json.loads(Path("one/analysis-last.json").read_text())["examples"] == 80
    assert Path("one/analysis-last.png").is_file()


@pytest.mark.parametrize("command", ["analyze", "attention"])
def test_names_of_any_length_stay_within_the_picture(
    fpt: Fpt, tiny: list[str], gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Two runs of a sweep over one body are told apart by their folders, a body of one's own by its path."""
    body = Path("trained_somewhere_on_a_cluster/in_a_folder_for_every_project/and_another_for_each_of_its_days/here")
    shutil.copytree(gpt2_folder, body)
    names = [f"runs/tables/listops_as_released-{digit * 12}" for digit in "01"]
    for name in names:
        assert fpt("run", "--config=bit_xor.yaml", *tiny, f"--model.backbone={body}", f"--run_folder={name}") == 0
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **how: (drawn.append(figure), save(figure, *a, **how)))
    assert fpt(command, *(names if command == "analyze" else names[:1]), "--examples=20") == 0
    (figure,) = drawn
    inches, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(inches.x0, inches.y0) >= 0
    assert inches.x1 <= width
    assert inches.y1 <= height
    if command == "analyze":
        probes, alike, _ = figure.axes
        legend = probes.get_legend()
        assert legend is not None
        assert probes.get_window_extent().contains(*legend.get_window_extent().min)
        assert all(place % 1 == 0 for axis in (probes.xaxis, alike.xaxis, alike.yaxis) for place in axis.get_ticklocs())


@pytest.mark.parametrize("backbone", ["gpt2", "bert", "t5", "longformer", "vit"])
def test_the_end_is_what_the_output_layer_reads(fpt: Fpt, backbone: str) -> None:
    sizes = {
        "gpt2": "{n_embd: 16, n_layer: 2, n_head: 2}",
        "t5": "{d_model: 16, d_ff: 16, d_kv: 8, num_heads: 2, num_layers: 2}",
        "longformer": "{hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 16, "
        "attention_window: [8, 8]}",
    }
    plain = "{hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 16}"
    words = [
        "--config=bit_xor.yaml", f"--config=backbones/{backbone}.yaml", "--model.initialization=random",
        f"--model.architecture={sizes.get(backbone, plain)}", "--trainer.max_steps=1", "--trainer.accelerator=cpu",
        "--trainer.val_check_interval=1", "--trainer.limit_val_batches=1", "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    assert fpt("fit", *words, "--run_folder=run") == 0
    module, data = rebuild(*find_run(Path("run")))
    data.setup("fit")
    found = layers_of(module.model, data, "validation", 10)
    assert [states.shape for states in found.states] == [(10, 5, 16)] * 3
    batch = data.as_met(data.examples("validation").__getitems__(data.some("validation", 10)), torch.device("cpu"))
    with torch.no_grad():
        logits = module.model.output(found.states[-1])
        assert torch.allclose(logits.flatten(), module.model(batch.tokens, batch.mask).flatten(), atol=1e-5)


def test_a_probe_finds_what_the_embeddings_hold(fpt: Fpt, tiny: list[str], mnist_root: Path) -> None:
    """Padded sequences and one answer too: the scores are those of a classification of ten."""
    images = [f"--data.root={mnist_root}", "--data.validation_examples=20", "--data.eval_batch_size=8"]
    assert fpt("run", "--config=mnist.yaml", *tiny, *images, "--run_folder=image") == 0
    assert fpt("analyze", "image", "--examples=40") == 0
    assert len(_figures("image")["runs"][0]["probe"]) == 3
    assert (_figures("image")["fitted"], _figures("image")["examples"]) == (40, 20)  # all that there are
    assert fpt("run", "--config=listops.yaml", *tiny, "--run_folder=padded", "--data.train_examples=40",
               "--data.validation_examples=20", "--data.test_examples=20", "--data.min_length=10",
               "--data.max_length=60") == 0  # fmt: skip
    assert fpt("analyze", "padded", "--examples=16") == 0


def test_what_is_no_number_is_null(fpt: Fpt, tiny: list[str]) -> None:
    """The embeddings of a last word that is always the same are like nothing."""
    words: list[object] = [f"{'xyz'[row % 3]} {'xy'[row % 2]} end" for row in range(60)]
    write_table(Path("words.csv"), {"text": words, "label": ["P", "Q"] * 30})
    table = ["--config=table.yaml", "--data.train_file=words.csv", "--data.kind=words", "--data.batch_size=4"]
    assert fpt("run", *table, *tiny, "--run_folder=run") == 0
    assert fpt("analyze", "run") == 0
    assert "NaN" not in Path("run/analysis.json").read_text()
    assert _figures("run")["cka"][0] == [None] * 3


def test_what_cannot_be_analysed_is_said(
    fpt: Fpt, tiny: list[str], weights_csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, words in {
        "xor": ["--config=bit_xor.yaml", *tiny],
        "memory": ["--config=bit_memory.yaml", *tiny, "--data.n=20", "--data.patch_size=5"],
        "order": ["--config=bit_xor.yaml", *tiny, "--model.shuffle_tokens=true"],
        "lstm": ["--config=bit_xor.yaml", *tiny, "--model.backbone=lstm", "--model.architecture={width: 8}"],
        "number": ["--config=table.yaml", f"--data.train_file={weights_csv}", *tiny, "--data.target_column=weight",
                   "--data.regression=true", "--data.batch_size=4"],
    }.items():  # fmt: skip
        assert fpt("run", *words, f"--run_folder={name}") == 0
    capsys.readouterr()
    assert fpt("analyze", "xor", "memory") == 2
    assert "read different data" in capsys.readouterr().err
    assert fpt("analyze", "lstm") == 2
    assert "backbone 'lstm' has no blocks" in capsys.readouterr().err
    assert fpt("analyze", "order") == 2
    assert "order reads its tokens in random orders" in capsys.readouterr().err
    assert fpt("analyze", "xor", "--examples=3") == 2
    assert fpt("analyze", "nowhere") == 1
    assert not Path("lstm", "analysis.json").exists()
    assert not Path("order", "analysis.json").exists()
    assert fpt("analyze", "number", "--examples=30") == 0
    assert max(_figures("number")["runs"][0]["probe"]) <= 1
