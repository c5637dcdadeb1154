"""Folders of image files by class: what is in them, and their pixels."""

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.utils.data import DataLoader

from fpt_lightning.data.datamodule import Split
from fpt_lightning.data.loading import BatchDataset, unchanged
from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.files import files_below
from fpt_lightning.machine import expect_memory, visible_cores

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "val", "valid"),
    "test": ("test",),
}
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow would clip them to 8 bits
READER_VERSION = 1
"""Changes whenever :func:`read_image` makes other pixels of the same file."""
CHUNK = 256
"""Images that a process reads at a time; fewer than two chunks are not worth a second process."""


class ImageFile(NamedTuple):
    """A file, the number of its class, and the split in whose folder it lies; None where there are no such folders."""

    path: str
    label: int
    split: Split | None


def split_folders(root: Path) -> dict[Split | None, Path]:
    """The folders that hold the classes: one a split, or just the root where it has no ``train``.

    Raises:
        FPTError: If there is no such folder, or there are two for validation.
        UsageError: If a folder beside them has folders of the same classes, and the name of no split.
    """
    if not root.is_dir():
        raise FPTError(f"data.root: there is no folder {root}")
    # a class may be called 'train', too: then images lie right in it
    if not (root / "train").is_dir() or not _folders(root / "train"):
        return {None: root}
    folders: dict[Split | None, Path] = {}
    for split, names in SPLIT_FOLDERS.items():
        there = [root / name for name in names if (root / name).is_dir()]
        if len(there) > 1:
            raise FPTError(f"{there[0]} and {there[1]} would both be the validation split; take one away")
        if there:
            folders[split] = there[0]
    _refuse_other_names(root, folders)
    return folders


def _refuse_other_names(root: Path, folders: Mapping[Split | None, Path]) -> None:
    classes = _folders(folders["train"])
    for other in [root / name for name in _folders(root)]:
        # samefile: where names differ by case alone on the disk, test is found as Test; isdir: lost+found may be closed
        if not any(other.samefile(folder) for folder in folders.values()) and any(
            os.path.isdir(other / name)  # noqa: PTH112
            for name in classes
        ):
            known = ", ".join(name for names in SPLIT_FOLDERS.values() for name in names)
            raise UsageError(
                f"{other} has folders of the classes, and the name of no split: call it as one is called ({known}), or "
                f"move it out of {root}"
            )


def find_classes(root: Path) -> list[str]:
    """The folders of the classes, sorted: the number of a class is its place among them.

    Raises:
        FPTError: If there are fewer than two, or a split has other classes than the training images.
    """
    folders = split_folders(root)
    names = {folder: _folders(folder) for folder in folders.values()}
    first, *others = names
    if len(names[first]) < 2:
        raise FPTError(
            f"{first} has {len(names[first])} folders of images, one a class, where at least 2 are needed;\n"
            "data.root holds CLASS/IMAGE, or train/CLASS/IMAGE and test/CLASS/IMAGE"
        )
    for folder in others:
        if differing := sorted(set(names[folder]) ^ set(names[first])):
            has, lacks = (folder, first) if differing[0] in names[folder] else (first, folder)
            raise FPTError(f"class '{differing[0]}' is in {has} but not in {lacks} ({len(differing)} such classes)")
    return names[first]


def list_images(root: Path) -> list[ImageFile]:
    """All image files in the order of split, class and path; hidden ones and those of other kinds do not count.

    Raises:
        FPTError: If a class has no image in a split, and what :func:`find_classes` raises.
    """
    classes = find_classes(root)
    listed: list[ImageFile] = []
    for split, folder in split_folders(root).items():
        for label, name in enumerate(classes):
            files = files_below(folder / name, EXTENSIONS)
            if not files:
                raise FPTError(f"{folder / name} has no image; known are {', '.join(EXTENSIONS)}")
            listed += [ImageFile(path, label, split) for path in files]
    if listed[0].split is None and not any(Path(file.path).parent.parent == root for file in listed):
        raise FPTError(
            f"{root} holds folders of folders of images, and none of them is called train;\n"
            "data.root holds CLASS/IMAGE, or train/CLASS/IMAGE and test/CLASS/IMAGE"
        )
    return listed


def new_images(folder: Path) -> list[str]:
    """The paths of all image files in a folder and below, sorted.

    Raises:
        FPTError: If there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise FPTError(f"data.predict_folder: there is no folder {folder}")
    if not (paths := files_below(folder, EXTENSIONS)):
        raise FPTError(f"data.predict_folder: {folder} has no image; known are {', '.join(EXTENSIONS)}")
    return paths


def file_states(root: Path, files: Sequence[ImageFile]) -> list[tuple[str, int, int]]:
    """The path inside the root, the size and the time of every file: where they are unchanged, so are the pixels.

    Raises:
        FPTError: If a file is not there.
    """
    states = []
    for file in files:
        try:
            state = os.stat(file.path)  # noqa: PTH116 - a Path for each of many thousands takes seconds
        except OSError as error:
            raise FPTError(f"{file.path} cannot be read ({error.strerror}); mend it or take it away") from error
        if not S_ISREG(state.st_mode):
            raise FPTError(f"{file.path} is no file of pixels but a pipe, a device or the like; take it away")
        states.append((os.path.relpath(file.path, root), state.st_size, state.st_mtime_ns))
    return states


def decode(files: Sequence[ImageFile], image_size: int, *, grey: bool) -> torch.Tensor:
    """Reads images as :func:`read_image` does, in as many processes as there are cores.

    Returns:
        ``[files, channels, image_size, image_size]`` uint8.

    Raises:
        FPTError: If files cannot be read; the first is named.
    """
    from tqdm import tqdm

    channels = 1 if grey else 3
    expect_memory(len(files) * channels * image_size**2, f"{len(files):,} images of data.image_size {image_size:,}")
    pixels = torch.empty(len(files), channels, image_size, image_size, dtype=torch.uint8)
    # processes: in threads the images of a few kB that these tasks are made of wait for each other
    processes = min(visible_cores(), 16) if len(files) >= 2 * CHUNK else 0
    loader = DataLoader(
        _Decoded(files, image_size, grey),
        batch_size=CHUNK,
        num_workers=processes,
        collate_fn=unchanged,
        # of its own: a run that decodes and one that finds a cache must draw the same numbers
        generator=torch.Generator(),
    )
    start, refused = 0, []
    with tqdm(desc="reading images", total=len(files), unit=" images", disable=None, leave=False) as bar:
        for chunk, messages in loader:
            pixels[start : start + len(chunk)] = chunk
            refused += messages
            start += len(chunk)
            bar.update(len(chunk))
    if refused:
        more = f"\n{len(refused) - 1} more cannot be read" if len(refused) > 1 else ""
        raise FPTError(refused[0] + more)
    return pixels


@dataclass(frozen=True)
class _Decoded(BatchDataset):
    """Chunks of pixels, and what is wrong with the files that have none."""

    files: Sequence[ImageFile]
    image_size: int
    grey: bool

    def __len__(self) -> int:
        return len(self.files)

    def __getitems__(self, indices: Sequence[int]) -> tuple[torch.Tensor, list[str]]:
        pixels = torch.zeros(len(indices), 1 if self.grey else 3, self.image_size, self.image_size, dtype=torch.uint8)
        refused = []
        for place, index in enumerate(indices):
            try:
                pixels[place] = read_image(self.files[index].path, self.image_size, grey=self.grey)
            except FPTError as error:  # an error that crosses processes arrives with its traceback for a message
                refused.append(str(error))
        return pixels, refused


def read_image(path: str | Path, image_size: int, *, grey: bool) -> torch.Tensor:
    """Reads an image as ``[channels, image_size, image_size]`` uint8.

    It is turned as its EXIF data says, scaled (bicubic, antialiased) until its shorter side is ``image_size``, and
    cut to a square at its centre. Of several frames the first is taken. Palettes, CMYK and the like become RGB; what
    is transparent becomes black, as padding is. An image of ``image_size`` stays as it is.

    Raises:
        FPTError: If it is damaged, or has more than 8 bits a channel in a mode that Pillow cannot reduce.
    """
    from PIL import Image, ImageOps

    side = (image_size, image_size)
    try:
        with Image.open(path) as file:
            if file.mode in DEEP_MODES:
                raise FPTError(f"{path} has more than 8 bits a channel (mode {file.mode}); convert it to 8 bits")
            file.draft(None, (2 * image_size, 2 * image_size))  # a large JPEG is decoded at a fraction of its size
            image = ImageOps.fit(_flat(ImageOps.exif_transpose(file), grey=grey), side, Image.Resampling.BICUBIC)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise FPTError(f"{path} cannot be read as an image ({error}); mend it or take it away") from error
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(*side, -1).permute(2, 0, 1)


def _flat(image: "Image.Image", *, grey: bool) -> "Image.Image":
    """The image in one of two modes, without transparency."""
    from PIL import Image

    mode = "L" if grey else "RGB"
    if not image.has_transparency_data:
        return image.convert(mode)
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert(mode)


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
