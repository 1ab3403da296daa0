"""The timings of a device end in rows of numbers, on the CPU as anywhere."""

import csv

import torch

from benchmarks import device
from lsvd.paths import outputs

CPU = torch.device("cpu")


def test_the_table(monkeypatch, tmp_path):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    monkeypatch.setattr(device, "MATRICES", {8: 64})
    for name, value in {"BATCHES": (1,), "DTYPES": (torch.float32,), "ENOUGH": 0.0, "LONGEST": 0.01}.items():
        monkeypatch.setattr(device, name, value)
    assert device.main(["--device", "cpu"]) == 0
    with (outputs() / "tables" / "device.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({tuple(row[key] for key in device.KEYS) for row in rows}) == len(rows) == 5
    for row in rows:
        assert 0 < float(row["low"]) <= float(row["seconds"]) <= float(row["high"]) and int(row["n"]) >= device.FEWEST


def test_long_calls_take_fewer():
    counts = []

    def prepare(count):
        counts.append(count)
        return lambda: torch.ones(200_000 * count).sin().sum()

    piece = device.Piece("sums", "1", torch.float32, prepare, 1 << 20, 1)
    row = device.time(piece, CPU)
    assert int(row["count"]) == counts[-1] < piece.total
