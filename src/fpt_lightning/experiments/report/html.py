"""A table as one HTML file that needs nothing else: figures, charts, and every run with its command."""

import base64
from pathlib import Path

from markupsafe import Markup

from fpt_lightning import __version__
from fpt_lightning.experiments.report.page import Page

TEMPLATES = Path(__file__).parent / "templates"


def html(page: Page) -> str:
    """The whole page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    pictures = [(title, base64.b64encode(picture.read_bytes()).decode()) for title, picture in page.attention]
    return environment.get_template("report.html").render(
        page=page,
        pictures=pictures,
        version=__version__,
        style=_file("report.css"),
        script=_file("report.js"),
    )


def _file(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))
