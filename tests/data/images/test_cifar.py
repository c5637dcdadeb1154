import hashlib
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import on_cpu
from fpt_lightning.data.download import RemoteFile
from fpt_lightning.data.images.cifar import CIFAR10, CIFAR10LRA
from fpt_lightning.errors import FPTError, UsageError

FOLDER = "cifar-10-batches-py"


def _prepared(root: Path, kind: type[CIFAR10] = CIFAR10, **options: Any) -> CIFAR10:
    data = kind(root=str(root), validation_examples=20, download=False, batch_size=4, **options)
    data.prepare_data()
    return data


def _stored(root: Path, name: str, row: int) -> torch.Tensor:
    """``[3, 32, 32]`` between 0 and 255, as the file has it: first all red, then all green, then all blue."""
    content = pickle.loads((root / FOLDER / name).read_bytes())
    return torch.from_numpy(content["data"][row]).view(3, 32, 32).float()


def test_cifar_has_the_papers_sizes(cifar_root: Path) -> None:
    data = _prepared(cifar_root)
    batch = on_cpu(data, next(iter(data.train_dataloader())))
    assert batch.tokens.shape == (4, 64, 48)
    assert batch.target.shape == (4, 1)
    assert (data.task.name, data.task.max_length, data.task.token_width, data.task.classes) == ("cifar", 64, 48, 10)


def test_pixels_are_those_of_the_file_normalised_by_channel(cifar_root: Path) -> None:
    data = _prepared(cifar_root)
    batch = on_cpu(data, data.dataset("test").__getitems__([7]))
    whole = batch.tokens.view(8, 8, 3, 4, 4).permute(2, 0, 3, 1, 4).reshape(3, 32, 32)
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)))
    assert torch.allclose(whole, (_stored(cifar_root, "test_batch", 7) / 255 - mean) / std, atol=1e-5)
    assert batch.target.item() == 7
    assert data.class_names[7] == "horse"


def test_the_lra_variant_is_one_grey_pixel_a_token(cifar_root: Path) -> None:
    data = _prepared(cifar_root, CIFAR10LRA)
    assert (data.task.name, data.task.max_length, data.task.token_width) == ("cifar_lra", 1024, 1)
    tokens = on_cpu(data, data.dataset("test").__getitems__([5])).tokens
    red, green, blue = _stored(cifar_root, "test_batch", 5)
    grey = (0.2989 * red + 0.587 * green + 0.114 * blue).floor().flatten()
    assert tokens.shape == (1, 1024, 1)
    assert torch.allclose(tokens.flatten(), (grey / 255 - 0.5) / 0.5, atol=1e-5)


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR10LRA])
def test_training_images_are_augmented_unless_told_otherwise(cifar_root: Path, kind: type[CIFAR10]) -> None:
    augmented, plain = (_prepared(cifar_root, kind, augment=augment) for augment in (True, False))
    ours, theirs = (on_cpu(data, data.dataset("train").__getitems__(range(40))).tokens for data in (augmented, plain))
    assert (ours != theirs).flatten(1).any(dim=1).float().mean() > 0.9
    assert augmented.fingerprint() != plain.fingerprint()


def test_missing_files_are_named(tmp_path: Path, cifar_root: Path) -> None:
    with pytest.raises(FPTError, match=r"data_batch_1.*not found.*\n.*cifar-10-python\.tar\.gz.*md5.*data\.root"):
        CIFAR10(root=str(tmp_path / "nowhere"), download=False).prepare_data()


def test_a_failed_download_says_where_the_archive_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = replace(CIFAR10.ARCHIVE, urls=("http://127.0.0.1:9/a", "http://127.0.0.1:9/b"))
    monkeypatch.setattr(CIFAR10, "ARCHIVE", archive)
    with pytest.raises(FPTError, match=r"could not be fetched: http://127\.0\.0\.1:9/a .*9/b .*\n.* put the file into"):
        CIFAR10(root=str(tmp_path)).prepare_data()


def test_an_archive_that_lies_there_is_unpacked(cifar_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = cifar_root.with_name("archive")
    root.mkdir()
    path = root / CIFAR10.ARCHIVE.name
    with tarfile.open(path, "w:gz") as archive:
        archive.add(cifar_root / FOLDER, FOLDER)
    checksum = f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}"
    monkeypatch.setattr(CIFAR10, "ARCHIVE", RemoteFile(path.name, ("http://127.0.0.1:9/a",), checksum))
    data = CIFAR10(root=str(root), validation_examples=20)
    data.prepare_data()
    assert len(data.dataset("train")) == 40


def test_a_file_that_is_not_what_it_should_be_is_named_and_never_unpickled(cifar_root: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "owned",)

    (cifar_root / FOLDER / "data_batch_3").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(FPTError, match=r"data_batch_3 does not have the md5 sum"):
        _prepared(cifar_root)
    with pytest.raises(RuntimeError, match="corrupted"):
        CIFAR10(root=str(cifar_root), validation_examples=20).train_dataloader()
    assert not (tmp_path / "owned").exists()


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match=r"data\.patch_size 5 does not divide data\.image_size 32"):
        CIFAR10(patch_size=5)
    with pytest.raises(UsageError, match=r"data\.validation_examples"):
        CIFAR10LRA(validation_examples=0)


def test_the_reference_implementation_keeps_grey_in_fractions(cifar_root: Path) -> None:
    whole, released = (_prepared(cifar_root, CIFAR10LRA, as_released=as_released) for as_released in (False, True))
    tokens = on_cpu(released, released.dataset("test").__getitems__([5])).tokens
    red, green, blue = _stored(cifar_root, "test_batch", 5)
    grey = (0.2989 * red + 0.587 * green + 0.114 * blue).flatten()
    assert torch.allclose(tokens.flatten(), (grey / 255 - 0.5) / 0.5, atol=1e-5)
    assert on_cpu(released, next(iter(released.train_dataloader()))).tokens.shape == (4, 1024, 1)
    assert released.fingerprint() == _prepared(cifar_root, CIFAR10LRA, grey="float").fingerprint()
    assert released.fingerprint() != whole.fingerprint()
    again = _prepared(cifar_root, CIFAR10LRA, as_released=True, grey="whole")
    assert again.fingerprint() == released.fingerprint()


def test_colour_is_as_released(cifar_root: Path) -> None:
    assert _prepared(cifar_root, as_released=True).fingerprint() == _prepared(cifar_root).fingerprint()
