"""The page in Chromium: on a phone and a desk, in light and dark."""

import shutil
from pathlib import Path

import pytest
from run_folders import finish, grid_of

from fpt_lightning.experiments.report import write_report
from fpt_lightning.runs.outcome import write_failure

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_fits_its_window_without_a_complaint(width: int, scheme: str) -> None:
    browser = pytest.importorskip("playwright.sync_api", reason="drives the browser: pip install playwright")
    grid = grid_of(protocol="fair")
    for cell in grid.cells:
        for (lr, seed), run in cell.runs.items():
            finish(run, 0.5 + 20 * lr + seed / 100)
            if (lr, seed) == (1e-4, 1):
                (run.folder / "result.json").unlink()
                write_failure(run.folder, "RuntimeError: " + "a_word_that_has_no_end_" * 10)
    write_report(grid, grid.outcomes(), "html", Path("page.html"))
    complaints: list[str] = []
    with browser.sync_playwright() as engine:
        opened = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
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
        opened.close()
    assert [url for url in complaints if not url.startswith("data:")] == []


def _brightness(colour: str) -> int:
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")[:3])
