"""What stands around the sources agrees with them: versions, extras, the names of the API, the pictures."""

import re
import tomllib
from pathlib import Path

import yaml

import fpt_lightning

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_one_version_is_told_everywhere() -> None:
    told = {
        "CITATION.cff": str(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]),
        "CHANGELOG.md": re.findall(r"^## (\d\S+?),", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0],
        "README.md": re.findall(r"version = \{(.+?)\}", (ROOT / "README.md").read_text())[0],
    }
    assert told == dict.fromkeys(told, PROJECT["version"])


def test_every_extra_that_is_named_exists() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.*"), *ROOT.rglob("configs/**/*.yaml")]
    texts = [path.read_text() for path in [*pages, *(ROOT / "src").rglob("*.py")]]
    named = {extra for text in texts for extra in re.findall(r"fpt-lightning\[([\w-]+)\]", text)}
    named |= {extra for text in texts for extra in re.findall(r"^    EXTRA\b.* = \"([\w-]+)\"$", text, re.MULTILINE)}
    assert {"gguf", "lora", "ray", "slurm", "proteins", "tables", "hub", "wandb"} <= named
    assert named <= PROJECT["optional-dependencies"].keys()


def test_every_public_name_stands_in_the_api_reference() -> None:
    told = re.findall(r"^::: fpt_lightning\.[\w.]+\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(told) == sorted(set(fpt_lightning.__all__) - {"__version__"})


def test_the_gallery_shows_small_pictures_and_all_of_them() -> None:
    gallery = ROOT / "docs" / "gallery"
    shown = re.findall(r"^!\[.{20,}\]\(gallery/(.+)\)$", (ROOT / "docs" / "gallery.md").read_text(), re.MULTILINE)
    assert sorted(shown) == sorted(picture.name for picture in gallery.iterdir())
    assert all(picture.stat().st_size < 150_000 for picture in gallery.iterdir())
