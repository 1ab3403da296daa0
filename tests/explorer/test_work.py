"""The worker: one piece of work at a time, the newest first, and never an error that is lost."""

import threading
import time
import warnings

import pytest
import torch

from lsvd.explorer.watch import Watch
from lsvd.explorer.work import Worker, sentence


def worker(work, **settings):
    ended = []
    return Worker(work, lambda job, error: ended.append((job, error)), **settings), ended


def test_the_newest_wins_and_the_rest_is_dropped():
    begun, done = threading.Event(), []

    def work(job, watch):
        begun.set()
        for _ in range(1000):
            watch.check()
            if job == "last":
                break
            time.sleep(0.01)
        done.append(job)

    w, ended = worker(work)
    w.submit("first", Watch())
    assert begun.wait(5)
    for job in ("second", "third", "last"):
        w.submit(job, Watch())
    assert w.wait(10)
    assert done == ["last"] and ended == [("first", None), ("last", "")]
    w.close()


def test_a_stop_ends_what_runs_and_what_waits():
    begun = threading.Event()

    def work(job, watch):
        begun.set()
        while True:
            watch.check()
            time.sleep(0.01)

    w, ended = worker(work)
    w.submit(1, Watch())
    assert begun.wait(5)
    w.stop()
    assert w.wait(10) and ended == [(1, "")]
    w.stop()
    w.close()
    w.submit(2, Watch())
    assert not w.busy


def test_errors_and_warnings_are_told_and_the_next_job_runs():
    heard = []

    def work(job, watch):
        assert not torch.is_grad_enabled()
        warnings.warn("odd word", UserWarning, stacklevel=1)
        warnings.warn("old function", DeprecationWarning, stacklevel=1)
        if job:
            raise job

    w, ended = worker(work, remark=heard.append)
    for job in (ValueError("no\ngood"), SystemError("odd"), None):
        w.submit(job, Watch())
        assert w.wait(10)
    assert [error for _, error in ended][::2] == ["no; good", ""]
    assert ended[1][1].startswith("something went wrong (SystemError: odd)")
    assert heard == ["odd word"] * 3
    w.close()


def test_warnings_of_other_threads_go_where_they_went():
    begun, go, heard = threading.Event(), threading.Event(), []

    def work(job, watch):
        begun.set()
        assert go.wait(10)

    w, _ = worker(work, remark=heard.append)
    with warnings.catch_warnings(record=True) as elsewhere:
        warnings.simplefilter("always")
        w.submit(1, Watch())
        assert begun.wait(10)
        warnings.warn("mine", UserWarning, stacklevel=1)
        go.set()
        assert w.wait(10)
    assert [str(each.message) for each in elsewhere] == ["mine"] and heard == []
    w.close()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "there is not enough memory"),
        (RuntimeError("CUDA out of memory"), "there is not enough memory"),
        (OSError("disk"), "disk"),
        (ValueError(""), "something went wrong (ValueError: )"),
        (ValueError("\x1b[31mred"), "\\x1b[31mred"),
    ],
)
def test_an_error_is_one_sentence(error, says):
    assert sentence(error).startswith(says) and "\n" not in sentence(error)


def test_progress_tells_the_time_left_and_when_to_look(monkeypatch):
    monkeypatch.setattr("lsvd.explorer.watch.PATIENCE", 0)
    told, looks = [], []
    watch = Watch(lambda *progress: told.append(progress), looks.append, every=0)
    watch.begin("drawing", 4)
    for step in range(4):
        watch.step(lambda step=step: step)
    assert [progress[:3] for progress in told] == [("drawing", done, 4) for done in range(5)]
    assert told[1][3] is None and told[2][3] >= 0 and told[4][3] == 0
    assert looks == [0, 1, 2], "the last step is followed by the picture itself"
    watch.begin("inverting", 2, looking=False)
    watch.step(lambda: 9)
    assert looks == [0, 1, 2]
