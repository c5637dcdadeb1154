"""`fpt analyze`: what a linear layer reads out of every layer of a run, and how alike the layers of two runs are."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from math import isfinite
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import nn

from fpt_lightning.analysis.rebuild import rebuild
from fpt_lightning.analysis.similarity import similarity
from fpt_lightning.data.datamodule import FPTDataModule, Split
from fpt_lightning.errors import UsageError, at_least
from fpt_lightning.files import whole_file, write_whole
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.models.linear_fit import LinearFit
from fpt_lightning.options import OptionParser
from fpt_lightning.runs.find import find_run
from fpt_lightning.runs.result import PROBED

TOGETHER = 64
"""Examples in a batch."""
DECAY = 1e-2
"""Of a probe's weights, which are those of features in standard units."""
LINE = 40
"""Letters in a line of the picture."""


class Layers(NamedTuple):
    """What stands before every block, and behind the last norm, at the tokens that answer.

    Attributes:
        states: ``[examples, answer tokens, width]`` of each, from the embeddings on.
        target: ``[examples, answers]``.
    """

    states: list[torch.Tensor]
    target: torch.Tensor


class Analysed(NamedTuple):
    """A run's layers: ``scores`` of a probe on each, in the task's metric, and ``validation`` as it stands there.

    The probes were ``fitted`` to so many training examples.

    ``file`` is where they are kept: those of another checkpoint than the run's best beside those of the run.
    """

    folder: Path
    file: Path
    about: str
    scores: list[float]
    fitted: int
    validation: Layers
    fingerprint: str


def analyze(words: Sequence[str]) -> None:
    """Writes ``analysis.png`` and ``analysis.json`` into a run folder, and says what they show.

    Raises:
        UsageError: If the command line is wrong, the runs do not read the same data, or have no layers to look into.
        FPTError: If a run cannot be read.
    """
    parser = OptionParser(prog="fpt analyze", description="What the layers of a run hold, beside those of another.")
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, or a checkpoint in it")
    parser.add_argument("other", nargs="?", type=Path, metavar="OTHER", help="another, by default the same")
    parser.add_argument(
        "--examples", type=int, default=PROBED, help=f"to fit a probe, and to judge it (default {PROBED})"
    )
    arguments = parser.parse_args(words)
    at_least(16, "--", examples=arguments.examples)
    run = _analysed(arguments.run, arguments.examples)
    other = run if arguments.other is None else _analysed(arguments.other, arguments.examples)
    if run.fingerprint != other.fingerprint:
        raise UsageError(f"{run.folder} and {other.folder} read different data: their layers cannot be compared")
    alike = [[similarity(ours, theirs) for theirs in _tokens(other)] for ours in _tokens(run)]
    _write(run, other, alike)


def _analysed(path: Path, examples: int) -> Analysed:
    folder, checkpoint = find_run(path)
    module, data = rebuild(folder, checkpoint)
    if module.model.shuffle is not None:
        raise UsageError(f"{folder.path} reads its tokens in random orders: what it makes of their own says nothing")
    data.prepare_data()
    data.setup("fit")
    train, validation = (layers_of(module.model, data, split, examples) for split in ("train", "validation"))
    scores = [
        _probed(data, ours, train.target, theirs, validation.target)
        for ours, theirs in zip(train.states, validation.states, strict=True)
    ]
    about = f"{module.model.choice.name} {module.model.choice.resolved_initialization}"
    file = folder.of_checkpoint(folder.analysis, checkpoint)
    return Analysed(folder.path, file, about, scores, len(train.target), validation, data.fingerprint())


@torch.no_grad()
def layers_of(model: FrozenPretrainedTransformer, data: FPTDataModule, split: Split, examples: int) -> Layers:
    """The hidden states of some examples of a split, without dropout.

    Raises:
        UsageError: If the body has no blocks that hand hidden states on.
    """
    blocks: Any = model.backbone.get_submodule(model.family.blocks)
    if not blocks or isinstance(blocks[0], nn.ModuleDict):
        raise UsageError(f"backbone '{model.choice.name}' has no blocks that hand hidden states on")
    found: list[list[torch.Tensor]] = [[] for _ in range(len(blocks) + 1)]
    targets: list[torch.Tensor] = []
    for batch in data.met(split, data.some(split, examples), TOGETHER):
        met: dict[int, torch.Tensor] = {}
        with ExitStack() as hooks:
            for number, block in enumerate(blocks):
                hook = partial(_keep, met, number)
                # before what the last block itself is given
                handle = block.register_forward_pre_hook(hook, prepend=True, with_kwargs=True)
                hooks.callback(handle.remove)
            features = model.features(batch.tokens, batch.mask)
        length = batch.tokens.size(1)
        for number, hidden in met.items():  # some bodies pad behind the last token
            found[number].append(model.last_real_tokens(hidden[:, :length], batch.mask).float())
        found[-1].append(features.float())
        targets.append(batch.target)
    return Layers([torch.cat(states) for states in found], torch.cat(targets))


def _keep(
    met: dict[int, torch.Tensor], number: int, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
) -> None:
    met[number] = arguments[0] if arguments else named["hidden_states"]


def _probed(
    data: FPTDataModule, train: torch.Tensor, target: torch.Tensor, judged: torch.Tensor, answers: torch.Tensor
) -> float:
    """What a linear layer on ``train`` is worth on ``judged``, both ``[examples, answer tokens, width]``."""
    task = data.task
    linear = LinearFit(train.flatten(0, 1), target.view(-1, task.answers_per_token), task)
    linear.fit(DECAY)
    (found,) = linear.answers(judged.flatten(0, 1))
    return task.score(found.reshape(answers.shape), answers)


def _tokens(run: Analysed) -> list[torch.Tensor]:
    """The states of every layer ``[tokens, width]``, of so many tokens as there are examples."""
    states = run.validation.states
    count = states[0].shape[0] * states[0].shape[1]
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: states[0].shape[0]]
    return [each.flatten(0, 1)[chosen] for each in states]


def _write(run: Analysed, other: Analysed, alike: list[list[float]]) -> None:
    examples = len(run.validation.target)
    runs = [run] if other is run else [run, other]
    content = {
        "examples": examples,
        "fitted": run.fitted,
        "layers": _names(run),
        "runs": [{"run": str(each.folder), "backbone": each.about, "probe": _numbers(each.scores)} for each in runs],
        "cka": [_numbers(row) for row in alike],
    }
    file = run.file
    write_whole(file, json.dumps(content, indent=2, allow_nan=False) + "\n")
    picture = file.with_suffix(".png")
    labels = _labels(runs)
    _draw(runs, labels, alike, picture)
    for each, label in zip(runs, labels, strict=True):
        print(f"{label}: a linear layer reads {_best(each)}")
    print(f"{examples:,} validation examples: {picture}, {file}")


def _numbers(values: Sequence[float]) -> list[float | None]:
    """None, which JSON has, in place of what is no number."""
    return [value if isfinite(value) else None for value in values]


def _labels(runs: Sequence[Analysed]) -> list[str]:
    """What tells the runs apart."""
    labels = [run.about for run in runs]
    return labels if len(set(labels)) == len(runs) else [f"{run.about} in {run.folder}" for run in runs]


def _best(run: Analysed) -> str:
    """The most that a probe reads, and what it reads out of the end where that is less."""
    name, score = max(zip(_names(run), run.scores, strict=True), key=lambda layer: layer[1])
    end = f"{run.scores[-1]:.3f} out of the end"
    if score == run.scores[-1]:
        return end
    return f"{score:.3f} out of {name if name.startswith('block') else f'the {name}'}, {end}"


def _names(run: Analysed) -> list[str]:
    return ["embeddings", *(f"block {number}" for number in range(1, len(run.scores) - 1)), "end"]


def _draw(runs: Sequence[Analysed], labels: Sequence[str], alike: list[list[float]], picture: Path) -> None:
    """Left the probes by layer, right how alike each layer of the first is to each of the last."""
    with matplotlib.rc_context({"font.size": 8}):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for run, label in zip(runs, labels, strict=True):
            left.plot(range(len(run.scores)), run.scores, marker="o", markersize=3, label=fill(label, LINE))
        left.set(xlabel="layer", ylabel="linear probe on validation")
        left.legend(frameon=False)
        image = right.imshow(alike, cmap="Blues", vmin=0, vmax=1, origin="lower")
        right.set(xlabel=fill(f"layer of {labels[-1]}", LINE), ylabel=fill(f"layer of {labels[0]}", LINE))
        for axis in (left.xaxis, right.xaxis, right.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        figure.colorbar(image, ax=right, label="CKA")
        with whole_file(picture) as part:
            figure.savefig(part, format="png", dpi=150)
