"""The name that lsvd.sampling.trajectory had before; it stays valid."""

from lsvd.sampling.trajectory import *  # noqa: F403
