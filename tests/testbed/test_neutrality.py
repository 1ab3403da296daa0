"""What "a person" leaves open, against the shares of the renderings."""

import csv

import pytest
import torch

from lsvd.testbed import neutrality, renderings
from lsvd.testbed.scenes.portraits import PORTRAITS


def photos(n):
    return PORTRAITS.sample(n, renderings.generator(21), style="photo")


def test_renderings_are_neutral():
    rows = neutrality.shares(photos(20_000), PORTRAITS)
    assert {row["factor"] for row in rows} == set(neutrality.FACTORS)
    assert sum(row["factor"] == "hair_colour" for row in rows) == 5
    for name in neutrality.FACTORS:
        own = [row for row in rows if row["factor"] == name]
        assert sum(float(row["share"]) for row in own) == pytest.approx(1, abs=1e-3)
        assert sum(float(row["training"]) for row in own) == pytest.approx(1, abs=1e-3)
        assert all(float(row["low"]) <= float(row["share"]) <= float(row["high"]) for row in own)
    assert neutrality.bias(rows) < 0.015
    glasses = {row["level"]: row["training"] for row in rows if row["factor"] == "glasses"}
    assert glasses == {"none": "0.6000", "glasses": "0.4000"}


def test_a_preference_is_found():
    values = photos(1000)
    old = PORTRAITS.index("age", "old")
    values["age"][torch.arange(1000) < 800] = old
    rows = neutrality.shares(values, PORTRAITS)
    share = (values["age"] == old).double().mean().item()
    assert share > 0.85 and neutrality.bias(rows) == pytest.approx(share - 0.5, abs=1e-3)


def test_readers_agree_where_they_read_the_same():
    one, other = photos(100), photos(100)
    other["smile"] = 1 - one["smile"]
    found = neutrality.agreement(one, other)
    assert found["smile"] == 0 and found["age"] == 1 and set(found) == set(neutrality.FACTORS)


def test_the_command_keeps_a_table(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    for guidance in ("1", "3"):
        assert neutrality.main(["--samples", "2", "--guidance", guidance]) == 0
    rows = list(csv.DictReader((tmp_path / "tables" / "neutrality.csv").open()))
    assert {(row["backbone"], row["guidance"], row["n"]) for row in rows} == {
        ("mini-sd", "1", "2"),
        ("mini-sd", "3", "2"),
    }
    with pytest.raises(SystemExit, match="mini-cats: "):
        neutrality.main(["mini-cats", "--samples", "2"])
