"""The first edit and its controls, counted on a tiny model."""

import pytest
import torch
from placing import place
from tiny import text_to_image
from torch.testing import assert_close

from lsvd import avi
from lsvd.backbones import clip
from lsvd.decomposition.svd import svd
from lsvd.sampling.trajectory import run
from lsvd.statistics.intervals import Interval
from lsvd.studies import quickstart
from lsvd.studies.rig import Rig
from lsvd.testbed import reader as readers
from lsvd.testbed.effects import Effects, effects

TARGETS = {"old": "an old person", "young": "a young person"}
PLACE = {"tx": 0.5, "dtau": 0, "whole": True}


def test_energy_is_the_share_of_the_squares():
    x = torch.randn(4, 2, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    parts = svd(x)
    found = quickstart.energy(parts.S, 2)
    kept = parts.truncate(2).recompose()
    assert_close(found, (kept.square().sum((-2, -1)) / x.square().sum((-2, -1))).mean(-1))
    assert_close(quickstart.energy(parts.S, 6), torch.ones(4, 2))


@pytest.fixture(scope="module")
def walks():
    model = text_to_image()
    walk = run(model, "a person", range(3))
    edits, plain = (
        {
            name: avi.edit_prompt(model, walk, prompt, **place(branch=branch, **PLACE))
            for name, prompt in TARGETS.items()
        }
        for branch in (0.75, 1)
    )
    return model, walk, edits, plain, {name: run(model, prompt, range(3)) for name, prompt in TARGETS.items()}


def test_the_edit_and_its_controls_are_counted(walks):
    model, walk, edits, plain, alone = walks
    rig = Rig(model, readers.load("portraits"), clip.load())
    found = quickstart.measure(rig, edits, plain, alone, "age")
    assert found.prompts == TARGETS and list(found.effects) == list(TARGETS)
    ways = {
        "edit": edits["old"].edited,
        "prompt switching": edits["old"].target,
        "edit, paper's z": plain["old"].edited,
        "target prompt": alone["old"],
    }
    before = rig.judge.read(model.decode(walk.final))
    for way, other in ways.items():
        after = rig.judge.read(model.decode(other.final))
        assert found.effects["old"][way] == effects(before, after, rig.judge.scene, {"age": "old"})
    rows = quickstart.rows(found)
    assert [row["method"] for row in rows[:5]] == list(found.effects["old"]) and len(rows) == 10
    assert {row["target"] for row in rows[5:]} == {"a young person"}
    assert rows[0]["side effects"] == f"{found.effects['old']['edit'].side.value:.4f}"


def test_success_is_empty_where_nothing_lacked_the_attribute():
    own = Effects(None, 0, Interval(0.5, 0.25, 0.75))
    found = quickstart.Result({"old": {"edit": own}}, {"old": "an old person"})
    numbers = {"side effects": "0.5000", "side low": "0.2500", "side high": "0.7500", "n": 0}
    empty = {"success": "", "low": "", "high": ""}
    assert quickstart.rows(found) == [{"target": "an old person", "method": "edit", **empty, **numbers}]
