"""Pictures kept on disk: the bars. What is drawn, and when, is tested with the training (test_train)."""

import numpy as np
import pytest

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
