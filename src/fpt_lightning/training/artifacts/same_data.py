"""The data of a checkpoint and that which it meets again are the same, where a figure would hang on it."""

from collections.abc import Collection
from inspect import signature

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from fpt_lightning.data.datamodule import FPTDataModule, Split
from fpt_lightning.errors import UsageError

EVALUATED: dict[str, Split] = {"validate": "validation", "test": "test", "predict": "test"}


class SameData(L.Callback):
    """Refuses to go on with a training on other data, of which the result would name the last alone.

    So it does with the test that a run was left without, and with every evaluation of a split that is cut from the
    training data: the cut of other data holds examples that were trained on.

    Attributes:
        fingerprint: What :meth:`FPTDataModule.fingerprint` says of the data, once, since it may take seconds; None
            where it is not compared.
        tests_only: Whether the test is that which the run was left without.
    """

    fingerprint: str | None = None
    tests_only = False
    _stage = ""
    _trained_on: FPTDataModule | None = None
    _options: Collection[str] = ()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        datamodule, self.fingerprint, self._stage = getattr(trainer, "datamodule", None), None, TrainerFn(stage).value
        if not isinstance(datamodule, FPTDataModule):
            return
        if (split := EVALUATED.get(stage)) is None:
            self._trained_on = datamodule
        elif datamodule is self._trained_on or not (self.tests_only or datamodule.is_cut(split)):
            return
        self.fingerprint, self._options = datamodule.fingerprint(), tuple(signature(type(datamodule)).parameters)

    def state_dict(self) -> dict[str, str | None]:
        return {"fingerprint": self.fingerprint}

    def load_state_dict(self, state_dict: dict[str, str | None]) -> None:
        before, now = state_dict["fingerprint"], self.fingerprint
        if before is None or now is None or before == now:
            return
        if (split := EVALUATED.get(self._stage)) is None:
            raise UsageError(
                f"the data was {before} up to this checkpoint and is {now} here, as result.json names it: leave it as "
                "it was, or start another run"
            )
        name = "predict" if self._stage == "predict" else split
        kinds = [kind for kind in ("file", "split", "folder") if f"{name}_{kind}" in self._options]
        ways = [f", or name other data: `fpt {self._stage} RUN --data.{name}_{kind} {kind.upper()}`" for kind in kinds]
        raise UsageError(
            f"the data was {before} in the training and is {now} here, where the {split} split may hold what was "
            f"trained on:\nput it back as it was{''.join(ways)}"
        )
