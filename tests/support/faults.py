"""Faults for trials: processes that are killed at each step of what they do, and disks that are full or read-only."""

import builtins
import os
import resource
import signal
import subprocess
from collections.abc import Callable
from contextlib import contextmanager

import pytest

from lsvd.storage import files


def in_child(action: Callable[[], object], seconds: int = 60) -> int:
    """Run an action in a copy of this process; its exit status: 0, 1 after an exception, or -9 if it was killed."""
    pid = os.fork()
    if not pid:
        signal.alarm(seconds)
        try:
            action()
        except BaseException as error:
            os.write(2, f"in the child: {type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


slow = pytest.mark.skipif(not os.environ.get("LSVD_TRIALS"), reason="takes a while: make trials runs it")

STEPS = ("replace", "rename", "fsync", "unlink", "mkdir", "rmdir", "utime", "chmod", "link")


def killed_at(step: int, action: Callable[[], object]) -> bool:
    """Run an action in a child that is killed before the call number `step` that changes a disk; False if it ended.

    Half of what is written arrives before a kill.
    """

    def run():
        left = step

        def count():
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        def counted(call):
            def instead(*args, **kwargs):
                count()
                return call(*args, **kwargs)

            return instead

        def opened(*args, real=builtins.open, **kwargs):
            file = real(*args, **kwargs)
            if not any(mark in file.mode for mark in "wxa+"):
                return file
            count()
            return Torn(file, count)

        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        files.swap = counted(files.swap)
        builtins.open = opened
        action()

    status = in_child(run)
    assert status in (0, -signal.SIGKILL), f"the child ended with {status}"
    return status != 0


class Torn:
    """A file whose writing may stop half-way."""

    def __init__(self, file, count):
        self.file, self.count = file, count

    def write(self, data):
        half = len(data) // 2
        self.file.write(data[:half])
        self.file.flush()
        self.count()
        return half + self.file.write(data[half:])

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


def killed_everywhere(action: Callable[[], object], check: Callable[[], object]) -> int:
    """Kill an action at each of its steps and check what is left each time; how many steps there were."""
    step = 0
    while killed_at(step, action):
        check()
        step += 1
        assert step < 500
    return step


@contextmanager
def disk(folder, *options: str):
    """A disk of its own at a folder, for as long as the block lasts; skips the test where none can be mounted."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(("size=256k", *options)), "none", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("a small disk can be mounted by the superuser of a system that allows it")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder) -> None:
    """Write to a disk until no byte is left."""
    with pytest.raises(OSError), open(folder / "filling", "wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)


@contextmanager
def limited(which: int, value: int):
    """A limit of this process for a while, such as resource.RLIMIT_NOFILE."""
    before = resource.getrlimit(which)
    resource.setrlimit(which, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, before)


def sentence(error) -> str:
    """What a refusal says; it is one line, and not too long to read."""
    text = str(error.value if hasattr(error, "value") else error)
    assert text and "\n" not in text and len(text) < 1000, text
    return text
