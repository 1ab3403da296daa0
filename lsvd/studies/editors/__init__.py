"""The editors that the study comparison compares, with the settings that each one tries."""

from lsvd.studies.editors.editor import Editor, Job
from lsvd.studies.editors.grids import GRIDS, METHODS, tries

__all__ = ["GRIDS", "METHODS", "Editor", "Job", "tries"]
