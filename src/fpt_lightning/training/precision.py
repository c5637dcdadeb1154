"""A word on precision: fp32 where bf16 is faster costs time that few mean to spend; so does bf16 where it is not."""

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities import rank_zero_info

from fpt_lightning.data.spec import Batch
from fpt_lightning.machine import bf16_units, machine, multiplies_bf16


class RecommendPrecision(L.Callback):
    """Says of a training, once a process, that its device is faster in the other of fp32 and bf16."""

    said = False  # by any of them: the runs of a sweep follow each other in one process

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        device = trainer.strategy.root_device.type
        if RecommendPrecision.said or (advice := _advice(str(trainer.precision), device)) is None:
            return
        RecommendPrecision.said = True
        rank_zero_info(f"this {machine(device)['device']} {advice}")


def _advice(precision: str, device: str) -> str | None:
    if precision == "32-true" and (units := bf16_units(device)):
        return (
            f"multiplies bf16 faster than fp32 ({', '.join(units)}): --trainer.precision bf16-mixed, or --config "
            "trainer/bf16.yaml, uses that, and what trains stays in fp32"
        )
    if precision.startswith("bf16") and device == "cpu" and not multiplies_bf16():
        made = f"has no fast products in bf16, those of {precision} are made in fp32"
        return f"{made}: --trainer.precision 32-true is faster"
    return None


def spare_targets(plugin: Precision) -> None:
    """Lets all in 16 bits cast what a model reads, not what it is to answer: bf16 has no year between 2000 and 2008."""
    plugin.convert_input = partial(_convert_tokens, partial(type(plugin).convert_input, plugin))  # type: ignore[method-assign]


def _convert_tokens(convert: Callable[[Any], Any], data: Any) -> Any:
    """Converts a batch, or a tuple of a loader that is not ours, but for its targets."""
    if isinstance(data, Batch):
        return data._replace(tokens=convert(data.tokens))
    if type(data) in (tuple, list) and data:
        return type(data)([convert(data[0]), *data[1:]])
    return convert(data)
