"""Film the explorer in use, for the docs: python -m benchmarks.film.

The app runs in a headless Chromium, and the same is done each time: a picture is drawn, its first singular values are
turned, and it is edited. docs/static/explorer.webp gets a frame for each thing that is seen, docs/static/explored.webp
the last of them. Frames follow each other faster or slower than they came.
"""

import io
import sys
from pathlib import Path

from PIL import Image

from benchmarks import browser
from benchmarks.browser import Explored
from lsvd.paths import clone
from lsvd.storage.files import write_bytes

WIDTH, HEIGHT = 1000, 760
MOST = 1_500_000  # bytes
SHORT, LONG = 120, 1400  # milliseconds that a frame stays: while something moves, and when it is there
QUALITIES = (75, 65, 55, 45, 35)


class Film:
    """Frames of a page, with how long each stays."""

    def __init__(self, page):
        self.page, self.frames, self.times = page, [], []

    def take(self, time: int = SHORT) -> None:
        """A frame, unless nothing has changed, which makes the last one stay longer."""
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        if self.frames and picture.tobytes() == self.frames[-1].tobytes():
            self.times[-1] = max(self.times[-1], time)
        else:
            self.frames.append(picture)
            self.times.append(time)

    def until(self, explored: Explored, asked: int) -> None:
        """Frames until what was asked for is there."""
        script = "(e, asked) => Number(e.dataset.submitted) > asked && e.dataset.submitted === e.dataset.answered"
        while not explored.root.evaluate(script, asked):
            self.take()
            self.page.wait_for_timeout(150)
        self.page.wait_for_timeout(100)
        self.take(LONG)

    def slide(self, explored: Explored, label: str, values: list[float]) -> None:
        """Drag a slider through values, and let it go."""
        slider, asked = explored.field(label), explored.asked()
        slider.focus()
        for value in values:
            slider.evaluate(
                "(e, value) => { e.value = value; e.dispatchEvent(new Event('input', {bubbles: true})) }", value
            )
            self.page.wait_for_timeout(400)
            self.take()
        asked = explored.asked()
        slider.evaluate("e => e.dispatchEvent(new Event('change', {bubbles: true}))")
        self.until(explored, asked)

    def bytes(self, quality: int) -> bytes:
        """The film as an animated WebP."""
        first, *rest = self.frames
        options = {"duration": self.times, "loop": 0, "quality": quality, "method": 4, "minimize_size": True}
        first.save(data := io.BytesIO(), format="webp", save_all=True, append_images=rest, **options)
        return data.getvalue()


def shoot(page) -> Film:
    """What is done, and filmed."""
    explored, film = Explored(page), Film(page)
    film.take(LONG)
    explored.fill("Prompt", "a man with brown hair")
    explored.fill("Seed", "3")
    film.take(LONG // 2)
    asked = explored.asked()
    explored.root.get_by_role("button", name="Draw", exact=True).click()
    film.until(explored, asked)
    film.slide(explored, "Timestep", [14, 16, 18, 20, 17, 14])
    explored.tab("Triplets")
    film.take(LONG // 2)
    film.slide(explored, "σ₁", [0.8, 0.6, 0.4, 0.2, 0.0])
    film.slide(explored, "σ₂", [1.2, 1.4, 1.6, 1.8, 2.0])
    explored.tab("Edit")
    explored.fill("Target prompt", "an old man with glasses")
    film.take(LONG // 2)
    asked = explored.asked()
    explored.root.get_by_role("button", name="Edit", exact=True).click()
    film.until(explored, asked)
    film.slide(explored, "Strength", [0.8, 0.5, 0.2, 0.0, 0.4, 0.8, 1.2])
    return film


def main() -> int:
    """Film and write; 1 where there is no browser, or no way to make the film small enough."""
    lacking = browser.missing()
    if lacking:
        sys.stderr.write(lacking + "\n")
        return 1
    with browser.app() as address, browser.chromium() as chromium:
        page = browser.new_page(chromium, WIDTH, HEIGHT)
        browser.open_app(page, address)
        film = shoot(page)
    whole = next((data for data in map(film.bytes, QUALITIES) if len(data) <= MOST), None)
    if whole is None:
        sys.stderr.write(f"the film is larger than {MOST} bytes: film less\n")
        return 1
    folder = Path(clone()) / "docs" / "static"
    write_bytes(folder / "explorer.webp", whole)
    film.frames[-1].save(last := io.BytesIO(), format="webp", quality=84)
    write_bytes(folder / "explored.webp", last.getvalue())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
