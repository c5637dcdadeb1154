"""What all image tasks share, on the smallest of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import on_cpu
from fpt_lightning.data.datamodule import SPLITS
from fpt_lightning.data.images.cifar import CIFAR10
from fpt_lightning.data.images.datamodule import ImageTable, to_patches
from fpt_lightning.data.spec import Batch


@given(channels=st.integers(1, 3), rows=st.integers(1, 4), columns=st.integers(1, 4), patch=st.integers(1, 4))
def test_patches_hold_the_pixels_row_by_row(channels: int, rows: int, columns: int, patch: int) -> None:
    images = torch.arange(2 * channels * rows * columns * patch**2).float()
    images = images.reshape(2, channels, rows * patch, columns * patch)
    patches = to_patches(images, patch)
    assert patches.shape == (2, rows * columns, channels * patch**2)
    for row in range(rows):
        for column in range(columns):
            cut = images[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            assert torch.equal(patches[:, row * columns + column], cut.flatten(1))


@given(channels=st.integers(1, 3), side=st.integers(1, 4), patch=st.integers(1, 4))
def test_patches_lose_nothing(channels: int, side: int, patch: int) -> None:
    images = torch.rand(2, channels, side * patch, side * patch)
    back = torch.nn.functional.fold(to_patches(images, patch).mT, side * patch, patch, stride=patch)
    assert torch.equal(back, images)


def _cifar(root: Path, **options: Any) -> CIFAR10:
    options = {"validation_examples": 20, "batch_size": 8, "eval_batch_size": 8, "download": False, **options}
    return CIFAR10(root=str(root), **options)


def _epoch(data: CIFAR10, epoch: int = 0, split: str = "train") -> Iterator[Batch]:
    loader = {"train": data.train_dataloader, "validation": data.val_dataloader, "test": data.test_dataloader}[split]()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return (on_cpu(data, rows) for rows in loader)


def _images(data: CIFAR10, epoch: int = 0, split: str = "train") -> torch.Tensor:
    return torch.cat([batch.tokens for batch in _epoch(data, epoch, split)])


def test_a_loader_hands_over_row_numbers_alone(cifar_root: Path) -> None:
    rows = next(iter(_cifar(cifar_root).train_dataloader()))
    assert sum(value.nbytes for value in rows if isinstance(value, torch.Tensor)) == 8 * 8


def test_all_splits_share_one_table(cifar_root: Path) -> None:
    data = _cifar(cifar_root)
    parts = [data.rows(split) for split in SPLITS]
    assert sorted(torch.cat(parts).tolist()) == list(range(80)) == list(range(len(data.table.labels)))
    assert parts[2].tolist() == list(range(60, 80))
    before = data.table.pixels.data_ptr()
    list(_epoch(data))
    list(_epoch(data, split="test"))
    assert data.table.pixels.data_ptr() == before, "nothing is copied on the CPU"


def test_worker_processes_change_nothing(cifar_root: Path) -> None:
    for epoch in (0, 1):
        ours, theirs = (_images(_cifar(cifar_root, num_workers=workers), epoch) for workers in (0, 2))
        assert torch.equal(ours, theirs)


def test_an_epoch_looks_different_from_the_one_before(cifar_root: Path) -> None:
    first, again, second = (_sorted(_cifar(cifar_root), epoch) for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first != second).flatten(1).any(dim=1).float().mean() > 0.9
    assert torch.equal(*(_sorted(_cifar(cifar_root, augment=False), epoch) for epoch in (0, 1)))


def _sorted(data: CIFAR10, epoch: int) -> torch.Tensor:
    """The training images of an epoch in the order of the table."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    batches = list(loader)
    order = torch.cat([batch.rows for batch in batches]).argsort()
    return torch.cat([on_cpu(data, batch).tokens for batch in batches])[order]


def test_the_seed_decides_what_training_looks_like_and_nothing_else(cifar_root: Path) -> None:
    ours, theirs = (_cifar(cifar_root, seed=seed) for seed in (0, 1))
    assert not torch.equal(_sorted(ours, 0), _sorted(theirs, 0))
    for split in ("validation", "test"):
        assert torch.equal(_images(ours, split=split), _images(theirs, split=split))


def test_validation_and_test_are_not_augmented(cifar_root: Path) -> None:
    for split in ("validation", "test"):
        augmented, plain = (_images(_cifar(cifar_root, augment=augment), split=split) for augment in (True, False))
        assert torch.equal(augmented, plain)


def test_the_same_images_are_changed_alike_in_any_batch(cifar_root: Path) -> None:
    """So two devices see what one would."""
    data = _cifar(cifar_root)
    whole = on_cpu(data, data.dataset("train").__getitems__(range(40, 48)))
    halves = [on_cpu(data, data.dataset("train").__getitems__(part)) for part in (range(40, 44), range(44, 48))]
    assert torch.equal(torch.cat([half.tokens for half in halves]), whole.tokens)
    assert torch.equal(torch.cat([half.target for half in halves]), whole.target)


def test_the_table_moves_to_the_device_if_it_fits(cifar_root: Path) -> None:
    """The meta device stands for a GPU: it is another device, and has sizes only."""
    meta = torch.device("meta")
    for limit, place in ((1, "meta"), (0, "cpu")):
        data = _cifar(cifar_root, device_resident_mb=limit)
        tokens, target, _ = data.transfer_batch_to_device(next(iter(data.train_dataloader())), meta, 0)
        assert data.table.pixels.device.type == place
        assert tokens.device == target.device == meta
        assert data._affine is not None
        assert data._affine[1].device == meta
        assert tokens.shape == (8, 64, 48)


def test_the_description_says_where_the_table_is(cifar_root: Path) -> None:
    small, large = (_cifar(cifar_root, device_resident_mb=limit) for limit in (0, 2048))
    assert "in main memory" in small.describe()[-1]
    assert "on the training device" in large.describe()[-1]


def test_training_goes_on_after_a_table_was_first_used_for_validation(cifar_root: Path) -> None:
    """A tensor made in inference mode may not be saved for a gradient."""
    data = _cifar(cifar_root)
    with torch.inference_mode():
        data._table = ImageTable(*(tensor.clone() for tensor in data.table))
        list(_epoch(data, split="validation"))
    batch = next(_epoch(data))
    weight = torch.ones(48, 10, requires_grad=True)
    torch.nn.functional.cross_entropy((batch.tokens @ weight)[:, -1], batch.target[:, 0]).backward()
    assert weight.grad is not None
