"""Damaged data of every format: read, or refused in a line that names the file."""

import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from trial import Ending, expect_no_fault, mutated, tried

from conftest import Fpt, tape_pickles, tape_record, write_tape_lmdb

pytestmark = pytest.mark.slow

CASES = 40  # of each format

Words = list[object]


def _table(tmp_path: Path, ending: str) -> tuple[list[Path], Words]:
    generator = random.Random(0)
    path = tmp_path / f"table{ending}"
    columns = {"x": [generator.random() for _ in range(60)], "label": [f'a "{row % 2}"' for row in range(60)]}
    if ending == ".parquet":
        parquet.write_table(pa.table(columns), path)
    else:
        delimiter = "\t" if ending == ".tsv" else ","
        rows = [
            f'{x}{delimiter}"{label.replace(chr(34), chr(34) * 2)}"' for x, label in zip(*columns.values(), strict=True)
        ]
        path.write_text("\n".join([f"x{delimiter}label", *rows]) + "\n")
    words: Words = ["--data=SequenceFile", "--data.target_column=label", f"--data.train_file={path.name}"]
    return [path], [*words, f"--data.root={tmp_path}"]


@pytest.fixture
def csv(tmp_path: Path) -> tuple[list[Path], Words]:
    return _table(tmp_path, ".csv")


@pytest.fixture
def tsv(tmp_path: Path) -> tuple[list[Path], Words]:
    return _table(tmp_path, ".tsv")


@pytest.fixture
def parquets(tmp_path: Path) -> tuple[list[Path], Words]:
    return _table(tmp_path, ".parquet")


@pytest.fixture
def idx(mnist_root: Path) -> tuple[list[Path], Words]:
    words: Words = ["--config=mnist.yaml", f"--data.root={mnist_root}", "--data.validation_examples=5"]
    return sorted((mnist_root / "MNIST" / "raw").iterdir()), words


@pytest.fixture
def images(image_root: Path) -> tuple[list[Path], Words]:
    png, jpg = sorted(image_root.rglob("*.png"))[0], sorted(image_root.rglob("*.jpg"))[0]
    others = [png.with_name(f"other.{ending}") for ending in ("bmp", "tif", "webp", "ppm")]
    from PIL import Image

    for path in others:
        Image.open(png).save(path)
    return [png, jpg, *others], ["--config=image_folder.yaml", f"--data.root={image_root}"]


@pytest.fixture
def json(tape_root: Path) -> tuple[list[Path], Words]:
    files = sorted((tape_root / "remote_homology").glob("*train.json"))
    return files, ["--config=remote_homology.yaml", f"--data.root={tape_root}"]


@pytest.fixture
def lmdb(tape_root: Path) -> tuple[list[Path], Words]:
    folder = tape_root / "remote_homology"
    (folder / "remote_homology_train.json").unlink()
    records = [tape_record(number, "ACDEFGHIK" * (1 + number % 9), number) for number in range(60)]
    database = write_tape_lmdb(folder, "train", tape_pickles(records))
    return [database / "data.mdb"], ["--config=remote_homology.yaml", f"--data.root={tape_root}"]


@pytest.fixture
def listops(tmp_path: Path) -> tuple[list[Path], Words]:
    for name in ("train", "val", "test"):
        rows = [f"( ( ( [MAX {row % 10} ) {row % 7} ) ] )\t{max(row % 10, row % 7)}" for row in range(40)]
        (tmp_path / f"basic_{name}.tsv").write_text("\n".join(["Source\tTarget", *rows]) + "\n")
    words: Words = ["--config=listops.yaml", f"--data.source={tmp_path}", "--data.cache_folder=cache"]
    return sorted(tmp_path.glob("*.tsv")), words


@pytest.fixture
def books(text_root: Path) -> tuple[list[Path], Words]:
    sizes: Words = ["--data.vocabulary=300", "--data.context=32", "--data.validation_books=2", "--data.test_books=2"]
    return sorted(text_root.iterdir()), ["--config=pretrain/language.yaml", f"--data.root={text_root}", *sizes]


@pytest.fixture
def hub(hub_folder: Path) -> tuple[list[Path], Words]:
    files = sorted(path for path in hub_folder.rglob("*") if path.is_file())
    options: Words = ["--data.target_column=label", "--data.input_columns=text", "--data.kind=words"]
    return files, ["--data=HubDataset", f"--data.path={hub_folder}", *options]


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquets", "idx", "images", "json", "lmdb", "listops", "books", "hub"])
def test_damaged_data(kind: str, fpt: Fpt, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    files, words = request.getfixturevalue(kind)
    assert fpt("prepare", *words) == 0  # whole, it is read
    whole = {path: path.read_bytes() for path in files}

    def endings() -> Iterator[tuple[str, Ending]]:
        for case in range(CASES):
            generator = random.Random(f"{kind} {case}")
            path = generator.choice(files)
            path.write_bytes(mutated(whole[path], generator))
            yield f"{kind} {case}: {path.name}", tried(lambda: fpt("prepare", *words))
            path.write_bytes(whole[path])

    assert expect_no_fault(endings(), tmp_path) == CASES
