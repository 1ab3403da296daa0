"""The sweep over settings of an edit, on a tiny model."""

import csv

import pytest
import torch
from tiny import text_to_image, unconditional
from torch.testing import assert_close

from lsvd import avi
from lsvd.testbed import sweep


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    monkeypatch.setitem(sweep.GENERATORS, "tiny-sd", ("portraits", {}))
    return tmp_path


def test_methods_make_codes_of_their_names():
    x, z = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    made = {name: make(x, z) for name, make in sweep.methods(ks=(2, 3), weights=(0.25,)).items()}
    assert list(made) == ["AVI, k = 2", "AVI, k = 3", "lerp, 0.25 of z"]
    assert_close(made["AVI, k = 3"], avi.solve(x, z, avi.AVIConfig(k_x=3, k_z=3)).y)
    assert_close(made["lerp, 0.25 of z"], 0.75 * x + 0.25 * z)


def test_every_method_is_tried_at_every_timestep(monkeypatch):
    monkeypatch.setattr(sweep, "methods", lambda: {"all of z": lambda x, z: z})
    found = list(sweep.sweep(text_to_image(), "an old person", {"age": "old"}, (100, 101, 102), (1.0, 0.3), dtau=0))
    assert [(name, tx) for name, tx, _ in found] == [
        ("target prompt", 1.0),
        ("all of z", 1.0),
        ("prompt switching", 1.0),
        ("all of z", 0.3),
        ("prompt switching", 0.3),
    ]
    # from the first timestep on, the target prompt is the target prompt
    assert found[0][2] == found[2][2]


def test_z_is_taken_where_dtau_says(monkeypatch):
    seen = []
    monkeypatch.setattr(sweep, "methods", lambda: {"look": lambda x, z: seen.append((x, z)) or x})
    model, arguments = text_to_image(), ("an old person", {"age": "old"}, (100, 101), (0.5,))
    for dtau in (1, 0, -1):
        list(sweep.sweep(model, *arguments, dtau=dtau))
    walk = sweep.trajectory.run(model, "an old person", (100, 101))
    place = walk.index(walk.nearest(0.5))
    for (_, z), dtau in zip(seen, (1, 0, -1), strict=True):
        assert_close(z, walk.codes[place - dtau], rtol=0, atol=1e-4)


def test_the_command_writes_its_table(elsewhere, monkeypatch):
    monkeypatch.setattr(sweep.backbones, "load", lambda name, device: text_to_image())
    monkeypatch.setattr(sweep, "SEEDS", range(100, 103))
    monkeypatch.setattr(sweep, "TX", (0.5,))
    few = sweep.methods(ks=(2, 3))
    monkeypatch.setattr(sweep, "methods", lambda: few)
    for _ in range(2):  # a second run replaces the rows of the first
        assert sweep.main(["tiny-sd", "--target", "an old person"]) == 0
    rows = list(csv.DictReader((elsewhere / "tables" / "sweep.csv").open()))
    assert len(rows) == 1 + len(sweep.methods()) + 1
    assert {row["target"] for row in rows} == {"an old person"}
    assert all(0 <= float(row["side low"]) <= float(row["side"]) <= float(row["side high"]) <= 1 for row in rows)


def test_a_z_off_the_schedule_is_refused():
    model, wanted = text_to_image(), {"age": "old"}
    with pytest.raises(ValueError, match="leaves the schedule"):
        list(sweep.sweep(model, "an old person", wanted, (100, 101), (1.0,), dtau=1))


def test_models_without_prompts_are_refused(monkeypatch):
    monkeypatch.setattr(sweep.backbones, "load", lambda name, device: unconditional())
    with pytest.raises(SystemExit, match="only a text-to-image model"):
        sweep.main(["tiny-ddpm"])
