"""What MkDocs does not know of this repository: its pages outside docs/, links into it, and roles in docstrings."""

import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
SHOWN = (".html", ".png", ".svg")  # a browser shows others only as text
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")
ROLE = re.compile(r":\w+:(`[^`]+`)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that lie in the root, where GitHub shows them."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Brings the files that a page links to into the site; of a folder only the name stays."""
    names = {uri: name for name, uri in PAGES.items()}
    source = ROOT / names.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def linked(found: re.Match[str]) -> str:
        text, target, anchor = found.groups(default="")
        path = (source.parent / target).resolve()
        if "://" in target or not path.exists():  # what is missing MkDocs names
            return found[0]
        if path.is_dir():
            return text
        uri = _uri(path, config, files)
        return f"[{text}]({posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or '.')}{anchor})"

    return LINK.sub(linked, markdown)


def _uri(path: Path, config: MkDocsConfig, files: Files) -> str:
    """Where a file of the repository lies in the site."""
    name = path.relative_to(ROOT).as_posix()
    if name in PAGES:
        return PAGES[name]
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    uri = f"repository/{name}" + ("" if path.suffix in SHOWN else ".txt")
    if files.get_file_from_path(uri) is None:
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return uri


class PlainRoles(griffe.Extension):
    """Docstrings name things as Sphinx does; here the name alone stays."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"\1", obj.docstring.value)
