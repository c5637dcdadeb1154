"""The commands of a table, through the command line."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fpt_lightning.experiments.composition import contents
from fpt_lightning.experiments.grid import Selection, make_grid
from fpt_lightning.experiments.launchers.verdict import carry_out
from fpt_lightning.experiments.tables import read_experiments
from fpt_lightning.main import main
from fpt_lightning.runs.outcome import State

TINY = """
tasks:
  bit_xor: {title: bit-xor, config: bit_xor.yaml, lr: 1.0e-3, chance: 50}
  bit_memory: {title: bit-memory, config: bit_memory.yaml, lr: 1.0e-3, chance: 50}
protocols:
  paper: {seeds: [0, 1]}
  fair: {lr: [1.0e-3, 1.0e-2], seeds: [0, 1, 2], grid_seeds: 1}
profiles:
  smoke:
    backbones:
      language: {configs: [backbones/tiny.yaml]}
      made: {made_by: {configs: [pretrain/bit_memory.yaml, backbones/tiny.yaml], settings: {data.n: 20, data.patch_size: 5, trainer.max_steps: 2, trainer.limit_val_batches: 1, trainer.limit_test_batches: 1}}}
      brackets:
        made_by:
          configs: [pretrain/dyck.yaml]
          settings: {data.context: 16, data.evaluation_windows: 4, model.width: 16, model.layers: 1, model.heads: 2, model.positions: 128, model.warmup_steps: 1, trainer.max_steps: 2, trainer.val_check_interval: 2}
      absent: {missing: no such weights here}
    settings: {trainer.max_steps: 2, trainer.limit_val_batches: 1, trainer.limit_test_batches: 1, data.eval_batch_size: 16}
    tasks:
      bit_memory: {data.n: 20, data.patch_size: 5}
tables:
  both:
    title: Two arms
    source: here
    tasks: [bit_xor, bit_memory]
    arms:
      FPT: {backbone: language}
      Absent: {backbone: absent}
  made:
    title: A backbone that is made
    source: here
    tasks: [bit_xor]
    arms: {Bit: {backbone: made}}
  brackets:
    title: A body of another language
    source: here
    tasks: [bit_xor]
    arms: {Dyck: {backbone: brackets}}
"""


@pytest.fixture
def experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments.yaml").write_text(TINY)
    return tmp_path


def _commands(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    return [shlex.split(line) for line in capsys.readouterr().out.splitlines()]


def test_a_dry_run_prints_commands_that_run_by_hand(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "both", "--profile", "smoke", "--dry-run"]) == 0
    commands = _commands(capsys)
    assert len(commands) == 4
    assert not Path("runs").exists()
    assert main([*commands[0][1:], "--trainer.enable_progress_bar=false"]) == 0
    capsys.readouterr()
    assert main(["status", "both", "--profile", "smoke", "--all"]) == 0
    assert capsys.readouterr().out.count("finished") == 1


def test_columns_that_come_to_the_same_runs_are_refused(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = TINY.replace("config: bit_memory.yaml", "config: bit_xor.yaml")
    (experiments / "experiments.yaml").write_text(text.replace("{data.n: 20, data.patch_size: 5}\n", "{data.n: 20}\n"))
    assert main(["sweep", "both", "--profile", "smoke", "--dry-run"]) == 0
    assert main(["sweep", "both", "--profile", "smoke", "--data.n", "6", "--dry-run"]) == 2
    said = "bit_xor and bit_memory of table both are one task by profile smoke and these options"
    assert said in capsys.readouterr().err
    assert main(["sweep", "both", "--profile", "smoke", "--data.n", "6", "--tasks", "bit_xor", "--dry-run"]) == 0


def test_arms_and_tasks_are_named_with_commas_or_one_by_one(
    experiments: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (experiments / "experiments.yaml").read_text()
    Path("experiments.yaml").write_text(
        content.replace("Absent:", '"Input, output": {backbone: language, settings: {model.dropout: 0}}\n      Absent:')
    )
    words = ["sweep", "both", "--profile", "smoke", "--dry-run"]
    assert main([*words, "--tasks", "bit_xor, bit_memory", "--arms", "FPT,Absent"]) == 0
    assert len(_commands(capsys)) == 4
    assert main([*words, "--tasks", "bit_xor,bit_memory", "--arms", "Input, output", "--arms", "FPT"]) == 0
    assert len(_commands(capsys)) == 8


@pytest.mark.usefixtures("warm")
def test_a_sweep_makes_the_body_of_a_language_first(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["brackets", "--profile", "smoke", "--trainer.accelerator=cpu", "--jobs", "1"]
    assert main(["sweep", *words]) == 0
    (made,) = Path("runs/tables").glob("backbone-*")
    results = [json.loads(result.read_text()) for result in Path("runs/tables").glob("*/result.json")]
    assert sorted(result["task"] for result in results) == ["bit_xor", "bit_xor", "shuffle_dyck"]
    assert {result["backbone"] for result in results if result["task"] == "bit_xor"} == {f"{made}/backbone"}
    capsys.readouterr()
    assert main(["status", *words[:3], "--all"]) == 0
    assert capsys.readouterr().out.count("finished") == 3


def test_the_fair_protocol_waits_for_a_choice_before_it_runs_the_other_seeds(
    experiments: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["both", "--profile", "smoke", "--protocol", "fair", "--tasks", "bit_xor"]
    assert main(["sweep", *words, "--dry-run"]) == 0
    first = _commands(capsys)
    assert [word for command in first for word in command if "model.lr" in word] == [
        "--model.lr=0.001",
        "--model.lr=0.01",
    ]
    assert all("--seed_everything=0" in command for command in first)
    for value, command in zip((0.4, 0.6), first, strict=True):
        _leave_result(command, value)
    assert main(["sweep", *words, "--dry-run"]) == 0
    later = _commands(capsys)
    assert len(later) == 6
    assert all("--test=never" in command for command in later)
    for command in later[2:]:
        _leave_result(command, 0.9 if "--model.lr=0.001" in command else 0.6)
    assert main(["sweep", *words, "--dry-run"]) == 0
    tested = [command for command in _commands(capsys) if "--test=never" not in command]
    assert [[word for word in command if "model.lr" in word or "seed" in word] for command in tested] == [
        ["--model.lr=0.001", f"--seed_everything={seed}"] for seed in range(3)
    ]


def test_a_dry_run_counts_what_is_left_where_the_launcher_makes_it(
    experiments: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", "both", "--profile", "smoke", "--protocol", "fair", "--tasks", "bit_xor", "--dry-run"]
    said = {}
    for more in (("--jobs", "2"), ("--launcher", "slurm"), ("--launcher", "ray", "--address", "auto")):
        assert main([*words, *more]) == 0
        out, said[more[1]] = capsys.readouterr()
    assert said == {"2": "2 runs: 2 alone\n", **dict.fromkeys(("slurm", "ray"), "2 runs: 1 pack of 2\n")}
    assert main([*words, "--gpus", "0.5"]) == 2
    assert "--gpus is an option of --launcher ray" in capsys.readouterr().err
    for line in out.splitlines():
        _leave_result(shlex.split(line), 0.5)
    assert main(words) == 0
    assert capsys.readouterr().err == "4 runs: 4 alone\n"  # the other seeds of two finalists


@pytest.mark.parametrize(
    ("gpus", "counted"), [([], "1 pack of 2"), (["--gpus", "0.5"], "2 alone"), (["--gpus", "1"], "1 pack of 2")]
)
def test_a_dry_run_counts_the_runs_that_share_a_gpu(
    gpus: list[str],
    counted: str,
    experiments: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    words = ["sweep", "both", "--profile", "smoke", "--protocol", "fair", "--tasks", "bit_xor", "--dry-run"]
    assert main([*words, "--launcher", "ray", *gpus]) == 0
    assert capsys.readouterr().err == f"2 runs: {counted}\n"


def test_what_makes_a_backbone_takes_places_and_texts(capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--data.cache_folder=c", "--trainer.devices=1"]
    images = ["--data.device_resident_mb=0", "--data.root=digits", "--baselines=false"]
    words = ["sweep", "carries", "--profile", "atlas", "--tasks", "mnist", "--dry-run"]
    assert main([*words[:-1], "--jobs=1", "--arms=novels"]) == 2
    assert (
        "table carries makes bodies of texts: say which folder holds them by --texts FOLDER" in capsys.readouterr().err
    )
    made, made_of_texts = {}, {}
    for kept, more in ((made, []), (made_of_texts, [*places, *images, "--texts=books"])):
        assert main([*words, *more]) == 0
        for command in _commands(capsys):
            if "--export_backbone.enabled=true" in command:
                kept[command[3] + str("--data.repeat_share=0.5" in command)] = command
    assert made.keys() == made_of_texts.keys()
    assert len(made) == 5
    for name, command in made.items():
        more = set(made_of_texts[name]) - set(command)
        texts = name.startswith("pretrain/language.yaml")
        assert more == {*places} | ({"--data.root=books"} if texts else set())  # one body, wherever they lie


def test_bodies_of_other_texts_are_not_gone_over(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "carries", "--profile", "atlas", "--tasks", "mnist", "--arms", "novels"]
    assert main([*words, "--dry-run"]) == 0
    body = next(Path(word.partition("=")[2]) for word in _commands(capsys)[0] if word.startswith("--run_folder="))
    body.mkdir(parents=True)
    (body / "config.yaml").write_text("data: {class_path: TextFolder, init_args: {root: novels}}")
    assert main([*words, "--jobs=1", "--texts=plays"]) == 2
    said = f"{body} is made of the texts in novels: name those by --texts, or another --folder"
    assert said in capsys.readouterr().err


def _leave_result(command: list[str], value: float) -> None:
    folder = Path(next(word for word in command if word.startswith("--run_folder=")).partition("=")[2])
    folder.mkdir(parents=True)
    result = {"val_accuracy": value, "test_accuracy": 0.5, "steps": 2, "best_step": 2, "lr": 0, "seed": 0}
    (folder / "result.json").write_text(json.dumps({**result, "versions": {}}))


@pytest.mark.usefixtures("warm")
def test_a_run_that_diverges_is_done_and_chooses_nothing(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["both", "--profile", "smoke", "--protocol", "fair", "--tasks", "bit_xor", "--arms", "FPT"]
    words += ["--rates", "1e-3,1e25", "--seeds", "0"]
    assert main(["sweep", *words, "--jobs", "1"]) == 0
    said = capsys.readouterr().out
    assert "2 of 2 runs are finished, 1 of which diverged" in said
    assert "bit_xor, FPT, lr 1e+25, seed 0  it diverged at step" in said
    assert main(["status", *words]) == 0
    said = capsys.readouterr().out
    assert "2/2 1 diverged" in said
    assert "it diverged at step" in said
    assert main(["sweep", *words, "--jobs", "1"]) == 0
    assert "seed 0" not in capsys.readouterr().out
    results = [json.loads(path.read_text()) for path in Path("runs/tables").glob("*/result.json")]
    assert {result["lr"]: "test_accuracy" in result for result in results} == {1e-3: True, 1e25: False}


@pytest.mark.usefixtures("warm")
def test_only_what_was_chosen_is_tested(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["both", "--profile", "smoke", "--protocol", "fair", "--tasks", "bit_xor", "--arms", "FPT", "--jobs", "1"]
    assert main(["sweep", *words]) == 0
    said = capsys.readouterr().out
    assert "6 of 6 runs are finished" in said
    assert (said.count("validation"), said.count("  tested")) == (6, 3)
    results = [json.loads(path.read_text()) for path in Path("runs/tables").glob("*/result.json")]
    tested = [result for result in results if "test_accuracy" in result]
    assert [len(results), len(tested)] == [6, 3]
    assert len({result["lr"] for result in tested}) == 1
    assert sorted(result["seed"] for result in tested) == [0, 1, 2]
    assert main(["sweep", *words]) == 0
    assert "validation" not in capsys.readouterr().out
    assert main(["report", *words[:-2]]) == 0
    assert "runs so far" not in capsys.readouterr().out


@pytest.mark.usefixtures("warm")
def test_a_sweep_makes_what_is_missing_and_no_more(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["made", "--profile", "smoke", "--jobs", "1"]
    assert main(["sweep", *words]) == 0
    assert "3 of 3 runs are finished" in capsys.readouterr().out
    results = {path: path.stat().st_mtime_ns for path in Path("runs/tables").glob("*/result.json")}
    assert len(results) == 3
    damaged = next(path for path in results if path.parent.name.startswith("bit_xor"))
    whole = json.loads(damaged.read_text())
    damaged.write_text(damaged.read_text()[:100])
    assert main(["status", *words[:3]]) == 0
    assert "the next sweep makes it again" in capsys.readouterr().out
    assert main(["sweep", *words]) == 0
    assert capsys.readouterr().out.count("validation") == 1
    again = json.loads(damaged.read_text())
    assert {key: again[key] for key in ("val_accuracy", "test_accuracy", "best_step")} == {
        key: whole[key] for key in ("val_accuracy", "test_accuracy", "best_step")
    }
    assert all(path.stat().st_mtime_ns == time for path, time in results.items() if path != damaged)


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_runs_of_a_sweep_train_on_several_devices(experiments: Path) -> None:
    """One after the other in a process, as alone."""
    words = ["both", "--profile", "smoke", "--tasks", "bit_xor", "--arms", "FPT", "--jobs", "1", "--threads", "1"]
    assert main(["sweep", *words, "--trainer.accelerator=cpu", "--trainer.devices=2", "--pack=off"]) == 0
    logs = [path.read_text() for path in Path("runs/tables").glob("*/log.txt")]
    assert len(logs) == len(list(Path("runs/tables").glob("*/result.json"))) == 2
    assert all("MEMBER: 2/2" in log for log in logs)


@pytest.mark.usefixtures("warm")
def test_what_is_gone_of_a_finished_run_is_made_anew(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A body, without which nothing follows, and the checkpoint that a later choice tests."""
    words = ["sweep", "made", "--profile", "smoke", "--jobs", "1", "--seeds"]
    assert main([*words, "0"]) == 0
    (body,) = Path("runs/tables").glob("backbone-*/backbone")
    (run,) = Path("runs/tables").glob("bit_xor-*/result.json")
    shutil.rmtree(body)
    result = json.loads(run.read_text())
    run.write_text(json.dumps({name: value for name, value in result.items() if not name.startswith("test_")}))
    (run.parent / "checkpoints/best.ckpt").unlink()
    capsys.readouterr()
    assert main([*words, "0,1"]) == 0
    said = capsys.readouterr().out
    assert "has a result but no backbone; it starts anew" in said
    assert "best.ckpt is gone, which was to be tested; it starts anew" in said
    assert json.loads(run.read_text())["test_accuracy"] == result["test_accuracy"]


@pytest.mark.usefixtures("warm")
def test_a_run_is_made_of_what_its_id_was_made_of(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("wide.yaml").write_text("model: {backbone: tiny}\n")
    made = make_grid(read_experiments("experiments.yaml"), Selection("both", "smoke", arms=["FPT"], tasks=["bit_xor"]))
    (run, _) = made.all_runs()
    run = replace(run, words=(*run.words, "--config", "wide.yaml"), contents=contents([*run.configs, "wide.yaml"]))
    Path("wide.yaml").write_text("model: {backbone: small}\n")
    verdict = carry_out(run)
    assert verdict.state is State.FAILED
    assert "a config has changed since the sweep began" in str(verdict.cause)


@pytest.mark.usefixtures("warm")
def test_a_body_whose_making_diverged_serves_nobody(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["made", "--profile", "smoke", "--jobs", "1", "--seeds", "0"]
    assert main(["sweep", *words]) == 0
    (body,) = Path("runs/tables").glob("backbone-*/result.json")
    trained = {name: value for name, value in json.loads(body.read_text()).items() if name[:4] not in ("val_", "test")}
    body.write_text(json.dumps({**trained, "status": "diverged", "diverged_step": 2}))
    for run in Path("runs/tables").glob("bit_xor-*"):
        shutil.rmtree(run)
    capsys.readouterr()
    assert main(["sweep", *words]) == 1
    assert "its backbone could not be made" in capsys.readouterr().err
    assert not list(Path("runs/tables").glob("bit_xor-*"))


@pytest.mark.usefixtures("warm")
def test_an_option_that_does_not_apply_is_refused_before_anything_runs(
    experiments: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "both", "--profile", "smoke", "--jobs", "1", "--data.max_depth", "3"]) == 1
    error = capsys.readouterr().err
    assert "table both, task bit_xor" in error
    assert "max_depth" in error
    assert not list(Path("runs").rglob("result.json"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bth"], "no table is called 'bth'; did you mean 'both'?"),
        ([], "say which table"),
        (["both", "--profil", "smoke"], "there is no option '--profil'; did you mean '--profile'?"),
        (["both", "--profile", "smok"], "no profile is called 'smok'; did you mean 'smoke'?"),
        (["both", "--profile", "smoke", "--protocol", "far"], "did you mean 'fair'?"),
        (["both", "--profile", "smoke", "--arms", "FTP"], "table both has no arm 'FTP'; did you mean 'FPT'?"),
        (["both", "--profile", "smoke", "--tasks", "xor"], "table both has no task 'xor'"),
        (["both", "--profile", "smoke", "--tasks", "bit_xor,xor"], "table both has no task 'xor'"),
        (["both", "--profile", "smoke", "--model.lr", "1"], "--model.lr is what a table decides"),
        (["both", "--profile", "smoke", "--model.init_args.lr", "1"], "--model.lr is what a table decides"),
        (["both", "--profile", "smoke", "--model.init_args={lr: 1}"], "there is no option '--model'"),
        (["both", "--profile", "smoke", "--data.root=["], "'--data.root=[' is neither an option nor its value"),
        (
            ["both", "--profile", "smoke", "--checkpoint.dirpath", "x"],
            "--checkpoint.dirpath is one folder for all runs",
        ),
        (["both", "--profile", "smoke", "--last_checkpoint.dirpath=x"], "--last_checkpoint.dirpath is one folder for"),
        (
            ["both", "--profile", "smoke", "stray"],
            "'stray' is neither an option nor its value; `fpt sweep --help` lists",
        ),
        (
            ["both", "--tasks", "mnist", "cifar"],
            "'cifar' is neither an option nor its value; several values stand with commas between them: --tasks mnist,cifar",
        ),
        (["both", "--seeds", "0", "1", "2"], "commas between them: --seeds 0,1,2"),
        (
            ["both", "--profile", "smoke", "--rates", "1e-3,fast"],
            "argument --rates: 1e-3,fast[1]: expected float, got str",
        ),
        (["both", "--profile", "smoke", "--rates", "0"], "argument --rates: 0[0]: expected float > 0.0"),
        (["both", "--profile", "smoke", "--seeds", "0,-1"], "argument --seeds: 0,-1[1]: expected int >= 0"),
        (["both", "--profile", "smoke", "--seeds", "0,1,0"], "argument --seeds: 0,1,0: expected each once"),
        (["both", "--profile", "smoke", "--jobs", "0"], "--jobs must be at least 1"),
        (["both", "--profile", "smoke", "--rates", "nan"], "--rates: nan[0]: expected float > 0"),
        (["both", "--profile", "smoke", "--rates", "1e-3,inf"], "--rates: 1e-3,inf[1]: expected float <="),
        (["both", "--profile", "smoke", "--rates", "1e-3,1.0e-3"], "--rates: 1e-3,1.0e-3: expected each once"),
        (["both", "--profile", "smoke", "--seeds", "1,1"], "--seeds: 1,1: expected each once"),
        (["both", "--profile", "smoke", "--model.part_lr={input: .nan}"], "got model.part_lr: {'input': nan}"),
        (["both", "--profile", "smoke", "--early_stopping.min_delta", ".inf"], "got early_stopping.min_delta: inf"),
        (["both", "--profile", "smoke", "--experiments", "no.yaml"], "no.yaml cannot be read"),
        (
            ["both", "--profile", "smoke", "--launcher", "ray", "--gpus", "nan", "--dry-run"],
            "--gpus is a share of one GPU such as 0.25",
        ),
        (["both", "--profile", "smoke", "--launcher", "ray", "--gpus", "-1", "--dry-run"], "or a whole number, got -1"),
    ],
)
def test_a_wrong_word_is_named(
    words: list[str], said: str, experiments: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *words]) == 2
    assert said in capsys.readouterr().err
