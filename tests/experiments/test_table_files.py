"""Reading an experiments.yaml: what is wrong with one is said in a line that names the place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fpt_lightning.errors import UsageError
from fpt_lightning.experiments.arms import Arm, Change, Reference
from fpt_lightning.experiments.tables import read_experiments

Content = dict[str, Any]


def good() -> Content:
    """One table of two arms on two tasks."""
    return {
        "tasks": {
            "xor": {"title": "xor", "config": "bit_xor.yaml", "lr": 1e-3, "chance": 50},
            "memory": {"title": "memory", "config": "bit_memory.yaml", "lr": 1e-3, "chance": 50},
        },
        "protocols": {"paper": {}, "fair": {"lr": [1e-3, 1e-2], "seeds": [0, 1]}},
        "profiles": {"smoke": {"backbones": {"body": {"configs": ["backbones/tiny.yaml"]}, "other": {}}}},
        "tables": {
            "table2": {
                "title": "Modality",
                "source": "a paper",
                "tasks": ["xor", "memory"],
                "arms": {"A": {"backbone": "body", "reference": [100, [75.8, 0.3]]}, "B": {"backbone": "other"}},
            }
        },
    }


def write(content: Content) -> str:
    Path("mine.yaml").write_text(yaml.safe_dump(content))
    return "mine.yaml"


def test_a_table_is_read_with_its_reference_figures() -> None:
    table = read_experiments(write(good())).table("table2")
    assert table.tasks == ("xor", "memory")
    assert table.reference(table.arms["A"], "xor") == {"accuracy": Reference(100)}
    assert table.reference(table.arms["A"], "memory") == {"accuracy": Reference(75.8, 0.3)}
    assert table.reference(table.arms["B"], "memory") == {}
    assert table.arms["B"] == Arm("B", "other")


def test_figures_of_several_measures_follow_the_columns() -> None:
    content = good()
    content["tables"]["table2"]["measures"] = ["accuracy", "train_accuracy"]
    content["tables"]["table2"]["arms"]["A"]["reference"] = [1, 2, None, 4]
    table = read_experiments(write(content)).table("table2")
    published = {task: table.reference(table.arms["A"], task) for task in table.tasks}
    assert published == {
        "xor": {"accuracy": Reference(1), "train_accuracy": Reference(2)},
        "memory": {"train_accuracy": Reference(4)},
    }


def test_the_file_here_comes_before_the_shipped_one() -> None:
    assert "table2" in read_experiments().tables
    assert len(read_experiments().tables) > 1
    Path(write(good())).rename("experiments.yaml")
    assert list(read_experiments().tables) == ["table2"]


def test_a_baseline_stands_at_the_end_of_every_table_without_its_backbone() -> None:
    content = good()
    content["baselines"] = {
        "linear": {"backbone": "third", "configs": ["train/paper.yaml"]},
        "again": {"backbone": "body"},
    }
    content["profiles"]["smoke"]["backbones"]["third"] = {"configs": ["controls/none.yaml"]}
    experiments = read_experiments(write(content))
    table = experiments.table("table2")
    assert list(table.arms) == ["A", "B", "linear"]
    assert table.reference(table.arms["linear"], "xor") == {}


def test_an_arm_may_be_otherwise_on_a_task() -> None:
    arm = Arm("A", "body", ("a.yaml",), {"x": 1}, tasks={"xor": Change("b", ("c.yaml",), lr=0.1)})
    assert arm.on("memory") == arm
    changed = arm.on("xor")
    assert (changed.backbone, changed.configs, changed.settings, changed.lr) == (
        "b",
        ("a.yaml", "c.yaml"),
        {"x": 1},
        0.1,
    )


def test_a_profile_changes_a_protocol() -> None:
    content = good()
    content["profiles"]["smoke"]["protocols"] = {"fair": {"lr": [3e-3], "tasks": {"xor": {"trainer.max_steps": 2}}}}
    experiments = read_experiments(write(content))
    changed = experiments.protocol("fair", experiments.profile("smoke"))
    assert (changed.lr, changed.seeds) == ((3e-3,), (0, 1))
    assert changed.tasks == {"xor": {"trainer.max_steps": 2}}


def put(path: str, value: Any) -> Callable[[Content], None]:
    """Sets what stands at ``tables/table2/title``."""

    def change(content: Content) -> None:
        *above, last = path.split("/")
        for key in above:
            content = content[key]
        content[last] = value

    return change


BAD = {
    "a section too many": (put("runs", {}), "must have exactly the sections tasks, protocols, profiles, tables, perhaps"),
    "a baseline without a backbone": (put("baselines", {"linear": {"backbone": "none"}}),
        "baselines.linear.backbone: no backbone of profile smoke is called 'none'"),
    "a baseline with figures of one table": (put("baselines", {"linear": {"backbone": "body", "reference": [1]}}),
        "baselines.linear.reference: expected none"),
    "a task without a config": (put("tasks/xor", {"title": "xor"}), "tasks.xor lacks config, lr"),
    "a task without chance": (put("tasks/xor", {"title": "x", "config": "c", "lr": 1}), "tasks.xor.chance: expected the accuracy"),
    "a task that is a path": (
        lambda content: content["tasks"].update({"a/b": content["tasks"]["xor"]}),
        "tasks.a/b.name: expected one without '/'",
    ),
    "a task with a wrong field": (put("tasks/xor/chanec", 50), "tasks.xor has no field 'chanec'; did you mean 'chance'?"),
    "a task with a name": (put("tasks/xor/name", "memory"), "tasks.xor has no field 'name'"),
    "a table with a wrong field": (put("tables/table2/titel", "x"), "tables.table2 has no field 'titel'; did you mean"),
    "an arm with a wrong field": (put("tables/table2/arms/A/config", []), "tables.table2.arms.A has no field 'config'; did you"),
    "a backbone with a wrong field": (
        put("profiles/smoke/backbones/body/setings", {}),
        "profiles.smoke.backbones.body has no field 'setings'; did you mean 'settings'?",
    ),
    "a maker with a wrong field": (
        put("profiles/smoke/backbones/body/made_by", {"config": []}),
        "profiles.smoke.backbones.body.made_by has no field 'config'",
    ),
    "too few figures": (put("tables/table2/arms/A/reference", [100]), "arms.A.reference: expected 2 figures, got 1"),
    "an unknown task": (put("tables/table2/tasks", ["xor", "memroy"]), "table2.tasks: no task is called 'memroy'; did you"),
    "an unknown task of an arm": (
        put("tables/table2/arms/B/tasks", {"mnist": {}}),
        "tables.table2.arms.B.tasks: no task of this table is called 'mnist'",
    ),
    "a wrong field on a task": (
        put("tables/table2/arms/B/tasks", {"xor": {"setings": {}}}),
        "arms.B.tasks.xor has no field 'setings'; did you mean 'settings'?",
    ),
    "an unknown role": (
        put("tables/table2/arms/B/backbone", "boby"),
        "arms.B.backbone: no backbone of profile smoke is called 'boby'; did you mean 'body'?",
    ),
    "an unknown measure": (put("tables/table2/measures", ["acuracy"]), "no measure is called 'acuracy'; did you mean"),
    "an unknown metric": (put("tasks/xor/metric", "acuracy"), "xor.metric: expected accuracy or r2; did you mean 'accuracy'?"),
    "an unknown protocol": (put("tables/table2/protocol", "unfair"), "protocol: no protocol is called 'unfair'; did you"),
    "an unknown baseline": (put("tables/table2/baseline", "C"), "tables.table2.baseline: no arm is called 'C'"),
    "an unknown task of a profile": (put("profiles/smoke/tasks", {"xro": {}}), "smoke.tasks: no task is called 'xro'; did you"),
    "an unknown task of a backbone": (
        put("profiles/smoke/backbones/body/tasks", {"xro": {}}),
        "profiles.smoke.backbones.body.tasks: no task is called 'xro'; did you mean 'xor'?",
    ),
    "an unknown task of a protocol": (
        put("protocols/fair/tasks", {"xro": {}}),
        "protocols.fair.tasks: no task is called 'xro'; did you mean 'xor'?",
    ),
    "an unknown task of a profile's protocol": (
        put("profiles/smoke/protocols", {"fair": {"tasks": {"xro": {}}}}),
        "profiles.smoke.protocols.fair.tasks: no task is called 'xro'; did you mean 'xor'?",
    ),
    "an unknown protocol of a profile": (put("profiles/smoke/protocols", {"fiar": {}}), "no protocol is called 'fiar'"),
    "a wrong field of a protocol": (
        put("profiles/smoke/protocols", {"fair": {"sedes": 1}}),
        "profiles.smoke.protocols.fair has no field 'sedes'; did you mean 'seeds'?",
    ),
    "a rate that is none": (put("tasks/xor/lr", "fast"), "tasks.xor.lr: expected float, got str"),
    "a rate of nothing": (put("tasks/xor/lr", 0), "tasks.xor.lr: expected float > 0.0"),
    "no rates": (put("protocols/fair/lr", []), "protocols.fair.lr: expected array of length >= 1"),
    "a rate twice": (put("protocols/fair/lr", [1e-3, 1e-3]), "protocols.fair.lr: expected each once"),
    "seeds in words": (put("protocols/fair/seeds", "0,1"), "protocols.fair.seeds: expected array, got str"),
    "a seed below 0": (put("protocols/fair/seeds", [0, -1]), "protocols.fair.seeds[1]: expected int >= 0"),
    "seeds of a profile in words": (
        put("profiles/smoke/protocols", {"fair": {"seeds": "0,1"}}),
        "profiles.smoke.protocols.fair.seeds: expected array, got str",
    ),
    "no seed for the grid": (put("protocols/fair/grid_seeds", 0), "protocols.fair.grid_seeds: expected int >= 1"),
    "a chance above all": (put("tasks/xor/chance", 101), "tasks.xor.chance: expected float <= 100.0"),
    "one config without a list": (
        put("profiles/smoke/backbones/body/configs", "one.yaml"),
        "profiles.smoke.backbones.body.configs: expected array, got str",
    ),
    "a figure of nothing": (put("tables/table2/arms/A/reference", [100, [None]]), "A.reference[1][0]: expected float, got null"),
    "a figure in words": (put("tables/table2/arms/A/reference", [100, "x"]), "reference[1]: expected float | array | null, got str"),
    "an arm of nothing": (put("tables/table2/arms/B", None), "tables.table2.arms.B: expected a mapping, got null"),
    "a rate among the settings of a table": (
        put("tables/table2/settings", {"model.lr": 1}), "tables.table2.settings.model.lr: no option here, that is lr of arms"),
    "a rate of an arm by its long name": (
        put("tables/table2/arms/A/settings", {"model.init_args.lr": 1}), "arms.A.settings.model.lr: no option here"),
    "a seed of an arm's task": (put("tables/table2/arms/A/tasks", {"xor": {"settings": {"seed_everything": 1}}}),
        "tables.table2.arms.A.tasks.xor.settings.seed_everything: no option here, that is seeds of protocols"),
    "a seed of a task": (put("tasks/xor/settings", {"seed_everything": 1}), "tasks.xor.settings.seed_everything: no option"),
    "a seed of a profile's task": (
        put("profiles/smoke/tasks", {"xor": {"seed_everything": 1}}), "smoke.tasks.xor.seed_everything: no option here"),
    "a rate of a backbone's task": (put("profiles/smoke/backbones/body/tasks", {"xor": {"model.lr": 1}}),
        "profiles.smoke.backbones.body.tasks.xor.model.lr: no option here"),
    "a rate of a profile's protocol": (put("profiles/smoke/protocols", {"fair": {"settings": {"model.lr": 1}}}),
        "profiles.smoke.protocols.fair.settings.model.lr: no option here"),
    "a seed of what makes a backbone": (
        put("profiles/smoke/backbones/body/made_by", {"configs": [], "settings": {"model.lr": 1, "seed_everything": 1}}),
        "body.made_by.settings.seed_everything: no option here, a backbone is made with seed 0"),
    "a folder of checkpoints": (put("profiles/smoke/settings", {"checkpoint.init_args.dirpath": "kept"}),
        "profiles.smoke.settings.checkpoint.dirpath is one folder for all runs"),
    "settings in sections": (put("profiles/smoke/settings", {"trainer": {"max_steps": 9}}),
        "profiles.smoke.settings.trainer: expected options by dotted name, such as trainer.NAME, got a mapping"),
    "an arm called as a baseline of another backbone": (
        lambda content: content.update(baselines={"A": {"backbone": "third"}})
        or content["profiles"]["smoke"]["backbones"].update(third={}),
        "tables.table2.arms.A: expected another name, a baseline of another backbone is called so"),
    "no arms": (put("tables/table2/arms", {}), "tables.table2.arms: expected at least one"),
    "no tasks": (put("tables/table2/tasks", []), "tables.table2.tasks: expected array of length >= 1"),
    "a task twice": (put("tables/table2/tasks", ["xor", "xor"]), "tables.table2.tasks: expected each once"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_in_a_line(case: str) -> None:
    change, message = BAD[case]
    content = good()
    change(content)
    with pytest.raises(UsageError) as raised:
        read_experiments(write(content))
    assert message in str(raised.value)
    assert str(raised.value).startswith("mine.yaml")
    assert "\n" not in str(raised.value)


BOMB = "\n".join(
    ["tasks: &a0 {x: 1}", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)), "tables: *a9"]
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: [", "is not YAML"),
        ("- 1\n", "must have exactly the sections"),
        ("", "must have exactly the sections"),
        ("tasks: {xor: {lr: 1}, xor: {lr: 2}}", r"tasks\.xor: expected once, it stands there twice, on lines 1 and 1"),
        ('tasks: {"red\\e[31m": {}}', r"tasks: a name has no control characters, got 'red\\x1b\[31m'"),
        (f"tasks: {{? {'x' * 201} : {{}}}}", "tasks: a name has at most 200 characters, this one has 201"),
        ("tasks: {? [a] : 1}", "tasks: expected names as keys, got a sequence"),
        ("tasks: &me {xor: *me}", r"tasks\.xor: expected a value, got an alias of what it stands in"),
        ("tasks: [&me [1, *me]]", r"tasks\[0\]\[1\]: expected a value, got an alias"),
        ("tasks: {xor: 2024-01-01}", r"tasks\.xor: expected text, a number, a list or a mapping, got timestamp"),
        ("tasks: !!python/name:os.system ", r"tasks: expected text, .*, got python/name:os\.system"),
        ("tasks: !!bool words", "is not YAML"),
        ("tasks: !!int words", "invalid literal"),
        ("tasks: " + "[" * 1000, "nested too deep"),
        (BOMB, "expected at most 100,000 values"),
    ],
)
def test_a_file_that_is_no_experiments_file(text: str, message: str) -> None:
    Path("mine.yaml").write_text(text)
    with pytest.raises(UsageError, match=message) as raised:
        read_experiments("mine.yaml")
    assert str(raised.value).startswith("mine.yaml")
    assert "\n" not in str(raised.value)


def test_names_are_text_as_they_are_written() -> None:
    """YAML 1.1 reads ``no`` and ``1.50`` as something else."""
    content = good()
    arms = content["tables"]["table2"]["arms"]
    content["tables"]["table2"]["arms"] = {"ARM": arms["A"], "B": arms["B"]}
    text = yaml.safe_dump(content)
    for name in ("no", "1.50", "null"):
        Path("mine.yaml").write_text(text.replace("ARM", name))
        assert list(read_experiments("mine.yaml").table("table2").arms) == [name, "B"]


def test_a_number_without_a_point_is_a_number() -> None:
    Path("mine.yaml").write_text(yaml.safe_dump(good()).replace("lr: 0.001", "lr: 1e-3"))
    assert read_experiments("mine.yaml").tasks["xor"].lr == 1e-3


def test_a_regression_is_judged_by_r2_and_guesses_the_mean() -> None:
    content = good()
    content["tasks"]["xor"] = {"title": "fit", "config": "bit_xor.yaml", "lr": 1e-3, "metric": "r2"}
    tasks = read_experiments(write(content)).tasks
    assert (tasks["xor"].metric, tasks["xor"].chance) == ("r2", 0)
    assert (tasks["memory"].metric, tasks["memory"].chance) == ("accuracy", 50)


def test_a_file_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match=r"none\.yaml cannot be read: No such file"):
        read_experiments("none.yaml")


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("table", "tabel2", "no table is called 'tabel2'; did you mean 'table2'?"),
        ("profile", "smok", "no profile is called 'smok'; did you mean 'smoke'?"),
    ],
)
def test_a_name_that_does_not_exist(kind: str, name: str, message: str) -> None:
    experiments = read_experiments(write(good()))
    with pytest.raises(UsageError) as raised:
        getattr(experiments, kind)(name)
    assert message in str(raised.value)
