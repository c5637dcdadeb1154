"""`fpt attention`: the attention maps of a run as a picture and as figures (FPT section 3.5)."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from fpt_lightning.analysis.maps import MeanMaps, mean_maps
from fpt_lightning.analysis.picture import draw_attention
from fpt_lightning.analysis.rebuild import rebuild
from fpt_lightning.data.datamodule import FPTDataModule
from fpt_lightning.data.loading import CountedStream
from fpt_lightning.data.spec import Batch
from fpt_lightning.errors import UsageError, at_least
from fpt_lightning.files import write_whole
from fpt_lightning.options import OptionParser
from fpt_lightning.runs.find import find_run
from fpt_lightning.runs.folder import RunFolder
from fpt_lightning.training.classification import FPTClassifier

TOGETHER = 2**22
"""Pairs of tokens in a batch: a head's map of all of them is 16 MiB."""


def attention(words: Sequence[str]) -> None:
    """Writes ``attention.png`` and ``attention.json`` into a run folder, and says what they show.

    Raises:
        UsageError: If the command line is wrong, or the run has no attention to show.
        FPTError: If the run cannot be read.
    """
    parser = OptionParser(prog="fpt attention", description="What the answers of a run look at, on test examples.")
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="a run folder, or a checkpoint in it")
    parser.add_argument("--checkpoint", type=Path, metavar="RUN", help="the same")
    parser.add_argument("--layer", type=int, default=1, help="the layer, counted from 1 (default 1)")
    parser.add_argument("--examples", type=int, default=100, help="test examples to average over (default 100)")
    arguments = parser.parse_args(words)
    at_least(1, "--", examples=arguments.examples)
    if (arguments.run is None) == (arguments.checkpoint is None):
        raise UsageError("fpt attention RUN draws the attention of one run: name its folder, or a checkpoint in it")
    folder, checkpoint = find_run(arguments.run or arguments.checkpoint)
    module, data = rebuild(folder, checkpoint)
    if module.model.shuffle is not None:
        raise UsageError(f"{folder.path} reads its tokens in random orders: their places say nothing")
    data.prepare_data()
    data.setup("test")
    maps = mean_maps(module.model, _batches(data, arguments.examples), arguments.layer - 1)
    _write(folder, module, data, maps, arguments.layer, checkpoint)


def _batches(data: FPTDataModule, examples: int) -> Iterator[tuple[Batch, torch.Tensor | None]]:
    """Test examples as a model meets them, with the tokens that they need: those of a file may lie class by class."""
    split = data.examples("test")
    drawn = isinstance(split, CountedStream)  # each by itself
    chosen = range(min(examples, len(split))) if drawn else data.some("test", examples)
    for batch in data.met("test", chosen, max(1, min(32, TOGETHER // data.task.max_length**2))):
        yield batch, data.needed_tokens(batch)


def _write(
    folder: RunFolder, module: FPTClassifier, data: FPTDataModule, maps: MeanMaps, layer: int, checkpoint: Path
) -> None:
    words = data.token_words()
    choice = module.model.choice
    layers = module.model.family.depth(module.model.backbone)
    figures: dict[str, Any] = {
        "task": data.task.name,
        "backbone": str(choice),
        "checkpoint": os.path.relpath(checkpoint, folder.path),
        "layer": layer,
        "examples": maps.examples,
        "needed_share": None if maps.needed is None else maps.needed.mean().item(),
        "uniform_share": maps.uniform,
        "needed_share_of_heads": None if maps.needed is None else maps.needed.tolist(),
        "tokens": words.names,
        "aligned_at": "last token" if maps.from_end else "first token",
        "mean": [[round(value, 6) for value in row] for row in maps.heads.mean(0).tolist()],
    }
    what = f"layer {layer} of {layers}, {maps.examples} test examples"
    lines = [f"{data.task.name} on {choice.name} {choice.resolved_initialization}: attention of {what}"]
    if maps.needed is not None and maps.uniform is not None:
        share, uniform = (f"{100 * value:.1f} %" for value in (maps.needed.mean(), maps.uniform))
        lines.append(f"{share} of the answers' attention on the bits needed, {uniform} if it were uniform")
    picture = folder.of_checkpoint(folder.attention, checkpoint)
    write_whole(picture.with_suffix(".json"), json.dumps(figures) + "\n")
    draw_attention(maps, words, picture, "\n".join(lines))
    print(": ".join([what, *lines[1:]]))
    print(f"{picture}, {picture.with_suffix('.json')}")
