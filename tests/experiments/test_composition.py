"""Ids of runs: equal for equal experiments, whatever words and machines they are made with."""

import re
from pathlib import Path
from random import Random

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fpt_lightning.command_line.parsed import ParsedCommand
from fpt_lightning.errors import UsageError
from fpt_lightning.experiments import composition
from fpt_lightning.experiments.composition import PLACES, PUBLISHED, as_settings, as_words, compose, identity, over

WORDS = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True).filter(lambda word: isinstance(yaml.safe_load(word), str))
PLAIN = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | WORDS
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = PLAIN | NUMBERS | st.lists(PLAIN, max_size=3) | st.dictionaries(WORDS, st.integers(), min_size=1, max_size=3)
SECTIONS = st.dictionaries(
    st.sampled_from(["data", "model", "trainer", "early_stopping"]),
    st.dictionaries(WORDS.filter(lambda word: word != "init_args"), PLAIN | NUMBERS, min_size=1, max_size=3),
    min_size=1,
)


def dotted(sections: dict[str, dict[str, object]]) -> dict[str, object]:
    return {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}


@given(SECTIONS, st.randoms(use_true_random=False))
def test_the_order_of_settings_tells_nothing(sections: dict[str, dict[str, object]], random: Random) -> None:
    settings = list(dotted(sections).items())
    shuffled = random.sample(settings, len(settings))
    assert identity(compose([], dict(settings))) == identity(compose([], dict(shuffled)))


@given(SECTIONS, st.booleans())
def test_a_config_and_options_that_say_the_same_are_the_same(
    sections: dict[str, dict[str, object]], init_args: bool
) -> None:
    # a file name of its own, because a config is read once in a process
    file = Path(f"{identity(dotted(sections))}-{init_args}.yaml")
    file.write_text(yaml.safe_dump({key: {"init_args": part} if init_args else part for key, part in sections.items()}))
    assert compose([str(file)], {}) == compose([], dotted(sections))


@given(SECTIONS, st.sampled_from(sorted(PLACES)), VALUES)
def test_places_tell_nothing(sections: dict[str, dict[str, object]], place: str, value: object) -> None:
    values = compose([], dotted(sections))
    assert identity({**values, place: value}) == identity({**values, f"{place}.more": value}) == identity(values)


@pytest.mark.parametrize("name", ["monitor", "mode", "every_n_train_steps", "save_top_k", "filename"])
@pytest.mark.parametrize("section", ["checkpoint", "last_checkpoint"])
def test_the_rule_of_a_checkpoint_is_part_of_a_run(section: str, name: str) -> None:
    values = compose(["bit_xor.yaml"], {})
    assert identity({**values, f"{section}.{name}": 1}) != identity(values)
    assert identity({**values, f"{section}.dirpath": "elsewhere"}) == identity(values)


def test_data_of_ones_own_is_known_by_its_folder() -> None:
    def ids(task: str, *roots: str) -> set[str]:
        return {identity({"data.class_path": task, "data.root": root, "model.lr": 1e-3}) for root in roots}

    own = ["ImageFolder", "SequenceFile", "HubDataset", "TextFolder", "mine.Digits", "mine.MNIST"]
    for task in own:
        assert len(ids(task, "cats", "dogs")) == 2
        assert ids(task, "cats") == ids(task, "./cats", str(Path("cats").absolute()))
        assert identity({"data": task, "data.root": "cats"}) != identity({"data": task, "data.root": "dogs"})
    for task in PUBLISHED:
        assert len(ids(task, "cats", "dogs") | ids(f"fpt_lightning.data.{task}", "dogs")) == 2
        assert identity({"data": task, "data.root": "cats"}) == identity({"data": task})


def test_data_of_ones_own_without_a_root_is_known_by_where_it_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def ids(**values: str) -> set[str]:
        found = set()
        for here in ("cats", "dogs"):
            Path(here, "local").mkdir(parents=True, exist_ok=True)
            with monkeypatch.context() as there:
                there.chdir(here)
                found.add(identity({f"data.{name}": value for name, value in values.items()}))
        return found

    assert len(ids(class_path="HubDataset", path="local")) == 2
    assert len(ids(class_path="HubDataset", path="stanfordnlp/imdb")) == 1
    assert len(ids(class_path="SequenceFile", train_file="train.csv")) == 2
    assert len(ids(class_path="mine.Digits")) == 2
    assert len(ids(class_path="BitXOR")) == 1
    assert len(ids(class_path="TextFolder")) == 1  # `--texts` names it


def test_what_is_published_is_said_of_every_task() -> None:
    own = {"ImageFolder", "SequenceFile", "HubDataset", "TextFolder"}
    tasks = {
        match[1]
        for file in (Path(composition.__file__).parents[1] / "data").rglob("*.py")
        for match in re.finditer(
            r"^class (\w+)\((?:\w*Task|FPTDataModule|PublishedImages|CIFAR10|GeneratedLanguage)\)",
            file.read_text(),
            re.M,
        )
    }
    abstract = {"BitTask", "GeneratedLanguage", "TableTask", "ImageTask", "PublishedImages"}
    assert tasks - abstract == own | PUBLISHED


@given(SECTIONS, WORDS)
def test_anything_else_tells(sections: dict[str, dict[str, object]], word: str) -> None:
    values = dotted(sections)
    assert identity({**values, "model.something_new": word}) != identity(values)


@given(st.dictionaries(st.builds("model.{}".format, WORDS), VALUES))
def test_settings_survive_as_words(settings: dict[str, object]) -> None:
    words = as_words(settings)
    assert as_settings(words) == settings
    assert as_settings([part for word in words for part in word.split("=", 1)]) == settings


def test_slices_and_times_are_no_numbers_to_the_base_of_60() -> None:
    settings = {"model.layers": "3:6", "trainer.max_time": "00:01:30:00"}
    assert as_settings(["--model.layers=3:6", "--trainer.max_time", "00:01:30:00"]) == settings
    assert as_words(settings) == ["--model.layers=3:6", "--trainer.max_time=00:01:30:00"]


def test_a_config_without_options_is_named() -> None:
    Path("list.yaml").write_text("- 1\n")
    with pytest.raises(UsageError, match=r"config list\.yaml must have sections and options, it is a list"):
        compose(["list.yaml"], {})


def test_later_configs_win_and_sections_merge() -> None:
    values = compose(["bit_xor.yaml", "train/all.yaml"], {"model.lr": 0.5})
    assert values["model.trainable"] == "all"
    assert values["model.lr"] == 0.5
    assert values["data.n"] == 5


def test_a_mapping_is_taken_whole_as_the_command_line_takes_it() -> None:
    Path("one.yaml").write_text("model: {architecture: {n_layer: 2, n_head: 4}, part_lr: {input: 0.1, output: 0.1}}\n")
    Path("other.yaml").write_text("model: {architecture: {n_embd: 32}}\n")
    base = ["bit_xor.yaml", "backbones/pocket.yaml", "initialization/random.yaml", "one.yaml"]
    for configs, more in (([*base, "other.yaml"], {}), (base, {"model.architecture": {"n_embd": 32}})):
        settings = {**more, "model.part_lr": {"positions": 0.01}}
        words = [word for config in configs for word in ("--config", config)]
        model = ParsedCommand(["run", *words, *as_words(settings)]).config["run"].model.init_args
        values = compose(configs, settings)
        assert (model.architecture, model.part_lr) == ({"n_embd": 32}, {"positions": 0.01})
        assert (values["model.architecture"], values["model.part_lr"]) == (model.architecture, model.part_lr)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"model.dropout": 0.1}, [{"model.init_args.dropout": 0.3}, {"model.dropout": 0.5}]),
        (
            {"model.architecture.n_layer": 3},
            [{"model.architecture": {"n_embd": 64}}, {"model.architecture.n_layer": 5}],
        ),
        ({"model.architecture.n_layer": 3}, [{"model.architecture": {"n_embd": 64}}]),
        ({"model.architecture.n_layer": 3}, [{"model.architecture": None}]),
    ],
)
def test_the_last_level_has_the_last_word(first: dict[str, object], then: list[dict[str, object]]) -> None:
    def model(*levels: dict[str, object]) -> dict[str, object]:
        base = [
            "--config",
            "bit_xor.yaml",
            "--config",
            "backbones/pocket.yaml",
            "--config",
            "initialization/random.yaml",
        ]
        said = [word for level in levels for word in as_words(level)]
        return dict(ParsedCommand(["run", *base, *said]).config["run"].model.init_args.as_dict())

    assert model(over(first, *then)) == model(first, *then)
    assert compose([], over(first, *then)) == over(first, *then)


def test_an_option_has_one_name() -> None:
    words = ["--model.init_args.layers=3", "--data.init_args.batch_size", "8"]
    assert as_settings(words) == {"model.layers": 3, "data.batch_size": 8}
    long, short = {"data.init_args.batch_size": 8}, {"data.batch_size": 8}
    assert compose(["mnist.yaml"], long) == compose(["mnist.yaml"], short)


@pytest.mark.parametrize("value", ["[", "@x", "!!int words", "2024-13-45", "!!bool x", "[" * 1000])
def test_a_value_that_is_no_yaml_is_named(value: str) -> None:
    with pytest.raises(ValueError, match=r"^--data\.root"):
        as_settings([f"--data.root={value}"])


@pytest.mark.parametrize("words", [["lr=1"], ["--lr"], ["--lr", "--seed", "1"]])
def test_words_that_are_no_settings(words: list[str]) -> None:
    with pytest.raises(ValueError, match=words[0]):
        as_settings(words)


def test_a_number_is_one_number_however_it_is_written() -> None:
    assert as_settings(["--model.lr=1e-3", "--x=1.0e-3", "--y", "0.001"]) == {"model.lr": 1e-3, "x": 1e-3, "y": 1e-3}


@pytest.mark.parametrize("folder", ["2024", "2024_01", "2024-01-15", "no", "1e3"])
@pytest.mark.parametrize("option", ["data.path", "model.backbone"])
def test_a_body_or_a_dataset_may_be_called_like_a_number(option: str, folder: str) -> None:
    assert as_words(as_settings([f"--{option}={folder}"])) == [f"--{option}={folder}"]


@pytest.mark.parametrize("folder", ["2024", "2024_01", "2024-01-15", "no", "1e3"])
def test_a_folder_may_be_called_like_a_number(folder: str) -> None:
    settings = as_settings([f"--data.root={folder}"])
    assert as_words(settings) == [f"--data.root={folder}"]
    assert identity({"data": "ImageFolder", **settings}) != identity({"data": "ImageFolder", "data.root": "other"})


def test_text_in_quotes_stays_text() -> None:
    Path("own.yaml").write_text('data: {target_column: "2021", positive: "+1", root: 2024}\nmodel: {lr: 1e-3}\n')
    values = compose(["own.yaml"], {})
    assert values == {"data.target_column": "2021", "data.positive": "+1", "data.root": 2024, "model.lr": 1e-3}
    assert identity(values | {"data": "ImageFolder"}) == identity(values | {"data": "ImageFolder", "data.root": "2024"})


def test_what_is_added_to_a_list_twice_is_refused() -> None:
    """Runs would get the last alone; a list adds both, whatever follows it."""
    words = ["--trainer.callbacks+=Timer", "--trainer.callbacks+=LearningRateMonitor"]
    with pytest.raises(UsageError, match=r"--trainer.callbacks\+ stands twice.*--trainer.callbacks\+=\[A,B\]"):
        as_settings(words)
    assert as_settings(["--trainer.callbacks+=[Timer,LearningRateMonitor]"]) == {
        "trainer.callbacks+": ["Timer", "LearningRateMonitor"]
    }
