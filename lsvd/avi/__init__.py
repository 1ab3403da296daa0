"""Attribute Vector Integration (Wang et al. 2025, arXiv 2502.02225): edits, their exact solution, and controls."""

from lsvd.avi.edit import Edit, edit_prompt
from lsvd.avi.exact import AVIConfig, Solution, bound, solve
from lsvd.avi.losses import Lambdas

__all__ = ["AVIConfig", "Edit", "Lambdas", "Solution", "bound", "edit_prompt", "solve"]
