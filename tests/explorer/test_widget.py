"""The widget around a session: what it sends to the browser, and what it does with what comes back."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from tiny import text_to_image, unconditional

from lsvd.explorer import Explorer
from lsvd.explorer.recipe import RANGES, WHOLE
from lsvd.explorer.session import ACTIONS, PICTURES, Session

WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def shown():
    explorer = Explorer(text_to_image(), steps=4).wait(60)
    yield explorer
    explorer.close()


def ask(explorer: Explorer, action: str, buffers=(), **values) -> list:
    """What the browser asks for; returns what is sent back."""
    sent = []
    explorer.send = lambda content, data=None: sent.append((content, data))
    explorer._asked(explorer, {"do": action, **values}, [memoryview(data) for data in buffers])
    assert explorer.session.wait(60)
    return sent


def test_the_browser_has_what_the_session_has(shown):
    assert {name: getattr(shown, name) for name in PICTURES} == shown.session.pictures
    assert shown.view == shown.session.view() and shown.progress["busy"] is False
    synced = shown.get_state()
    assert {"_esm", "_css", "view", "progress", *PICTURES} <= synced.keys()
    ask(shown, "set", path="triplets.factors.0", value=0.0)
    assert shown.result == shown.session.pictures["result"] != b""
    assert shown.view["recipe"]["triplets"]["factors"][0] == 0.0


def test_files_come_and_go(shown):
    [(content, [data])] = ask(shown, "saved_picture")
    assert content == {"save": "a-person-0.png"} and data.startswith(b"\x89PNG")
    ask(shown, "draw", request={"seed": 5})
    assert shown.view["recipe"]["request"]["seed"] == 5
    ask(shown, "restore", [data])
    assert shown.view["recipe"]["request"]["seed"] == 0
    Image.new("RGB", (9, 9), "red").save(picture := io.BytesIO(), format="png")
    ask(shown, "upload", [picture.getvalue()], name="red.png")
    assert shown.view["recipe"]["upload"]["name"] == "red.png"
    assert ask(shown, "saved_attribute") == [] and "no finished edit" in shown.view["message"]["text"]


def test_what_the_browser_should_not_ask_for_is_passed_over(shown):
    before = dict(shown.view)
    for action in ("", "close", "wait", "_commit", "session"):
        ask(shown, action)
    assert shown.view == before
    ask(shown, "set")
    assert shown.view["message"]["kind"] == "error"


def test_a_still_stands_beside_the_widget(shown):
    bundle = shown._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert WIDGET in data and data["text/plain"] == "Explorer('tiny-sd')"
    assert Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).size[0] > 50


def test_from_python(shown, tmp_path):
    assert "lsvd.run(" in shown.code()
    path = shown.save(tmp_path / "x.png")
    with Image.open(path) as picture:
        assert np.array_equal(np.asarray(picture.convert("RGB")), np.asarray(shown.picture()))
    with pytest.raises(ValueError, match="the seed cannot be -1"):
        Explorer(text_to_image(), seed=-1)
    other = Explorer(unconditional())
    assert repr(other) == "Explorer('tiny-ddpm')"
    with pytest.raises(TimeoutError):
        Explorer(text_to_image(), steps=500).wait(0.01)
    other.close()


def test_the_front_asks_for_actions_and_controls_that_there_are():
    """Names are the one thing that Python and JavaScript share: here they are held against each other."""
    script = Explorer._esm
    asked = set(re.findall(r'send\("(\w+)"', script))
    assert asked == set(ACTIONS)
    session = Session(text_to_image())
    paths = set(re.findall(r'"((?:request|edit|triplets|upload)\.[a-z_.]+)"', script)) | {
        f"{name}.0" for name in re.findall(r"`([a-z.]+)\.\$\{i\}`", script)
    }
    assert len(paths) > 15
    for path in paths - {"upload.iterations"}:
        value = session.view()["recipe"]
        for part in path.split("."):
            value = value[int(part)] if part.isdigit() else value[part]
    named = set(re.findall(r'(?:url|picture)\("(\w+)"', script)) | {"source", "target"}
    assert named <= set(PICTURES)


@pytest.mark.parametrize("path", ["edit.strength", "edit.tx"])
def test_ranges_of_the_front_are_those_of_the_recipe(path):
    line = next(line for line in Explorer._esm.splitlines() if f'slider("{path}"' in line)
    if "...fraction" in line:
        line = next(each for each in Explorer._esm.splitlines() if "const fraction = {" in each)
    low, high = (float(re.search(rf"{end}: (-?[\d.]+)", line).group(1)) for end in ("min", "max"))
    assert (low, high) == RANGES[path] and path not in WHOLE
