import gzip
import hashlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from conftest import on_cpu, write_idx
from fpt_lightning.data.datamodule import SPLITS, Split
from fpt_lightning.data.images.mnist import MNIST
from fpt_lightning.errors import FPTError, UsageError

FILE = "MNIST/raw/train-images-idx3-ubyte"


def _mnist(root: Path, **options: object) -> MNIST:
    data = MNIST(root=str(root), validation_examples=10, download=False, batch_size=4, **options)  # type: ignore[arg-type]
    data.prepare_data()
    return data


def _pixels(data: MNIST, split: Split) -> torch.Tensor:
    rows = data.rows(split)
    chosen = data.dataset(split).__getitems__(range(len(rows))).rows
    assert torch.equal(chosen, rows)
    return data.table.pixels[rows]


def test_mnist_has_the_papers_sizes(mnist_root: Path) -> None:
    data = _mnist(mnist_root)
    batch = on_cpu(data, next(iter(data.train_dataloader())))
    assert data.table.pixels.dtype == torch.uint8
    assert batch.tokens.shape == (4, 64, 16)
    assert batch.target.shape == (4, 1)
    assert (data.task.max_length, data.task.token_width, data.task.classes) == (64, 16, 10)


def test_pixels_are_padded_and_normalised_where_that_is_asked_for(mnist_root: Path) -> None:
    data = _mnist(mnist_root, pixels="normalised")
    tokens = on_cpu(data, data.dataset("test").__getitems__([3])).tokens
    whole = tokens.reshape(8, 8, 4, 4).permute(0, 2, 1, 3).reshape(32, 32)
    pixels = (whole * 0.3081 + 0.1307) * 255
    stored = (mnist_root / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16 + 3 * 784 :][:784]
    assert torch.allclose(pixels[2:30, 2:30], torch.tensor(list(stored)).view(28, 28).float(), atol=1e-3)
    assert pixels[:2].abs().max() < 1e-3


def test_the_reference_implementations_49_patches(mnist_root: Path) -> None:
    data = _mnist(mnist_root, image_size=28)
    assert data.task.max_length == 49
    assert on_cpu(data, data.dataset("test").__getitems__([0, 1])).tokens.shape == (2, 49, 16)


def test_validation_is_cut_from_train_by_a_fixed_seed(mnist_root: Path) -> None:
    first, second = (_mnist(mnist_root, seed=seed) for seed in (0, 1))
    parts = [_pixels(first, split) for split in SPLITS]
    assert [len(part) for part in parts] == [50, 10, 30]
    images = {tuple(image.flatten().tolist()) for part in parts for image in part}
    assert len(images) == 90
    assert torch.equal(parts[1], _pixels(second, "validation"))
    assert not torch.equal(parts[1], _pixels(_mnist(mnist_root, split_seed=1), "validation"))


def test_the_fingerprint_follows_the_files_and_the_split(mnist_root: Path) -> None:
    before = _mnist(mnist_root).fingerprint()
    assert _mnist(mnist_root, seed=4).fingerprint() == before
    assert _mnist(mnist_root, split_seed=1).fingerprint() != before
    content = bytearray((mnist_root / FILE).read_bytes())
    content[-1] ^= 1
    (mnist_root / FILE).write_bytes(content)
    assert _mnist(mnist_root).fingerprint() != before


def _swap(raw: Path) -> None:
    images, labels = raw / "train-images-idx3-ubyte", raw / "train-labels-idx1-ubyte"
    content = images.read_bytes()
    images.write_bytes(labels.read_bytes())
    labels.write_bytes(content)


def _empty(raw: Path) -> None:
    write_idx(raw / "t10k-images-idx3-ubyte", torch.zeros(0, 28, 28))
    write_idx(raw / "t10k-labels-idx1-ubyte", torch.zeros(0))


OTHERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "labels": (
        lambda raw: write_idx(raw / "train-labels-idx1-ubyte", torch.arange(60) % 14),
        r"train-labels-idx1-ubyte: label 14 is 13 where MNIST's are 0 to 9",
    ),
    "sizes": (
        lambda raw: write_idx(raw / "t10k-images-idx3-ubyte", torch.zeros(30, 14, 56)),
        r"t10k-images-idx3-ubyte has images of 14x56 pixels where MNIST's are 28x28",
    ),
    "swapped": (_swap, r"train-images-idx3-ubyte does not hold images: is it the file of the labels\?"),
    "empty": (_empty, r"t10k-images-idx3-ubyte is empty"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_whole_files_of_something_else_are_refused(mnist_root: Path, case: str) -> None:
    change, message = OTHERS[case]
    change(mnist_root / "MNIST" / "raw")
    with pytest.raises(FPTError, match=message):
        _mnist(mnist_root)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FPTError, match=r"train-images-idx3-ubyte.*\n.*data\.root"):
        MNIST(root=str(tmp_path), download=False).prepare_data()


def test_a_failed_download_says_where_the_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MNIST, "MIRRORS", ("http://127.0.0.1:9/",))
    with pytest.raises(FPTError, match=r"train-images-idx3-ubyte\.gz could not be fetched.*\n.*put the file into"):
        MNIST(root=str(tmp_path)).prepare_data()


@pytest.fixture
def mirror(mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A server of the four compressed files behind one that is down."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    sums = {}
    for file in (mnist_root / "MNIST" / "raw").iterdir():
        content = gzip.compress(file.read_bytes())
        (folder / f"{file.name}.gz").write_bytes(content)
        sums[file.name] = f"md5:{hashlib.md5(content).hexdigest()}"
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setattr(MNIST, "CHECKSUMS", sums)
        monkeypatch.setattr(MNIST, "MIRRORS", ("http://127.0.0.1:9/", f"http://127.0.0.1:{server.server_port}/"))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder
        server.shutdown()


def test_missing_files_are_fetched_and_unpacked(mnist_root: Path, mirror: Path, tmp_path: Path) -> None:
    MNIST(root=str(tmp_path / "fetched")).prepare_data()
    for file in (mnist_root / "MNIST" / "raw").iterdir():
        assert (tmp_path / "fetched" / "MNIST" / "raw" / file.name).read_bytes() == file.read_bytes()


def test_a_compressed_file_that_is_not_the_right_one_is_refused(mirror: Path, tmp_path: Path) -> None:
    (mirror / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(FPTError, match=r"train-labels-idx1-ubyte\.gz could not be fetched.*not the file"):
        MNIST(root=str(tmp_path / "fetched")).prepare_data()
    assert not (tmp_path / "fetched" / "MNIST" / "raw" / "train-labels-idx1-ubyte").exists()


def test_the_checksums_are_torchvisions() -> None:
    from torchvision import datasets

    assert {(f"{name}.gz", checksum.removeprefix("md5:")) for name, checksum in MNIST.CHECKSUMS.items()} == set(
        datasets.MNIST.resources
    )


def test_a_truncated_file_is_named(mnist_root: Path) -> None:
    whole = (mnist_root / FILE).read_bytes()
    (mnist_root / FILE).write_bytes(whole[:-100])
    with pytest.raises(FPTError, match=r"train-images-idx3-ubyte has 46,956 bytes where its header promises 47,056"):
        _mnist(mnist_root)


@pytest.mark.parametrize("content", [b"", b"\x00\x00\x08\x03\x00", b"<html>no such file</html>"])
def test_a_file_that_is_not_idx_is_named(mnist_root: Path, content: bytes) -> None:
    (mnist_root / FILE).write_bytes(content)
    with pytest.raises(FPTError, match=r"train-images-idx3-ubyte is not in MNIST's idx format"):
        _mnist(mnist_root)


@pytest.mark.parametrize(
    "sizes", [{"image_size": 20}, {"image_size": 29}, {"patch_size": 5}, {"validation_examples": 0}]
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="data"):
        MNIST(**sizes)  # type: ignore[arg-type]


def test_a_split_that_leaves_nothing_to_train_on_is_refused(mnist_root: Path) -> None:
    data = MNIST(root=str(mnist_root), validation_examples=60, download=False)
    with pytest.raises(UsageError, match="leaves none"):
        data.train_dataloader()


def test_pixels_are_those_of_the_file(mnist_root: Path) -> None:
    normalised, raw = _mnist(mnist_root, pixels="normalised"), _mnist(mnist_root)
    stored = (mnist_root / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16 + 3 * 784 :][:784]
    whole = on_cpu(raw, raw.dataset("test").__getitems__([3])).tokens.reshape(8, 8, 4, 4).transpose(1, 2)
    assert torch.equal(whole.reshape(32, 32)[2:30, 2:30], torch.tensor(list(stored)).view(28, 28) / 255)
    assert raw.fingerprint() != normalised.fingerprint()
    assert "pixels raw" in raw.describe()[-1]


def test_what_an_old_torchvision_made_of_the_files_is_not_read(mnist_root: Path) -> None:
    before = _mnist(mnist_root).table
    (mnist_root / "MNIST/processed").mkdir()
    for name in ("training.pt", "test.pt"):
        other = torch.full((60, 28, 28), 7, dtype=torch.uint8), torch.full((60,), 7)
        torch.save(other, mnist_root / "MNIST/processed" / name)
    after = _mnist(mnist_root).table
    assert torch.equal(before.pixels, after.pixels)
    assert torch.equal(before.labels, after.labels)


def test_as_released_is_raw_whatever_else_is_said(mnist_root: Path) -> None:
    assert _mnist(mnist_root).fingerprint() == _mnist(mnist_root, pixels="raw").fingerprint()
    both = _mnist(mnist_root, as_released=True, pixels="normalised")
    assert both.fingerprint() == _mnist(mnist_root, pixels="raw").fingerprint()


def test_the_commonest_class_of_training_is_judged_on_the_other_splits(mnist_root: Path) -> None:
    write_idx(mnist_root / "MNIST/raw/train-labels-idx1-ubyte", torch.tensor([4] * 40 + [7] * 20))
    write_idx(mnist_root / "MNIST/raw/t10k-labels-idx1-ubyte", torch.tensor([4] * 6 + [7] * 24))
    data = _mnist(mnist_root)
    validation = [data.table.labels[row].item() for row in data.rows("validation")]
    assert data.trivial_baselines() == {"commonest class": (validation.count(4) / 10, 6 / 30)}
