"""Pictures kept on disk: the bars. What is drawn, and when, is tested with the training (test_train)."""

import numpy as np
import pytest
import torch
from accelerator import DEVICE

from lsvd.testbed import renderings
from lsvd.testbed.scenes.cats import CATS


def test_silent_unless_asked(tmp_path, capsys, bars):
    def part(number):
        return np.full(2, number)

    def pictures(seed, **kwargs):
        return renderings.pictures(CATS, 2, 8, seed, tmp_path, chunk=1, **kwargs)

    renderings.fill(tmp_path / "a", 2, part, "counting")
    pictures(0)
    assert capsys.readouterr() == ("", "")
    renderings.fill(tmp_path / "b", 2, part, "counting", progress=True)
    assert "counting" in capsys.readouterr().err
    drawn = pictures(1, progress=True)
    assert f"drawing {drawn.key}" in capsys.readouterr().err
    # nothing to do, nothing to show
    renderings.fill(tmp_path / "b", 2, part, "counting", progress=True)
    pictures(1, progress=True)
    assert capsys.readouterr() == ("", "")


def test_the_bar_counts_what_is_there(tmp_path, capsys, bars):
    made = []

    def stop(number):
        if number == 2:
            raise KeyboardInterrupt
        made.append(number)
        return np.full(2, number)

    with pytest.raises(KeyboardInterrupt):
        renderings.fill(tmp_path, 5, stop, "counting")
    files = renderings.fill(
        tmp_path, 5, lambda number: made.append(number) or np.full(2, number), "counting", progress=True
    )
    assert made == [0, 1, 2, 3, 4] and "/5 " in capsys.readouterr().err
    assert [np.load(file)[0] for file in files] == made


def test_rows_on_a_device_are_the_same(tmp_path):
    kept = renderings.pictures(CATS, 7, 8, 0, tmp_path, chunk=3)  # two rows of the last chunk are not asked for
    files = renderings.fill(tmp_path / "numbers", 3, lambda number: np.arange(3 * number, 3 * number + 3), "counting")
    numbers = renderings.Chunks(files, 3, 7)
    index = torch.tensor([6, 0, 3, 3])
    for rows in (kept, numbers):
        assert rows.to("cpu") is rows
        moved = rows.to(DEVICE)
        assert len(moved) == 7 and moved.held.shape[0] == 7 and rows.held is None
        for where in (index, index.to(DEVICE)):
            assert moved[where].device == DEVICE and torch.equal(moved[where].cpu(), rows[index])
    assert numbers[index].tolist() == index.tolist()
    assert torch.equal(kept.to(DEVICE).values_at(index)["fur"], kept.values_at(index)["fur"])
