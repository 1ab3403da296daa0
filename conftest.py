"""Settings that the unit tests and the notebooks (checked by nbval) share."""

import os
import shutil
import tempfile
from pathlib import Path

# All are inherited by the notebooks' kernels: progress bars and remarks must not end up in compared output.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# transformers remarks on every import that torchvision is not there; it is not needed.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# Workers of pytest-xdist share the cores: one thread each is faster than all of them on every core.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
# A backend chosen outside would keep a kernel from drawing inline, and its figures would be missing.
os.environ.pop("MPLBACKEND", None)
# Tests and notebooks write here, never over results that somebody made; all notebooks of one run share what they cache.
_outputs = tempfile.TemporaryDirectory(prefix="lsvd-test-")
os.environ["LSVD_OUTPUTS"] = _outputs.name
# What takes half an hour and more to measure comes along, in a copy.
os.environ["LSVD_MEASUREMENTS"] = str(
    shutil.copytree(Path(__file__).parent / "measurements", _outputs.name + "/measured")
)


def pytest_unconfigure():
    _outputs.cleanup()


def pytest_collectstart(collector):
    # Warnings on stderr differ from version to version; HTML only repeats the plain text.
    if collector.nodeid.endswith(".ipynb") and hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr", "text/html")
