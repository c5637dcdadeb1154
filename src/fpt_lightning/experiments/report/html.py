"""A table as one HTML file that needs nothing else: figures, charts, and every run with its command."""

import base64
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from fpt_lightning import __version__
from fpt_lightning.experiments.report.page import Page
from fpt_lightning.experiments.report.units import SIGNS
from fpt_lightning.experiments.report.variance import about


def frame(page: Page) -> str:
    """The whole page."""
    pictures = [(title, base64.b64encode(picture.read_bytes()).decode()) for title, picture in page.attention]
    return _template().render(page=page, pictures=pictures, signs=SIGNS, about=about(page.metric), version=__version__)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("fpt_lightning.experiments.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("report.html")
