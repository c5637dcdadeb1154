"""Every target of the Makefile exists for the reader of `make help`, and runs at a tiny budget."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TARGETS = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
TINY = (
    "--model.backbone=tiny --trainer.max_steps=2 --trainer.limit_val_batches=1 --trainer.limit_test_batches=1 "
    "--trainer.accelerator=cpu --trainer.enable_progress_bar=false"
)
RUNS = ["demo", "bit-xor", "bit-memory", "mnist"]
TRIED = ["help", "benchmark", "wheel", *RUNS]
# these would run this suite in itself, change the checkout or make an environment: their commands are only read
READ = {"install": "uv pip install", "test": "pytest", "test-slow": "pytest -m slow", "lint": "mypy", "format": "ruff"}
READ |= {"clean": "rm -rf .venv"}


def _make(target: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a target in the environment of these tests."""
    binaries = [f"BIN={Path(sys.prefix) / 'bin'}", "INSTALLED=pyproject.toml"] if "-n" not in words else []
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "-C", str(ROOT), target, *binaries, *words],
        capture_output=True, text=True, check=False, timeout=600, env=environment,
    )  # fmt: skip


def test_every_target_is_tried_here() -> None:
    assert set(TARGETS) == {*TRIED, *READ}


def test_help_lists_every_target() -> None:
    page = _make("help").stdout
    assert all(f"make {target} " in page for target in TARGETS)


@pytest.mark.parametrize("target", RUNS)
def test_a_run_leaves_a_result(target: str, tmp_path: Path, mnist_root: Path) -> None:
    more = f"--data.root={mnist_root} --data.validation_examples=20" if target == "mnist" else ""
    done = _make(target, f"ARGS={TINY} --run_folder={tmp_path / 'run'} {more}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 2
    assert "test accuracy" in done.stdout


def test_the_benchmark_writes_what_it_prints(tmp_path: Path) -> None:
    out = tmp_path / "train_step.json"
    budget = "--backbone=tiny --seconds=0.05 --repeats=1 --steps=4 --device=cpu"
    done = _make("benchmark", f"ARGS={budget} --out={out}")
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(out.read_text())
    assert [row["style"] for row in result["steps"]] == ["plain", "ours"] * 2
    assert all(row["steps_per_second"] > 0 and row["memory_mb"] > 0 for row in result["steps"])
    assert f"{result['overhead']['added']:.1%} added" in done.stdout


@pytest.mark.parametrize("target", READ)
def test_a_target_that_is_only_read(target: str) -> None:
    done = _make(target, "-n", "-W", "pyproject.toml")
    assert done.returncode == 0
    assert READ[target] in done.stdout


def test_a_built_wheel_carries_the_configs_and_works_from_any_folder(tmp_path: Path) -> None:
    done = _make("wheel", f"ARGS=--outdir={tmp_path / 'dist'}")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = (tmp_path / "dist").glob("fpt_lightning-*.whl")
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, timeout=120)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    code = "import fpt_lightning; from fpt_lightning.arguments import config_folder; print(config_folder())"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
    ).stdout.strip()
    assert found == str(site / "fpt_lightning" / "configs")
    words = [*TINY.split(), "--config=backbones/tiny.yaml", f"--run_folder={tmp_path / 'run'}"]
    run = [sys.executable, "-m", "fpt_lightning", "run", "--config", "bit_xor.yaml", *words]
    subprocess.run(run, check=True, capture_output=True, timeout=120, env=environment, cwd=tmp_path)
    assert (tmp_path / "run" / "result.json").is_file()
