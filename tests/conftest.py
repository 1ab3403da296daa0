"""Settings of the unit tests."""

import hypothesis
import matplotlib
import pytest

matplotlib.use("Agg")

# The same examples on every run, and no time limit for one of them: the machines that run this differ too much.
hypothesis.settings.register_profile("lsvd", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("lsvd")


@pytest.fixture
def bars(monkeypatch):
    """Progress bars are shown where they are asked for, whatever the environment says."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
