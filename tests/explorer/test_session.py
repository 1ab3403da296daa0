"""Every control of the explorer, without a browser: what it draws, what it keeps, and what it says to bad input."""

import io
import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import text_to_image, unconditional
from tiny_families import build

import lsvd
from lsvd.backbones import loading
from lsvd.backbones.models import Backbone
from lsvd.explorer import recipe as recipes
from lsvd.explorer import session as sessions
from lsvd.explorer.methods import METHODS
from lsvd.explorer.session import PICTURES, Session

WAIT = 60


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def shown(picture: torch.Tensor) -> np.ndarray:
    """A picture, (1, 3, H, W), as the bytes that the screen has."""
    return (255 * picture[0].permute(1, 2, 0)).round().byte().numpy()


def photograph(side: int = 20, kind: str = "PNG") -> bytes:
    array = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(array).save(data := io.BytesIO(), format=kind)
    return data.getvalue()


@pytest.fixture
def explored():
    """A session of the tiny text-to-image model, its first picture drawn."""
    session = Session(text_to_image())
    session.start(steps=4)
    assert session.wait(WAIT)
    yield session
    session.close()


def do(session: Session, name: str, /, **values):
    """An action, and all that it leads to."""
    answer = session.act(name, **values)
    assert session.wait(WAIT)
    return answer


def complaint(session: Session) -> str:
    assert session.message["kind"] == "error", session.message
    text = session.message["text"]
    assert text and "\n" not in text and "Traceback" not in text
    return text


# Draw


def test_the_first_picture_is_the_librarys(explored):
    walk = lsvd.run(text_to_image(), "a person", 0, steps=4)
    assert np.array_equal(pixels(explored.pictures["source"]), shown(text_to_image().decode(walk.final)))
    assert explored.pictures["result"] == b"" and not explored.message["text"]
    assert json.loads(json.dumps(explored.view()))["seen"]["timesteps"] == walk.timesteps.tolist()


CHANGES = {
    "prompt": "an old person",
    "negative": "red hair",
    "seed": 7,
    "steps": 3,
    "guidance": 1.5,
    "scheduler": "EulerDiscreteScheduler",
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_part_of_a_request_changes_the_picture_and_is_undone(explored, name):
    before = explored.pictures["source"]
    do(explored, "draw", **{name: CHANGES[name]})
    assert not explored.message["text"] and explored.pictures["source"] != before
    assert getattr(explored.recipe.request, name) == CHANGES[name]
    do(explored, "undo")
    assert explored.pictures["source"] == before
    do(explored, "redo")
    assert explored.pictures["source"] != before and getattr(explored.recipe.request, name) == CHANGES[name]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("seed", -1, "the seed cannot be -1"),
        ("seed", 2**32, "from 0 to 4294967295"),
        ("seed", None, "the seed"),
        ("seed", 1.5, "whole number"),
        ("steps", 0, "from 1 to 1000"),
        ("steps", 10**9, "from 1 to 1000"),
        ("guidance", float("nan"), "the guidance"),
        ("guidance", None, "the guidance"),
        ("guidance", -3, "from 0 to 50"),
        ("scheduler", "os", "choose from DDIMScheduler"),
        ("scheduler", "LMSDiscreteScheduler", "there is no scheduler"),
        ("prompt", 3, "must be a text"),
        ("prompt", "\ud800", "not UTF-8"),
        ("size", 3, "there is no control"),
        ("__class__", 3, "there is no control"),
    ],
)
def test_a_bad_request_is_a_sentence_and_the_picture_stays(explored, name, value, says):
    before, recipe = dict(explored.pictures), explored.recipe
    do(explored, "draw", **{name: value})
    assert says in complaint(explored)
    assert explored.pictures == before and explored.recipe == recipe
    do(explored, "set", path="t", value=0.4)
    assert not explored.message["text"], "the complaint goes with the next thing that is done"


def test_remarks_of_the_library_are_shown(explored):
    with_words = loading.from_pipeline(text_to_image().pipe, text_to_image().entry, ["a", "person"])
    session = Session(with_words)
    do(session, "draw", prompt="a person with wings", steps=2)
    assert any("never shown the words" in text for text in session.remarks)
    do(session, "draw", prompt="a person")
    assert session.remarks == []


def test_it_grows_and_can_be_stopped_and_goes_on(explored):
    """Stopped at its third step by the report of it."""
    pictures, session = [], explored

    def look(names):
        if session.progress["busy"] and session.progress["label"] == "drawing" and session.progress["done"] == 3:
            session.stop()
        if "source" in names:
            pictures.append(session.pictures["source"])

    session.changed = look
    do(session, "draw", seed=5, steps=8)
    session.changed = lambda names: None
    assert len(set(pictures)) > 1, "estimates on the way"
    assert session.message["text"].startswith("Stopped at t = ")
    model, until = text_to_image(), session.recipe.request.until
    part = lsvd.run(model, "a person", 5, steps=8, until=until)
    assert len(part.codes) == 4
    assert session.seen["timesteps"] == part.timesteps.tolist()
    names = {}
    exec(runnable(session.code()), names)
    assert np.array_equal(shown(names["picture"]), pixels(session.pictures["source"]))
    # what is there can be scaled and edited; where it does not reach, a sentence says so
    for path, value in [("triplets.factors.0", 2.0), ("edit.target", "a young person")]:
        do(session, "set", path=path, value=value)
        names = {}
        exec(runnable(session.code()), names)
        assert np.array_equal(shown(names["picture"]), pixels(session.pictures["result"]))
    do(session, "set", path="edit.tx", value=0.1)
    assert "is not on the schedule" in complaint(session)
    do(session, "draw")
    whole = lsvd.run(model, "a person", 5, steps=8)
    assert session.recipe.request.until is None
    do(session, "set", path="triplets.factors.0", value=1.0)
    assert np.array_equal(pixels(session.pictures["source"]), shown(model.decode(whole.final)))


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_what_was_stopped_twice_ends_as_if_it_never_was(explored, scheduler):
    session, at = explored, [2, 3]

    def stop(names):
        if session.progress["busy"] and at and session.progress["done"] >= at[0]:
            at.pop(0)
            session.stop()

    session.changed = stop
    for _ in range(2):
        do(session, "draw", seed=5, steps=8, scheduler=scheduler)
        assert session.message["text"].startswith("Stopped"), session.message
    session.changed = lambda names: None
    do(session, "draw")
    model = session.studio.model(session.recipe.request)
    whole = lsvd.run(model, "a person", 5, steps=8)
    assert np.array_equal(pixels(session.pictures["source"]), shown(model.decode(whole.final)))


# Timeline and triplets


def test_the_timeline_shows_each_timestep(explored):
    seen = set()
    for fraction in explored.seen["fractions"]:
        do(explored, "set", path="t", value=fraction)
        seen.add((explored.seen["t"], explored.pictures["estimate"], explored.pictures["channels"]))
        assert explored.pictures["result"] == b""
    assert [t for t, _, _ in seen] and len(seen) == 4
    spectrum = explored.seen["spectrum"]
    assert spectrum["values"] == spectrum["scaled"] and len(spectrum["low"]) == 8
    assert sum(explored.seen["energy"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("path", "value", "scaled"),
    [
        ("triplets.factors.0", 1.5, lambda parts: parts.scale(0, 1.5)),
        ("triplets.factors.7", 0.0, lambda parts: parts.scale(7, 0.0)),
        ("triplets.factors.2", -1, lambda parts: parts.scale(2, -1.0)),
    ],
)
def test_a_triplet_is_scaled_as_the_library_does(explored, path, value, scaled):
    do(explored, "set", path=path, value=value)
    model = text_to_image()
    walk = lsvd.run(model, "a person", 0, steps=4)
    t = walk.nearest(0.5)
    edited = lsvd.resume(model, walk, t, scaled(lsvd.svd(walk.at(t))).recompose())
    assert np.array_equal(pixels(explored.pictures["result"]), shown(model.decode(edited.final)))
    assert explored.pictures["difference"] and "triplets scaled" in explored.seen["labels"]["result"]
    do(explored, "reset", part="triplets")
    assert explored.recipe.triplets.idle and explored.pictures["result"] == b""


def test_the_rest_and_one_channel_are_scaled():
    model = unconditional()
    session = Session(model)
    do(session, "draw", steps=4)
    for path, value in [("triplets.channel", 2), ("triplets.rest", 0.5), ("triplets.factors.1", 0.5)]:
        do(session, "set", path=path, value=value)
    walk = lsvd.run(model, seeds=0, steps=4)
    t = walk.nearest(0.5)
    parts = lsvd.svd(walk.at(t)).scale([1], 0.5, 2)
    parts = parts.scale(range(8, parts.rank), 0.5, 2) if parts.rank > 8 else parts
    edited = lsvd.resume(model, walk, t, parts.recompose())
    assert np.array_equal(pixels(session.pictures["result"]), shown(model.decode(edited.final)))
    do(session, "reset", part="triplets")
    assert session.recipe.triplets.channel == 2, "which channels are scaled is no scaling"


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("triplets.factors.0", "wide", "the factor of a triplet cannot be 'wide'"),
        ("triplets.factors.0", float("inf"), "from -1 to 3"),
        ("triplets.factors.8", 1.0, "there is no control"),
        ("triplets.channel", 4, "from 0 to 3"),
        ("triplets.colour", 4, "there is no control"),
        ("t", 2, "the timestep cannot be 2"),
        ("recipe", 2, "there is no control"),
        ("edit.strength", 7, "the strength cannot be 7"),
        ("edit.tx", -1, "Tx cannot be -1"),
        ("edit.k", 0, "from 1 to 8"),
        ("edit.k", 9, "from 1 to 8"),
        ("edit.dtau", 0.5, "whole number"),
        ("edit.basis", "none", "choose from both, complement"),
        ("edit.method", "magic", "choose from avi"),
        ("edit.weights.0", -1, "the weight of a loss"),
        ("edit.attributes.0.strength", 1.0, "there is no control"),
        ("upload.iterations", 3, "there is no control"),
    ],
)
def test_a_control_takes_nothing_that_cannot_be(explored, path, value, says):
    before, recipe = dict(explored.pictures), explored.recipe
    do(explored, "set", path=path, value=value)
    assert says in complaint(explored)
    assert explored.pictures == before and explored.recipe == recipe


def test_while_a_slider_moves_only_the_first_estimate_is_drawn(explored):
    do(explored, "draw", steps=8)
    steps = []
    explored.changed = lambda names: steps.append(explored.progress["done"]) if "progress" in names else None
    do(explored, "set", path="triplets.factors.0", value=1.7, live=True)
    explored.changed = lambda names: None
    assert max(steps) == 1 and explored.pictures["result"] and explored.seen["growing"] == "result"
    assert explored.drawn.triplets.idle, "the code is that of the last finished picture"
    with pytest.raises(ValueError, match="not finished"):
        explored.saved_picture()
    do(explored, "set", path="triplets.factors.0", value=1.7)
    assert explored.seen["growing"] == "" and explored.drawn.triplets.factors[0] == 1.7
    do(explored, "undo")
    assert explored.recipe.triplets.idle, "what moved on the way is not a step of its own"


# Edits


@pytest.mark.parametrize("method", [name for name in METHODS if name != "attributes"])
def test_each_method_edits_and_its_code_makes_the_same_picture(explored, method):
    do(explored, "set", path="edit.tx", value=0.5)
    do(explored, "set", path="edit.dtau", value=0)
    do(explored, "set", path="edit.method", value=method)
    assert not explored.message["text"], explored.message
    assert explored.pictures["result"] and explored.pictures["target"] and explored.pictures["difference"]
    names = {}
    exec(runnable(explored.code()), names)
    assert np.array_equal(shown(names["picture"]), pixels(explored.pictures["result"]))
    alone = lsvd.run(text_to_image(), "a young person", 0, steps=4)
    assert np.array_equal(pixels(explored.pictures["target"]), shown(text_to_image().decode(alone.final)))


AVI = {
    "edit.target": "an old person",
    "edit.tx": 0.25,
    "edit.dtau": 1,
    "edit.branch": 0.9,
    "edit.k": 2,
    "edit.basis": "complement",
    "edit.keep_rest": False,
    "edit.weights.0": 0.2,
    "edit.weights.3": 2.0,
    "edit.strength": 1.5,
}


def test_every_control_of_an_edit_counts_and_the_code_has_it(explored):
    do(explored, "set", path="edit.tx", value=0.5)
    do(explored, "set", path="edit.dtau", value=0)
    results = [explored.pictures["result"]]
    for path, value in AVI.items():
        do(explored, "set", path=path, value=value)
        assert not explored.message["text"], (path, explored.message)
        results.append(explored.pictures["result"])
        names = {}
        exec(runnable(explored.code()), names)
        assert np.array_equal(shown(names["picture"]), pixels(results[-1])), path
    codes = {explored.recipe.text()}
    for _ in AVI:
        do(explored, "undo")
        codes.add(explored.recipe.text())
    assert len(codes) == len(AVI) + 1 and explored.pictures["result"] == results[0]
    do(explored, "reset", part="edit")
    assert explored.recipe.edit.tx == text_to_image().entry.tx


def test_an_edit_that_cannot_be_leaves_the_last_picture(explored):
    do(explored, "set", path="edit.tx", value=0.5)
    do(explored, "set", path="edit.dtau", value=0)
    before = dict(explored.pictures)
    do(explored, "set", path="edit.target", value="a person")
    assert "nothing to edit" in complaint(explored) and explored.pictures == before
    do(explored, "set", path="edit.target", value="a young person")
    do(explored, "set", path="edit.branch", value=0.1)
    assert "before the branch" in complaint(explored) and explored.pictures == before
    assert explored.drawn.edit.branch == 1.0


def test_attributes_are_learned_saved_opened_combined_and_dropped(explored, tmp_path, monkeypatch):
    do(explored, "set", path="edit.tx", value=0.5)
    do(explored, "set", path="edit.dtau", value=0)
    result = explored.pictures["result"]
    name, data = do(explored, "saved_attribute")
    do(explored, "learn")
    assert explored.recipe.edit.method == "attributes" and name == "a-young-person.safetensors"
    assert [used.name for used in explored.recipe.edit.attributes] == [name]
    assert np.abs(pixels(explored.pictures["result"]).astype(int) - pixels(result)).max() <= 1
    do(explored, "set", path="edit.attributes.0.strength", value=0.5)
    one = explored.pictures["result"]
    assert one != result
    other = lsvd.Attribute.of(
        lsvd.edit(
            text_to_image(), "a person", "an old person", seeds=3, steps=4, placement=lsvd.avi.placement.Placement(0.5)
        )
    )
    file = other.save(tmp_path / "old.safetensors")
    do(explored, "open_attribute", name="old.safetensors", data=file.read_bytes())
    assert len(explored.recipe.edit.attributes) == 2 and explored.pictures["result"] != one
    for used in explored.recipe.edit.attributes:
        kept = do(explored, "saved_attribute", digest=used.digest)
        (tmp_path / kept[0]).write_bytes(kept[1])
    assert (tmp_path / name).read_bytes() == data
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(runnable(explored.code()), names)
    assert np.array_equal(shown(names["picture"]), pixels(explored.pictures["result"]))
    assert explored.view()["files"] == [name, "old.safetensors"]
    do(explored, "drop_attribute", digest=explored.recipe.edit.attributes[1].digest)
    assert explored.pictures["result"] == one


@pytest.mark.parametrize("data", [b"", b"no tensors", photograph()])
def test_what_is_not_an_attribute_is_refused(explored, data):
    do(explored, "open_attribute", name="../x.safetensors", data=data)
    assert "x.safetensors" in complaint(explored) and "/" not in complaint(explored)
    assert explored.recipe.edit.attributes == ()


def test_a_model_without_prompts_says_so():
    session = Session(unconditional())
    do(session, "draw", steps=4)
    view = session.view()
    assert "takes no prompts" in view["missing"]["edit"] and "No reader" in view["missing"]["reader"]
    assert not view["model"]["prompts"] and view["model"]["methods"] == []
    do(session, "set", path="edit.target", value="a cat")
    assert "takes no prompts" in complaint(session)
    do(session, "set", path="triplets.factors.0", value=0.0)
    names = {}
    exec(runnable(session.code(), "unconditional"), names)
    assert np.array_equal(shown(names["picture"]), pixels(session.pictures["result"]))


@pytest.mark.parametrize("name", ["StableDiffusion3Pipeline", "FluxPipeline", "LatentConsistencyModelPipeline"])
def test_other_families_are_drawn_and_scaled(name):
    """With schedulers that flow, that hand over their schedule, and that add noise on the way."""
    session = Session(loading.from_pipeline(build(name)))
    do(session, "draw", prompt="a person", steps=3)
    assert not session.message["text"] and session.pictures["source"], session.message
    do(session, "set", path="triplets.factors.0", value=0.0)
    assert not session.message["text"] and session.pictures["result"], session.message
    do(session, "set", path="edit.method", value="switch")
    assert not session.message["text"] and session.pictures["target"], session.message


def test_a_scheduler_that_does_not_place_its_timesteps_draws_all_the_same(explored, monkeypatch):
    schedule = Backbone.schedule
    monkeypatch.setattr(Backbone, "schedule", lambda self, steps: replace(schedule(self, steps), fractions=None))
    do(explored, "draw", seed=8)
    assert not explored.message["text"] and explored.seen["fractions"] == []
    do(explored, "set", path="triplets.factors.0", value=0.0)
    assert "are not fractions of T" in complaint(explored)


# A picture of one's own


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_upload_is_inverted_explored_and_left(explored, tmp_path, monkeypatch, kind):
    data, name = photograph(20, kind), f"me.{kind.lower()}"
    drawn = explored.pictures["source"]
    do(explored, "upload", name=name, data=data)
    assert not explored.message["text"], explored.message
    assert explored.seen["inversion"]["name"] == name and explored.seen["inversion"]["distance"] >= 0
    do(explored, "set", path="triplets.factors.0", value=1.2)
    (tmp_path / name).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(runnable(explored.code()), names)
    assert np.array_equal(shown(names["picture"]), pixels(explored.pictures["result"]))
    do(explored, "set", path="upload.iterations", value=1)
    assert explored.recipe.upload.iterations == 1
    do(explored, "forget")
    assert explored.recipe.upload is None
    do(explored, "reset", part="triplets")
    assert explored.pictures["source"] == drawn


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"<svg/>", photograph()[:50]])
def test_what_is_not_a_picture_is_refused(explored, data):
    before = dict(explored.pictures)
    do(explored, "upload", name="x.png", data=data)
    assert "not a picture" in complaint(explored) and explored.pictures == before


# Keep


def runnable(code: str, model: str = "text_to_image") -> str:
    """The code of a cell, with the tiny model, which no name loads, in the place of the one it loads."""
    return code.replace(
        f"lsvd.load('{'tiny-sd' if model == 'text_to_image' else 'tiny-ddpm'}')", f"__import__('tiny').{model}()"
    )


def test_a_cell_and_a_picture_bring_everything_back(explored):
    do(explored, "draw", prompt="a person with red hair", seed=11, guidance=2.0, scheduler="EulerDiscreteScheduler")
    do(explored, "set", path="t", value=0.7)
    do(explored, "set", path="triplets.factors.3", value=0.25)
    do(explored, "set", path="triplets.rest", value=0.9)
    recipe, result, code = explored.recipe, explored.pictures["result"], explored.code()
    name, picture = explored.saved_picture()
    assert name == "a-person-with-red-hair-11.png"
    assert np.array_equal(pixels(picture), pixels(result))
    assert Image.open(io.BytesIO(picture)).text["lsvd code"] == code
    for source in (code, picture, code.encode(), "%%time\n" + code + "\n\n"):
        other = Session(text_to_image())
        do(other, "restore", source=source)
        assert other.recipe == recipe and other.pictures["result"] == result
    do(other, "restore", source=code.replace("steps=4", "steps=5", 1))
    assert other.recipe == recipe and "changed by hand" in other.message["text"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("", "paste the whole cell"),
        ("import lsvd", "paste the whole cell"),
        ("# explorer: {", "JSON"),
        ("# explorer: []", "not a recipe"),
        ("# explorer: {}", "not a recipe"),
        ('# explorer: {"model": "mini-sd"}', "load that model"),
        (b"\xff\xfe\x00", "neither a PNG picture nor a cell"),
        (photograph(), "notes no recipe"),
        (photograph()[:60], "damaged"),
    ],
)
def test_what_holds_no_recipe_is_refused(explored, source, says):
    before, recipe = dict(explored.pictures), explored.recipe
    do(explored, "restore", source=source)
    assert says in complaint(explored)
    assert explored.pictures == before and explored.recipe == recipe


def test_a_recipe_is_checked_value_by_value(explored):
    whole = json.loads(explored.recipe.text())
    for spoil in (
        lambda r: r["request"].update(steps=0),
        lambda r: r["request"].update(scheduler="__import__"),
        lambda r: r["triplets"].update(factors=[1.0]),
        lambda r: r["triplets"]["factors"].__setitem__(0, "1"),
        lambda r: r["edit"].update(method="x"),
        lambda r: r["edit"].pop("weights"),
        lambda r: r["edit"].update(attributes=[{"name": "a", "digest": "x", "strength": 1}]),
        lambda r: r.update(upload={"name": "a", "digest": 3, "iterations": 1}),
        lambda r: r.update(more=1),
    ):
        other = json.loads(json.dumps(whole))
        spoil(other)
        with pytest.raises(ValueError):
            recipes.read(json.dumps(other), text_to_image())
    assert recipes.read(json.dumps(whole), text_to_image()) == explored.recipe


def test_restoring_says_which_files_it_needs(explored):
    do(explored, "upload", name="me.png", data=photograph())
    code = explored.code()
    other = Session(text_to_image())
    do(other, "restore", source=code)
    assert "me.png is not here" in complaint(other)
    do(other, "upload", name="me.png", data=photograph())
    assert not other.message["text"] and other.code() == code


# Together


def test_the_newest_request_wins_and_nothing_freezes(explored):
    """Twenty requests at once: the calls return at once, and what is there in the end is the last."""
    drawn = []
    explored.changed = lambda names: drawn.append(explored.drawn)
    started = time.monotonic()
    for seed in range(20):
        explored.act("draw", seed=seed, steps=40)
    assert time.monotonic() - started < 2
    assert explored.wait(WAIT)
    walk = lsvd.run(text_to_image(), "a person", 19, steps=40)
    assert np.array_equal(pixels(explored.pictures["source"]), shown(text_to_image().decode(walk.final)))
    assert len({recipe.request.seed for recipe in drawn if recipe}) < 10, "older requests are dropped"


def test_a_cell_may_draw_with_the_model_meanwhile(explored):
    model = text_to_image()
    expected = lsvd.run(model, "a person", 1, steps=30).final
    for seed in range(2, 5):
        explored.act("draw", seed=seed, steps=30)
        assert torch.equal(lsvd.run(model, "a person", 1, steps=30).final, expected)
        assert explored.wait(WAIT)
        walk = lsvd.run(model, "a person", seed, steps=30)
        assert np.array_equal(pixels(explored.pictures["source"]), shown(model.decode(walk.final)))


def test_two_sessions_share_nothing(explored):
    other = Session(text_to_image())
    do(other, "draw", seed=3, steps=4)
    assert explored.recipe.request.seed == 0 and other.recipe.request.seed == 3
    assert explored.pictures["source"] != other.pictures["source"]


def test_readings_say_what_changed(explored):
    class Scene:
        factors = [
            type("Factor", (), {"name": "age_now", "levels": ("young", "old"), "range": None, "unit": ""}),
            type("Factor", (), {"name": "size", "levels": (), "range": (0.0, 2.0), "unit": "heads"}),
            type("Factor", (), {"name": "beard", "levels": ("none", "full"), "range": None, "unit": ""}),
        ]

        def visible(self, values):
            return {"age_now": torch.tensor([True]), "size": torch.tensor([True]), "beard": torch.tensor([False])}

    class Reader:
        scene = Scene()

        def read(self, pictures):
            p = float(pictures.mean()).__mod__(0.4)
            odds = torch.tensor([[p, 1 - p]])
            values = {"age_now": odds.argmax(-1), "size": torch.tensor([p])}
            return type(
                "Reading",
                (),
                {
                    "levels": {"age_now": odds.argmax(-1), "beard": torch.tensor([0])},
                    "numbers": {"size": torch.tensor([p])},
                    "probabilities": {"age_now": odds, "beard": odds},
                    "values": values,
                },
            )

    session = Session(text_to_image(), Reader())
    do(session, "draw", steps=4)
    assert [row["name"] for row in session.seen["readings"]] == ["age now", "size"]
    do(session, "set", path="triplets.factors.0", value=0.0)
    rows = session.seen["readings"]
    assert rows[0]["moved"] >= rows[1]["moved"] and max(row["moved"] for row in rows) > 0
    assert all(row["before"] and row["after"] for row in rows) and {row["unit"] for row in rows} == {"", "heads"}


def test_an_error_of_any_kind_is_a_sentence(explored, monkeypatch):
    before = dict(explored.pictures)
    for error, says in [
        (RuntimeError("CUDA out of memory. Tried"), "not enough memory"),
        (KeyError("x"), "something went wrong (KeyError"),
        (ValueError("one\ntwo"), "one; two"),
    ]:

        def fails(*args, error=error):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(sessions.Studio, "scaled", fails)
            do(explored, "set", path="triplets.factors.0", value=1.5)
        assert says in complaint(explored) and explored.pictures == before
    do(explored, "set", path="triplets.factors.0", value=1.25)
    assert not explored.message["text"] and explored.pictures["result"], "it works again"


def test_actions_that_are_none_are_refused(explored):
    for name in ("close", "_commit", "wait", "view", "__init__"):
        do(explored, name)
        assert "there is no action" in complaint(explored)
    do(explored, "set", path="t")
    assert complaint(explored)
    do(explored, "redo")
    assert "nothing to redo" in complaint(explored)


def test_gradients_are_not_recorded_and_the_global_generator_stays(explored):
    state = torch.get_rng_state()
    do(explored, "set", path="edit.tx", value=0.5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_a_closed_session_ends_its_thread(explored):
    [thread] = [each for each in threading.enumerate() if each is explored._worker._thread]
    explored.close()
    thread.join(10)
    assert not thread.is_alive()
    explored.act("draw", seed=9)
    assert explored.wait(1) and set(explored.pictures) == set(PICTURES)
