"""Time the explorer in a browser: python -m benchmarks.explorer.

JupyterLab runs in a headless Chromium with mini-sd at its 25 steps. Timed are, by the page's own clock, from running
the cell to the first picture and to the finished one; and from letting a slider go to the first estimate and to the
finished picture, at five timesteps up to half of T. outputs/tables/explorer.csv gets a row for each: median, least and
most of the repeats, in seconds. Time on an idle machine: what else runs counts in.
"""

import logging
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks import browser
from benchmarks.browser import Explored
from lsvd.paths import outputs
from lsvd.storage.files import write_csv

CELLS = (
    "from lsvd import load\nfrom lsvd.explorer import Explorer\nfrom lsvd.testbed import reader",
    "model, read = load('mini-sd'), reader.load('portraits')",
    "Explorer(model, read)",
)
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5)
REPEATS = 3
FIRST = "from running the cell to the first estimate"
WHOLE = "from running the cell to the finished picture"
PREVIEW = "from letting a slider go to the first estimate, t up to 0.5 T"
FINAL = "from letting a slider go to the finished picture, t up to 0.5 T"
RELEASE = """async (slider, value) => {
  const root = slider.closest(".lsvd-explorer");
  const figure = root.querySelector("[data-picture=result]");
  const before = figure.querySelector("img").src;
  const frame = () => new Promise(requestAnimationFrame);
  slider.value = value;
  slider.dispatchEvent(new Event("input", {bubbles: true}));
  const began = performance.now();
  slider.dispatchEvent(new Event("change", {bubbles: true}));
  let first = null;
  const asked = Number(root.dataset.submitted);
  for (;;) {
    await frame();
    const changed = figure.querySelector("img").src && figure.querySelector("img").src !== before;
    if (changed && first === null) first = performance.now();
    if (changed && Number(root.dataset.submitted) > asked && !figure.classList.contains("growing")) break;
    if (performance.now() - began > 120000) throw new Error("no picture came");
  }
  return [(first - began) / 1000, (performance.now() - began) / 1000];
}"""
SHOWN = """async () => {
  const began = performance.now();
  const frame = () => new Promise(requestAnimationFrame);
  let first = null;
  for (;;) {
    await frame();
    const root = document.querySelector(".lsvd-explorer");
    const image = root && root.querySelector("[data-picture=source] img");
    if (image && image.src && first === null) first = performance.now();
    if (first !== null && !root.querySelector(".source.growing")) break;
    if (performance.now() - began > 300000) throw new Error("no picture came");
  }
  return [(first - began) / 1000, (performance.now() - began) / 1000];
}"""
log = logging.getLogger(__name__)


def measure() -> dict[str, list[float]]:
    """Seconds of each repeat, by what was timed."""
    found: dict[str, list[float]] = {name: [] for name in (FIRST, WHOLE, PREVIEW, FINAL)}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "notebooks"
        home.mkdir()
        browser.notebook(home / "explore.ipynb", *CELLS)
        with browser.lab(home) as address, browser.chromium() as chromium:
            page = browser.new_page(chromium)
            browser.open_lab(page, address, "explore.ipynb")
            page.locator(".jp-Notebook-cell .cm-content").first.click()
            for number in (1, 2):
                page.keyboard.press("Shift+Enter")
                page.locator(".jp-Notebook-cell .jp-InputPrompt", has_text=f"[{number}]:").wait_for()
            for _ in range(REPEATS):
                page.locator(".jp-Notebook-cell").nth(2).locator(".cm-content").click()
                page.evaluate("document.querySelectorAll('.lsvd-explorer').forEach((each) => each.remove())")
                page.keyboard.press("Control+Enter")
                first, whole = page.evaluate(SHOWN)
                found[FIRST].append(first)
                found[WHOLE].append(whole)
            explored = Explored(page)
            explored.tab("Triplets")
            for fraction in FRACTIONS:
                with explored.answer():
                    explored.field("Timestep").evaluate(PLACE, fraction)
                for repeat in range(REPEATS):
                    preview, final = explored.field("σ₁").evaluate(RELEASE, 0.2 + 0.1 * repeat + fraction)
                    explored.settle()
                    found[PREVIEW].append(preview)
                    found[FINAL].append(final)
    return found


PLACE = """(slider, fraction) => {
  slider.value = Math.round(slider.max * fraction);
  slider.dispatchEvent(new Event("input", {bubbles: true}));
  slider.dispatchEvent(new Event("change", {bubbles: true}));
}"""


def rows(found: dict[str, list[float]]) -> list[dict[str, str]]:
    """The rows of outputs/tables/explorer.csv."""
    table = []
    for name, seconds in found.items():
        numbers = {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}
        table.append({"what": name, **{k: f"{v:.2f}" for k, v in numbers.items()}, "repeats": str(len(seconds))})
    return table


def main() -> int:
    """Measure and write the table; 1 where there is no browser."""
    lacking = browser.missing()
    if lacking:
        sys.stderr.write(lacking + "\n")
        return 1
    table = rows(measure())
    write_csv(outputs("tables", "explorer.csv"), table)
    for row in table:
        log.info("%s: %s s (%s to %s)", row["what"], row["median"], row["least"], row["most"])
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    raise SystemExit(main())
