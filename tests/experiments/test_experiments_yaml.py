"""The shipped experiments.yaml: the published figures, and runs that the command line takes."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest

from conftest import Fpt
from fpt_lightning.cli import FPTCLI
from fpt_lightning.command_line.arguments import ArgumentParser
from fpt_lightning.command_line.option_checks import options_of
from fpt_lightning.command_line.words import with_configs_found
from fpt_lightning.config_files import find_config, shipped
from fpt_lightning.data.images.mnist import MNIST
from fpt_lightning.experiments.arms import Reference
from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.composition import PLACES, compose
from fpt_lightning.experiments.grid import Grid, Selection, make_grid
from fpt_lightning.experiments.tables import Experiments, read_experiments

PROFILES = ("smoke", "laptop", "atlas", "night", "paper")
PROTOCOLS = ("paper", "fair")

# FPT's order of tasks: bit-memory, xor, ListOps, MNIST, CIFAR-10, CIFAR-10 LRA, homology
PUBLISHED: dict[str, dict[str, list[float | tuple[float, float] | None]]] = {
    "table1": {
        "FPT": [100, 100, 38.4, 98.0, 72.1, 38.6, 12.7],
        "Full": [100, 100, 38, 99.1, 70.3, 42, 9],
        "LSTM": [60.9, 50.1, 17.1, 99.5, 73.6, 11.7, 12],
    },
    "table2": {
        "FPT": [100, 100, 38.4, 98.0, 68.2, 38.6, 12.7],
        "Random": [75.8, 100, 34.3, 91.7, 61.7, 36.1, 9.3],
        "Bit": [100, 100, 35.4, 97.8, 62.6, 36.7, 7.8],
        "ViT": [100, 100, 37.4, 97.8, 72.5, 43.0, 7.5],
    },
    "lstm": {
        "Transformer": [75.8, 100, 34.3, 91.7, 61.7, 36.1, 9.3],
        "LSTM": [50.9, 50.0, 16.8, 70.9, 34.4, 10.4, 6.6],
        "LSTM*": [75.0, 50.0, 16.7, 92.5, 43.5, 10.6, 8.6],
    },
    "table6": {"FPT": [1e4, 5e2, 2e3, 5e3, 4e5, 3e5, 1e5], "Random": [4e4, 2e4, 6e3, 2e4, 4e5, 6e5, 1e5]},
    "table7": {"FPT": [38.6, 38.5], "Transformer, 3 layers": [42, 70], "Linformer, 3 layers": [39, 97]},
    "table8": {
        "base, FPT": [68.2, 106e3],
        "medium, FPT": [69.8, 190e3],
        "large, FPT": [72.1, 300e3],
        "base, random": [61.7, 106e3],
        "medium, random": [64.0, 190e3],
        "large, random": [65.7, 300e3],
    },
    "table9": {
        "pretrained": [100, 100, 38.4, 98.0, 68.2, 38.6, 12.7],
        "statistics only": [100, 100, 37.4, 97.2, 56.5, 33.1, 11.0],
        "default": [75.8, 100, 34.3, 91.7, 61.7, 36.1, 9.3],
    },
    "table10": {"output only": [32.8, 24.7], "FPT": [38.4, 38.6], "Full": [38, 42]},
    "table11": {
        "pretrained, 1 layer": [17],
        "pretrained, 2 layers": [36],
        "pretrained, 6 layers": [38],
        "random, 1 layer": [17],
        "random, 2 layers": [16],
        "random, 6 layers": [35],
    },
    "table12": {
        "pretrained, 1 layer": [12],
        "pretrained, 3 layers": [18],
        "pretrained, 6 layers": [33],
        "pretrained, 12 layers": [33],
        "random, 12 layers": [17],
        "random, 24 layers": [17],
    },
    "table13": {
        "FPT": [100, 100, 38.4, 98.0, 68.2, 38.6, 12.7],
        "+ feed-forward": [100, 100, 36.0, 98.3, 76.6, 38.2, 13.1],
        "+ attention": [100, 100, 36.8, 89.0, 47.7, 23.0, 10.9],
        "+ both": [100, 100, 35.8, 93.1, 32.9, 21.0, 10.5],
    },
    "table14": {"FPT": [68.2], "+ feed-forward": [76.6], "+ last attention layer": [80.0]},
    "table15": {
        "output": [76, 56, 15, 23, 25, 17, 2],
        "+ layer norm": [94, 98, 36, 96, 54, 39, 9],
        "+ input": [100, 98, 36, 98, 60, 39, 10],
        "+ positions": [100, 100, 38, 98, 68, 39, 13],
    },
    "table21": {
        "output": [50, 17, 25, 20, 11],
        "+ layer norm": [100, 35, 83, 46, 34],
        "+ input": [100, 36, 92, 56, 36],
        "+ positions": [100, 37, 92, 62, 36],
    },
    "table16": {
        "pretrained, trained": [68.2],
        "pretrained, frozen": [61.5],
        "random, trained": [61.7],
        "random, frozen": [55.0],
    },
    "table17": {"GPT-2": [68.2, 38.4], "BERT": [68.8, 38.3], "T5": [64.7, 15.4], "Longformer": [66.8, 17.0]},
    "attention": {"FPT": [100, 100], "Random": [75.8, 100]},
    "fair": {
        "frozen, random": [(38.9, 0.3), (98.0, 0.0), (61.8, 0.2), (44.2, 0.3)],
        "frozen, pretrained": [(46.1, 0.3), (98.5, 0.1), (66.3, 0.0), (54.7, 1.4)],
        "unfrozen, random": [(57.6, 0.8), (98.7, 0.0), (77.8, 0.2), (62.0, 0.7)],
        "unfrozen, pretrained": [(56.3, 0.9), (99.0, 0.0), (77.7, 0.1), (67.8, 0.3)],
    },
    "pocket": {"pretrained": [], "random": [], "random as GPT-2": [], "statistics": []},
    "controls": {
        "pretrained": [],
        "random": [],
        "no backbone": [],
        "no backbone, two layers": [],
        "one attention layer": [],
        "one block": [],
        "shuffled tokens": [],
    },
    "minilm": {"pretrained": [], "random": [], "random as BERT": [], "statistics": []},
    "smollm": {"pretrained": [], "random": [], "statistics": []},
    "architectures": {
        "GPT-2": [],
        "GPT-2, dropout 0.1": [],
        "GPT-2, residuals not scaled": [],
        "GPT-NeoX": [],
        "Starcoder2": [],
        "StableLM": [],
        "Arcee": [],
        "Llama": [],
        "Llama, dropout 0.1": [],
    },
    "carries": {
        "novels": [],
        "novels with copied spans": [],
        "copied random tokens": [],
        "shuffled brackets": [],
        "random tokens by heart": [],
        "random": [],
    },
    "later": {"GPT-2": [], "GPT-2, dropout 0.1": [], "StableLM": [], "Arcee": []},
    "where": {
        "pretrained": [],
        "random feed-forward": [],
        "random attention": [],
        "first three layers": [],
        "last three layers": [],
        "random": [],
    },
    "parts": {
        "output": [],
        "+ layer norm": [],
        "+ input": [],
        "+ positions": [],
        "biases": [],
        "adapters": [],
        "feed-forward": [],
        "everything": [],
    },
    "scarce": {
        "frozen, pretrained": [],
        "frozen, random": [],
        "unfrozen, pretrained": [],
        "unfrozen, random": [],
    },
    "luck": {f"body {body}, order {order}": [] for body in range(4) for order in range(3)},
}


@cache
def shipped_experiments() -> Experiments:
    """The one that ships, wherever a test works."""
    return read_experiments(str(shipped("experiments.yaml")))


@cache
def grid(table: str, profile: str, protocol: str | None = None) -> Grid:
    """The runs of a table."""
    return make_grid(shipped_experiments(), Selection(table, profile, protocol))


def first_run(table: str, profile: str, arm: str, task: str, protocol: str | None = None) -> Run:
    """The first run of a cell."""
    (cell,) = [cell for cell in grid(table, profile, protocol).cells if (cell.arm.name, cell.task) == (arm, task)]
    return next(iter(cell.runs.values()))


def first_runs(profile: str) -> list[Run]:
    """The first run of every cell of every table and protocol, and what it needs."""
    grids = [grid(table, profile, protocol) for table in PUBLISHED for protocol in PROTOCOLS]
    runs = [next(iter(cell.runs.values())) for made in grids for cell in made.cells if cell.runs]
    return [*runs, *(run.needs for run in runs if run.needs is not None)]


def test_every_table_is_there() -> None:
    assert set(shipped_experiments().tables) == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_figures_are_the_published_ones(name: str) -> None:
    table = shipped_experiments().table(name)
    published = {
        arm.name: [figure for task in table.tasks for figure in table.reference(arm, task).values()]
        for arm in table.arms.values()
    }
    linear = published.pop("linear", None)  # which every table has that has no such arm of its own
    assert linear == (None if name == "controls" else [])
    assert published == {
        arm: [Reference(*figure) if isinstance(figure, tuple) else Reference(figure) for figure in figures if figure is not None]
        for arm, figures in PUBLISHED[name].items()
    }  # fmt: skip


def test_columns_stand_in_the_order_of_the_papers() -> None:
    tables = shipped_experiments().tables
    seven = ("bit_memory", "bit_xor", "listops_as_released", "mnist", "cifar", "cifar_lra", "remote_homology")
    for name in ("table1", "table2", "lstm", "table6", "table9", "table13", "table15"):
        assert tables[name].tasks == seven
    assert tables["table21"].tasks == ("bit_xor", "listops_as_released", "mnist", "cifar", "cifar_lra")
    assert tables["table10"].tasks == ("listops_as_released", "cifar_lra")
    assert tables["table17"].tasks == ("cifar", "listops_as_released")
    assert tables["fair"].tasks == ("bit_memory", "bit_xor", "listops", "mnist", "cifar", "cifar_lra")
    assert tables["table7"].measures == ("accuracy", "train_accuracy")
    assert tables["table6"].measures == ("steps_to_convergence",)


def test_learning_rates_of_the_paper() -> None:
    def rate(table: str, arm: str, task: str) -> float | None:
        return first_run(table, "paper", arm, task).lr

    assert rate("table2", "FPT", "mnist") == 1e-3
    assert rate("table2", "Random", "remote_homology") == 1e-4
    assert rate("lstm", "LSTM*", "mnist") == 3e-4
    assert rate("table1", "Full", "cifar") == 1e-4


def test_the_fair_grid_spans_that_of_the_rerun() -> None:
    (*_, cell) = grid("fair", "paper").cells
    assert (cell.rates[0], cell.rates[-1], len(cell.rates)) == (1e-6, 1e-2, 9)
    assert len(cell.runs) == 27
    assert {"--data.batch_size=8", "--early_stopping.patience=10", "--trainer.max_steps=300000"} <= set(
        next(iter(cell.runs.values())).words
    )


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_cell_has_runs_of_its_own_or_a_reason(profile: str, protocol: str) -> None:
    for name in PUBLISHED:
        made = grid(name, profile, protocol)
        assert len(made.cells) == len(made.table.arms) * len(made.table.tasks)
        ids = [run.id for cell in made.cells for run in cell.runs.values()]
        assert len(set(ids)) == len(ids), name
        for cell in made.cells:
            assert bool(cell.runs) != bool(cell.missing)
            for run in cell.runs.values():
                assert sum(run.words.count(word) for word in ("run", f"--protocol={protocol}")) == 2


@pytest.mark.parametrize("profile", PROFILES)
def test_equal_arms_are_equal_runs(profile: str) -> None:
    def ids(table: str, arm: str, tasks: Sequence[str]) -> list[str]:
        return [first_run(table, profile, arm, task).id for task in tasks]

    seven = shipped_experiments().table("table2").tasks
    fpt = ids("table2", "FPT", seven)
    assert fpt == ids("table9", "pretrained", seven) == ids("table15", "+ positions", seven)
    assert fpt == ids("table6", "FPT", seven) == ids("table13", "FPT", seven)
    random = ids("table2", "Random", seven)
    assert random == ids("table9", "default", seven) == ids("lstm", "Transformer", seven)
    assert random[1:6] == ids("table21", "+ positions", seven[1:6])
    assert fpt[4:5] == ids("table16", "pretrained, trained", ["cifar"]) == ids("table14", "FPT", ["cifar"])
    assert not set(fpt) & set(random)
    pocket = first_run("pocket", profile, "pretrained", "mnist").id
    assert pocket == first_run("controls", profile, "pretrained", "mnist").id
    assert pocket == first_run("fair", profile, "frozen, pretrained", "mnist").id


def test_the_papers_protocol_reads_as_released_but_for_the_laptop() -> None:
    """Behind the task and before all else: an arm's own positions, or parts, stand."""
    for task in ("mnist", "cifar_lra", "remote_homology"):
        words = first_run("table2", "paper", "FPT", task, "paper").words
        assert words[3:5] == ("--config", "train/as_released.yaml")
        assert "train/as_released.yaml" not in first_run("table2", "laptop", "FPT", task, "paper").words
        assert "train/as_released.yaml" not in first_run("table2", "paper", "FPT", task, "fair").words
        vision = first_run("table2", "paper", "ViT", task, "paper").words
        assert compose([word for word in vision if word.endswith(".yaml")], {})["model.positions"] == "new"


def test_the_linear_baseline_is_one_run_in_all_tables() -> None:
    """Whatever a table trains, and without attention maps."""
    runs = [first_run(table, "laptop", "linear", "listops_as_released") for table in ("table1", "table11", "table12")]
    assert len({run.id for run in runs}) == 1
    assert "controls/none.yaml" in runs[0].words
    made = grid("attention", "laptop")
    assert {run.attention for cell in made.cells for run in cell.runs.values() if cell.arm.name != "linear"} == {True}
    assert not first_run("attention", "laptop", "linear", "bit_xor").attention


def test_a_place_or_a_device_does_not_change_what_a_run_is() -> None:
    def ids(**overrides: Any) -> list[str]:
        settings = {name.replace("__", "."): value for name, value in overrides.items()}
        made = make_grid(shipped_experiments(), Selection("table2", "smoke", overrides=settings))
        runs = [run for cell in made.cells for run in cell.runs.values()]
        return [run.id for run in runs] + [run.needs.id for run in runs if run.needs is not None]

    assert ids() == ids(data__root="elsewhere") == ids(trainer__accelerator="cpu", trainer__devices=1)
    assert not set(ids()[:35]) & set(ids(trainer__max_steps=7))


@pytest.mark.parametrize("profile", PROFILES)
def test_every_config_exists(profile: str) -> None:
    for run in first_runs(profile):
        for config in (word for word in run.words if word.endswith(".yaml")):
            find_config(config)


class ParserBuilt(Exception):  # noqa: N818 - no error, only the way out of a constructor
    """Carries the parser away before anything is parsed."""


class OnlyParser(FPTCLI):
    """The command line as far as its parser."""

    def parse_arguments(self, parser: ArgumentParser, args: list[str]) -> None:  # type: ignore[override]
        raise ParserBuilt(parser)


@pytest.fixture(scope="module")
def parser() -> ArgumentParser:
    with pytest.raises(ParserBuilt) as raised:
        OnlyParser(["run"])
    found: ArgumentParser = raised.value.args[0]
    return found


def enough_of(runs: list[Run]) -> list[Run]:
    """So many runs that every config, every option of a task and every value that is no number occurs in one.

    All of them would take minutes: they differ in which of these they combine, and parsing looks at each alone.
    """
    seen: set[str] = set()
    chosen = []
    for run in runs:
        task = run.words[2]
        words = [re.sub(r"=[\d.e-]+$", "", word) for word in run.words]
        new = {f"{task} {word}" if word.startswith("--data.") else word for word in words} - seen
        if new:
            chosen.append(run)
            seen |= new
    return chosen


def test_every_place_is_an_option(parser: ArgumentParser) -> None:
    (run,) = parser._commands.choices.values()
    keys = list(run.get_defaults().keys())
    known = {key.replace("init_args.", "") for key in keys}
    known |= {f"data.{name}" for name in options_of(MNIST)}
    unknown = {place for place in PLACES if not any(f"{name}.".startswith(f"{place}.") for name in known)}
    assert not unknown


def test_the_command_line_takes_every_option(parser: ArgumentParser) -> None:
    runs = enough_of([run for profile in PROFILES for run in first_runs(profile)])
    assert len(runs) > 50
    for run in runs:
        words = run.command
        config = parser.parse_args(with_configs_found(words))
        assert config.run.run_folder == str(run.folder)
        if run.lr is not None:
            assert config.run.model.init_args.lr == run.lr
        for word in words:  # YAML 1.1 reads 3:6 as 186 minutes
            if word.startswith("--model.layers="):
                assert str(config.run.model.init_args.layers) == word.removeprefix("--model.layers=")


@pytest.mark.parametrize(
    ("table", "arm"),
    [
        ("table2", "FPT"),
        ("table2", "ViT"),
        ("table17", "BERT"),
        pytest.param("table17", "T5", marks=pytest.mark.slow),
        pytest.param("table17", "Longformer", marks=pytest.mark.slow),
        ("lstm", "LSTM*"),
        ("controls", "no backbone"),
        ("controls", "no backbone, two layers"),
        pytest.param("table12", "linear", marks=pytest.mark.slow),
        pytest.param("controls", "one attention layer", marks=pytest.mark.slow),
        ("controls", "one block"),
        ("controls", "shuffled tokens"),
        pytest.param("table12", "random, 24 layers", marks=pytest.mark.slow),
    ],
)
def test_an_arm_of_the_smoke_profile_runs(fpt: Fpt, table: str, arm: str) -> None:
    task = "listops_as_released" if table != "controls" else "listops"
    command = first_run(table, "smoke", arm, task, "paper").command
    few = ["--data.eval_batch_size=4", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    assert fpt(*command[:-1], *few) == 0
