"""Settings of the unit tests."""

import hypothesis
import matplotlib

matplotlib.use("Agg")

# The same examples on every run, and no time limit for one of them: the machines that run this differ too much.
hypothesis.settings.register_profile("lsvd", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("lsvd")
