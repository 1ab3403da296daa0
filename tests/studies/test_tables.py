"""Measured numbers as Markdown: one rule of decimals, and what is missing or damaged is refused."""

import csv
import re
from pathlib import Path

import pytest

from lsvd.__main__ import main
from lsvd.backbones.registry import EMBEDDED, REGISTRY
from lsvd.studies import tables

ROOT = Path(__file__).resolve().parents[2]
ROW = {"backbone": "a", "measure": "m", "value": "0.5", "low": "0.25", "high": "0.7512", "floor": "", "n": "9"}


@pytest.fixture
def committed(monkeypatch):
    """Tables are the committed ones, wherever tests write to."""
    monkeypatch.setenv("LSVD_OUTPUTS", str(ROOT / "outputs"))


@pytest.mark.parametrize("name", tables.NAMES)
def test_every_table_has_a_line_for_each_row(name, committed):
    lines = tables.text(name).splitlines()
    assert len({line.count("|") for line in lines}) == 1 and set(lines[1]) == {"|", "-"}
    groups = {row["group"] for row in tables.read("reliability")}
    counts = {"found": len(tables.FOUND), "registry": len(REGISTRY) - len(EMBEDDED), "trials": len(groups) + 1}
    count = counts.get(name)
    assert len(lines) == 2 + (len(tables.read(name)) if count is None else count)


def test_every_verdict_is_in_one_table(committed):
    shown = [tuple(row.values()) for name in tables.JUDGED for row in tables.read(name)]
    with (ROOT / "outputs" / "tables" / "verdicts.csv").open(newline="") as file:
        assert sorted(shown) == sorted(tuple(row.values()) for row in csv.DictReader(file))


def test_numbers_are_those_of_the_rows(committed):
    rows = tables.read("backbones")
    for row, line in zip(rows, tables.text("backbones").splitlines()[2:], strict=True):
        shown = re.findall(r"\d+\.\d+", line.split("|")[3] + line.split("|")[4])
        given = [float(row[name]) for name in ("value", "low", "high", "floor") if row[name]]
        assert line.startswith(f"| {row['backbone']} | {row['measure']} | ")
        assert [float(x) for x in shown] == pytest.approx(given, abs=0.0501 if max(given[:3]) > 1 else 0.000501)


def test_found_counts_models_and_links_to_its_study(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    claims = [(study, claim) for _, study, claim in tables.FOUND]
    lines = ["study,claim,backbone,effect,low,high,null,margin,n,verdict,seeds"]
    for number, (study, claim) in enumerate(claims):
        lines.append(f'{study},"{claim}",mini-sd,{number}.5,0,9,0,0,9,holds,')
    lines += [
        f'{claims[0][0]},"{claims[0][1]}",{other},7,7,7,0,0,9,does not hold,' for other in ("mini-cats", "mini-dogs")
    ]
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "verdicts.csv").write_text("\n".join(lines) + "\n")
    first, second, *_ = tables.findings().splitlines()[2:]
    assert first.endswith("(docs/results.md#neighbourhood) | 0.5 [0.0, 9.0] | does not hold: 2 of 3, holds: 1 of 3 |")
    assert second.endswith("| 1.5 [0.0, 9.0] | holds |")
    (tmp_path / "tables" / "verdicts.csv").write_text("\n".join(line.replace("mini-sd", "x") for line in lines))
    with pytest.raises(ValueError, match="no line on .* and mini-sd: run make reproduce"):
        tables.findings()


def test_the_registry_has_every_name_and_what_was_measured(committed):
    lines = tables.text("registry").splitlines()[2:]
    for name, line in zip((name for name in REGISTRY if name not in EMBEDDED), lines, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        entry = REGISTRY[name]
        assert cells[:5] == [f"`{name}`", entry.stands_for, ", ".join(entry.hub), str(entry.size), str(entry.steps)]
        assert cells[5] == ("" if entry.guidance is None else f"{entry.guidance:g}")
        assert (cells[7] == "not measured") == (cells[8] == "tiny")
    assert "GiB | full size |" in lines[0]


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


def test_an_undecided_claim_says_how_many_seeds_would_decide():
    row = {"claim": "c", "backbone": "b", "effect": "0.5", "low": "-1", "high": "1", "null": "0", "margin": "0.05"}
    lines = tables.markdown(
        "order", [row | {"n": "16", "verdict": "undecided", "seeds": seeds} for seeds in ("90", "")]
    )
    assert lines.splitlines()[2:] == [
        f"| c | b | 0.500 [-1.000, 1.000] | 0.000 | 0.050 | 16 | {word} |"
        for word in ("undecided (90 seeds would decide)", "undecided")
    ]


def test_each_interval_of_a_line_has_its_own_decimals():
    row = {"way": "w", "psnr": "30.25", "psnr_low": "1", "psnr_high": "40", "least": "2.22"}
    row |= {"factors_moved": "0.0066", "factors_moved_low": "0.003", "factors_moved_high": "0.0106"}
    line = tables.markdown("inversion", [row]).splitlines()[2]
    assert line == "| w | 30.3 [1.0, 40.0] | 2.2 | 0.007 [0.003, 0.011] |"


def test_numbers_that_are_not_finite_are_refused():
    for bad in ({"value": "nan"}, {"high": "inf"}, {"floor": "inf"}, {"low": "few"}):
        with pytest.raises(ValueError, match="not a finite number|convert"):
            tables.markdown("backbones", [{**ROW, **bad}])


def test_the_command_prints_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    table = tmp_path / "tables" / "backbones.csv"
    for name, said in (
        ("backbones", "there is no .*backbones.csv: run make measure"),
        ("frontbones", "no table 'front"),
    ):
        assert main(["tables", name]) == 1 and re.search(said, capsys.readouterr().err)
    table.parent.mkdir()
    table.write_text(",".join(ROW) + "\n" + ",".join(ROW.values()) + "\n")
    assert main(["tables", "backbones"]) == 0
    printed = capsys.readouterr().out.strip().splitlines()
    assert (printed[0], printed[-1]) == ("<!-- backbones -->", "<!-- /backbones -->")
    assert "| a | m | 0.500 [0.250, 0.751] | |" in printed
    for damaged in (
        "",
        "backbone,measure\na,m\n",
        table.read_text() + "a,m,0.5\n",
        table.read_text() + "a,m" + ",1" * 9,
    ):
        table.write_text(damaged)
        assert main(["tables", "backbones"]) == 1 and "damaged" in capsys.readouterr().err
