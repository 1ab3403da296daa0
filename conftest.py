"""Settings that the unit tests and the notebooks (checked by nbval) share."""

import os
import shutil
import tempfile
from pathlib import Path

from tools.surroundings import set_up

# Workers of pytest-xdist share the cores: one thread each is faster than all of them on every core.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
# Kernels import the package of this folder, whichever is installed.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
# Tests and notebooks write here, never over results that somebody made; all notebooks of one run share what they cache.
_outputs = tempfile.TemporaryDirectory(prefix="lsvd-test-")
os.environ["LSVD_OUTPUTS"] = _outputs.name
# Inherited by the notebooks' kernels: progress bars, remarks and personal settings must not end up in compared output.
set_up(Path(_outputs.name) / "settings")
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
