"""The README's tables are the measured ones, number for number."""

import csv
import re
from pathlib import Path

import pytest

from lsvd.studies import tables

ROOT = Path(__file__).resolve().parents[2]
ROW = {"backbone": "a", "measure": "m", "value": "0.5", "low": "0.25", "high": "0.7512", "floor": "", "n": "9"}


@pytest.fixture
def committed(monkeypatch):
    """Tables are the committed ones, wherever tests write to."""
    monkeypatch.setenv("LSVD_OUTPUTS", str(ROOT / "outputs"))


def in_readme(text, name="backbones"):
    """The table between the README's two marks, or None."""
    found = re.findall(rf"^<!-- {name} -->$(.*?)^<!-- /{name} -->$", text, re.MULTILINE | re.DOTALL)
    return found[0].strip() if len(found) == 1 else None


NUMBER = re.compile(r"-?\d+\.\d+")


@pytest.mark.parametrize("name", tables.TABLES)
def test_the_readme_has_the_numbers_of_the_table(name, committed):
    expected, told = tables.markdown(name, tables.read(name)), in_readme((ROOT / "README.md").read_text("utf-8"), name)
    sentence = f"README.md and outputs/tables differ: paste the output of `python -m lsvd.studies.tables {name}`"
    assert told and NUMBER.sub("#", told) == NUMBER.sub("#", expected), sentence
    # notebooks write theirs anew wherever they run, and another machine rounds otherwise
    tolerance = 0 if name == "backbones" else 0.02
    numbers = [[float(x) for x in NUMBER.findall(text)] for text in (told, expected)]
    assert numbers[0] == pytest.approx(numbers[1], rel=0, abs=tolerance), sentence


def test_every_verdict_is_in_one_table(committed):
    shown = [tuple(row.values()) for name in tables.CLAIMS for row in tables.read(name)]
    with (ROOT / "outputs" / "tables" / "verdicts.csv").open(newline="") as file:
        recorded = [tuple(row.values()) for row in csv.DictReader(file)]
    assert sorted(shown) == sorted(recorded)


def test_a_row_for_each_row(committed):
    rows = tables.read("backbones")
    lines = tables.markdown("backbones", rows).splitlines()
    assert len(lines) == 2 + len(rows) and len({line.count("|") for line in lines}) == 1
    for row, line in zip(rows, lines[2:], strict=True):
        told = re.findall(r"\d+\.\d+", line.split("|")[3] + line.split("|")[4])
        given = [float(row[name]) for name in ("value", "low", "high", "floor") if row[name]]
        assert line.startswith(f"| {row['backbone']} | {row['measure']} | ")
        assert [float(x) for x in told] == pytest.approx(given, abs=0.0501 if max(given[:3]) > 1 else 0.000501)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "| a | m | 0.500 [0.250, 0.751] | |"),
        ({"floor": "0.3333"}, "| a | m | 0.500 [0.250, 0.751] | 0.333 |"),
        ({"value": "1.0000", "low": "0.9901", "high": "1.0000"}, "| a | m | 1.000 [0.990, 1.000] | |"),
        ({"high": "1.0001"}, "| a | m | 0.5 [0.3, 1.0] | |"),
        ({"value": "0.4175", "low": "0.4174"}, "| a | m | 0.418 [0.417, 0.751] | |"),
        ({"low": "-0.25"}, "| a | m | 0.500 [-0.250, 0.751] | |"),
        ({"value": "", "low": "", "high": ""}, "| a | m | | |"),
        (
            {"value": "60.3162", "low": "52.05", "high": "71.98", "floor": "15.8679"},
            "| a | m | 60.3 [52.1, 72.0] | 15.9 |",
        ),
    ],
)
def test_the_one_rule_of_decimals(changes, line):
    assert tables.markdown("backbones", [{**ROW, **changes}]).splitlines()[2] == line


def test_what_is_no_number_is_refused():
    for bad in ({"value": "nan"}, {"high": "inf"}, {"floor": "inf"}, {"low": "few"}):
        with pytest.raises(ValueError, match="no finite number|convert"):
            tables.markdown("backbones", [{**ROW, **bad}])


def test_the_command_prints_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    table = tmp_path / "tables" / "backbones.csv"
    with pytest.raises(SystemExit, match="there is no .*backbones.csv: run make measure"):
        tables.main(["backbones"])
    with pytest.raises(SystemExit, match="no table 'frontbones': choose from"):
        tables.main(["frontbones"])
    table.parent.mkdir()
    table.write_text(",".join(ROW) + "\n" + ",".join(ROW.values()) + "\n")
    assert tables.main(["backbones"]) == 0
    printed = capsys.readouterr().out
    assert in_readme(printed).splitlines()[2:] == ["| a | m | 0.500 [0.250, 0.751] | |"]
    for damaged in ("", "backbone,measure\na,m\n", table.read_text() + "a,m,0.5\n"):
        table.write_text(damaged)
        with pytest.raises(SystemExit, match="damaged"):
            tables.main(["backbones"])


def test_the_marks_are_found_once():
    one = "x\n<!-- backbones -->\n\n| a |\n\n<!-- /backbones -->\ny\n"
    assert in_readme(one) == "| a |"
    assert in_readme(one * 2) is in_readme("| a |\n") is None
