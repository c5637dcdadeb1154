"""Draws the pictures of docs/gallery.md anew: from the committed results, and of a run of a minute.

    python tools/gallery.py

Needs a Chromium and playwright.
"""

import csv
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from fpt_lightning.main import main as fpt
from fpt_lightning.runs.archive import open_runs
from fpt_lightning.runs.learning_curve import plot_learning_curve

ROOT = Path(__file__).parents[1]
GALLERY = ROOT / "docs" / "gallery"
RESULTS = ROOT / "results" / "laptop"
FOUND = "bit_memory-10671d22507d"  # the pretrained pocket at 1e-2, seed 0
COLOURS = 256  # a picture of lines needs no more, and is a third of the size


def learning_curve(picture: Path) -> None:
    """The run of the table `pocket` that found the string of bit-memory, as `fpt run` drew it."""
    runs = open_runs(RESULTS / "pocket")
    result = runs.result(FOUND) or {}
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "metrics.csv"
        rows = runs.rows(FOUND)
        with metrics.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        plot_learning_curve(metrics, picture, f"{result['task']} on {result['arm']}, seed {result['seed']}")


def attention(picture: Path) -> None:
    """What the answers of `make demo` look at."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "demo"
        configs = ["--config", "bit_xor.yaml", "--config", "backbones/pocket.yaml"]
        assert fpt(["run", *configs, "--trainer.max_steps", "1000", "--run_folder", str(run)]) == 0
        assert fpt(["attention", "--checkpoint", str(run)]) == 0
        shutil.copy(run / "attention.png", picture)


def report(browser: Any) -> None:
    """Parts of committed pages: tables and charts on a desk, and a page on a phone in the dark."""
    desk = browser.new_page(viewport={"width": 800, "height": 900})
    desk.goto((RESULTS / "table2" / "page.html").as_uri())
    desk.locator("section").first.locator(".scroll").screenshot(path=GALLERY / "table.png")
    shown = (
        ("laptop/table2", "Learning curves", "curves"),
        ("laptop/table2", "Steps to convergence", "steps"),
        ("night/table2", "Learning curves", "night"),
        ("night/pocket", "Learning curves", "more_steps"),
        ("night/carries", "Learning curves", "lead"),
        ("laptop/pocket", "Against random", "forest"),
        ("laptop/fair", "Accuracy against learning rate", "rates"),
        ("laptop/fair", "Every learning rate and seed", "heat_map"),
        ("atlas/later", "Learning curves", "later"),
        ("atlas/luck", "Where the variance comes from", "luck"),
        ("atlas/pocket", "Against random", "pocket"),
        ("atlas/pocket", "What the layers hold", "layers"),
        ("atlas/minilm", "Against random", "minilm"),
        ("atlas/smollm", "Against random", "smollm"),
        ("atlas/carries", "Against random", "carries"),
        ("atlas/where", "Against random", "where"),
        ("atlas/parts", "Against + positions", "parts"),
        ("atlas/scarce", "Accuracy against fraction of data", "scarce"),
        ("atlas/scarce", "Learning curves against arithmetic", "arithmetic"),
    )
    for table, heading, name in shown:
        desk.goto((RESULTS.parent / table / "page.html").as_uri())
        section = desk.locator("section", has=desk.get_by_role("heading", name=heading, exact=True))
        section.screenshot(path=GALLERY / f"{name}.png")
    phone = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    phone.goto((RESULTS / "minilm" / "page.html").as_uri())
    phone.screenshot(path=GALLERY / "phone.png")


def main() -> None:
    from playwright.sync_api import sync_playwright

    GALLERY.mkdir(exist_ok=True)
    learning_curve(GALLERY / "learning_curve.png")
    attention(GALLERY / "attention.png")
    with sync_playwright() as engine:
        report(engine.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"]))
    for picture in GALLERY.glob("*.png"):
        few = Image.open(picture).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE)  # small signs stay
        few.save(picture, optimize=True)


if __name__ == "__main__":
    main()
