"""A command that is read and not run."""

from fpt_lightning.cli import FPTCLI


class ParsedCommand(FPTCLI):
    """Reads a command and does nothing: whether options and configs fit together is known before anything runs."""

    def before_instantiate_classes(self) -> None:
        """Leaves checkpoints to the run: a sweep sets aside what is damaged."""

    def instantiate_classes(self) -> None:
        """Builds nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs nothing."""
