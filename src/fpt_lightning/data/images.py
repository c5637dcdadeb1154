"""Images cut into patches."""

import hashlib
import math
import struct
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from fpt_lightning.data.datamodule import FPTDataModule, Split
from fpt_lightning.data.loading import BatchDataset
from fpt_lightning.data.spec import Batch, TaskSpec
from fpt_lightning.errors import FPTError, UsageError


class Images(NamedTuple):
    """A batch as it is stored, before it is cut into tokens.

    Attributes:
        pixels: ``[batch, channels, height, width]`` uint8.
        labels: ``[batch]`` int64.
    """

    pixels: torch.Tensor
    labels: torch.Tensor


class ImageTable(BatchDataset):
    """Images held in memory as uint8.

    Args:
        pixels: ``[examples, channels, height, width]`` uint8.
        labels: ``[examples]`` int64.
    """

    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        self.pixels = pixels
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int]) -> Images:
        chosen = torch.as_tensor(indices)
        return Images(self.pixels[chosen], self.labels[chosen])


def to_patches(images: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Cuts images into square patches, row by row.

    Args:
        images: ``[batch, channels, height, width]``.
        patch_size: Pixels along a patch's side.

    Returns:
        ``[batch, patches, channels * patch_size**2]``.
    """
    return F.unfold(images, kernel_size=patch_size, stride=patch_size).transpose(1, 2)


class MNIST(FPTDataModule):
    """MNIST: 10 handwritten digits (FPT section 2.2; LeCun, Cortes and Burges 1998).

    60,000 training images, of which a fixed seed sets ``validation_examples`` aside, and 10,000 test images. An image
    of 28x28 pixels is padded to 32x32 and cut into 64 patches of 4x4, as in the paper; ``image_size: 28`` gives the 49
    patches of the reference implementation. Pixels are scaled to [0, 1], then normalised by the mean and standard
    deviation of the training images.

    Args:
        image_size: Pixels along a side after padding with black; at least 28.
        patch_size: Pixels along a patch's side; divides ``image_size``.
        validation_examples: Training images set aside for validation.
        split_seed: Which images those are; the same for all runs that are compared.
        download: Fetch the files through torchvision where they are missing.
        kwargs: Those of :class:`FPTDataModule`; ``root`` holds ``MNIST/raw/``.

    Raises:
        UsageError: If the sizes do not fit each other.
    """

    CLASSES = 10
    SIDE = 28
    MEAN, STD = 0.1307, 0.3081
    FILES: tuple[tuple[str, str], ...] = (
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    )

    def __init__(
        self,
        image_size: int = 32,
        patch_size: int = 4,
        validation_examples: int = 5000,
        split_seed: int = 0,
        download: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_size = image_size
        self.patch_size = patch_size
        self.validation_examples = validation_examples
        self.split_seed = split_seed
        self.download = download
        self._tables: dict[bool, ImageTable] = {}
        if image_size < self.SIDE or (image_size - self.SIDE) % 2:
            raise UsageError(f"data.image_size must be {self.SIDE} or more and even, got {image_size}")
        if patch_size < 1 or image_size % patch_size:
            raise UsageError(f"data.patch_size {patch_size} does not divide data.image_size {image_size}")
        if validation_examples < 1:
            raise UsageError("data.validation_examples must be at least 1: a checkpoint is chosen on them")

    @property
    def task(self) -> TaskSpec:
        """The paper's sizes by default: 64 tokens x 16, 1 answer of 10 classes."""
        return TaskSpec(
            name="mnist",
            max_length=(self.image_size // self.patch_size) ** 2,
            classes=self.CLASSES,
            token_width=self.patch_size**2,
        )

    @property
    def folder(self) -> Path:
        """Where the four unpacked files lie."""
        return Path(self.root) / "MNIST" / "raw"

    def prepare_data(self) -> None:
        """Fetches missing files and checks that each is as long as its header says.

        Raises:
            FPTError: If a file is missing and cannot be fetched, or is not what its header says.
        """
        missing = [name for pair in self.FILES for name in pair if not (self.folder / name).is_file()]
        if missing and self.download:
            self._fetch(missing)
        elif missing:
            raise FPTError(_missing(self.folder, missing, "data.download is false"))
        for images, labels in self.FILES:
            if (count := _check_idx(self.folder / images)) != _check_idx(self.folder / labels):
                raise FPTError(f"{self.folder / labels} does not have {count} labels, one for each image of {images}")

    def dataset(self, split: Split) -> ImageTable:
        """The images of a split; validation is cut from the training files, test is the test files."""
        if split == "test":
            return self._table(train=False)
        table = self._table(train=True)
        if self.validation_examples >= len(table):
            raise UsageError(
                f"data.validation_examples {self.validation_examples} leaves none of {len(table)} images to train on"
            )
        order = torch.randperm(len(table), generator=torch.Generator().manual_seed(self.split_seed))
        chosen = order[: self.validation_examples] if split == "validation" else order[self.validation_examples :]
        return ImageTable(table.pixels[chosen], table.labels[chosen])

    def on_after_batch_transfer(self, batch: Images, dataloader_idx: int) -> Batch:
        """Pads, normalises and cuts the images on the device, a whole batch at a time."""
        return self.to_batch(batch)

    def to_batch(self, images: Images) -> Batch:
        """Tokens ``[batch, 64, 16]`` float and target ``[batch, 1]``, at the paper's sizes."""
        border = (self.image_size - self.SIDE) // 2
        pixels = F.pad(images.pixels, [border] * 4).float().div_(255).sub_(self.MEAN).div_(self.STD)
        return Batch(tokens=to_patches(pixels, self.patch_size), target=images.labels[:, None])

    def facts(self) -> dict[str, Any]:
        """Hashes of the files and what cuts them."""
        hashes = {name: _sha256(self.folder / name) for pair in self.FILES for name in pair}
        return {
            "files": hashes,
            "image_size": self.image_size,
            "validation_examples": self.validation_examples,
            "split_seed": self.split_seed,
        }

    def _table(self, *, train: bool) -> ImageTable:
        if train not in self._tables:
            from torchvision import datasets  # seconds to import

            stored = datasets.MNIST(self.root, train=train)
            self._tables[train] = ImageTable(stored.data[:, None], stored.targets)
        return self._tables[train]

    def _fetch(self, missing: list[str]) -> None:
        from torchvision import datasets  # seconds to import

        try:
            datasets.MNIST(self.root, download=True)
        except (RuntimeError, OSError) as error:  # what torchvision and urllib raise when every mirror fails
            reason = textwrap.shorten(str(error), 120)
            raise FPTError(_missing(self.folder, missing, f"fetching failed ({reason})")) from error


def _missing(folder: Path, names: list[str], reason: str) -> str:
    return (
        f"MNIST: {', '.join(names)} not found in {folder} and {reason}.\n"
        "Set data.root to the folder above MNIST/raw, or unpack the four files there by hand."
    )


def _check_idx(path: Path) -> int:
    """Compares a file in MNIST's idx format with its own header.

    Returns:
        The number of items in the file.

    Raises:
        FPTError: If the file is not idx data of bytes or not as long as its header says.
    """
    with path.open("rb") as file:
        magic = file.read(4)
        dimensions = magic[3] if len(magic) == 4 and magic[:3] == b"\x00\x00\x08" else 0
        header = file.read(4 * dimensions)
    if dimensions == 0 or len(header) < 4 * dimensions:
        raise FPTError(f"{path} is not in MNIST's idx format; delete it and run `fpt prepare` again")
    sizes = struct.unpack(f">{dimensions}I", header)
    expected = 4 + len(header) + math.prod(sizes)
    if (actual := path.stat().st_size) != expected:
        raise FPTError(
            f"{path} has {actual:,} bytes where its header promises {expected:,}; delete it and run `fpt prepare` again"
        )
    return int(sizes[0])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
