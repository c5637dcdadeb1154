"""What the libraries say and no user can mend stays away."""

import logging
import re
import warnings


def silence_what_no_user_can_mend() -> None:
    """Filters warnings and log records, of this process and from here on."""
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # the datamodule chose them
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*")  # between lightning and torch
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")  # a resumed run
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).addFilter(_is_news)


NO_NEWS = re.compile(
    r"litlogger|^Seed set to|^[GT]PU available|^`Trainer\.fit` stopped: `max_steps=|"
    r"^(Restor(ing|ed)|Loaded model weights|Loaded all states?) .*checkpoint"
)
"""An advertisement, and what the config or the command says already."""


def _is_news(record: logging.LogRecord) -> bool:
    """One function rather than a new one a command: a process that runs many would pile them up."""
    return NO_NEWS.search(record.getMessage()) is None
