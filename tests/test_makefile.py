"""Every target of the Makefile exists for the reader of `make help`, and runs at a tiny budget."""

import json
import os
import re
import runpy
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import Fpt, write_mnist
from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.launchers.local import LocalLauncher
from fpt_lightning.experiments.launchers.verdict import Verdict
from fpt_lightning.experiments.tables import read_experiments
from fpt_lightning.models.backbones.architectures import EMBEDDED
from fpt_lightning.runs.outcome import State

ROOT = Path(__file__).parents[1]
TINY = (
    "--model.backbone=tiny --trainer.max_steps=2 --trainer.limit_val_batches=1 --trainer.limit_test_batches=1 "
    "--trainer.accelerator=cpu --trainer.enable_progress_bar=false"
)
CUT = "--data.eval_batch_size=8 --data.validation_examples=20"  # small files stand for the real ones
RUNS = {
    "bit-xor": "",
    "bit-memory": "",
    "listops": "--data.train_examples=40 --data.validation_examples=20 --data.test_examples=20 --data.max_length=600",
    "mnist": f"--data.root={{mnist_root}} {CUT}",
    "cifar": "",
    "cifar-lra": "",
    "remote-homology": "--data.root={tape_root}",
}
PREPARED = {"cifar", "cifar-lra"}  # CIFAR-10's checksums hold in another process too: only the data is missed
TABLES = list(read_experiments(str(ROOT / "experiments.yaml")).tables)
TRIED = [
    "help",
    "demo",
    "benchmark",
    "benchmark-cost",
    "benchmark-data",
    "benchmark-features",
    "benchmark-gpu",
    "benchmark-halving",
    "benchmark-lstm",
    "benchmark-pack",
    "benchmark-pretraining",
    "benchmark-repeat",
    "benchmark-sweep",
    "docs",
    "wheel",
    *RUNS,
    *TABLES,
]
# these would run this suite in itself, change the checkout or make an environment: their commands are only read
READ = {
    "install": "uv pip install",
    "test": "pytest -n 2",
    "test-slow": "pytest -n 2 -m slow",
    "lint": "mypy",
    "format": "ruff",
}
READ |= {"clean": "rm -rf .venv"}


def _make(target: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a target in the environment of these tests."""
    binaries = [f"BIN={Path(sys.executable).parent}", "INSTALLED=pyproject.toml"] if "-n" not in words else []
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "-C", str(ROOT), target, *binaries, *words],
        capture_output=True, text=True, check=False, timeout=600, env=environment,
    )  # fmt: skip


def test_every_target_is_in_the_help_and_tried_here() -> None:
    listed = re.findall(r"^  make ([a-z0-9-]+)", _make("help").stdout, re.MULTILINE)
    assert sorted(listed) == sorted({*TRIED, *READ})


@pytest.mark.parametrize("target", sorted(RUNS.keys() - PREPARED))
@pytest.mark.usefixtures("warm")
def test_a_run_leaves_a_result(target: str, tmp_path: Path, mnist_root: Path, tape_root: Path) -> None:
    more = RUNS[target].format(mnist_root=mnist_root, tape_root=tape_root)
    if target == "listops":
        more += f" --data.root={tmp_path}"
    done = _make(target, f"ARGS={TINY} --run_folder={tmp_path / 'run'} {more}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 2
    assert "test accuracy" in done.stdout


@pytest.mark.usefixtures("warm")
def test_the_demo_ends_with_accuracy_picture_and_folder(tmp_path: Path) -> None:
    words = TINY.replace("--model.backbone=tiny ", "")  # it is about the backbone that ships with the package
    done = _make("demo", f"DEMO={tmp_path / 'run'}", f"ARGS={words}")
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["backbone"], result["initialization"], result["steps"]) == ("pocket", "pretrained", 2)
    assert "test accuracy" in done.stdout
    *_, shares, files = (line for line in done.stdout.splitlines() if not line.startswith("make"))
    assert "of the answers' attention on the bits needed" in shares
    picture, figures = (Path(name) for name in files.split(", "))
    assert picture.parent == tmp_path / "run"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert json.loads(figures.read_text())["uniform_share"] == pytest.approx(0.258, abs=1e-3)


def test_the_demos_folder_is_new_each_time() -> None:
    assert re.search(r"--run_folder runs/demo/\d{8}-\d{6} ", _make("demo", "-n", "-W", "pyproject.toml").stdout)


@pytest.mark.parametrize("target", sorted(PREPARED))
@pytest.mark.usefixtures("warm")
def test_a_run_without_its_data_says_what_is_missing(target: str, tmp_path: Path) -> None:
    done = _make(target, f"ARGS={TINY} --data.root={tmp_path} --data.download=false")
    assert done.returncode != 0
    assert f"CIFAR-10: data_batch_1, data_batch_2, data_batch_3, data_batch_4, data_batch_5, test_batch, batches.meta not found in {tmp_path}" in done.stderr  # fmt: skip


@pytest.mark.usefixtures("warm")
@pytest.mark.slow
def test_the_benchmark_of_costs(tmp_path: Path) -> None:
    out, picture = tmp_path / "cost.json", tmp_path / "cost.png"
    words = f"--seconds=0 --device=cpu --sizes runs layers --most 3 --out={out} --picture={picture}"
    done = _make("benchmark-cost", f"ARGS={words}")
    assert done.returncode == 0, done.stderr[-2000:]
    points = _points_of_one_matrix_rate(out)
    assert [(point["size"], point["value"]) for point in points] == [
        ("runs", 1), ("runs", 3), ("layers", 1), ("layers", 3)
    ]  # fmt: skip
    assert points[1]["flops"] == 3 * points[0]["flops"]
    assert points[2]["flops"] < points[3]["flops"]
    assert all(point["milliseconds"] > 0 < point["share"] for point in points)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_committed_shares_of_costs_are_of_one_matrix_rate() -> None:
    assert len(_points_of_one_matrix_rate(ROOT / "benchmarks" / "results" / "cost-avx2.json")) == 20


def _points_of_one_matrix_rate(out: Path) -> list[dict[str, Any]]:
    """The points of a benchmark of costs, all held against the median of the rate: a single reading wanders too much."""
    measured = json.loads(out.read_text())
    points: list[dict[str, Any]] = measured["points"]
    rates = [point["flops"] / point["milliseconds"] / 1e6 / point["share"] for point in points]
    rate = statistics.median(point["matrix_rate_gflops"] for point in points)
    assert [*rates, measured["matrix_rate_gflops"]] == pytest.approx([rate] * (len(points) + 1))
    return points


@pytest.mark.usefixtures("warm")
def test_the_benchmark_of_the_data(tmp_path: Path, mnist_root: Path) -> None:
    out = tmp_path / "data.json"
    budget = f"--backbone=tiny --seconds=0.05 --steps=1 --device=cpu --root mnist={mnist_root} --out={out}"
    done = _make("benchmark-data", f"ARGS={budget} --tasks bit_xor mnist cifar --set mnist.validation_examples=20")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(out.read_text())["tasks"]
    assert [row["task"] for row in rows] == ["bit_xor", "mnist"]
    assert all(row["data_samples_per_second"] > 0 and 0 < row["share_of_step"] < 1 for row in rows)
    assert "cifar             left out: no --root cifar=FOLDER" in done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_the_benchmark_writes_what_it_prints(tmp_path: Path) -> None:
    out = tmp_path / "train_step.json"
    budget = "--backbone=tiny --seconds=0.05 --repeats=1 --steps=4 --device=cpu --cases 'bit-memory, batch 4'"
    budget += " --precisions bf16"
    done = _make("benchmark", f"ARGS={budget} --out={out}")
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(out.read_text())
    assert [row["style"] for row in result["steps"]] == ["plain", "peft", "ours"]
    assert all(row["steps_per_second"] > 0 and row["memory_mb"] > 0 for row in result["steps"])
    assert result["steps"][1]["trained"] == result["steps"][2]["trained"]
    assert set(result["machine"]) == {"device", "features", "threads", "torch"}
    assert f"{result['overhead']['added']:.1%} added" in done.stdout


@pytest.mark.usefixtures("warm")
def test_the_benchmark_of_features(tmp_path: Path) -> None:
    out = tmp_path / "features.json"
    budget = "--backbones tiny --examples 32 --steps 4 --tokens_steps 2 --heads 2"
    done = _make("benchmark-features", f"ARGS={budget} --out {out}")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(out.read_text())["rows"]
    assert [(row["way"], row["runs"]) for row in rows] == [("tokens", 1), ("features", 1), ("2 at once", 2)]
    assert all(row["samples_per_second"] > 0 for row in rows)


@pytest.mark.usefixtures("warm")
def test_the_benchmark_of_the_lstm(tmp_path: Path) -> None:
    out = tmp_path / "lstm.json"
    done = _make("benchmark-lstm", f"ARGS=--width 8 --length 10 --seconds 0 --repeats 1 --device cpu --out {out}")
    assert done.returncode == 0, done.stderr[-2000:]
    (case,) = json.loads(out.read_text())["cases"]
    assert set(case["ratio"]) == {"loop", "best_loop"}
    assert all(value > 0 for value in case["steps_per_second"].values())


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_the_benchmark_of_pretraining(tmp_path: Path) -> None:
    out = tmp_path / "pretraining.json"
    sizes = "--layers 1 --width 8 --heads 2 --context 16 --batch_size 2 --steps 5 --accelerator cpu"
    done = _make("benchmark-pretraining", f"ARGS={sizes} --precision 32-true --out {out}")
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(out.read_text())
    row = result["steps"]["32-true"]
    assert result["sizes"]["layers"] == 1
    assert row["tokens_per_second"] == pytest.approx(2 * 16 / row["seconds"])
    assert row["share"] == pytest.approx(row["gflops"] / row["matrix_rate_gflops"])


def test_the_site_has_every_page_the_api_and_the_files_that_are_linked(tmp_path: Path) -> None:
    done = _make("docs", f"ARGS=--site-dir {tmp_path}")
    assert done.returncode == 0, done.stderr[-2000:]
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} | {"index", "changelog", "contributing"}
    assert pages <= {page.stem for page in tmp_path.glob("*.html")}
    api = (tmp_path / "api.html").read_text()
    assert 'id="fpt_lightning.training.classification.FPTClassifier"' in api
    assert ":class:" not in api
    for page in tmp_path.glob("*[!4].html"):  # 404.html knows no folder of its own
        for link in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text()):
            assert "://" in link or (tmp_path / link).exists(), f"{page.name}: {link}"


def _make_table(table: str, folder: Path, root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    budget = f"--folder={folder} --data.root={root} --trainer.accelerator=cpu {' '.join(more)}"
    return _make(table, "PROFILE=smoke", "JOBS=1", f"ARGS={budget}")


@pytest.mark.usefixtures("warm")
def test_a_table(tmp_path: Path) -> None:
    done = _make_table("table15", tmp_path / "runs", tmp_path, "--tasks=bit_xor", "--arms='+ layer norm'")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 of 2 runs are finished" in done.stdout
    assert "(paper 98)" in done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_the_benchmark_that_repeats_figures(tmp_path: Path, fpt: Fpt) -> None:
    """On the machine that made them, with as many threads, every seed is what it was."""
    place, out = ["--tasks=bit_xor", "--arms=+ layer norm"], tmp_path / "repeat.json"
    asked = ["table15", "--profile=smoke", f"--folder={tmp_path / 'runs'}", *place]
    assert fpt("sweep", *asked, "--jobs=1", "--trainer.accelerator=cpu") == 0
    assert fpt("report", *asked, f"--archive={tmp_path / 'archives' / 'table15'}") == 0
    words = f"--archives={tmp_path / 'archives'} --profile=smoke --protocol=paper --folder={tmp_path / 'again'}"
    words += f" --figure table15 '+ layer norm' bit_xor --out={out}"
    done = _make("benchmark-repeat", f"ARGS={words}")
    assert done.returncode == 0, done.stderr[-2000:]
    (row,) = json.loads(out.read_text())["figures"]
    assert (row["farthest_seed"], row["difference"], len(row["again"]["seeds"])) == (0, 0, 2)
    assert row["again"]["seeds"] == row["archived"]["seeds"]
    assert "archived" in done.stdout


@pytest.fixture(scope="module")
def runs_of_all_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder: arms that stand in several tables run once."""
    return tmp_path_factory.mktemp("tables")


@pytest.fixture(scope="module")
def enough_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST's files with images beyond the 5,000 that are set aside."""
    return write_mnist(tmp_path_factory.mktemp("mnist"), train=5100, test=300)


# MNIST's files stand beside ListOps', which are made here; CIFAR-10's checksums hold in these processes too
@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.usefixtures("warm")
def test_every_table(table: str, runs_of_all_tables: Path, enough_images: Path) -> None:
    experiments = read_experiments(str(ROOT / "experiments.yaml"))
    tasks = experiments.tables[table].tasks
    here = [task for task in tasks if task in ("bit_memory", "bit_xor", "listops", "listops_as_released", "mnist")]
    if not here:
        done = _make_table(table, runs_of_all_tables, enough_images, "--data.download=false")
        assert done.returncode != 0
        assert "not found" in done.stderr
        assert "## " in done.stdout  # the report comes all the same
        return
    done = _make_table(table, runs_of_all_tables, enough_images, *(f"--tasks={task}" for task in here))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "runs are finished" in done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_the_benchmark_of_packs(tmp_path: Path) -> None:
    out = tmp_path / "pack.json"
    budget = "--tasks bit_xor --sizes 1 4 --steps 1 --jobs 1 --rates 1e-3 1e-2 --seeds 0 1 --repeats 1"
    done = _make("benchmark-pack", f"ARGS={budget} --out {out}")
    assert done.returncode == 0, done.stderr
    alone, together = json.loads(out.read_text())["rows"]
    assert alone["sizes"] == [1]
    assert alone["ratio"] == 1
    assert together["pack"] == 4
    assert sum(together["sizes"]) <= 4


def test_the_benchmark_of_packs_times_warm_processes_several_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, walls = [0.0], iter([30.0, 20.0, 90.0, 10.0, 40.0, 25.0])

    class Played(LocalLauncher):
        """Makes runs in no time but that of the clock: a thousand seconds where its processes are cold."""

        warm = 0

        def submit(self, runs: Sequence[Run]) -> None:
            clock[0] += next(walls) if self.warm == 2 else 1000
            self.warm, self.left = len(runs), list(runs)
            for pack in runs:
                for run in pack.members or (pack,):
                    run.folder.mkdir(parents=True)
                    packed = {"pack": {"size": len(pack.members)}} if pack.members else {}
                    (run.folder / "result.json").write_text(json.dumps({"peak_memory_mb": 7, **packed}))

        def wait(self, _: float) -> list[Verdict]:
            return [Verdict(self.left.pop().id, State.FINISHED)]

    main = runpy.run_path(str(ROOT / "benchmarks" / "pack.py"))["main"]
    monkeypatch.setitem(main.__globals__, "LocalLauncher", Played)
    monkeypatch.setitem(main.__globals__, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    out = tmp_path / "pack.json"
    words = "--tasks bit_xor --sizes 1 9 --jobs 2 --rates 1e-3 1e-2 --seeds 0 1 2"
    monkeypatch.setattr(sys, "argv", ["pack.py", *words.split(), f"--out={out}"])
    main()
    measured = json.loads(out.read_text())
    assert {name: measured[name] for name in ("rates", "seeds", "runs", "jobs")} == {
        "rates": [1e-3, 1e-2], "seeds": [0, 1, 2], "runs": 6, "jobs": 2
    }  # fmt: skip
    alone, together = measured["rows"]
    assert (alone["walls"], alone["wall_seconds"], alone["sizes"]) == ([30, 90, 40], 40, [1])  # in turn with packs
    assert (together["walls"], together["wall_seconds"], together["sizes"]) == ([20, 10, 25], 20, [3])
    assert together["ratio"] == 2


def test_the_benchmark_of_halving(tmp_path: Path) -> None:
    out, picture = tmp_path / "halving.json", tmp_path / "halving.png"
    rule = "results/laptop/minilm --reductions 3 --least 1"
    done = _make("benchmark-halving", f"ARGS={rule} --out={out} --picture={picture}")
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = json.loads(out.read_text())["rules"]
    assert (found["grids"], found["same"] + len(found["others"])) == (9, 9)
    assert found["same"] <= found["as_good"] <= 9
    assert 0 <= found["lost"] <= found["most_lost"]
    assert found["steps"] < 0.7  # three rates to the first validation behind a third, one of them on
    assert "9 grids of 3 rates" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_committed_figures_of_halving_are_those_of_the_committed_runs(tmp_path: Path) -> None:
    out = tmp_path / "halving.json"
    done = _make("benchmark-halving", f"ARGS=--out={out}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert out.read_text() == (ROOT / "benchmarks" / "results" / "halving.json").read_text()


@pytest.mark.usefixtures("warm")
def test_the_benchmark_of_a_sweep(tmp_path: Path) -> None:
    out = tmp_path / "sweep.json"
    done = _make("benchmark-sweep", f"ARGS=--runs 2 --steps 2 --jobs 1 --folders 20 --out {out}")
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(out.read_text())
    (row,) = result["overhead"]
    assert row["overhead_a_run"] == pytest.approx((row["wall"] - row["training"]) / 2)
    assert result["look"]["folders"] == 20
    assert "fpt status over 20 finished runs" in done.stdout
    assert "fpt report over 20 finished runs" in done.stdout


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_ends_in_a_line_where_there_is_none() -> None:
    if torch.cuda.is_available():
        pytest.skip("here is one")
    done = _make("benchmark-gpu")
    assert done.returncode != 0
    (said,) = (line for line in done.stderr.splitlines() if not line.startswith("make"))
    assert said == "no figures: torch sees no GPU on this machine"


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_at_a_tiny_budget(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    tiny = "--pack_backbone=tiny --backbone=tiny --plain=tiny --tasks bit_xor --precisions 32-true --steps=1"
    done = _make("benchmark-gpu", f"ARGS=--device=cpu {tiny} --out={out}")
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(out.read_text())
    assert [row["pack"] for row in result["packs"]] == [1, 3, 27]
    assert [row["loop"] for row in result["steps"]] == ["by hand", "fpt run", "captured"]
    one, three, _ = result["packs"]
    assert three["ratio"] == pytest.approx(3 * one["ms"] / three["ms"])


@pytest.mark.parametrize("target", READ)
def test_a_target_that_is_only_read(target: str) -> None:
    done = _make(target, "-n", "-W", "pyproject.toml")
    assert done.returncode == 0
    assert READ[target] in done.stdout


def test_a_built_wheel_carries_configs_and_backbone_and_works_from_any_folder(tmp_path: Path) -> None:
    done = _make("wheel", f"ARGS=--outdir={tmp_path / 'dist'}")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = (tmp_path / "dist").glob("fpt_lightning-*.whl")
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, timeout=120)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    code = "import fpt_lightning; from fpt_lightning.config_files import shipped; print(shipped('configs'))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
    ).stdout.strip()
    assert found == str(site / "fpt_lightning" / "configs")
    for name, folder in EMBEDDED.items():
        shipped = site / "fpt_lightning" / "assets" / name
        assert {path.name for path in folder.iterdir()} == {path.name for path in shipped.iterdir()}
    budget = TINY.replace("--model.backbone=tiny ", "").split()
    words = [*budget, "--config=backbones/pocket.yaml", f"--run_folder={tmp_path / 'pocket'}"]
    run = [sys.executable, "-m", "fpt_lightning", "run", "--config", "bit_xor.yaml", *words]
    subprocess.run(run, check=True, capture_output=True, timeout=120, env=environment, cwd=tmp_path)
    assert json.loads((tmp_path / "pocket" / "result.json").read_text())["initialization"] == "pretrained"
