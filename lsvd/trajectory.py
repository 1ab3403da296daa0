"""The name that lsvd.sampling.trajectory had before; it stays valid."""

from lsvd.sampling.trajectory import Settings, Trajectory, branch, resume, run, sample

__all__ = ["Settings", "Trajectory", "branch", "resume", "run", "sample"]
