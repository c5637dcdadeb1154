import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fpt_lightning.data.images.files import CHUNK, ImageFile, decode, find_classes, list_images, read_image
from fpt_lightning.errors import FPTError


def _image(mode: str = "RGB", size: tuple[int, int] = (8, 8), seed: int = 0) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], bands), dtype=np.uint8)
    return Image.frombytes(mode, size, pixels.tobytes())


def _read(
    image: Image.Image, name: str = "image.png", size: int = 8, grey: bool = False, **options: object
) -> torch.Tensor:
    image.save(name, **options)  # type: ignore[arg-type]
    return read_image(name, size, grey=grey)


def _folders(*names: str) -> Path:
    for name in names:
        Path("root", name).mkdir(parents=True)
        _image(seed=len(name)).save(Path("root", name, "image.png"))
    return Path("root")


def test_an_image_of_the_right_size_stays_as_it_is() -> None:
    image = _image()
    assert torch.equal(_read(image), torch.from_numpy(np.array(image)).permute(2, 0, 1))
    grey = _image("L")
    assert torch.equal(_read(grey, grey=True)[0], torch.from_numpy(np.array(grey)))


def test_a_wide_image_is_scaled_and_cut_at_its_centre() -> None:
    image = Image.new("RGB", (64, 16), "red")
    image.paste("blue", (24, 0, 40, 16))
    assert torch.equal(_read(image)[:, 2:6, 2:6], torch.tensor([0, 0, 255]).view(3, 1, 1).expand(3, 4, 4))
    assert _read(image)[0].max() < 30, "the red sides are cut off, but for what scaling blurs"


@given(width=st.integers(1, 90), height=st.integers(1, 90), size=st.integers(1, 40), grey=st.booleans())
def test_any_size_becomes_a_square(width: int, height: int, size: int, grey: bool) -> None:
    pixels = _read(Image.new("RGB", (width, height), (10, 10, 10)), size=size, grey=grey)
    assert pixels.shape == (1 if grey else 3, size, size)
    assert (pixels == 10).all()


def test_a_large_jpeg_is_that_of_full_decoding_but_for_rounding() -> None:
    smooth = Image.linear_gradient("L").resize((800, 600)).convert("RGB")
    pixels = _read(smooth, "image.jpg", size=32)
    assert (pixels.int() - _read(smooth, size=32).int()).abs().max() <= 3


@pytest.mark.parametrize(
    ("mode", "name"),
    [("L", "a.png"), ("1", "a.png"), ("CMYK", "a.jpg"), ("P", "a.png"), ("LA", "a.png"), ("RGBA", "a.webp")],
)
def test_other_modes_become_colour_or_grey(mode: str, name: str) -> None:
    image = Image.new("RGB", (8, 8), (200, 200, 200))
    image = image.quantize() if mode == "P" else image.convert(mode)
    for grey in (False, True):
        pixels = _read(image, name, grey=grey)
        assert pixels.shape == (1 if grey else 3, 8, 8)
        assert ((pixels.int() - 200).abs() <= 4).all() or mode == "1"


def test_what_is_transparent_becomes_black() -> None:
    image = Image.new("RGBA", (8, 8), (250, 100, 50, 255))
    image.paste((250, 100, 50, 0), (0, 0, 4, 8))
    pixels = _read(image)
    assert pixels[:, :, :4].max() == 0
    assert pixels[:, 0, 7].tolist() == [250, 100, 50]
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 250, 100, 50])
    assert _read(palette, "palette.png", transparency=1).max() == 0


def test_a_photograph_is_turned_as_its_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image = _image()
    assert torch.equal(_read(image, exif=exif), _read(image).rot90(-1, (1, 2)))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_8_bits_are_refused(mode: str) -> None:
    image = Image.new(mode, (8, 8))
    with pytest.raises(FPTError, match=r"deep\.tif has more than 8 bits a channel \(mode .+\); convert it to 8 bits"):
        _read(image, "deep.tif")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_named(content: bytes) -> None:
    Path("other.png").write_bytes(content)
    with pytest.raises(FPTError, match=r"other\.png cannot be read as an image"):
        read_image("other.png", 8, grey=False)


@given(data=st.data(), kind=st.sampled_from(["png", "jpeg", "bmp", "tiff", "webp", "ppm"]), cut=st.booleans())
def test_a_damaged_file_is_read_or_named(data: st.DataObject, kind: str, cut: bool) -> None:
    stream = io.BytesIO()
    _image(size=(40, 30)).save(stream, kind)
    content = bytearray(stream.getvalue())
    place = data.draw(st.integers(0, len(content) - 1))
    if cut:
        del content[place:]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    Path("damaged").write_bytes(content)
    with warnings.catch_warnings(action="ignore"), contextlib.suppress(FPTError):  # anything else would be a traceback
        assert read_image("damaged", 8, grey=False).shape == (3, 8, 8)


def test_a_truncated_image_is_never_half_read() -> None:
    for kind in ("png", "jpeg"):
        _image(size=(60, 60)).save(f"half.{kind}")
        content = Path(f"half.{kind}").read_bytes()
        Path(f"half.{kind}").write_bytes(content[: len(content) // 2])
        with pytest.raises(FPTError, match=rf"half\.{kind} cannot be read as an image \(image file is truncated"):
            read_image(f"half.{kind}", 8, grey=False)


def test_many_images_are_read_in_order_by_several_processes() -> None:
    files = []
    for number in range(2 * CHUNK + 5):
        Image.new("L", (2, 2), number % 256).save(f"{number}.png")
        files.append(ImageFile(f"{number}.png", 0, None))
    before = torch.get_rng_state()
    pixels = decode(files, 2, grey=True)
    assert torch.equal(torch.get_rng_state(), before), "a first start draws the numbers of a later one"
    assert pixels[:, 0, 0, 0].tolist() == [number % 256 for number in range(len(files))]
    for number in (3, 500):
        Path(f"{number}.png").write_bytes(b"")
    with pytest.raises(FPTError, match=r"^3\.png cannot be read.*\n1 more cannot be read$"):
        decode(files, 2, grey=True)


def test_classes_are_sorted_with_or_without_splits() -> None:
    root = _folders("dog", "cat", ".hidden")
    assert find_classes(root) == ["cat", "dog"]
    assert [(Path(file.path).parent.name, file.label, file.split) for file in list_images(root)] == [
        ("cat", 0, None),
        ("dog", 1, None),
    ]
    for name in ("train/a", "train/b", "test/a", "test/b", "val/a", "val/b", "notes/c"):
        _folders(f"split/{name}")
    listed = list_images(root / "split")
    assert [file.split for file in listed] == ["train", "train", "validation", "validation", "test", "test"]
    assert [file.label for file in listed] == [0, 1] * 3


def test_a_class_may_be_called_train_and_hold_folders_of_its_own() -> None:
    root = _folders("train", "bus/london")
    (root / "bus" / "notes.txt").touch()
    (root / "bus" / "._image.png").touch()
    assert [(file.path, file.label) for file in list_images(root)] == [
        ("root/bus/london/image.png", 0),
        ("root/train/image.png", 1),
    ]


def test_links_do_not_multiply_images() -> None:
    root = _folders("cat/2020", "dog")
    (root / "cat" / "all").symlink_to(".")
    (root / "cat" / "latest").symlink_to("2020")
    (root / "dog" / "twin").symlink_to(Path("../cat/2020"))
    assert [(file.path, file.label) for file in list_images(root)] == [
        ("root/cat/2020/image.png", 0),
        ("root/dog/image.png", 1),
        ("root/dog/twin/image.png", 1),
    ]


BAD = {
    "no folder at all": ((), "there is no folder root"),
    "one class": (("cat",), r"root has 1 folders of images.*\n.*CLASS/IMAGE"),
    "a class without images": (("cat", "dog", "-dog"), r"root/dog has no image"),
    "a class that is only tested": (
        ("train/a", "train/b", "test/a", "test/b", "test/c"),
        "class 'c' is in root/test but not in root/train",
    ),
    "a class that is only trained": (("train/a", "train/b", "val/a"), "class 'b' is in root/train but not in root/val"),
    "two validation folders": (("train/a", "train/b", "val/a", "valid/a"), "root/val and root/valid would both be"),
    "splits of another name": (("Training/a", "Training/b", "Testing/a"), "folders of folders.*none .* called train"),
    "a split of no known name": (
        ("train/a", "train/b", "testing/a", "testing/b"),
        r"root/testing has folders of the classes.*\(train, validation, val, valid, test\), or move it out of root",
    ),
    "a split in capitals": (("train/a", "train/b", "Test/b"), "root/Test has folders of the classes"),
    "no image in a split": (("train/a", "train/b", "test/a", "test/b", "-test/b"), "root/test/b has no image"),
}


@pytest.mark.parametrize("case", BAD)
def test_folders_that_make_no_sense_are_named(case: str) -> None:
    names, message = BAD[case]
    root = _folders(*(name for name in names if not name.startswith("-"))) if names else Path("root")
    for name in names:
        if name.startswith("-"):
            (root / name[1:] / "image.png").unlink()
    with pytest.raises(FPTError, match=message):
        list_images(root)
