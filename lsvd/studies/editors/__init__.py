"""Ways of editing that the study comparison holds against each other, each with the settings that it tries."""

from lsvd.studies.editors.editor import Editor, Job
from lsvd.studies.editors.grids import GRIDS, METHODS, tries

__all__ = ["GRIDS", "METHODS", "Editor", "Job", "tries"]
