"""New data is read as the training data was: columns, words, classes, units, and not as it says itself."""

import csv
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from torch.utils.data import DataLoader, IterableDataset

from conftest import Fpt, read_rows, write_table
from fpt_lightning import FPTClassifier, FPTTrainer, HubDataset, SequenceFile, load
from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.runs.result import read_json
from fpt_lightning.training.artifacts.checkpoint import read_checkpoint
from fpt_lightning.training.artifacts.predictions import PredictionWriter

Columns = dict[str, list[object]]
BEST = "--ckpt_path=run/checkpoints/best.ckpt"


def _sensors(rows: int = 60) -> Columns:
    """Two far columns with different spreads, and a class that one of them decides."""
    numbers = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 100.0]) + 50
    states: list[object] = ["idle" if first < 50 else "pump" for first in numbers[:, 0].tolist()]
    return {"flow": numbers[:, 0].tolist(), "heat": numbers[:, 1].tolist(), "state": states}


def _first(columns: Columns, rows: int) -> Columns:
    return {name: values[:rows] for name, values in columns.items()}


@pytest.fixture
def trained(fpt: Fpt, tiny: list[str]) -> Columns:
    """A run in ``run`` on ``train.csv``, and what that file holds."""
    columns = _sensors()
    write_table(Path("train.csv"), columns)
    words = ["--config=table.yaml", "--data.train_file=train.csv", "--data.target_column=state", "--data.batch_size=4"]
    assert fpt("fit", *words, *tiny, "--run_folder=run") == 0
    return columns


def _predict(fpt: Fpt, *words: str, run: str = "run") -> list[dict[str, str]]:
    config = f"--config={run}/config.yaml"
    assert fpt("predict", config, f"--ckpt_path={run}/checkpoints/best.ckpt", *words) == 0
    return read_rows(Path(run) / "predictions.csv")


def test_rows_without_a_target_in_another_order_beside_other_columns(fpt: Fpt, trained: Columns) -> None:
    labelled = _predict(fpt, "--data.predict_file=train.csv")
    new = _first({"id": list(range(60)), "heat": trained["heat"], "flow": trained["flow"]}, 5)
    write_table(Path("new.csv"), new)
    rows = _predict(fpt, "--data.predict_file=new.csv")
    assert list(rows[0]) == ["example", "prediction", "probability"]
    assert [row["example"] for row in rows] == list("01234")
    assert {row["prediction"] for row in rows} <= {"idle", "pump"}
    for row, same in zip(rows, labelled, strict=False):
        assert row["prediction"] == same["prediction"]
        assert float(row["probability"]) == pytest.approx(float(same["probability"]), abs=1e-6)
    assert [row["target"] for row in labelled] == trained["state"]
    assert list(labelled[0]) == ["example", "prediction", "probability", "target"]


def test_rows_that_are_cut_from_the_training_table_have_its_numbers(fpt: Fpt, trained: Columns) -> None:
    rows, whole = _predict(fpt), _predict(fpt, "--data.predict_file=train.csv")
    assert len(rows) == 6
    for row in rows:
        same = whole[int(row["example"])]
        assert (row["target"], row["prediction"]) == (same["target"], same["prediction"])
        assert float(row["probability"]) == pytest.approx(float(same["probability"]), abs=1e-6)


def test_columns_that_a_smaller_limit_leaves_are_in_their_own_units(fpt: Fpt, trained: Columns) -> None:
    """And not in those of the columns that were cut, in every second row."""
    whole = _predict(fpt, "--data.predict_file=train.csv", "--data.limit=1")
    write_table(Path("new.csv"), {name: trained[name][1:] for name in ("flow", "heat")})
    rows = _predict(fpt, "--data.predict_file=new.csv", "--data.limit=1")
    same = [float(row["probability"]) for row in whole[1:]]
    assert [float(row["probability"]) for row in rows] == pytest.approx(same, abs=1e-6)


def test_neither_the_training_table_nor_statistics_of_the_new_one_are_needed(fpt: Fpt, trained: Columns) -> None:
    whole = _predict(fpt, "--data.predict_file=train.csv")
    Path("train.csv").unlink()
    write_table(Path("one.csv"), _first({name: trained[name] for name in ("flow", "heat")}, 1))
    (row,) = _predict(fpt, "--data.predict_file=one.csv")
    assert float(row["probability"]) == pytest.approx(float(whole[0]["probability"]), abs=1e-6)


def test_answers_do_not_go_to_a_folder(fpt: Fpt, trained: Columns, capsys: pytest.CaptureFixture[str]) -> None:
    Path("answers").mkdir()
    assert fpt("predict", "run", "--predictions.path=answers") == 2
    assert "--predictions.path answers is a folder: name the file" in capsys.readouterr().err
    assert sorted(path.name for path in Path().glob(".*.part")) == []


def test_logits_that_are_not_finite_are_no_answer(
    fpt: Fpt, tiny: list[str], trained: Columns, caplog: pytest.LogCaptureFixture
) -> None:
    """Of which torch makes class 0, here the right one of both."""
    far = [*trained["flow"][:6], 1e30, 1e25]
    write_table(Path("far.csv"), {"flow": far, "heat": [50.0] * 8, "state": [*trained["state"][:6], "idle", "idle"]})
    words = ["--config=table.yaml", "--data.train_file=train.csv", "--data.target_column=state", "--data.batch_size=4"]
    words += [*tiny, "--data.test_file=far.csv", "--trainer.limit_test_batches=null"]
    assert fpt("run", *words, "--run_folder=far") == 0
    assert caplog.text.count("test: 2 answers are wrong because their logits are not finite") == 1
    rows = _predict(fpt, "--data.predict_file=far.csv", run="far")
    assert "far/predictions.csv, 2 of them empty because the logits are not finite" in caplog.text
    assert [(row["prediction"], row["probability"], row["target"]) for row in rows[6:]] == [("", "", "idle")] * 2
    right = sum(row["prediction"] == row["target"] for row in rows)
    text = Path("far/result.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["test_accuracy"] == pytest.approx(right / 8)
    assert '"test_loss": null' in text
    assert math.isnan((read_json(Path("far/result.json")) or {})["test_loss"])


def test_a_model_loaded_in_python_hands_over_how_data_is_read(fpt: Fpt, trained: Columns) -> None:
    rows = _predict(fpt, "--data.predict_file=train.csv")
    Path("train.csv").unlink()
    write_table(Path("new.csv"), {name: trained[name] for name in ("heat", "flow")})
    model = load("run")
    trainer = FPTTrainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    predicted = trainer.predict(model, SequenceFile("state", predict_file="new.csv"))
    assert predicted is not None
    names = [model.encoding["class_names"][answer] for batch, _ in predicted for answer in batch[:, 0]]
    assert names == [row["prediction"] for row in rows]


def test_another_training_reads_its_own_data_again(trained: Columns) -> None:
    """The rows of new.csv are twice as far from 0: in its own units they look like those of train.csv."""
    twice = {name: [2 * value for value in trained[name]] for name in ("flow", "heat")}  # type: ignore[operator]
    write_table(Path("new.csv"), {**twice, "state": trained["state"]})
    data = SequenceFile("state", "new.csv", batch_size=4)
    own = data.examples("test").__getitems__([0]).tokens
    trainer = FPTTrainer(max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False,
                         enable_checkpointing=False, limit_val_batches=0)  # fmt: skip
    trainer.test(load("run"), data, verbose=False)
    assert (data.examples("test").__getitems__([0]).tokens - own).abs().max() > 1
    trainer.fit(FPTClassifier(data.task, "tiny"), data)
    assert torch.equal(data.examples("test").__getitems__([0]).tokens, own)


def test_the_place_is_chosen(fpt: Fpt, trained: Columns) -> None:
    words = ["--config=run/config.yaml", BEST, "--data.predict_file=train.csv", "--predictions.path=there/answers.csv"]
    assert fpt("predict", *words) == 0
    assert len(read_rows(Path("there/answers.csv"))) == len(trained["state"])
    assert not Path("run/predictions.csv").exists()


def test_words_are_those_of_the_training_table(fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    texts: list[object] = ["good fine good", "bad poor", "fine good", "poor bad bad"] * 10
    write_table(Path("texts.csv"), {"text": texts, "mood": ["up", "down", "up", "down"] * 10})
    words = ["--config=table.yaml", "--data.train_file=texts.csv", "--data.target_column=mood", "--data.batch_size=4"]
    assert fpt("fit", *words, "--data.kind=words", *tiny, "--run_folder=run") == 0
    known = {row["example"]: row for row in _predict(fpt, "--data.predict_file=texts.csv")}
    assert list(known) == [str(number) for number in range(40)]
    write_table(Path("poor.csv"), {"text": ["poor bad bad"]})  # whose own first word would be another id
    (row,) = _predict(fpt, "--data.predict_file=poor.csv")
    assert float(row["probability"]) == pytest.approx(float(known["3"]["probability"]), abs=1e-6)
    capsys.readouterr()
    for text, message in (
        ("awful", "no token 'awful'; a training with data.unknown true gives such tokens an id of their own"),
        ("bad bad bad bad", "4 tokens, where the model has met at most 3"),
    ):
        write_table(Path("new.csv"), {"text": ["good", text]})
        assert fpt("predict", "--config=run/config.yaml", BEST, "--data.predict_file=new.csv") == 1
        error = capsys.readouterr().err
        assert "new.csv, line 3, column 'text'" in error
        assert message in error
    assert len(_predict(fpt, "--data.predict_file=new.csv", "--data.limit=3")) == 2


def test_a_column_for_answers_that_nobody_knows_may_be_empty(
    fpt: Fpt, trained: Columns, capsys: pytest.CaptureFixture[str]
) -> None:
    new = _first(trained, 3)
    write_table(Path("new.csv"), {**new, "state": [""] * 3})
    rows = _predict(fpt, "--data.predict_file=new.csv")
    assert list(rows[0]) == ["example", "prediction", "probability"]
    parquet.write_table(pa.table({**new, "state": pa.nulls(3)}), "new.parquet")
    assert _predict(fpt, "--data.predict_file=new.parquet") == rows
    for answers, message in ((["idle", "", ""], "line 3, column 'state': is empty"), (["?"] * 3, "has no class '?'")):
        write_table(Path("new.csv"), {**new, "state": [*answers]})
        capsys.readouterr()
        assert fpt("predict", "--config=run/config.yaml", BEST, "--data.predict_file=new.csv") == 1
        error = capsys.readouterr().err
        assert message in error
        assert "rows to predict need no such column: leave it out" in error


def test_numbers_come_in_the_units_of_the_data(fpt: Fpt, tiny: list[str], weights_csv: Path) -> None:
    words = ["--config=table.yaml", f"--data.train_file={weights_csv}", "--data.target_column=weight"]
    words += ["--data.regression=true", "--data.batch_size=4"]
    assert fpt("fit", *words, *tiny, "--run_folder=run") == 0
    rows = [[row[name] for name in "abc"] for row in read_rows(weights_csv)]
    with Path("new.csv").open("w", newline="") as file:
        csv.writer(file).writerows([list("abc"), *rows[:3]])
    labelled = _predict(fpt, f"--data.predict_file={weights_csv}")
    new = _predict(fpt, "--data.predict_file=new.csv", f"--data.root={Path.cwd()}")
    assert list(new[0]) == ["example", "prediction"]
    for row, same in zip(new, labelled, strict=False):
        assert abs(float(row["prediction"]) - 5000) < 200
        assert float(row["prediction"]) == pytest.approx(float(same["prediction"]), rel=1e-6)


class Stream(IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """Six examples, as far as the power lasts."""

    def __init__(self, lasts: int = 6) -> None:
        self.lasts = lasts

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for number in range(6):
            if number == self.lasts:
                raise RuntimeError("power cut")
            yield torch.zeros(10, 1), torch.zeros(5, dtype=torch.long)


def _forecast(trainer: FPTTrainer, lasts: int = 6, ckpt_path: str | None = None) -> None:
    model = FPTClassifier(TaskSpec("bits", 10, 2, token_width=1, answer_tokens=5), "tiny")
    loader = DataLoader(Stream(lasts), batch_size=2)
    trainer.predict(model, loader, return_predictions=False, ckpt_path=ckpt_path, weights_only=True)
    if ckpt_path is None and not Path("run").exists():
        trainer.save_checkpoint("run/checkpoints/last.ckpt", weights_only=True)


def _forecaster() -> FPTTrainer:
    return FPTTrainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[PredictionWriter()])


@pytest.mark.filterwarnings("ignore:Couldn't infer the batch indices")
def test_rows_of_a_stream_are_counted_and_an_interrupted_call_leaves_those_of_the_last() -> None:
    trainer, before = _forecaster(), {Path("predictions.csv")}
    _forecast(trainer)
    assert [row["example"] for row in read_rows(Path("predictions.csv"))] == list("012345")
    with pytest.raises(RuntimeError, match="power cut"):
        _forecast(_forecaster(), lasts=4)
    assert len(read_rows(Path("predictions.csv"))) == 6
    assert {path for path in Path().iterdir() if path.is_file()} == before
    # the same Trainer, with a checkpoint and without
    _forecast(trainer, ckpt_path="run/checkpoints/last.ckpt")
    Path("predictions.csv").unlink()
    _forecast(trainer)
    assert len(read_rows(Path("predictions.csv"))) == len(read_rows(Path("run/predictions.csv"))) == 6


@pytest.mark.parametrize("option", ["--data.regression=true", "--data.kind=characters"])
def test_options_that_read_otherwise_are_refused(
    fpt: Fpt, trained: Columns, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert fpt("predict", "--config=run/config.yaml", BEST, "--data.predict_file=train.csv", option) == 2
    assert "the checkpoint was trained with" in capsys.readouterr().err


def test_a_checkpoint_of_other_data_is_named(
    fpt: Fpt, trained: Columns, tiny: list[str], mnist_root: Path, image_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = ["--config=mnist.yaml", f"--data.root={mnist_root}", "--data.validation_examples=20", *tiny]
    assert fpt("fit", *digits, "--run_folder=digits") == 0
    table = ["--config=table.yaml", "--data.train_file=train.csv", "--data.target_column=state", *tiny]
    images = ["--config=image_folder.yaml", f"--data.root={image_root}", *tiny]
    for words, folder, said in (
        (table, "digits", "a table"),
        (images, "digits", "a folder of images"),
        (images, "run", "a folder of images"),
    ):
        assert fpt("test", *words, f"--ckpt_path={folder}/checkpoints/best.ckpt", "--data.batch_size=4") == 2
        assert f"the checkpoint was not trained on {said}" in capsys.readouterr().err


def test_a_new_table_lacks_a_column(fpt: Fpt, trained: Columns, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(Path("new.csv"), {"flow": trained["flow"]})
    assert fpt("predict", "--config=run/config.yaml", BEST, "--data.predict_file=new.csv") == 2
    assert "new.csv has no column 'heat'" in capsys.readouterr().err


def test_training_does_not_go_on_with_data_that_is_read_otherwise(
    fpt: Fpt, trained: Columns, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(Path("train.csv"), {**trained, "flow": [2 * flow for flow in trained["flow"]]})  # type: ignore[operator]
    words = ["--config=run/config.yaml", "--trainer.max_steps=8", "--run_folder=run"]
    assert fpt("fit", *words, "--ckpt_path=run/checkpoints/last.ckpt") == 2
    assert "the training data has other classes, words or units" in capsys.readouterr().err


def test_labels_of_a_dataset_have_the_names_it_gives_them(
    fpt: Fpt, tiny: list[str], hub_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "--config=hub_dataset.yaml",
        f"--data.path={hub_folder}",
        "--data.input_columns=text",
        "--data.batch_size=4",
    ]
    words += ["--data.kind=words", "--data.target_column=label", "--data.test_split=test"]
    now = HubDataset.encoding
    with monkeypatch.context() as before:  # up to 0.4 a checkpoint held the labels, too
        before.setattr(HubDataset, "encoding", lambda data: {**now(data), "classes": ["0", "1"]})
        assert fpt("fit", *words, *tiny, "--run_folder=run") == 0
    again = ["--trainer.max_steps=8", "--ckpt_path=run/checkpoints/last.ckpt"]
    assert fpt("fit", *words, *tiny, *again, "--run_folder=run") == 0
    rows = _predict(fpt, "--data.predict_split=test")
    assert [row["target"] for row in rows] == ["positive", "negative", "positive"] * 3
    assert read_checkpoint("run/checkpoints/best.ckpt")["encoding"]["class_names"] == ["negative", "positive"]


@pytest.fixture
def images(fpt: Fpt, tiny: list[str], image_root: Path) -> Path:
    """A run in ``run`` on images of two classes."""
    words = ["--config=image_folder.yaml", f"--data.root={image_root}", "--data.batch_size=4"]
    assert fpt("fit", *words, *tiny, "--run_folder=run") == 0
    return image_root


def test_images_in_a_flat_folder_are_read_as_the_training_images_were(fpt: Fpt, images: Path) -> None:
    tested = {row["example"]: row for row in _predict(fpt)}
    flat = Path("flat")
    flat.mkdir()
    for name in ("cat/000.png", "dog/003.jpg"):
        (images / "test" / name).rename(flat / name.replace("/", " "))
    images.rename("elsewhere")
    rows = _predict(fpt, "--data.predict_folder=flat")
    assert [row["example"] for row in rows] == ["cat 000.png", "dog 003.jpg"]
    for row in rows:
        same = tested[f"test/{row['example'].replace(' ', '/')}"]
        assert float(row["probability"]) == pytest.approx(float(same["probability"]), abs=1e-5)
        assert row["prediction"] == same["prediction"]
    assert "target" not in rows[0]


def test_a_name_that_is_no_utf8_is_written_as_it_is(fpt: Fpt, images: Path) -> None:
    flat = Path("flat")
    flat.mkdir()
    (images / "test" / "cat/000.png").rename(flat / os.fsdecode(b"caf\xe9.png"))
    assert fpt("predict", "--config=run/config.yaml", BEST, "--data.predict_folder=flat") == 0
    assert b"caf\xe9.png," in Path("run/predictions.csv").read_bytes()


@pytest.mark.parametrize("command", ["predict", "test"])
def test_pixels_are_scaled_as_they_were(
    fpt: Fpt, images: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert fpt(command, "--config=run/config.yaml", BEST, "--data.pixels=raw") == 2
    assert "data.pixels is raw, the checkpoint was trained with normalised" in capsys.readouterr().err


def test_images_by_class_have_targets(fpt: Fpt, images: Path) -> None:
    rows = _predict(fpt, f"--data.predict_folder={images / 'test'}")
    assert [row["target"] for row in rows] == ["cat"] * 10 + ["dog"] * 10


def test_images_that_cannot_be_predicted(fpt: Fpt, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    (images / "train" / "dog").rename(images / "train" / "fish")
    (images / "test" / "dog").rename(images / "test" / "fish")
    for words, status, message in (
        (["--data.predict_folder=empty"], 1, "empty has no image"),
        (["--data.predict_folder=nowhere"], 1, "there is no folder nowhere"),
        ([], 2, "holds the classes cat, fish, the checkpoint knows cat, dog: data.predict_folder reads new images"),
    ):
        capsys.readouterr()
        assert fpt("predict", "--config=run/config.yaml", BEST, *words) == status
        assert message in capsys.readouterr().err
