"""The page in Chromium: on a phone and a desk, in light and dark."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_folders import EXPERIMENTS, finish, grid_of

from fpt_lightning.experiments.report import write_report
from fpt_lightning.runs.outcome import write_failure

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]

COMMITTED = sorted((Path(__file__).parents[3] / "results").glob("*/*/page.html"))

SMALLEST_TEXT = """() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const sizes = [];
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || one.closest("script, title, .unseen") || !one.getClientRects().length) continue;
    const shown = one instanceof SVGElement ? one.getScreenCTM() : { a: 1, b: 0 };
    const scale = Math.hypot(shown.a, shown.b);
    sizes.push(parseFloat(getComputedStyle(one).fontSize) * scale);
  }
  return Math.min(...sizes);
}"""


# texts of a chart that lie over each other, or beyond its edge
UNREADABLE = """() => [...document.querySelectorAll("svg.chart")].flatMap((chart) => {
  const texts = [...chart.querySelectorAll("text")].map((text) => [text.textContent, text.getBBox()]);
  const { width, height } = chart.viewBox.baseVal;
  const beyond = texts.filter(([_, box]) => box.x < -1 || box.x + box.width > width + 1 || box.y + box.height > height + 1);
  const over = texts.flatMap(([name, one], index) => texts.slice(index + 1).filter(([_, other]) =>
    Math.min(one.x + one.width, other.x + other.width) - Math.max(one.x, other.x) > 1 &&
    Math.min(one.y + one.height, other.y + other.height) - Math.max(one.y, other.y) > 5).map(([other]) => [name, other]));
  return [...beyond.map(([name]) => [name]), ...over];
})"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    browser = pytest.importorskip("playwright.sync_api", reason="drives the browser: pip install playwright")
    with browser.sync_playwright() as engine:
        opened = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("width", [320, 390, 1440])
@pytest.mark.parametrize("page", COMMITTED, ids=[f"{page.parts[-3]}-{page.parts[-2]}" for page in COMMITTED])
def test_a_committed_page_is_read_at_every_width(page: Path, width: int, chromium: Any) -> None:
    opened = chromium.new_page(viewport={"width": width, "height": 844})
    opened.goto(page.as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    assert opened.evaluate(SMALLEST_TEXT) >= 12 - 1e-3
    table = opened.locator(".scroll").first
    beyond = table.evaluate("box => box.scrollWidth - box.clientWidth")
    tasks = table.locator("thead th").count() - 1
    if tasks > 2 or width > 1000:  # one task or two may fit on a phone
        assert (beyond > 0) == (width < 1000)
    opened.wait_for_function("beyond => document.querySelector('.more').hidden == !beyond", arg=beyond)
    assert opened.get_by_text("scroll the table sideways").first.is_visible() == (beyond > 0)
    table.evaluate("box => { box.scrollLeft = box.scrollWidth; }")
    for cell in ("th:first-child", "td:last-child"):  # the names of the rows stay, the last column is reached
        place = opened.locator(f".figures tbody tr:first-child {cell}").bounding_box()
        assert place["x"] >= 0
        assert place["x"] + place["width"] <= width
    opened.close()


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_fits_its_window_without_a_complaint(width: int, scheme: str, chromium: Any) -> None:
    grid = grid_of(protocol="fair")
    for cell in grid.cells:
        for (lr, seed), run in cell.runs.items():
            finish(run, 0.5 + 20 * lr + seed / 100)
            if (lr, seed) == (1e-4, 1):
                (run.folder / "result.json").unlink()
                write_failure(run.folder, "RuntimeError: " + "a_word_that_has_no_end_" * 10)
    write_report(grid, grid.outcomes(), "html", Path("page.html"))
    complaints: list[str] = []
    page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if "page.html" not in request.url else None)
    page.goto(Path("page.html").absolute().as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    behind = page.evaluate("getComputedStyle(document.body).backgroundColor")
    before = page.evaluate("getComputedStyle(document.body).color")
    assert (_brightness(behind) > _brightness(before)) == (scheme == "light")
    page.locator(".command button").first.click()
    page.wait_for_function("document.querySelector('.command button').textContent == 'copied'")
    page.close()
    assert [url for url in complaints if not url.startswith("data:")] == []


@pytest.mark.parametrize("width", [320, 390, 1440])
def test_what_is_written_in_pictures_can_be_read(width: int, chromium: Any) -> None:
    names = {"FPT": "novels with copied spans and more", "Random": "random tokens, learnt by heart, wide"}
    declared = EXPERIMENTS.replace("    note: Read as released.", f"    contrasts: [[Random, LSTM*]]\n{'':4}note: A.")
    declared = declared.replace("lr: [1.0e-4,", "lr: [3.0e-6, 1.0e-5, 1.0e-4,")
    for short, long in names.items():
        declared = re.sub(rf"\b{short}\b(?=[:,])", json.dumps(long), declared)
    grid = grid_of("table2", declared, protocol="fair", seeds=(7, 4_000_000_000))
    for cell in grid.cells:
        for (lr, seed), run in cell.runs.items():
            trivial = {"the most common class of all": {"val": 0.52, "test": 0.51}}
            finish(run, 0.5 + 20 * lr + seed % 8 / 100, flops_per_step=10**9 * len(cell.arm.name), baselines=trivial)
    write_report(grid, grid.outcomes(), "html", Path("page.html"))
    page = chromium.new_page(viewport={"width": width, "height": 800})
    page.goto(Path("page.html").absolute().as_uri())
    assert page.evaluate(UNREADABLE) == []
    page.close()


def _brightness(colour: str) -> int:
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")[:3])
