"""The command line, through its public door."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from conftest import Fpt, read_rows, write_table
from fpt_lightning.config_files import shipped
from fpt_lightning.machine import machine
from fpt_lightning.main import COMMANDS, HOME, main

CONFIG_FOLDER = shipped("configs")
CONFIGS = sorted(path.relative_to(CONFIG_FOLDER).as_posix() for path in CONFIG_FOLDER.rglob("*.yaml"))
TASKS = [name for name in CONFIGS if "/" not in name]
# those are in test_ddp, test_pretraining and test_export_backbone
ELSEWHERE = (
    "trainer/ddp.yaml",
    "pretrain/copies.yaml",
    "pretrain/dyck.yaml",
    "pretrain/memorised.yaml",
    "pretrain/language.yaml",
    "pretrain/bit_memory.yaml",
)
FRAGMENTS = [name for name in CONFIGS if "/" in name and name not in ELSEWHERE]
HUB = ("bert", "gpt2", "gpt2_large", "gpt2_medium", "longformer", "minilm", "pythia", "qwen", "smollm", "t5", "vit")
NEEDS = {
    **{f"backbones/{name}.yaml": "the hub, or a cached backbone" for name in HUB},
    "initialization/pretrained.yaml": "a backbone with pretrained weights",
    "initialization/statistics.yaml": "a backbone with pretrained weights",
    "trainer/gpu.yaml": "a GPU",
    "trainer/wandb.yaml": "wandb",
}
SMALLER = {
    "backbones/gpt2_random.yaml": "{n_layer: 1, n_embd: 32, n_head: 2, n_positions: 64}",
    "backbones/six_layers.yaml": "{n_layer: 7, n_embd: 32, n_head: 2}",
}
IMAGES = {
    "mnist.yaml": "mnist_root",
    "cifar.yaml": "cifar_root",
    "cifar_lra.yaml": "cifar_root",
    "image_folder.yaml": "image_root",
}
BITS = ("--data.n=20", "--data.patch_size=5", "--data.batch_size=4")


def _python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("flag", ["--help", "-h", "--version", ""])
def test_help_and_version_import_neither_torch_nor_lightning(flag: str) -> None:
    code = (
        "import sys; from fpt_lightning.main import main; status = main(sys.argv[1:]);"
        "print(sorted({'torch', 'lightning', 'transformers', 'numpy'} & set(sys.modules)), status)"
    )
    done = _python("-c", code, *([flag] if flag else []))
    assert done.stdout.splitlines()[-1] == "[] 0"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    assert all(command in page for command in COMMANDS)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in HOME])
def test_every_command_lists_its_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help-all"])
    assert stopped.value.code == 0
    page = capsys.readouterr().out
    assert "--checkpoint.monitor" in page
    assert "--early_stopping.patience" in page
    assert "--progress.refresh_rate" in page


@pytest.mark.parametrize("command", HOME)
def test_a_command_with_options_of_its_own_lists_them(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: fpt {command} ")


def test_the_module_is_the_command() -> None:
    assert "fpt-lightning" in _python("-m", "fpt_lightning", "--version").stdout


def test_a_reader_that_leaves_early_is_no_error() -> None:
    words = [sys.executable, "-m", "fpt_lightning", "sweep", "table15", "--profile=smoke", "--dry-run"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.communicate()[1] == ""
    assert process.returncode == 1


def _task_words(task: str, request: pytest.FixtureRequest) -> list[str]:
    """Small data in the real formats."""
    if task in IMAGES:
        words = [f"--data.root={request.getfixturevalue(IMAGES[task])}", "--data.eval_batch_size=8"]
        return words if task == "image_folder.yaml" else [*words, "--data.validation_examples=20"]
    if task == "remote_homology.yaml":
        return [f"--data.root={request.getfixturevalue('tape_root')}", "--data.download=false"]
    if task.startswith("listops"):
        sizes = [f"--data.{split}_examples=40" for split in ("train", "validation", "test")]
        return [*sizes, "--data.min_length=10", "--data.max_length=100"]
    if task == "table.yaml":
        columns = {"a": list(range(30)), "b": [0.5] * 30, "label": ["no", "yes", "yes"] * 10}
        return [f"--data.train_file={write_table(Path('table.csv'), columns)}"]  # type: ignore[arg-type]
    if task == "hub_dataset.yaml":
        import datasets

        split = datasets.Dataset.from_dict({"text": ["fine", "a bad one", "so fine"] * 10, "label": [1, 0, 1] * 10})
        datasets.DatasetDict(train=split, test=split).save_to_disk("hub_dataset")
        return ["--data.path=hub_dataset"]
    return ["--data.validation_examples=20", "--data.test_examples=20"]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_config_runs(fpt: Fpt, tiny: list[str], task: str, request: pytest.FixtureRequest) -> None:
    assert fpt("run", "--config", task, *tiny, *_task_words(task, request), "--run_folder=run") == 0
    result = json.loads(Path("run/result.json").read_text())
    assert result["task"] == task.removesuffix(".yaml")
    assert result["status"] == "finished"


@pytest.mark.parametrize(
    "task", [task for task in TASKS if task not in ("image_folder.yaml", "table.yaml", "hub_dataset.yaml")]
)
def test_every_task_of_the_paper_is_also_read_as_released(
    fpt: Fpt, tiny: list[str], task: str, request: pytest.FixtureRequest
) -> None:
    words = ["--config", task, "--config=train/as_released.yaml", *tiny, *_task_words(task, request)]
    assert fpt("run", *words, "--run_folder=run") == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["data"]["init_args"]["as_released"] is True
    result = json.loads(Path("run/result.json").read_text())
    if task.startswith("listops"):
        assert result["task"] == "listops_as_released"


@pytest.mark.parametrize("fragment", [name for name in FRAGMENTS if name not in NEEDS])
def test_every_fragment_composes_with_a_task(fpt: Fpt, tiny: list[str], fragment: str) -> None:
    words = [*tiny, "--trainer.max_steps=1", "--trainer.val_check_interval=1", "--data.eval_batch_size=4"]
    if fragment.startswith(("backbones/", "controls/")):
        words = [word for word in words if "backbone" not in word]
    if fragment in SMALLER:
        words.append(f"--model.architecture={SMALLER[fragment]}")
    if fragment == "train/scratch.yaml":
        words.append("--model.backbone=small")
    assert fpt("fit", "--config=bit_xor.yaml", f"--config={fragment}", *words, "--run_folder=run") == 0
    wanted = yaml.safe_load((CONFIG_FOLDER / fragment).read_text())
    saved = yaml.safe_load(Path("run/config.yaml").read_text())
    for key, value in wanted.get("model", {}).items():
        assert saved["model"]["init_args"][key] == value
    assert Path("run/checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize("fragment", NEEDS)
def test_a_fragment_that_needs_more_than_this_machine_says_so(
    fpt: Fpt, fragment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    here = {"trainer/gpu.yaml": torch.cuda.is_available(), "trainer/wandb.yaml": find_spec("wandb") is not None}
    if here.get(fragment):
        pytest.skip(f"this machine has {NEEDS[fragment]}")
    words = ["--model.backbone=tiny"] if "initialization" in fragment else []
    status = fpt("fit", "--config=bit_xor.yaml", f"--config={fragment}", *words, "--trainer.max_steps=1")
    error = capsys.readouterr().err
    assert status in (1, 2)
    assert error.startswith("fpt: error: ") or "\nfpt: error: " in error
    assert not Path("runs").exists()


def test_configs_compose_from_left_to_right_and_the_command_line_wins(fpt: Fpt, tiny: list[str]) -> None:
    Path("first.yaml").write_text("model: {lr: 0.5, dropout: 0.3}\ndata: {n: 4}\n")
    Path("second.yaml").write_text("model: {lr: 0.25}\n")
    words = ["--config=bit_xor.yaml", "--config", "first.yaml", "-c", "second.yaml", *tiny]
    assert fpt("run", *words, "--model.dropout=0.2", "--run_folder=run") == 0
    saved = yaml.safe_load(Path("run/config.yaml").read_text())
    assert saved["model"]["init_args"]["lr"] == 0.25
    assert saved["model"]["init_args"]["dropout"] == 0.2
    assert saved["data"]["init_args"]["n"] == 4


def test_a_result_says_what_ran(fpt: Fpt, tiny: list[str]) -> None:
    words = ["--config=bit_memory.yaml", *tiny, *BITS, "--seed_everything=3", "--model.lr=0.002"]
    assert fpt("run", *words, "--run_folder=run", "--arm=mine", "--protocol=fair") == 0
    result = json.loads(Path("run/result.json").read_text())
    expected = {
        "task": "bit_memory", "arm": "mine", "backbone": "tiny", "initialization": "random", "protocol": "fair",
        "lr": 0.002, "seed": 3, "steps": 4, "trainable": ["input", "output", "layernorm", "positions"],
        "trained_parameters": 192 + 24 * 32 + 320 + 330, "status": "finished",
    }  # fmt: skip
    assert {key: result[key] for key in expected} == expected
    assert result["total_parameters"] - result["trained_parameters"] == 8448 + 16704
    assert result["best_step"] in (2, 4)
    assert 0 <= result["test_accuracy"] <= 1
    for key in ("samples_per_second", "peak_memory_mb", "wall_seconds", "val_accuracy"):
        assert result[key] > 0, key
    assert result["versions"]["torch"]
    assert len(result["data_fingerprint"]) == 16
    ran = {"dropout": 0.1, "precision": "32-true", "threads": torch.get_num_threads(), "backbone_seed": None}
    assert {name: result[name] for name in ran} == ran
    assert result["checkpoint"] == {"monitor": "val_accuracy", "mode": "max"}
    assert result["device"] == machine("cpu")["device"] != ""


def test_a_run_folder_repeats_the_run(fpt: Fpt, tiny: list[str]) -> None:
    assert fpt("run", "--config=bit_memory.yaml", *tiny, *BITS) == 0
    first = Path("runs/bit_memory/000")
    assert {path.name for path in first.iterdir()} == {
        "config.yaml", "metrics.csv", "checkpoints", "tensorboard", ".lock",
        "result.json", "learning_curve.png", "trained.safetensors", "trained.json",
    }  # fmt: skip
    assert {path.name for path in (first / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert fpt("run", f"--config={first / 'config.yaml'}") == 0
    ours, theirs = (json.loads(Path(f"runs/bit_memory/00{n}/result.json").read_text()) for n in (0, 1))
    measured = {"samples_per_second", "wall_seconds", "peak_memory_mb"}
    assert {key: value for key, value in ours.items() if key not in measured} == {
        key: value for key, value in theirs.items() if key not in measured
    }


def test_an_interrupted_run_goes_on_in_its_folder(fpt: Fpt, tiny: list[str]) -> None:
    words = ["--config=bit_memory.yaml", *tiny, *BITS]
    assert fpt("fit", *words, "--trainer.max_steps=2") == 0
    folder = Path("runs/bit_memory/000")
    assert fpt("run", *words, f"--ckpt_path={folder / 'checkpoints/last.ckpt'}") == 0
    assert json.loads((folder / "result.json").read_text())["steps"] == 4
    assert not Path("runs/bit_memory/001").exists()


def test_one_command_starts_and_goes_on(fpt: Fpt, tiny: list[str]) -> None:
    """What a job script that may be preempted says every time."""
    words = ["--config=bit_memory.yaml", *tiny, *BITS, "--run_folder=job", "--ckpt_path=last"]
    assert fpt("fit", *words, "--trainer.max_steps=2") == 0
    assert fpt("run", *words) == 0
    steps = [row["step"] for row in read_rows(Path("job/metrics.csv")) if row["train_loss"]]
    assert steps == ["0", "1", "2", "3"]
    assert json.loads(Path("job/result.json").read_text())["steps"] == 4


def test_a_finished_run_that_goes_on_is_not_finished(fpt: Fpt, tiny: list[str]) -> None:
    words = ["--config=bit_memory.yaml", *tiny, *BITS]
    assert fpt("run", *words, "--run_folder=run") == 0
    longer = [*words, "--ckpt_path=run/checkpoints/last.ckpt", "--trainer.max_steps=8"]
    assert fpt("fit", *longer, "--overwrite") == 0
    assert not Path("run/result.json").exists()
    assert fpt("run", *longer) == 0
    assert json.loads(Path("run/result.json").read_text())["steps"] == 8


def test_a_run_trained_without_its_test_is_tested_once(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config=bit_memory.yaml", *tiny, *BITS, "--trainer.max_steps=4"]
    best = "--ckpt_path=apart/checkpoints/best.ckpt"
    assert fpt("run", *words, "--run_folder=together") == 0
    assert fpt("run", *words, "--run_folder=apart", "--test=never") == 0
    untested = json.loads(Path("apart/result.json").read_text())
    assert not [name for name in untested if name.startswith("test_")]
    assert not Path("apart/trained.safetensors").exists()
    rows = read_rows(Path("apart/metrics.csv"))
    assert fpt("run", *words, "--test=only", best) == 0
    results = [json.loads(Path(name, "result.json").read_text()) for name in ("together", "apart")]
    differing = {name for name in results[0] if results[0][name] != results[1].get(name)}
    assert differing <= {"samples_per_second", "wall_seconds", "peak_memory_mb"}
    assert {name: results[1][name] for name in untested} == untested
    assert read_rows(Path("apart/metrics.csv")) == rows
    exported = [load_file(Path(name, "trained.safetensors")) for name in ("together", "apart")]
    assert exported[0].keys() == exported[1].keys()
    assert all(torch.equal(tensor, exported[1][name]) for name, tensor in exported[0].items())
    assert yaml.safe_load(Path("apart/config.yaml").read_text())["test"] == "after"
    capsys.readouterr()
    assert fpt("run", *words, "--test=only", best) == 2
    assert "apart was tested before" in capsys.readouterr().err
    assert fpt("run", *words, "--run_folder=new", "--test=only") == 2
    assert "new holds no finished run" in capsys.readouterr().err


def test_a_test_alone_is_of_the_checkpoint_that_the_result_tells_of(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config=bit_memory.yaml", *tiny, *BITS, "--model.backbone_seed=0", "--test=never"]
    words.append("--model.lr=1e-9")  # of equal checkpoints the first is the best
    for seed, folder in enumerate(("run", "other")):
        assert fpt("run", *words, f"--seed_everything={seed}", f"--run_folder={folder}") == 0
    untested = Path("run/result.json").read_text()
    assert json.loads(untested)["best_step"] == 2
    for file in ("run/checkpoints/last.ckpt", "other/checkpoints/best.ckpt"):
        capsys.readouterr()
        assert fpt("run", *words, "--run_folder=run", "--test=only", f"--ckpt_path={file}") == 2
        assert f"{file} is not the checkpoint that run/result.json tells of" in capsys.readouterr().err
        assert Path("run/result.json").read_text() == untested
    assert fpt("run", "run", "--test=only") == 0
    assert "test_accuracy" in json.loads(Path("run/result.json").read_text())
    best = torch.load("run/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    exported = load_file("run/trained.safetensors")
    assert all(torch.equal(tensor, best[f"model.{name}"]) for name, tensor in exported.items())


def test_validations_may_come_by_the_clock(fpt: Fpt, tiny: list[str]) -> None:
    words = ["--config=bit_memory.yaml", *tiny, *BITS, "--trainer.val_check_interval=00:00:00:00"]
    assert fpt("run", *words, "--run_folder=run") == 0
    assert json.loads(Path("run/result.json").read_text())["steps"] == 4


def test_the_test_split_does_not_choose(fpt: Fpt, tiny: list[str]) -> None:
    """The checkpoint of a run is the best on validation, and its test accuracy is that of `fpt test` on it."""
    words = ["--config=bit_memory.yaml", *tiny, *BITS, "--trainer.max_steps=8", "--model.lr=0.01"]
    assert fpt("run", *words, "--run_folder=run") == 0
    result = json.loads(Path("run/result.json").read_text())
    rows = read_rows(Path("run/metrics.csv"))
    validated = {int(row["step"]) + 1: float(row["val_accuracy"]) for row in rows if row["val_accuracy"]}
    assert set(validated) == {2, 4, 6, 8}
    assert result["val_accuracy"] == pytest.approx(max(validated.values()))
    assert validated[result["best_step"]] == pytest.approx(max(validated.values()))
    best = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    assert best["global_step"] == result["best_step"]


def test_another_figure_may_choose(fpt: Fpt, tiny: list[str]) -> None:
    words = ["--config=bit_memory.yaml", *tiny, *BITS, "--checkpoint.monitor=val_loss", "--checkpoint.mode=min"]
    assert fpt("run", *words, "--run_folder=run") == 0
    result = json.loads(Path("run/result.json").read_text())
    assert 0 < result["val_accuracy"] < 1
    rows = read_rows(Path("run/metrics.csv"))
    losses = {int(row["step"]) + 1: float(row["val_loss"]) for row in rows if row["val_loss"]}
    assert result["best_step"] == min(losses, key=lambda step: losses[step])
    assert result["val_loss"] == pytest.approx(min(losses.values()))


def test_a_callback_of_lightning_is_added_by_its_short_name(fpt: Fpt, tiny: list[str]) -> None:
    stop = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_loss"]
    words = [*stop, "--trainer.callbacks.stopping_threshold=9", "--trainer.max_steps=40"]
    assert fpt("run", "--config=bit_xor.yaml", *tiny, *words, "--run_folder=run") == 0
    assert json.loads(Path("run/result.json").read_text())["steps"] == 2  # its first validation is below


def test_a_callback_whose_default_is_a_member_of_an_enumeration(fpt: Fpt, tiny: list[str]) -> None:
    """It stands in the config, by which the run goes on."""
    words = ["--trainer.callbacks+=Timer", "--trainer.callbacks.duration=00:01:00:00", "--trainer.max_steps=2"]
    assert fpt("run", "--config=bit_xor.yaml", *tiny, *words, "--trainer.val_check_interval=2", "--run_folder=run") == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    timers = [each["init_args"] for each in config["trainer"]["callbacks"] if each["class_path"].endswith(".Timer")]
    assert [timer["interval"] for timer in timers] == ["step"]
    assert fpt("validate", "run") == 0


def test_callbacks_are_overridden_by_name(fpt: Fpt, tiny: list[str]) -> None:
    words = ["--config=bit_xor.yaml", *tiny, "--trainer.max_steps=20", "--trainer.val_check_interval=1"]
    words += ["--early_stopping.patience=2", "--early_stopping.min_delta=1.0", "--checkpoint.filename=chosen"]
    assert fpt("run", *words, "--run_folder=run") == 0
    assert json.loads(Path("run/result.json").read_text())["steps"] == 3
    assert Path("run/checkpoints/chosen.ckpt").is_file()


def test_exported_parts_start_a_new_run(fpt: Fpt, tiny: list[str]) -> None:
    words = ["--config=bit_memory.yaml", *tiny, *BITS]
    assert fpt("run", *words, "--run_folder=run") == 0
    assert fpt("test", *words, "--model.trained_parts=run/trained.safetensors") == 0
    words += ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--model.lr=1e-12"]
    assert fpt("fit", *words, "--model.trained_parts=run/trained.safetensors", "--run_folder=next") == 0
    exported = torch.load("run/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    moved = torch.load("next/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for name, value in exported.items():
        torch.testing.assert_close(moved[name], value, atol=1e-6, rtol=0)


def test_a_logger_of_the_user_stands_beside_the_csv(fpt: Fpt, tiny: list[str]) -> None:
    logger = '{"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "mine"}}'
    assert fpt("fit", "--config=bit_xor.yaml", *tiny, f"--trainer.logger={logger}", "--run_folder=run") == 0
    assert list(Path("mine").rglob("metrics.csv"))
    assert Path("run/metrics.csv").is_file()
    assert not Path("run/tensorboard").exists()


def test_a_trial_leaves_nothing_behind(fpt: Fpt) -> None:
    assert fpt("fit", "--config=bit_xor.yaml", "--model.backbone=tiny", "--trainer.fast_dev_run=1") == 0
    assert not list(Path().iterdir())


def test_prepare_says_what_it_found_and_loads_no_backbone(
    fpt: Fpt, mnist_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"--data.root={mnist_root}", "--data.validation_examples=20", "--model.backbone=nobody/nothing"]
    assert fpt("prepare", "--config=mnist.yaml", *words) == 0
    out = capsys.readouterr().out
    assert "mnist: 40 train, 20 validation, 30 test" in out
    assert "fingerprint" in out
    assert not Path("runs").exists()


@pytest.mark.parametrize("words", [["--trainer.max_epochs=2"], ["--trainer.max_epochs=2", "--trainer.max_steps=-1"]])
def test_a_run_that_ends_by_epochs_is_validated_at_its_end(fpt: Fpt, tiny: list[str], words: list[str]) -> None:
    write_table(Path("numbers.csv"), {"first": [*range(40)], "second": [*range(40, 0, -1)], "label": ["a", "b"] * 20})
    task = ["--config=table.yaml", "--data.train_file=numbers.csv", "--data.target_column=label", "--data.batch_size=8"]
    late = ["--trainer.max_steps=900", "--trainer.val_check_interval=500"]
    assert fpt("run", *task, *tiny, *late, *words, "--run_folder=run") == 0
    result = json.loads(Path("run/result.json").read_text())
    assert result["steps"] == result["best_step"] > 4
    assert len([row for row in read_rows(Path("run/metrics.csv")) if row["val_loss"]]) == 1
    packs = ["--pack", "model.lr=[1e-3,1e-2]", "--model.backbone_seed=1", "--run_folder=pack"]
    assert fpt("run", *task, *tiny, *late, *words, *packs) == 0
    assert {json.loads(file.read_text())["best_step"] for file in Path("pack").rglob("result.json")} == {
        result["steps"]
    }


def test_the_end_of_a_short_run_is_validated_where_batches_make_a_step_together(fpt: Fpt, tiny: list[str]) -> None:
    words = ["--config=bit_xor.yaml", *tiny, "--trainer.max_steps=2", "--trainer.val_check_interval=500"]
    assert fpt("run", *words, "--trainer.accumulate_grad_batches=4", "--run_folder=run") == 0
    rows = [row["step"] for row in read_rows(Path("run/metrics.csv")) if row["val_loss"]]
    assert rows == ["1"]


def test_a_run_that_goes_on_behind_its_end_counts_its_steps_as_one_that_never_stopped(
    fpt: Fpt, tiny: list[str]
) -> None:
    words = ["run", "--config=bit_xor.yaml", *tiny, "--trainer.val_check_interval=500", "--trainer.log_every_n_steps=1"]
    assert fpt(*words, "--trainer.max_steps=8", "--run_folder=whole") == 0
    assert fpt(*words, "--trainer.max_steps=4", "--run_folder=parts") == 0
    assert fpt(*words, "--trainer.max_steps=8", "--ckpt_path=last", "--overwrite", "--run_folder=parts") == 0
    whole, parts = (
        [(row["step"], row["train_loss"]) for row in read_rows(Path(folder, "metrics.csv")) if row["train_loss"]]
        for folder in ("whole", "parts")
    )
    assert whole == parts
    assert [step for step, _ in whole] == [str(step) for step in range(8)]


def test_a_folder_of_the_users_is_no_backbone_without_weights(fpt: Fpt, tiny: list[str]) -> None:
    """Nobody who keeps images in `small` has asked for it."""
    Path("tiny").mkdir()
    assert fpt("run", "--config=bit_xor.yaml", *tiny, "--run_folder=run") == 0
    assert json.loads(Path("run/result.json").read_text())["backbone"] == "tiny"
    Path("tiny/config.json").write_text("{}")
    assert fpt("test", "run") == 0
