import itertools
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conftest import Fpt, on_cpu, read_rows
from fpt_lightning.data.cache import default_folder
from fpt_lightning.data.datamodule import SPLITS
from fpt_lightning.data.images import folder as image_folder
from fpt_lightning.data.images.files import read_image
from fpt_lightning.data.images.folder import ImageFolder, cut_by_class
from fpt_lightning.errors import FPTError, UsageError


def _prepared(root: Path, **options: Any) -> ImageFolder:
    data = ImageFolder(root=str(root), **{"batch_size": 4, **options})
    data.prepare_data()
    return data


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images were decoded, a number each time."""
    counts: list[int] = []

    def counting(files: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        counts.append(len(files))
        return decode(files, *args, **kwargs)

    decode = image_folder.decode
    monkeypatch.setattr(image_folder, "decode", counting)
    return counts


def test_the_folders_make_the_task(image_root: Path) -> None:
    data = ImageFolder(root=str(image_root))
    assert (data.task.max_length, data.task.token_width, data.task.classes) == (64, 48, 2)
    assert not default_folder().exists(), "nothing is read for it"
    grey = ImageFolder(root=str(image_root), image_size=16, patch_size=8, grey=True)
    assert (grey.task.max_length, grey.task.token_width) == (4, 64)


def test_splits_are_the_folders_and_validation_is_cut_from_train(image_root: Path) -> None:
    data = _prepared(image_root)
    assert [split for split in SPLITS[1:] if data.is_cut(split)] == ["validation"]
    parts = {split: data.rows(split).tolist() for split in SPLITS}
    assert {split: len(rows) for split, rows in parts.items()} == {"train": 36, "validation": 4, "test": 20}
    assert sorted(itertools.chain(*parts.values())) == list(range(60))
    assert all(data.files[row].split == "test" for row in parts["test"])
    assert _prepared(image_root, seed=3).rows("validation").tolist() == parts["validation"]
    assert _prepared(image_root, split_seed=3).rows("validation").tolist() != parts["validation"]
    (image_root / "val").symlink_to("test")
    assert [len(_prepared(image_root).rows(split)) for split in SPLITS] == [40, 20, 20]


def test_one_folder_is_cut_in_three(image_root: Path) -> None:
    data = _prepared(image_root / "train", test_share=0.2)
    parts = [data.rows(split).tolist() for split in SPLITS]
    assert [len(part) for part in parts] == [29, 3, 8]
    assert sorted(itertools.chain(*parts)) == list(range(40))


def test_the_first_batches_of_a_split_hold_all_classes(image_root: Path) -> None:
    """So that ``limit_val_batches`` judges all of them."""
    data = _prepared(image_root, validation_share=0.4)
    for split, few in (("validation", 6), ("test", 6)):
        labels = data.table.labels[data.rows(split)[:few]]  # type: ignore[arg-type]
        assert set(labels.tolist()) == {0, 1}


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=60), share=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_every_class_gives_its_share(labels: list[int], share: float, seed: int) -> None:
    table = torch.tensor(labels)
    rest, aside = cut_by_class(torch.arange(len(labels)), table, share, seed)
    assert sorted([*rest.tolist(), *aside.tolist()]) == list(range(len(labels)))
    assert len(aside) == round(share * len(labels))
    for label in set(labels):
        exact = labels.count(label) * len(aside) / len(labels)
        assert abs((table[aside] == label).sum() - exact) < 1


def test_pixels_are_normalised_by_the_training_images(image_root: Path) -> None:
    data = _prepared(image_root)
    pixels = data.table.pixels[data.rows("train")].double() / 255
    mean, std = data.normalisation()
    assert mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())
    row = int(data.rows("test")[3])
    tokens = on_cpu(data, data.dataset("test").__getitems__([3])).tokens
    whole = tokens.view(8, 8, 3, 4, 4).permute(2, 0, 3, 1, 4).reshape(3, 32, 32)
    mean, std = (torch.tensor(values)[:, None, None] for values in (mean, std))
    stored = read_image(data.files[row].path, 32, grey=False)
    assert torch.allclose(whole * std + mean, stored / 255, atol=1e-5)


def test_images_of_one_colour_are_not_divided_by_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("RGB", (4, 4), (7, 0, 255)).save(tmp_path / name / f"{number}.png")
    data = _prepared(tmp_path, image_size=4)
    assert on_cpu(data, data.dataset("train").__getitems__([0])).tokens.abs().max() < 1e-6


def test_images_are_decoded_once(image_root: Path, decoded: list[int]) -> None:
    first, second = _prepared(image_root), _prepared(image_root, patch_size=8)
    assert decoded == [60]
    assert torch.equal(first.table.pixels, second.table.pixels)
    assert first.facts() == second.facts()
    assert len(list(default_folder().iterdir())) == 1


def _add(root: Path) -> None:
    Image.new("RGB", (9, 9)).save(root / "train" / "cat" / "new.png")


def _change(root: Path) -> None:
    Image.new("RGB", (9, 9)).save(root / "train" / "cat" / "000.png")


def _touch(root: Path) -> None:
    os.utime(root / "train" / "cat" / "000.png", ns=(1, 1))


def _truncate(root: Path) -> None:
    (file,) = default_folder().iterdir()
    file.write_bytes(file.read_bytes()[:-7])


@pytest.mark.parametrize("event", [_add, _change, _touch, _truncate])
def test_a_cache_of_something_else_or_damaged_is_made_anew(image_root: Path, decoded: list[int], event: Any) -> None:
    before = _prepared(image_root)
    event(image_root)
    after = _prepared(image_root)
    assert len(decoded) == 2
    same = before.fingerprint() == after.fingerprint()
    assert same == (event not in (_add, _change))
    _prepared(image_root)
    assert len(decoded) == 2
    assert len(list(default_folder().iterdir())) == 1, "it took the place of the other"


def test_other_sizes_and_grey_have_a_cache_of_their_own(image_root: Path, decoded: list[int]) -> None:
    for _ in range(2):
        _prepared(image_root)
        _prepared(image_root, grey=True)
        _prepared(image_root, image_size=16)
    assert decoded == [60] * 3


def test_where_no_cache_can_be_written_every_start_decodes(image_root: Path, decoded: list[int]) -> None:
    Path("file").touch()
    for _ in range(2):
        with pytest.warns(UserWarning, match="file cannot be written"):
            data = _prepared(image_root, cache_folder="file")
        assert len(data.dataset("train")) == 36
    assert decoded == [60, 60]


def test_the_fingerprint_is_that_of_the_content(image_root: Path, tmp_path: Path) -> None:
    before = _prepared(image_root).fingerprint()
    image_root.rename(tmp_path / "moved")
    assert _prepared(tmp_path / "moved", seed=3).fingerprint() == before
    for options in ({"split_seed": 1}, {"augment": True}, {"grey": True}, {"image_size": 16}):
        assert _prepared(tmp_path / "moved", **options).fingerprint() != before


def test_the_padding_of_the_crop_grows_with_the_image(image_root: Path) -> None:
    data = _prepared(image_root, image_size=64, augment=True)
    assert data.augmentation is not None
    assert data.augmentation.padding == 8
    assert on_cpu(data, next(iter(data.train_dataloader()))).tokens.shape == (4, 256, 48)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_a_share_that_makes_no_sense_is_refused(image_root: Path, share: float) -> None:
    with pytest.raises(UsageError, match=r"data\.validation_share lies between 0 and 1"):
        ImageFolder(root=str(image_root), validation_share=share)


def test_a_class_without_an_image_to_train_on_is_refused(tmp_path: Path) -> None:
    def add(name: str, first: int, behind: int) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        for number in range(first, behind):
            Image.new("RGB", (4, 4), (number, 0, 9)).save(tmp_path / name / f"{number}.png")

    add("cat", 0, 20)
    add("dog", 0, 1)
    data = _prepared(tmp_path, image_size=4)
    assert len(data.dataset("test")) == 2
    with pytest.raises(UsageError, match=r"leave no image of class 'dog' to train on: add images of it"):
        data.dataset("train")
    add("dog", 1, 3)
    data = _prepared(tmp_path, image_size=4)
    assert set(data.table.labels[data.rows("train")].tolist()) == {0, 1}


def test_a_pipe_among_new_images_is_named(image_root: Path) -> None:
    Path("new").mkdir()
    os.mkfifo("new/a.png")
    with pytest.raises(FPTError, match=r"new/a\.png is no file of pixels but a pipe"):
        _prepared(image_root, predict_folder="new").new_examples()


def test_a_split_of_nothing_is_refused(image_root: Path) -> None:
    with pytest.raises(UsageError, match=r"of 60 images leave none for validation"):
        _prepared(image_root, validation_share=0.01).dataset("validation")


def test_the_command_line_names_a_damaged_image(fpt: Fpt, image_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (image_root / "train/dog/007.jpg").write_bytes(b"\xff\xd8\xff")
    assert fpt("run", "--config=image_folder.yaml", f"--data.root={image_root}", "--model.backbone=tiny") == 1
    error = capsys.readouterr().err
    assert "train/dog/007.jpg cannot be read as an image" in error
    assert "Traceback" not in error
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "data.root: say which folder holds the images"),
        (["--data.root=nowhere"], 1, "there is no folder nowhere"),
        (["--data.root=images", "--data.patch_size=5"], 2, "does not divide"),
        (["--data.root=empty"], 1, "empty has 0 folders of images"),
    ],
)
@pytest.mark.parametrize("command", ["run", "prepare"])
def test_the_command_line_refuses_in_two_lines(
    fpt: Fpt,
    image_root: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    words: list[str],
    status: int,
    message: str,
) -> None:
    Path("empty").mkdir()
    assert fpt(command, "--config=image_folder.yaml", *words, "--model.backbone=tiny") == status
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert error[error.index("fpt: error: ") :].rstrip("\n").count("\n") <= 1
    assert not Path("runs").exists()


def test_prepare_and_predict(fpt: Fpt, tiny: list[str], image_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config=image_folder.yaml", f"--data.root={image_root}", "--data.augment=true", "--data.batch_size=4"]
    assert fpt("prepare", *words) == 0
    out = capsys.readouterr().out
    assert "image_folder: 36 train, 4 validation, 20 test" in out
    assert "training images augmented by" in out
    assert fpt("run", *words, *tiny, "--data.num_workers=1", "--run_folder=run") == 0
    assert json.loads(Path("run/result.json").read_text())["task"] == "image_folder"
    checkpoint = "--ckpt_path=run/checkpoints/best.ckpt"
    assert fpt("predict", *words, "--model.backbone=tiny", "--trainer.accelerator=cpu", checkpoint) == 0
    rows = read_rows(Path("run/predictions.csv"))
    files = sorted((image_root / "test").rglob("*.*"))
    assert sorted(row["example"] for row in rows) == [str(file.relative_to(image_root)) for file in files]
    assert all(row["target"] == Path(row["example"]).parent.name for row in rows)


def test_an_image_that_vanishes_is_named(image_root: Path) -> None:
    (image_root / "train/cat/gone.png").symlink_to("nowhere.png")
    with pytest.raises(FPTError, match=r"train/cat/gone\.png cannot be read"):
        _prepared(image_root)


@pytest.mark.parametrize("special", ["pipe", "device", "socket"])
def test_what_is_no_file_is_not_opened(image_root: Path, special: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(image_root / "train" / "cat")  # the name of a socket is short
    path = Path("special.png")
    with socket.socket(socket.AF_UNIX) as server:
        if special == "pipe":
            os.mkfifo(path)
        elif special == "device":
            path.symlink_to("/dev/zero")
        else:
            server.bind(str(path))
        with pytest.raises(FPTError, match=r"special\.png is no file of pixels but a pipe, a device or the like"):
            ImageFolder(root=str(image_root)).prepare_data()
