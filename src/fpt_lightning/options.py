"""The options of the commands that are not LightningCLI's."""

import argparse
from typing import Any, Never

from fpt_lightning.errors import UsageError


class OptionParser(argparse.ArgumentParser):
    """argparse with errors as :mod:`fpt_lightning.main` prints them, and options by their whole names."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, allow_abbrev=False)

    def error(self, message: str) -> Never:
        raise UsageError(f"{message}\n`{self.prog} --help` lists every option.")
