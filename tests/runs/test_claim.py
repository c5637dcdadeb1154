"""A run has its folder alone, and touches nothing in it before it may."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Fpt, read_rows
from fpt_lightning import load
from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.runs.claim import claim
from fpt_lightning.runs.folder import RunFolder
from fpt_lightning.runs.lock import HeldError, hold, lock_of
from fpt_lightning.runs.outcome import State, read_outcome

PATIENCE = 300  # seconds; machines are shared
BITS = ("--config=bit_memory.yaml", "--data.n=20", "--data.patch_size=5", "--data.batch_size=4", "--run_folder=run")
LAST = "--ckpt_path=run/checkpoints/last.ckpt"


def _snapshot(folder: str | Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in Path(folder).rglob("*")
    }


def test_runs_are_numbered_under_their_task() -> None:
    with claim("mnist", None) as first, claim("mnist", None) as second:
        assert (first.path, second.path) == (Path("runs/mnist/000"), Path("runs/mnist/001"))
    assert not Path("runs").exists(), "neither has begun"
    Path("runs/mnist/007").mkdir(parents=True)
    Path("runs/mnist/notes").mkdir()
    with claim("mnist", None) as run:
        assert run.path == Path("runs/mnist/008")


def test_an_unfinished_run_says_how_to_go_on() -> None:
    run = RunFolder(Path("run"))
    run.checkpoints.mkdir(parents=True)
    run.last.touch()
    with pytest.raises(UsageError, match=r"add --ckpt_path run/checkpoints/last\.ckpt to go on"), claim("mnist", "run"):
        pass
    with claim("mnist", None, str(run.last)) as again:
        assert again.path == run.path


def test_processes_started_from_outside_need_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(UsageError, match="--run_folder"), claim("mnist", None):
        pass
    with claim("mnist", "mine") as run, claim("mnist", "mine", first=False) as same:
        assert run.path == same.path == Path("mine")


def test_the_second_process_takes_the_folder_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with claim("mnist", None) as first:
        monkeypatch.setenv("LOCAL_RANK", "1")
        with claim("mnist", None) as second:
            assert second.path == first.path.absolute()


def test_a_folder_that_is_held_says_by_whom() -> None:
    Path("run").mkdir()
    code = "import sys, pathlib; from fpt_lightning.runs.lock import hold\nwith hold(pathlib.Path('run')): print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        before = _snapshot("run")
        holder = rf"^run is in use: process {other.pid} on \S+, since \d+-\d+-\d+ "
        with pytest.raises(HeldError, match=holder), claim("mnist", "run"):
            pass
        assert _snapshot("run") == before
        outcome = read_outcome(Path("run"))
        assert outcome.state is State.RUNNING
        assert f"process {other.pid} on" in str(outcome.holder)
        other.kill()
    with hold(Path("run")), hold(Path("run")):  # whoever holds it may take it again
        assert lock_of(Path("run")).is_locked
    assert not lock_of(Path("run")).is_locked
    assert read_outcome(Path("run")).state is State.MISSING


@pytest.fixture(scope="module")
def other_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of bit-memory."""
    from fpt_lightning.main import main

    folder = tmp_path_factory.mktemp("other") / "OTHER"
    small = ["--trainer.max_steps=4", "--trainer.val_check_interval=2", "--trainer.limit_val_batches=2"]
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.limit_test_batches=2"]
    bits = ["--config=bit_memory.yaml", "--data.n=20", "--data.patch_size=5", "--model.backbone=tiny"]
    assert main(["run", *bits, *small, *quiet, f"--run_folder={folder}"]) == 0
    (folder / ".lock").unlink()  # as runs of earlier versions were left
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.limit_val_batches=0.0001"], "limit_val_batches"),
        (
            ["--trainer.captured=true", "--model.shuffle_tokens=true"],
            "trainer.captured: a step of this model needs the host",
        ),
        (
            ["--trainer.check_val_every_n_epoch=1", "--data.batch_size=16", "--trainer.val_check_interval=100"],
            "trainer.val_check_interval 100 is more than the 2 batches of an epoch",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_is_refused_behind_the_data_leaves_every_byte(
    fpt: Fpt, tiny: list[str], mnist_root: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    task = ["--config=mnist.yaml", f"--data.root={mnist_root}", "--data.validation_examples=20", *tiny]
    assert fpt("run", *task, "--run_folder=run") == 0
    before = _snapshot(Path("run"))
    assert fpt("run", *task, "--run_folder=run", "--overwrite", "--trainer.max_steps=200", *words) == 2
    assert message in capsys.readouterr().err
    assert _snapshot(Path("run")) == before


@pytest.mark.parametrize("command", ["run", "fit"])
@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--config=bit_xor.yaml"], 1, "this checkpoint is of another task"),
        (
            ["--config=bit_memory.yaml", "--data.n=20", "--data.patch_size=5", "--seed_everything=1"],
            1,
            "frozen weights",
        ),
        (["--config=bit_memory.yaml", "--data.n=20", "--data.patch_size=5", "--model.lr=0.5"], 2, "model.lr was 0.001"),
    ],
)
def test_a_refused_command_leaves_every_byte(
    fpt: Fpt,
    tiny: list[str],
    capsys: pytest.CaptureFixture[str],
    other_run: Path,
    command: str,
    words: list[str],
    status: int,
    message: str,
) -> None:
    before = _snapshot(other_run)
    best = f"--ckpt_path={other_run}/checkpoints/best.ckpt"
    assert fpt(command, *tiny, *words, best, "--overwrite") == status
    assert message in capsys.readouterr().err
    assert _snapshot(other_run) == before
    assert fpt(command, *tiny, *words, best, "--run_folder=new/one") == status
    assert not Path("new").exists()


@pytest.mark.parametrize("word", [[], ["last"], ["OTHER"]])
def test_a_finished_run_is_not_gone_over_without_a_word(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str], other_run: Path, word: list[str]
) -> None:
    before = _snapshot(other_run)
    words = [*tiny, *BITS[:-1], f"--run_folder={other_run}"]
    words += [f"--ckpt_path={each.replace('OTHER', f'{other_run}/checkpoints/best.ckpt')}" for each in word]
    assert fpt("run", *words) == 2
    error = capsys.readouterr().err
    assert "holds a finished run: choose another --run_folder, or add --overwrite to" in error
    assert _snapshot(other_run) == before


def test_a_run_is_made_anew_or_goes_on_with_the_word(fpt: Fpt, tiny: list[str]) -> None:
    assert fpt("run", *BITS, *tiny) == 0
    first = json.loads(Path("run/result.json").read_text())
    Path("run/notes.txt").write_text("mine")
    made = ("attention.png", "analysis.png", "analysis.json", "predictions.csv")
    for name in made:
        Path("run", name).touch()
    logged = set(Path("run/tensorboard").iterdir())
    assert fpt("run", *BITS, *tiny, "--trainer.max_steps=8", "--overwrite", LAST) == 0
    longer = json.loads(Path("run/result.json").read_text())
    assert (first["steps"], longer["steps"]) == (4, 8)
    assert not [name for name in made if Path("run", name).exists()], "they were of other weights"
    assert logged < set(Path("run/tensorboard").iterdir())
    assert fpt("run", *BITS, *tiny, "--trainer.max_steps=2", "--overwrite") == 0
    assert json.loads(Path("run/result.json").read_text())["steps"] == 2
    assert [row["step"] for row in read_rows(Path("run/metrics.csv")) if row["train_loss"]] == ["0", "1"]
    assert Path("run/notes.txt").read_text() == "mine"
    assert "overwrite: false" in Path("run/config.yaml").read_text()


def test_an_unfinished_run_goes_on_without_the_word(fpt: Fpt, tiny: list[str]) -> None:
    assert fpt("fit", *BITS, *tiny) == 0
    assert fpt("run", *BITS, *tiny) == 2
    assert fpt("run", *BITS, *tiny, "--ckpt_path=last", "--trainer.max_steps=6", "--test=never") == 0
    assert fpt("run", *BITS, *tiny, "--ckpt_path=best", "--trainer.max_steps=6", "--test=only") == 0
    result = json.loads(Path("run/result.json").read_text())
    assert (result["steps"], "test_accuracy" in result) == (6, True)


ELSEWHERE = ("--checkpoint.dirpath=kept", "--last_checkpoint.dirpath=kept")


def test_checkpoints_that_are_kept_elsewhere_are_those_of_the_run(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*BITS, *tiny, *ELSEWHERE]
    assert fpt("run", *words, "--pause_at=2") == 0
    before = _snapshot("kept")
    for folder in ("--run_folder=run", "--run_folder=other"):  # the other would write over them, too
        capsys.readouterr()
        assert fpt("run", *words, folder) == 2
        last = Path("kept/last.ckpt").absolute()
        assert f"add --ckpt_path {last} to go on with it" in capsys.readouterr().err
        assert _snapshot("kept") == before
    assert not Path("other").exists()
    Path("run/paused.json").unlink()
    assert read_outcome(Path("run")).state is State.STOPPED
    assert fpt("run", "run") == 0
    assert [row["step"] for row in read_rows(Path("run/metrics.csv")) if row["train_loss"]] == ["0", "1", "2", "3"]
    assert fpt("test", "run") == 0
    assert fpt("run", *words, "--overwrite", "--trainer.max_steps=2") == 0
    assert json.loads(Path("run/result.json").read_text())["steps"] == 2


def test_a_job_that_slurm_puts_in_line_again_goes_on(
    fpt: Fpt, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = {"JOB_NAME": "job", "JOB_ID": "5", "NODELIST": "localhost", "NTASKS_PER_NODE": "1", "NNODES": "1"}
    for name, value in (job | {"NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for best in ("left", "gone"):
        words = [*BITS[:-1], *tiny, f"--run_folder={best}"]
        assert fpt("run", *words, "--pause_at=2") == 0
        Path(best, "checkpoints/last.ckpt").rename(Path(best, "hpc_ckpt_1.ckpt"))  # as its signal leaves it
        if best == "gone":
            Path(best, "checkpoints/best.ckpt").unlink()
        assert fpt("run", *words) == 0
        assert json.loads(Path(best, "result.json").read_text())["steps"] == 4
        steps = [row["step"] for row in read_rows(Path(best, "metrics.csv")) if row["train_loss"]]
        assert steps == ["0", "1", "2", "3"]
        assert not Path(best, "hpc_ckpt_1.ckpt").exists(), "the next run there is not to go on from it"


def test_a_run_of_another_user_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    """Whose lock may be read, and not written."""
    run = RunFolder(Path("run"))
    run.checkpoints.mkdir(parents=True)
    run.last.touch()
    with hold(run.path):
        pass
    (run.path / ".lock").chmod(0o444)
    as_root = os.geteuid() == 0
    Path().chmod(0o755)
    try:
        if as_root:
            os.seteuid(65534)
        assert read_outcome(run.path).state is State.STOPPED
        with (run.path / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert read_outcome(run.path).state is State.RUNNING
    finally:
        if as_root:
            os.seteuid(0)


def test_a_run_where_nothing_may_be_written_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(Path("run"))
    run.checkpoints.mkdir(parents=True)
    run.last.touch()
    with hold(run.path):
        pass

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    assert read_outcome(run.path).state is State.STOPPED
    with (run.path / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert read_outcome(run.path).state is State.RUNNING


@pytest.mark.parametrize("config", ["", "{}", "model: {backbone: tiny}\n", "- 1\n"])
def test_a_config_without_a_model_is_named(config: str) -> None:
    run = RunFolder(Path("run"))
    run.checkpoints.mkdir(parents=True)
    run.best.touch()
    run.config.write_text(config)
    with pytest.raises(FPTError, match=r"run/config\.yaml names no model"):
        load(run.path)


def _together(words: list[str]) -> list[tuple[int, str]]:
    """Exit status and words of two processes that start at once."""
    command = [sys.executable, "-m", "fpt_lightning", "run", *words]
    both = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(2)
    ]
    said = [process.communicate(timeout=PATIENCE)[1] for process in both]
    return [(process.returncode, text) for process, text in zip(both, said, strict=True)]


@pytest.mark.slow
def test_of_two_runs_on_one_folder_one_says_who_holds_it(tiny: list[str]) -> None:
    for number in range(10):
        run = RunFolder(Path(f"run{number}"))
        words = [*BITS[:-1], *tiny, "--trainer.max_steps=60", "--trainer.val_check_interval=20"]
        (done, _), (refused, error) = sorted(_together([*words, f"--run_folder={run.path}"]))
        assert done == 0
        # one that comes when the other has ended finds a finished run
        assert (refused, "in use: process" in error) == (1, True) or (refused, "a finished run" in error) == (2, True)
        steps = [int(row["step"]) for row in read_rows(run.metrics)]
        assert steps == sorted(steps)
        assert json.loads(run.result.read_text())["steps"] == 60


@pytest.mark.slow
def test_of_two_runs_at_once_each_has_a_number_of_its_own(tiny: list[str]) -> None:
    for number in range(10):
        assert [status for status, _ in _together([*BITS[:-1], *tiny])] == [0, 0]
        assert len(list(Path("runs/bit_memory").glob("*/result.json"))) == 2 * (number + 1)
