"""A word on precision: fp32 where bf16 is faster costs time that few mean to spend."""

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from fpt_lightning.machine import bf16_units, machine


class RecommendPrecision(L.Callback):
    """Says of a training in fp32, once a process, that its device is faster in bf16."""

    said = False  # by any of them: the runs of a sweep follow each other in one process

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        device = trainer.strategy.root_device.type
        if RecommendPrecision.said or str(trainer.precision) != "32-true" or not (units := bf16_units(device)):
            return
        RecommendPrecision.said = True
        rank_zero_info(
            f"this {machine(device)['device']} multiplies bf16 faster than fp32 ({', '.join(units)}): "
            "--trainer.precision bf16-mixed, or --config trainer/bf16.yaml, uses that, and what trains stays in fp32"
        )
