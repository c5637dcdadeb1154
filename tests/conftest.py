"""What the tests share: the command line in this process, and small data in the real formats."""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything reads it
# the fonts that matplotlib found, once for all tests and their processes
os.environ.setdefault("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib"))

# as `fpt` sets it, which else begins each of its processes twice
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")

import csv
import json
import pickle
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from hypothesis import settings

from fpt_lightning.data.images.datamodule import ImageRows, ImageTask
from fpt_lightning.data.spec import Batch
from fpt_lightning.main import main

# machines are shared: no test fails for being slow
settings.register_profile("fpt", deadline=None, max_examples=40)
settings.load_profile("fpt")

Fpt = Callable[..., int]

TAPE_HOLDOUTS = ("fold", "superfamily", "family")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in a folder of its own, with a cache of its own beside it, so that run folders never meet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path}-cache")
    monkeypatch.delenv("FPT_RUN_FOLDER", raising=False)


@pytest.fixture
def fpt() -> Fpt:
    """The command line without progress bars: ``fpt("run", "--config", "bit_xor.yaml")`` gives the exit status."""

    def call(*words: object) -> int:
        return main([str(word) for word in words])

    return call


@pytest.fixture(scope="session")
def _warm_folder() -> Iterator[Path]:
    """``python`` and ``fpt`` that fork from a process which has imported all that takes seconds."""
    here, folder = Path(__file__).parent / "warm", Path(mkdtemp(prefix="fpt-warm-"))  # a socket's path is short
    real = shlex.quote(sys.executable)
    client = f"{real} -I -S {shlex.quote(str(here / 'client.py'))} {shlex.quote(str(folder / 'door'))}"
    (folder / "fpt").write_text(f'#!/bin/sh\nexec {client} -m fpt_lightning "$@"\n')
    # options of the interpreter want a new one
    choice = f'case "$1" in -m | [!-]*) exec {client} "$@" ;; *) exec {real} "$@" ;; esac'
    (folder / "python").write_text(f"#!/bin/sh\n{choice}\n")
    for name in ("fpt", "python"):
        (folder / name).chmod(0o755)
    command = [sys.executable, str(here / "server.py"), str(folder / "door"), str(folder / "python")]
    # a fork may have more threads, whose policy is read here: those that spin starve what else is tested
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **threads}, start_new_session=True
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield folder
    shutil.rmtree(folder)


@pytest.fixture
def warm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test starts as ``sys.executable`` begins without the seconds of an import: see ``warm/server.py``."""
    if sys.platform == "linux":  # elsewhere forks are no safe ground, and it starts as ever
        folder: Path = request.getfixturevalue("_warm_folder")
        monkeypatch.setattr(sys, "executable", str(folder / "python"))


@pytest.fixture
def tiny() -> list[str]:
    """Options that make any config a run of seconds."""
    return [
        "--model.backbone=tiny",
        "--trainer.max_steps=4",
        "--trainer.val_check_interval=2",
        "--trainer.limit_val_batches=2",
        "--trainer.limit_test_batches=2",
        "--trainer.log_every_n_steps=1",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    ]


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file such as ``metrics.csv``."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_idx(path: Path, values: torch.Tensor) -> None:
    """Writes bytes in the idx format of MNIST's files: magic number, sizes, data, big-endian."""
    header = struct.pack(">BBBB", 0, 0, 8, values.dim()) + struct.pack(f">{values.dim()}I", *values.shape)
    path.write_bytes(header + values.to(torch.uint8).numpy().tobytes())


def write_mnist(root: Path, train: int, test: int) -> Path:
    """Writes so many images of random pixels in MNIST's four files, in torchvision's layout."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for prefix, count in (("train", train), ("t10k", test)):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", torch.randint(256, (count, 28, 28), generator=generator))
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", torch.arange(count) % 10)
    return root


@pytest.fixture
def mnist_root(tmp_path: Path) -> Path:
    """The four files of MNIST in torchvision's layout, with 60 training and 30 test images of random pixels."""
    return write_mnist(tmp_path / "mnist", train=60, test=30)


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 with 3 layers and 40 positions as ``save_pretrained`` leaves it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=11, n_positions=40, n_embd=24, n_layer=3, n_head=3)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def tape_record(number: int, sequence: str, fold: int) -> dict[str, object]:
    """A protein with every field of TAPE's records; profiles are arrays, as in its LMDB."""
    length = len(sequence)
    return {
        "id": f"d{number}abc_",
        "primary": sequence,
        "protein_length": length,
        "class_label": 0,
        "fold_label": fold,
        "superfamily_label": number,
        "family_label": number,
        "secondary_structure": np.zeros((length, 3), dtype=np.float32),
        "solvent_accessibility": np.ones((length, 2), dtype=np.float32),
        "evolutionary": np.arange(20 * length, dtype=np.float32).reshape(length, 20),
    }


def write_tape_json(folder: Path, split: str, records: list[dict[str, object]]) -> Path:
    """Writes ``remote_homology_SPLIT.json``, in which profiles are lists."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"remote_homology_{split}.json"
    path.write_text(json.dumps(records, default=lambda array: array.tolist()))
    return path


def write_tape_lmdb(folder: Path, split: str, values: dict[str, bytes]) -> Path:
    """Writes ``remote_homology_SPLIT.lmdb`` with these keys and pickles."""
    import lmdb

    path = folder / f"remote_homology_{split}.lmdb"
    path.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)
    return path


def tape_pickles(records: list[dict[str, object]], protocol: int = 4) -> dict[str, bytes]:
    """The keys and pickles of TAPE's LMDB."""
    pickles = {str(number): pickle.dumps(record, protocol) for number, record in enumerate(records)}
    return {**pickles, "num_examples": pickle.dumps(len(records), protocol)}


@pytest.fixture
def tape_root(tmp_path: Path) -> Path:
    """TAPE's five splits as JSON: 60 training, 20 validation and 3 x 20 test proteins of 10 to 90 amino acids."""
    generator = np.random.default_rng(0)
    for split, count in [("train", 60), ("valid", 20), *((f"test_{level}_holdout", 20) for level in TAPE_HOLDOUTS)]:
        sequences = [
            "".join(generator.choice(list("ACDEFGHIKLMNPQRSTVWY"), n)) for n in generator.integers(10, 90, count)
        ]
        records = [tape_record(number, text, number % 7 * 199) for number, text in enumerate(sequences)]
        write_tape_json(tmp_path / "tape" / "remote_homology", split, records)
    return tmp_path / "tape"


def write_table(path: Path, columns: dict[str, list[object]], delimiter: str = ",") -> Path:
    """Writes a CSV file: a header, and a row for every entry of the columns."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


@pytest.fixture
def weights_csv(tmp_path: Path) -> Path:
    """60 rows of three numbers and a number that they decide, far from 0."""
    rows = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) * 4 + 10
    columns: dict[str, list[object]] = {name: rows[:, index].tolist() for index, name in enumerate("abc")}
    return write_table(tmp_path / "weights.csv", columns | {"weight": (5000 + 3 * rows[:, 0] - rows[:, 2]).tolist()})


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of 24 training and 9 test texts as ``save_to_disk`` leaves it; the cache is beside it."""
    import datasets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["negative", "positive"])}
    )

    def split(rows: int) -> datasets.Dataset:
        columns = {"text": ["fine film", "a bad one", "fine"] * (rows // 3), "label": [1, 0, 1] * (rows // 3)}
        return datasets.Dataset.from_dict(columns, features=features)

    datasets.DatasetDict(train=split(24), test=split(9)).save_to_disk(str(tmp_path / "reviews"))
    return tmp_path / "reviews"


@pytest.fixture
def cifar_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of CIFAR-10 in torchvision's layout, with 60 training and 20 test images, and their md5 sums."""
    import hashlib
    import pickle

    import numpy as np
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)

    def write(name: str, content: dict[str, object]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    def write_images(name: str, count: int) -> list[str]:
        data = random.integers(256, size=(count, 3072), dtype=np.uint8)
        return [name, write(name, {"data": data, "labels": [number % 10 for number in range(count)]})]

    monkeypatch.setattr(CIFAR10, "train_list", [write_images(f"data_batch_{number}", 12) for number in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [write_images("test_batch", 20)])
    names = write("batches.meta", {"label_names": [f"class {number}" for number in range(10)]})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": names})
    return tmp_path / "cifar"


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    """A folder of images by split and class: 40 for training, 20 for the test, of different sizes and formats."""
    from torchvision.transforms.functional import to_pil_image

    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 20), ("test", 10)):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(256, (3, 32, 32 + number % 3), dtype=torch.uint8, generator=generator)
                to_pil_image(pixels).save(folder / f"{number:03}.{'jpg' if number % 4 else 'png'}")
    return tmp_path / "images"


def on_cpu(data: ImageTask, rows: ImageRows) -> Batch:
    """What the Trainer makes of a batch of a loader before the model sees it."""
    images = data.transfer_batch_to_device(rows, torch.device("cpu"), 0)
    return data.on_after_batch_transfer(images, 0)


@pytest.fixture
def text_root(tmp_path: Path) -> Path:
    """Eight books of 600 made-up words each."""
    folder = tmp_path / "books"
    folder.mkdir()
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdefghij"), length)) for length in random.integers(2, 8, 200)]
    for number in range(8):
        lines = [" ".join(random.choice(words, 12)) for _ in range(50)]
        (folder / f"book{number}.txt").write_text(".\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def small_language(text_root: Path) -> list[str]:
    """Options that make ``pretrain/language.yaml`` a run of seconds on those books."""
    sizes = ["--model.width=16", "--model.layers=1", "--model.heads=2", "--model.positions=64"]
    return [
        "--config=pretrain/language.yaml",
        f"--data.root={text_root}",
        "--data.vocabulary=300",
        "--data.context=32",
        "--data.evaluation_windows=6",
        "--data.validation_books=2",
        "--data.test_books=2",
        "--data.batch_size=4",
        "--model.warmup_steps=2",
        *sizes,
        "--trainer.max_steps=4",
        "--trainer.val_check_interval=2",
        "--trainer.log_every_n_steps=1",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    ]
