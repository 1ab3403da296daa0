"""The explorer under a person's hands: in JupyterLab and as an app, in a headless Chromium."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

import lsvd
from benchmarks import browser
from benchmarks.browser import Explored
from lsvd.avi.attribute import load as load_attribute

STEPS = 5
CELLS = (
    "from lsvd.commands.explore import explorer",
    f"shown = explorer('mini-sd', steps={STEPS})\nshown",
)
KEYS = 40  # presses of Tab that reach everything


@pytest.fixture(scope="module")
def chromium():
    lacking = browser.missing()
    if lacking and os.environ.get("LSVD_BROWSER"):
        pytest.fail(lacking)  # where it is known to be there
    if lacking:
        pytest.skip(lacking)
    with browser.chromium() as found:
        yield found


@pytest.fixture(scope="module")
def lab(chromium, tmp_path_factory):
    """The address of JupyterLab, with a notebook that shows an explorer."""
    folder = tmp_path_factory.mktemp("lab") / "notebooks"
    folder.mkdir()
    browser.notebook(folder / "explore.ipynb", *CELLS)
    with browser.lab(folder) as address:
        yield address


@pytest.fixture(scope="module")
def app(chromium):
    with browser.app("--steps", str(STEPS)) as address:
        yield address


@pytest.fixture(scope="module")
def in_lab(chromium, lab):
    page = browser.new_page(chromium)
    browser.open_lab(page, lab, "explore.ipynb")
    browser.run_all(page)
    yield Explored(page)
    page.close()


@pytest.fixture(scope="module")
def in_app(chromium, app):
    page = browser.new_page(chromium)
    browser.open_app(page, app)
    yield Explored(page)
    page.close()


@pytest.fixture(params=["in_lab", "in_app"])
def explored(request):
    """The explorer in JupyterLab, and in the app, where another test has left it."""
    found = request.getfixturevalue(request.param)
    found.fill("Prompt", "a person")
    found.fill("Seed", "0")
    found.fill("Steps", str(STEPS))
    found.press("Draw")
    found.tab("Triplets")
    found.press("Reset")
    return found


def array(flat: list[int], side: int = 128) -> np.ndarray:
    """Pixels of the browser, RGBA in a row, as (side, side, 3)."""
    return np.array(flat, dtype=int).reshape(side, side, 4)[..., :3]


def drawn(picture: torch.Tensor) -> np.ndarray:
    return (255 * picture[0].permute(1, 2, 0)).round().numpy().astype(int)


def near(shown: list[int], picture: torch.Tensor) -> bool:
    """Whether the browser shows a picture; a kernel of other threads may round otherwise."""
    return np.abs(array(shown) - drawn(picture)).mean() < 0.5


@pytest.fixture(scope="module")
def model():
    return lsvd.load("mini-sd")


def test_draw_and_move_a_singular_value(explored, model):
    explored.fill("Prompt", "a woman with glasses")
    explored.fill("Seed", "4")
    explored.press("Draw")
    walk = lsvd.run(model, "a woman with glasses", 4, STEPS)
    assert near(explored.picture("source"), model.decode(walk.final)) and not explored.note
    explored.slide("σ₁", 0.5)
    t = walk.nearest(0.5)
    edited = lsvd.resume(model, walk, t, lsvd.svd(walk.at(t)).scale(0, 0.5).recompose())
    assert near(explored.picture("result"), model.decode(edited.final))
    explored.press("↶ Undo")
    assert explored.picture("result") == []


def test_edit_to_old_save_and_restore(explored, tmp_path):
    explored.tab("Edit")
    explored.fill("Target prompt", "an old person")
    explored.press("Edit")
    assert not explored.note
    result, target = explored.picture("result"), explored.picture("target")
    assert result and target and result != target
    explored.tab("Keep")
    code = explored.field("the code of what is on the screen").input_value()
    names = {}
    exec(code, names)
    assert near(result, names["picture"])
    saved = explored.download("Picture (PNG)")
    with Image.open(saved) as picture:
        assert picture.text["lsvd code"] == code
        assert np.array_equal(np.asarray(picture.convert("RGB")).astype(int), array(result))
    attribute = explored.download("Attribute (safetensors)")
    assert load_attribute(attribute).target == ("an old person",)
    explored.fill("Seed", "9")
    explored.press("Draw")
    assert explored.picture("result") != result
    picture = tmp_path / "saved.png"
    picture.write_bytes(saved.read_bytes())
    explored.choose("From a file…", picture)
    assert explored.picture("result") == result
    assert explored.field("the code of what is on the screen").input_value() == code


def test_upload(explored, tmp_path):
    gradient = np.linspace(0, 255, 200 * 150 * 3).reshape(150, 200, 3).astype(np.uint8)
    path = tmp_path / "me.png"
    Image.fromarray(gradient).save(path)
    before = explored.picture("source")
    explored.tab("Your picture")
    explored.choose("Upload a picture…", path)
    assert explored.picture("source") != before
    assert "me.png: the noise that was found leads back to within" in explored.root.locator(".found").text_content()
    explored.press("Back to drawing")
    assert explored.picture("source") == before
    (tmp_path / "not.png").write_bytes(b"not a picture")
    explored.offer("Upload a picture…", tmp_path / "not.png")
    explored.root.locator(".note.error").filter(has_text="not a picture").wait_for()
    assert explored.picture("source") == before


def test_stop_half_way_and_go_on(explored):
    explored.fill("Steps", "200")
    before = explored.asked()
    explored.root.get_by_role("button", name="Draw", exact=True).click()
    doing = explored.root.locator(".doing")
    doing.filter(has_text="step 1").first.wait_for()
    # the page takes what a person does while it is drawn
    explored.tab("Keep")
    explored.root.get_by_role("button", name="Stop", exact=True).click()
    explored.settle(before)
    assert "Stopped at t = " in explored.note
    assert explored.picture("source")
    assert "until=" in explored.field("the code of what is on the screen").input_value()


def test_wrong_input_is_a_sentence(explored):
    before = explored.picture("source")
    for label, text, says in [
        ("Seed", "-3", "the seed cannot be -3: give a whole number from 0"),
        ("Steps", "100000", "the number of steps cannot be 100000"),
        ("Guidance", "", "the guidance cannot be None"),
    ]:
        kept = explored.field(label).input_value()
        explored.fill(label, text)
        explored.root.get_by_role("button", name="Draw", exact=True).click()
        explored.root.locator(".note.error").filter(has_text=says).wait_for()
        assert explored.picture("source") == before
        explored.fill(label, kept)
    explored.press("Draw")
    assert explored.note == ""


NAMELESS = """e => Array.from(e.querySelectorAll("input, select, textarea, button, [role=img], img")).filter(
  c => !c.closest("[hidden]") && c.getClientRects().length && !(
    (c.labels && c.labels.length && c.labels[0].textContent) || c.getAttribute("aria-label") || c.alt || c.textContent
  )
).map(c => c.outerHTML.slice(0, 120))"""


def test_keyboard_and_labels(explored):
    for name in ("Timeline", "Triplets", "Edit", "Your picture", "Keep"):
        explored.tab(name)
        assert explored.root.evaluate(NAMELESS) == [], name
    explored.field("Prompt").focus()
    page, seen = explored.page, set()
    for _ in range(KEYS):
        page.keyboard.press("Tab")
        here = explored.root.evaluate(
            """e => [e.contains(document.activeElement), document.activeElement.textContent,
                     getComputedStyle(document.activeElement).outlineStyle]"""
        )
        if not here[0]:
            break
        assert here[2] != "none", "focus is seen"
        seen.add(here[1])
    assert {"Draw", "Keep", "Picture (PNG)", "Copy"} <= seen
    # the arrows move the tabs and the sliders, and not the notebook
    explored.root.get_by_role("tab", name="Keep").focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    assert explored.root.get_by_role("tab", name="Triplets").get_attribute("aria-selected") == "true"
    explored.field("σ₁").focus()
    with explored.answer():
        page.keyboard.press("ArrowRight")
    assert explored.field("σ₁").input_value() == "1.05" and explored.picture("result")
    assert page.evaluate("document.activeElement.type") == "range"


def test_tabs_of_the_browser_share_nothing(in_app, app, chromium):
    page = browser.new_page(chromium, width=800)
    browser.open_app(page, app)
    other = Explored(page)
    in_app.fill("Seed", "2")
    in_app.press("Draw")
    here = in_app.picture("source")
    other.fill("Seed", "3")
    other.press("Draw")
    assert in_app.picture("source") == here != other.picture("source")
    assert in_app.field("Seed").input_value() == "2" and other.field("Seed").input_value() == "3"
    page.close()


def test_the_app_lets_nobody_in_without_its_token(app, chromium):
    page = browser.new_page(chromium)
    page.goto(app.split("?")[0] + "?token=wrong", wait_until="commit")
    page.wait_for_load_state()
    assert page.locator(".lsvd-explorer").count() == 0 and page.locator("input[type=password]").count() >= 1
    page.close()


def test_a_restarted_kernel_shows_it_again(in_lab):
    page = in_lab.page
    page.locator(".lm-MenuBar-item", has_text="Kernel").click()
    page.locator(".lm-Menu-item", has_text="Restart Kernel and Run All Cells").click()
    page.locator(".jp-Dialog .jp-mod-accept").click()
    page.locator(".lsvd-explorer[data-answered='1']").wait_for()
    again = Explored(page)
    again.tab("Triplets")
    again.slide("σ₁", 0.5)
    assert again.picture("result") and again.note == ""
