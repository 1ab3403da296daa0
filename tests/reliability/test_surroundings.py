"""Whatever the system, the shell or the caller has set: the same result, or one sentence."""

import contextlib
import gc
import locale
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import sentence, slow
from tiny import text_to_image, unconditional

from lsvd import avi
from lsvd.checks import check_seeds
from lsvd.sampling import identity, trajectory

ROOT = Path(__file__).resolve().parents[2]

# Of the process that calls


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@contextlib.contextmanager
def another_locale():
    before = locale.setlocale(locale.LC_ALL)
    try:
        locale.setlocale(locale.LC_ALL, "C")
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


@contextlib.contextmanager
def no_collection():
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def seeded():
    torch.manual_seed(99)
    np.random.seed(99)
    yield


STATES = {
    "float64 by default": lambda: default_dtype(torch.float64),
    "float16 by default": lambda: default_dtype(torch.float16),
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
    "deterministic algorithms": deterministic,
    "inference mode": torch.inference_mode,
    "gradients on": torch.enable_grad,
    "anomaly detection": torch.autograd.detect_anomaly,
    "numpy raises": lambda: np.errstate(all="raise"),
    "warnings are errors": warnings_are_errors,
    "another locale": another_locale,
    "no garbage collection": no_collection,
    "generators in another state": seeded,
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.filterwarnings("ignore:Anomaly")
def test_states_of_the_libraries_change_nothing(state):
    backbone = text_to_image()

    def draw():
        edit = avi.edit_prompt(backbone, "a person", "an old person", seeds=[0, 1], steps=4)
        return backbone.decode(edit.edited.final)

    expected, before = draw(), torch.random.get_rng_state()
    with STATES[state]():
        own = torch.random.get_rng_state()
        found = draw()
        assert torch.equal(torch.random.get_rng_state(), own)
    torch.random.set_rng_state(before)
    assert torch.equal(found, expected) and found.dtype == torch.float32


def test_what_is_drawn_under_autocast_is_kept_as_another_result():
    backbone = unconditional()
    plain = identity.identity(backbone)
    with torch.autocast("cpu", torch.bfloat16):
        assert identity.identity(backbone) != plain
    assert identity.identity(backbone) == plain


@pytest.mark.parametrize(
    "seeds", [np.int64(3), torch.tensor(3), np.uint8(3), [np.int32(3)], torch.tensor([3]), range(3, 4)]
)
def test_seeds_of_every_kind_of_whole_number(seeds):
    assert check_seeds(seeds) == (3,) and type(check_seeds(seeds)[0]) is int


@pytest.mark.parametrize("seeds", [None, 1.5, "3", True, [None], [1.0], np.float64(3), object(), -1, 2**32, []])
def test_seeds_that_will_not_do(seeds):
    with pytest.raises(ValueError) as caught:
        trajectory.run(text_to_image(), "a person", seeds)
    sentence(caught)


@pytest.mark.parametrize(
    "request_",
    [
        {"guidance": "3"},
        {"guidance": [3]},
        {"guidance": float("nan")},
        {"eta": "x"},
        {"steps": 2.5},
        {"steps": "4"},
        {"steps": None, "until": "x"},
        {"prompts": "a\udcff"},
        {"prompts": b"a"},
        {"prompts": 3},
        {"prompts": [None]},
        {"codes": "x"},
        {"negative_prompt": 3},
    ],
    ids=str,
)
def test_arguments_of_other_kinds_are_one_sentence(request_):
    with pytest.raises((ValueError, TypeError)) as caught:
        trajectory.run(text_to_image(), **{"prompts": "a person", **request_})
    sentence(caught)


# Of the shell


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    text_to_image().pipe.save_pretrained(folder)
    return folder


def shell(folder, home, *, unset=(), prefix=(), wrap=None, python=(), out="x.png", **variables):
    """The command `edit` of a fresh process, in the folder `home`."""
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1", **variables}
    few = ["--backbone", str(folder), "--steps", "4", "--guidance", "2", "--out", out]
    command = [*prefix, sys.executable, *python, "-m", "lsvd", "edit", "a person", "--to", "an old person", *few]
    if wrap:
        command = ["sh", "-c", wrap, "sh", *command]
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)


SHELLS = {
    "no HOME": {"unset": ("HOME", "USER", "LOGNAME")},
    "HOME is a file": {"HOME": "/dev/null/nowhere"},
    "no TMPDIR": {"TMPDIR": "/nowhere", "TEMP": "/nowhere", "TMP": "/nowhere"},
    "the C locale": {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "a locale that is not there": {"LC_ALL": "tr_TR.ISO8859-9"},
    "ASCII output": {"PYTHONIOENCODING": "ascii"},
    "no assertions": {"PYTHONOPTIMIZE": "1"},
    "warnings are errors": {"PYTHONWARNINGS": "error::UserWarning"},
    "another hash seed": {"PYTHONHASHSEED": "1"},
    "no bytecode": {"PYTHONDONTWRITEBYTECODE": "1"},
    "another backend of matplotlib": {"MPLBACKEND": "nonsense"},
    "no such GPU": {"CUDA_VISIBLE_DEVICES": "99"},
    "another time zone": {"TZ": "Asia/Kathmandu"},
    "a narrow terminal": {"COLUMNS": "1", "TERM": "dumb"},
    "HF_HOME is a file": {"HF_HOME": "/dev/null/nowhere"},
    "a private umask": {"wrap": 'umask 077; exec "$@"'},
    "standard input closed": {"wrap": 'exec "$@" <&-'},
    "standard output closed": {"wrap": 'exec "$@" >&-'},
    "standard error closed": {"wrap": 'exec "$@" 2>&-'},
    "everything closed": {"wrap": 'exec "$@" <&- >&- 2>&-'},
    "niced": {"prefix": ("nice", "-n", "19")},
}


def test_python_without_docstrings_is_refused(folder, tmp_path):
    done = shell(folder, tmp_path, PYTHONOPTIMIZE="2")
    assert done.returncode == 1 and "-OO takes docstrings away" in sentence(done.stderr.strip())
    assert not os.listdir(tmp_path)


@slow
@pytest.mark.parametrize("surroundings", SHELLS)
def test_shells_change_nothing(folder, tmp_path, surroundings):
    reference = folder.parent / "reference.png"
    if not reference.exists():
        done = shell(folder, folder.parent, out="reference.png")
        assert done.returncode == 0, done.stderr
    done = shell(folder, tmp_path, **SHELLS[surroundings])
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert (tmp_path / "x.png").read_bytes() == reference.read_bytes()
    assert os.listdir(tmp_path) == ["x.png"]


@pytest.mark.parametrize(
    ("wrap", "told"),
    [
        ('exec "$@" > /dev/full', "lsvd: cannot write the output, the disk is full: send it elsewhere\n"),
        ('exec "$@" >&-', ""),
        ('mkdir gone && cd gone && rmdir ../gone && exec "$@"', ""),
    ],
    ids=["a full disk", "closed", "the folder is gone"],
)
def test_output_that_goes_nowhere(tmp_path, wrap, told):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LSVD_OUTPUTS": str(ROOT / "outputs")}
    command = ["sh", "-c", wrap, "sh", sys.executable, "-m", "lsvd", "tables", "backbones"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == bool(told) and done.stderr == told


def test_text_that_the_terminal_cannot_show_is_written_out(tmp_path):
    home = tmp_path / "größe 🎨"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LSVD_OUTPUTS": str(home), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "lsvd", "cache"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr and "gr\\xf6\\xdfe \\U0001f3a8" in done.stdout


@slow
def test_an_installed_package_writes_into_the_folder_it_is_called_from(tmp_path, folder):
    """As a wheel lays it: the package alone, without the clone around it."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "lsvd", site / "lsvd", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "work").mkdir()
    done = shell(folder, tmp_path / "work", PYTHONPATH=str(site), unset=("LSVD_OUTPUTS", "LSVD_MEASUREMENTS"))
    assert done.returncode == 0 and os.listdir(tmp_path / "work") == ["x.png"]
    code = "from lsvd import paths; print(paths.outputs(), paths.build(), paths.clone())"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LSVD_")}
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "work",
        env={**environment, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    ).stdout
    assert said.split() == [str(tmp_path / "work" / "outputs"), str(tmp_path / "work" / "build"), "None"]
