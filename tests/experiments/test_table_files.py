"""Reading an experiments.yaml: what is wrong with one is said in a line that names the place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fpt_lightning.errors import UsageError
from fpt_lightning.experiments.tables import Arm, Reference, read_experiments

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
    assert table.arms[0].reference == {"xor": Reference(100), "memory": Reference(75.8, 0.3)}
    assert table.arms[1] == Arm("B", "other")


def test_figures_of_several_measures_follow_the_columns() -> None:
    content = good()
    content["tables"]["table2"]["measures"] = ["accuracy", "train_accuracy"]
    content["tables"]["table2"]["arms"]["A"]["reference"] = [1, 2, None, 4]
    (arm, _) = read_experiments(write(content)).table("table2").arms
    assert arm.reference == {
        "xor.accuracy": Reference(1),
        "xor.train_accuracy": Reference(2),
        "memory.train_accuracy": Reference(4),
    }


def test_the_file_here_comes_before_the_shipped_one() -> None:
    assert "table2" in read_experiments().tables
    assert len(read_experiments().tables) > 1
    Path(write(good())).rename("experiments.yaml")
    assert list(read_experiments().tables) == ["table2"]


def test_an_arm_may_be_otherwise_on_a_task() -> None:
    arm = Arm("A", "body", ("a.yaml",), {"x": 1}, tasks={"xor": {"backbone": "b", "configs": ("c.yaml",), "lr": 0.1}})
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
    "a section too many": (put("runs", {}), "must have exactly the sections tasks, protocols, profiles, tables"),
    "a task without a config": (put("tasks/xor", {"title": "xor"}), "task xor lacks config, lr, chance"),
    "a task with a wrong field": (put("tasks/xor/chanec", 50), "task xor has no field 'chanec'; did you mean 'chance'?"),
    "a table with a wrong field": (put("tables/table2/titel", "x"), "table table2 has no field 'titel'; did you mean"),
    "an arm with a wrong field": (put("tables/table2/arms/A/config", []), "table2, arm A has no field 'config'; did you"),
    "a backbone with a wrong field": (
        put("profiles/smoke/backbones/body/setings", {}),
        "profile smoke, backbone body has no field 'setings'; did you mean 'settings'?",
    ),
    "a maker with a wrong field": (
        put("profiles/smoke/backbones/body/made_by", {"config": []}),
        "profile smoke, made_by of body has no field 'config'",
    ),
    "too few figures": (put("tables/table2/arms/A/reference", [100]), "arm A: 1 reference figures for 2 columns"),
    "an unknown task": (put("tables/table2/tasks", ["xor", "memroy"]), "table2: no task is called 'memroy'; did you"),
    "an unknown task of an arm": (put("tables/table2/arms/B/tasks", {"mnist": {}}), "arm B: 'mnist' is no task of this"),
    "a wrong field on a task": (
        put("tables/table2/arms/B/tasks", {"xor": {"setings": {}}}),
        "arm B, task xor has no field 'setings'; did you mean 'settings'?",
    ),
    "an unknown role": (put("tables/table2/arms/B/backbone", "boby"), "smoke has no backbone 'boby'; did you mean 'body'?"),
    "an unknown measure": (put("tables/table2/measures", ["acuracy"]), "no measure is called 'acuracy'; did you mean"),
    "an unknown protocol": (put("tables/table2/protocol", "unfair"), "table2: no protocol is called 'unfair'"),
    "an unknown baseline": (put("tables/table2/baseline", "C"), "table2: the baseline 'C' is no arm of it"),
    "an unknown task of a profile": (put("profiles/smoke/tasks", {"xro": {}}), "smoke: no task is called 'xro'; did you"),
    "an unknown task of a backbone": (
        put("profiles/smoke/backbones/body/tasks", {"xro": {}}),
        "smoke: no task is called 'xro'; did you mean 'xor'?",
    ),
    "an unknown task of a protocol": (
        put("profiles/smoke/protocols", {"fair": {"tasks": {"xro": {}}}}),
        "smoke: no task is called 'xro'; did you mean 'xor'?",
    ),
    "an unknown protocol of a profile": (put("profiles/smoke/protocols", {"fiar": {}}), "no protocol is called 'fiar'"),
    "a wrong field of a protocol": (put("profiles/smoke/protocols", {"fair": {"sedes": 1}}), "fair has no field 'sedes'"),
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


@pytest.mark.parametrize(
    ("text", "message"), [("tasks: [", "is not YAML"), ("- 1\n", "must have exactly the sections")]
)
def test_a_file_that_is_no_experiments_file(text: str, message: str) -> None:
    Path("mine.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_experiments("mine.yaml")


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
