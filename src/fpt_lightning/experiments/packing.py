"""Which runs may be trained in one pass, over one frozen body."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from fpt_lightning.config_files import read_config
from fpt_lightning.errors import FPTError, UsageError, did_you_mean
from fpt_lightning.experiments.arms import SHARED
from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.composition import PLACES, as_words, dotted, is_place, plain
from fpt_lightning.experiments.typed_yaml import expect_different
from fpt_lightning.models.backbones.architectures import WITHOUT_WEIGHTS
from fpt_lightning.models.parts import PAPER
from fpt_lightning.runs.claim import hold_ahead
from fpt_lightning.runs.folder import RunFolder
from fpt_lightning.runs.outcome import State, read_outcome

MAY_DIFFER = frozenset(
    {"arm", "data_seed", "early_stopping.min_delta", "early_stopping.patience", "model.lr", "model.part_lr",
     "seed_everything", "trainer.max_steps"}
)  # fmt: skip
"""Options in which the runs of a pack may differ, beside those that only say where a run is made."""

ONLY: Mapping[str, tuple[Any, ...]] = {
    "model.lr_scheduler": (None,),
    "model.optimizer": (None,),
    "model.warmup_steps": (None, 0),
    "trainer.accumulate_grad_batches": (None, 1),
    "trainer.gradient_clip_algorithm": (None, "norm"),
    "trainer.max_time": (None,),  # one clock for all
    "trainer.min_epochs": (None, 0),  # Lightning would go on for them when no run is left
    "trainer.min_steps": (None, 0),
    "trainer.plugins": (None, []),
    "trainer.precision": (None, "32", "32-true", "bf16", "bf16-mixed", "64", "64-true", 32, 64),
    "trainer.strategy": (None, "auto"),
}
"""What a pack can be told, of options that mean something else to it than to a run alone."""

LARGEST = 32
"""Runs that a pack holds where nobody says how many."""


def shared(values: Mapping[str, Any]) -> str | None:
    """What a run has in common with those that it can be trained with; None where it goes alone.

    Args:
        values: Its options, by dotted name, as :func:`fpt_lightning.experiments.composition.compose` gives them.
    """
    if unfit(values):
        return None
    common = {name: value for name, value in values.items() if name not in MAY_DIFFER and name not in PLACES}
    if _freezes_input(values) or (_is_drawn(values) and values.get("model.backbone_seed") is None):
        common["seed_everything"] = values.get("seed_everything", 0)  # which draws something that is frozen
    common["parts of model.part_lr"] = list(values.get("model.part_lr") or ())  # groups of the optimizer, in order
    steps, interval = (values.get(f"trainer.{name}") for name in ("max_steps", "val_check_interval"))
    if isinstance(steps, int | float) and isinstance(interval, int | float) and 0 < steps < interval:
        common["trainer.val_check_interval"] = steps  # as the command line has it, for all runs of a pack
    return json.dumps(common, sort_keys=True, default=str)


def unfit(values: Mapping[str, Any]) -> str | None:
    """Why a run cannot be part of a pack, None where it can."""
    for name in ("optimizer", "lr_scheduler"):
        if any(value is not None and f"{key}.".startswith(f"{name}.") for key, value in values.items()):
            return f"a pack trains with Adam at constant rates: leave --{name} away"
    if "WandbLogger" in json.dumps(values.get("trainer.logger"), default=str):
        return "trainer.logger WandbLogger writes all runs of a process into one"
    for name in SHARED:
        if values.get(name) is not None:
            return f"{name} {SHARED[name]}"
    for name, known in ONLY.items():
        if (value := values.get(name)) not in known:
            return f"{name} {value} is not for a pack"
    return None


def packed(runs: Sequence[Run], size: int, slots: int) -> list[Run]:
    """Runs as packs of at most ``size``, spread over so many places where runs are made; others stay as they are."""
    groups: dict[object, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.shared if run.shared is not None and size > 1 else run.id, []).append(run)
    packs = []
    for group in groups.values():
        rounds = -(-len(group) // (size * slots))  # every place gets as many packs, and none waits for another
        each = -(-len(group) // (rounds * slots))
        packs += [group[start : start + each] for start in range(0, len(group), each)]
    return [replace(pack[0], members=tuple(pack)) if len(pack) > 1 else pack[0] for pack in packs]


def in_words(packs: Sequence[Run], size: int = LARGEST) -> str:
    """``45 runs: 3 packs of 13, 6 alone (their body differs by seed)``, of packs of at most ``size``."""
    sizes = [len(pack.members) or 1 for pack in packs]
    said = [f"{sizes.count(each)} pack{'s' * (sizes.count(each) > 1)} of {each}" for each in sorted({*sizes} - {1})]
    if alone := sizes.count(1):
        drawn = _only_seeds_differ(packs) if size > 1 else 0
        which = "their body" if drawn == alone else f"of {drawn} the body"
        said.append(f"{alone} alone{f' ({which} differs by seed)' if drawn else ''}")
    return f"{sum(sizes)} runs: {', '.join(said) or 'nothing is left to do'}"


def _only_seeds_differ(packs: Sequence[Run]) -> int:
    """How many go alone, and would go together had their seeds not drawn them a body each."""
    of_one = Counter(pack.shared for pack in packs)
    alone = [json.loads(pack.shared) for pack in packs if not pack.members and pack.shared and of_one[pack.shared] == 1]
    alike = Counter(json.dumps({**common, "seed_everything": 0}) for common in alone if "seed_everything" in common)
    return sum(runs for runs in alike.values() if runs > 1)


def run(words: Sequence[str]) -> None:
    """``fpt run ... --pack "model.lr=[1e-3,1e-2],seed_everything=[0,1,2]"``: every combination, in one pass.

    Raises:
        UsageError: If what follows ``--pack`` is no such list, or the runs cannot be trained in one pass.
        FPTError: If some of them failed.
    """
    from fpt_lightning.packs import run_together

    words, lists, folder = _read(list(words))
    commands, folders = [], []
    for values in itertools.product(*lists.values()):
        chosen = dict(zip(lists, values, strict=True))
        folders.append(folder / ",".join(f"{name}={value}" for name, value in chosen.items()))
        commands.append(["run", *words, *as_words(chosen), f"--run_folder={folders[-1]}", "--ckpt_path=last"])
    made = list[Path]()
    if "--overwrite" not in words and (left := [place for place in folders if not _is_made(place)]):
        if made := [place for place in folders if place not in left]:
            print(f"{len(made)} of {len(folders)} runs are finished")
        commands = [command for command, place in zip(commands, folders, strict=True) if place in left]
        folders = left
    with ExitStack() as held:
        for place in folders:
            held.enter_context(hold_ahead(place))
        problems = run_together(
            commands,
            measured=False,
            unfit=lambda config: unfit(dotted(config)) or _another(dotted(config), lists, made),
        )
    if failed := [f"  {place}: {problem}" for place, problem in zip(folders, problems, strict=True) if problem]:
        raise FPTError(f"{len(failed)} of {len(folders)} did not end well:\n" + "\n".join(failed))


def _is_made(folder: Path) -> bool:
    return read_outcome(folder).state in (State.FINISHED, State.DIVERGED)


def _another(values: Mapping[str, Any], lists: Container[str], made: Sequence[Path]) -> str | None:
    """Which option of a finished run, beside those in the lists, is not the pack's; None where all are."""
    for folder in made:
        before = dotted(read_config(RunFolder(folder).config))
        for name in (name for name in before if name in values and name not in lists and not is_place(name)):
            there, here = (json.dumps(plain(each[name]), sort_keys=True, default=str) for each in (before, values))
            if there != here:
                return f"{folder} is finished, with {name} {there}, here {here}: choose another --run_folder"
    return None


def _read(words: list[str]) -> tuple[list[str], dict[str, list[Any]], Path]:
    """The words without ours, the lists, and the folder of the run folders."""
    rest, said, folder = list[str](), list[str](), None
    while words:
        name, equals, value = words.pop(0).partition("=")
        if name not in ("--pack", "--run_folder"):
            rest.append(name + equals + value)
            continue
        if not equals:
            value = words.pop(0) if words else ""
        if name == "--run_folder":
            folder = Path(value)
        else:
            said.append(value.rstrip(","))
    if folder is None:
        taken = [int(path.name) for path in Path("runs/packs").glob("*") if path.name.isdigit()]
        folder = Path("runs/packs") / f"{max(taken, default=-1) + 1:03d}"
    return rest, _lists(",".join(said)), folder


def _lists(text: str) -> dict[str, list[Any]]:
    found = re.findall(r"([\w.]+)=(\[[^][]*\])(?:,|$)", text)
    if not found or ",".join(f"{name}={values}" for name, values in found) != text.rstrip(","):
        raise UsageError(f'--pack names lists, such as "model.lr=[1e-3,1e-2],seed_everything=[0,1,2]", got {text!r}')
    for name, _ in found:
        if name not in MAY_DIFFER:
            raise UsageError(f"--pack: the runs of a pack cannot differ in '{name}'{did_you_mean(name, MAY_DIFFER)} "
                             f"They may in {', '.join(sorted(MAY_DIFFER))}.")  # fmt: skip
    lists: dict[str, list[Any]] = {}
    try:
        expect_different([name for name, _ in found], "lists")
        for name, values in found:
            lists[name] = plain(yaml.safe_load(values))
            expect_different(lists[name], name)
    except (yaml.YAMLError, ValueError, KeyError) as error:
        raise UsageError(f"--pack {text}: {' '.join(str(error).split())}") from error
    if empty := [name for name, values in lists.items() if not values]:
        raise UsageError(
            f"--pack: {empty[0]} has no value: the runs of a pack are every combination of those in the lists"
        )
    return lists


def _freezes_input(values: Mapping[str, Any]) -> bool:
    """Whether the input layer, or new positions, keep the values that the run's seed draws."""
    chosen = values.get("model.trainable")
    parts = PAPER if chosen is None else [chosen] if isinstance(chosen, str) else chosen
    needed = {"input"} | ({"positions"} if values.get("model.positions") == "new" else set())
    return "all" not in parts and not needed <= set(parts)


def _is_drawn(values: Mapping[str, Any]) -> bool:
    """Whether some of the body's values are random."""
    chosen = values.get("model.initialization")
    if chosen is None:
        return values.get("model.backbone", "small") in WITHOUT_WEIGHTS or bool(values.get("model.architecture"))
    return bool(chosen != "pretrained")
