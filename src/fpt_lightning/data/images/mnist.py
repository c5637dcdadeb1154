"""MNIST."""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F

from fpt_lightning.data.download import RemoteFile, decompress, fetch
from fpt_lightning.data.images.datamodule import ImageTable
from fpt_lightning.data.images.published import PublishedImages
from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.machine import expect_memory


class MNIST(PublishedImages):
    """MNIST: 10 handwritten digits (FPT section 2.2; LeCun, Cortes and Burges 1998).

    60,000 training images, of which a fixed seed sets ``validation_examples`` aside, and 10,000 test images. An image
    of 28x28 pixels is padded to 32x32 and cut into 64 patches of 4x4, as in the paper; ``image_size: 28`` gives the 49
    patches of the reference implementation. Pixels are scaled to [0, 1] and stay so, as in the reference; where they
    are ``normalised``, it is by the mean and standard deviation of the training images.

    Args:
        image_size: Pixels along a side after padding with black; at least 28.
        patch_size: Pixels along a patch's side; divides ``image_size``.
        kwargs: Those of :class:`PublishedImages`; ``root`` holds ``MNIST/raw/``.
    """

    name = "mnist"
    title = "MNIST"
    subfolder = "MNIST/raw"
    advice = "Set data.root to the folder above MNIST/raw, or unpack the four files there by hand."
    channels = 1
    mean, std = (0.1307,), (0.3081,)
    own_pixels = "raw"
    SIDE = 28
    MIRRORS: tuple[str, ...] = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",  # torchvision's
        "https://storage.googleapis.com/cvdf-datasets/mnist/",  # TensorFlow's
    )
    # of the compressed files
    CHECKSUMS: Mapping[str, str] = {
        "train-images-idx3-ubyte": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte": "md5:d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte": "md5:9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte": "md5:ec29112dd5afa0611ce80d1b7f02629c",
    }

    def __init__(self, image_size: int = 32, patch_size: int = 4, **kwargs: Any) -> None:
        if image_size < self.SIDE or (image_size - self.SIDE) % 2:
            raise UsageError(f"data.image_size must be {self.SIDE} or more and even, got {image_size}")
        self.image_size = image_size
        super().__init__(patch_size, **kwargs)

    @property
    def files(self) -> list[str]:
        return list(self.CHECKSUMS)

    def fetch(self) -> None:
        for name, checksum in self.CHECKSUMS.items():
            if not (self.folder / name).is_file():
                urls = tuple(f"{mirror}{name}.gz" for mirror in self.MIRRORS)
                decompress(fetch(RemoteFile(f"{name}.gz", urls, checksum), self.folder), self.folder / name)

    def verify(self) -> None:
        """Checks that each file is what its name says, and as long as its header says."""
        for part in ("train", "t10k"):
            images, labels = (self.folder / f"{part}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1"))
            (count, *sides), (named,) = _check_idx(images, 3), _check_idx(labels, 1)
            if sides != [self.SIDE, self.SIDE]:
                shape = "x".join(map(str, sides))
                raise FPTError(f"{images} has images of {shape} pixels where MNIST's are {self.SIDE}x{self.SIDE}")
            if count != named:
                raise FPTError(f"{labels} does not have {count} labels, one for each image of {images.name}")
            values = labels.read_bytes()[-named:]
            if (largest := max(values)) >= self.classes:
                place = values.index(largest) + 1
                raise FPTError(f"{labels}: label {place:,} is {largest} where MNIST's are 0 to {self.classes - 1}")

    def load_part(self, *, train: bool) -> ImageTable:
        from torchvision.datasets import mnist  # seconds to import

        part = "train" if train else "t10k"
        images = mnist.read_image_file(str(self.folder / f"{part}-images-idx3-ubyte"))
        expect_memory(
            len(images) * self.image_size**2, f"{len(images):,} images of data.image_size {self.image_size:,}"
        )
        border = (self.image_size - self.SIDE) // 2
        labels = mnist.read_label_file(str(self.folder / f"{part}-labels-idx1-ubyte"))
        return ImageTable(F.pad(images[:, None], [border] * 4), labels)


def _check_idx(path: Path, wanted: int) -> tuple[int, ...]:
    """Compares a file in MNIST's idx format with its own header.

    Returns:
        Its sizes, so many as wanted: 3 of images, 1 of labels.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            dimensions = magic[3] if len(magic) == 4 and magic[:3] == b"\x00\x00\x08" else 0
            header = file.read(4 * dimensions)
    except OSError as error:
        raise FPTError(f"{path} cannot be read: {error.strerror}") from error
    if dimensions == 0 or len(header) < 4 * dimensions:
        raise FPTError(f"{path} is not in MNIST's idx format; delete it and run `fpt prepare` again")
    sizes = struct.unpack(f">{dimensions}I", header)
    expected = 4 + len(header) + math.prod(sizes)
    if (actual := path.stat().st_size) != expected:
        raise FPTError(
            f"{path} has {actual:,} bytes where its header promises {expected:,}; delete it and run `fpt prepare` again"
        )
    if dimensions != wanted:
        kind, other = ("images", "labels") if wanted == 3 else ("labels", "images")
        raise FPTError(f"{path} does not hold {kind}: is it the file of the {other}?")
    if not sizes[0]:
        raise FPTError(f"{path} is empty: its header promises no item; delete it and run `fpt prepare` again")
    return sizes
