"""The timings: their table and their statistics, on sizes too small for the speed to mean anything."""

import csv
from dataclasses import replace
from functools import partial
from itertools import count

import pytest

from benchmarks import speed
from benchmarks.speed import Comparison, compare, geodesics, spectrum, system, training
from lsvd.backbones import registry

tiny = partial(geodesics, timesteps=4, samples=2, channels=3, size=6, k=2, loop=5)


def read(folder):
    with (folder / "tables" / "bench.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_keeps_what_is_not_timed(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    monkeypatch.setattr(speed, "COMPARISONS", {"other": tiny, "geodesic": tiny})
    with caplog.at_level("INFO"):
        assert speed.main(["geodesic", "--repeats", "6"]) == 0
    (row,) = read(tmp_path)
    assert list(row) == ["name", "ratio", "low", "high", "seconds", "reference_seconds"] and row["name"] == "geodesic"
    assert 0 < float(row["low"]) <= float(row["ratio"]) <= float(row["high"])
    # 4 timesteps make 6 pairs, of each of 2 samples and 3 channels
    assert "36 pairs" in caplog.text and "13.89%" in caplog.text
    speed.main(["other", "--repeats", "6"])
    assert [r["name"] for r in read(tmp_path)] == ["other", "geodesic"]
    assert read(tmp_path)[1] == row
    speed.main(["--repeats", "6"])
    assert [r["name"] for r in read(tmp_path)] == ["other", "geodesic"]


def test_the_stated_size_is_the_default():
    comparison = geodesics(loop=2)
    assert comparison.share == 2 / 156_800
    assert comparison.work == "156800 pairs of subspaces of 32-space, k = 8"
    assert len(comparison.reference()) == 2


@pytest.mark.parametrize("make", [training, spectrum, system])
def test_a_trained_edit_agrees_with_the_exact_one_and_no_other(make):
    comparison = make(channels=2, size=12, k=3)
    exact, trained = comparison.ours(), comparison.reference()
    assert comparison.agree(exact, trained)
    # half of the exact singular values are far from the optimum
    half = replace(exact, a=exact.a / 2, b=exact.b / 2) if make is training else exact / 2
    assert not comparison.agree(exact, half)
    # and nothing can be better than it
    assert not comparison.agree(half, exact)


def test_edits_are_timed_at_the_size_of_mini_sd():
    size = registry.REGISTRY["mini-sd"].size // 4  # the autoencoder shrinks pictures fourfold
    assert training().work == f"a 4x{size}x{size} code, k = 12 of both"
    assert speed.large().work == "a 4x96x96 code, k = 12 of both"
    assert spectrum().work == "4 systems of 24 singular values"
    assert system().work == "4 systems of 24 singular values, already set up"


def test_every_comparison_says_what_it_is(capsys):
    with pytest.raises(SystemExit):
        speed.main(["--help"])
    told = capsys.readouterr().out
    for name, make in speed.COMPARISONS.items():
        assert f"{name}: {make.__doc__.splitlines()[0]}" in told


def test_the_ratio_is_the_references_time_for_the_whole_over_ours(monkeypatch):
    clock = [0.0]

    def lasting(*seconds):
        left = iter((0.0, *seconds))  # the first run is not timed
        return lambda: clock.__setitem__(0, clock[0] + next(left))

    monkeypatch.setattr(speed, "perf_counter", lambda: clock[0])
    ours, reference = lasting(1, 1, 1, 1, 1, 2), lasting(2, 4, 1, 3, 5, 4)
    found = compare("clock", Comparison(ours, reference, lambda a, b: True, "", share=0.25), repeats=6)
    # 4 x (2, 4, 1, 3, 5, 4 / 2)
    assert (found.ratio.value, found.ratio.low, found.ratio.high) == (10, 4, 20)
    # medians of (1, 1, 1, 1, 1, 2) and of 4 x (2, 4, 1, 3, 5, 4)
    assert (found.ours, found.reference) == (1, 14)


def test_each_repeat_times_both_and_their_order_alternates(monkeypatch):
    calls, clock = [], count()
    monkeypatch.setattr(speed, "perf_counter", lambda: next(clock))  # each call takes a second
    compare("order", Comparison(lambda: calls.append("a"), lambda: calls.append("b"), lambda a, b: True, ""), repeats=6)
    assert "".join(calls) == "ab" + "abba" * 3


def test_what_is_short_is_called_often():
    calls = []
    assert 0 < speed._seconds(lambda: calls.append(1)) < 0.01 and len(calls) > 20


def test_silent_unless_asked(capsys, bars):
    work = Comparison(lambda: 1, lambda: 1, lambda a, b: True, "")
    compare("work", work, 6)
    assert capsys.readouterr() == ("", "")
    compare("work", work, 6, progress=True)
    assert "timing work" in capsys.readouterr().err


def test_answers_that_differ_are_not_timed(monkeypatch, tmp_path):
    work = tiny()
    wrong = Comparison(lambda: work.ours() * 1.001, work.reference, work.agree, work.work, work.share)
    with pytest.raises(ValueError, match="disagree"):
        compare("wrong", wrong, 6)
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    monkeypatch.setattr(speed, "COMPARISONS", {"wrong": lambda: wrong})
    with pytest.raises(SystemExit, match="disagree"):
        speed.main(["wrong", "--repeats", "6"])
    assert not list(tmp_path.iterdir())


def test_bad_arguments(capsys):
    for arguments, message in ((["nothing"], "choose from geodesic"), (["--repeats", "5"], "at least 6")):
        with pytest.raises(SystemExit) as stop:
            speed.main(arguments)
        assert stop.value.code == 2 and message in capsys.readouterr().err
    with pytest.raises(ValueError, match="at least 6"):
        compare("few", tiny(), 5)
