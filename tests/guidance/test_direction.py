"""Directions of low-rank guidance come back from a file as they were, and damaged files are refused."""

import json

import pytest
import torch
from tiny import text_to_image

import lsvd
from lsvd.guidance import LowRank
from lsvd.guidance.direction import Direction, is_direction, load, together

SETTINGS = LowRank(2, 1.5, 0.7, 0.2, "together", 0.5)


def test_saved_and_loaded(tmp_path):
    direction = Direction({"an old person": 1.0, "mit Ümlaut": -0.5}, SETTINGS)
    path = direction.save(tmp_path / "old.json")
    assert load(path) == direction and is_direction(path.read_bytes())
    assert direction.save(tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_it_guides_as_what_it_was_made_of(tmp_path):
    direction = load(Direction({"an old person": 0.5}, LowRank(2)).save(tmp_path / "old.json")).scaled(2.0)
    edits = [
        lsvd.edit(text_to_image(), "a person", target, seeds=3, method=settings).edited.final
        for target, settings in ((direction.targets, direction.settings), ("an old person", LowRank(2)))
    ]
    assert torch.equal(*edits)


def test_several_together():
    pair = [Direction({"old": 1.0, "red hair": 0.5}), Direction({"red hair": 0.25})]
    assert together(pair) == Direction({"old": 1.0, "red hair": 0.75})
    with pytest.raises(ValueError, match="differ in rank or window"):
        together([*pair, Direction({"young": 1.0}, LowRank(2))])


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"format": "lsvd guidance 0"}', "null", "[" * 100000, '{"format": "lsvd guidance 1"}'],
)
def test_other_files_are_refused(text, tmp_path):
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="holds no direction of low-rank guidance"):
        load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"targets": {}},
        {"targets": {"old": "1"}},
        {"targets": {"old": float("nan")}},
        {"targets": ["old"]},
        {"settings": {"rank": 0}},
        {"settings": {"depth": 3}},
        {"settings": None},
    ],
)
def test_forged_numbers_are_refused(change, tmp_path):
    path = Direction({"old": 1.0}, SETTINGS).save(tmp_path / "old.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match="holds no direction of low-rank guidance"):
        load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load(tmp_path / "gone.json")
