"""Checks of numbers that a datamodule is given."""

from fpt_lightning.errors import UsageError

MOST_WORKERS = 1000
"""Processes that a loader may start; each takes half a second and 200 MB."""


def at_least(least: int, **options: int | None) -> None:
    """Refuses options of a datamodule that are too small; None means that one is not given.

    Raises:
        UsageError: If one is.
    """
    for name, value in options.items():
        if value is not None and value < least:
            raise UsageError(f"data.{name} must be at least {least}, got {value}")


def proper_shares(**options: float) -> None:
    """Refuses shares of a datamodule's examples that are none of them, or all.

    Raises:
        UsageError: If one is.
    """
    for name, share in options.items():
        if not 0 < share < 1:
            raise UsageError(f"data.{name} lies between 0 and 1, got {share}")
