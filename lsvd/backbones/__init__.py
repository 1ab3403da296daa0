"""Diffusion models behind one interface, and where their checkpoints come from."""

from lsvd.backbones.loading import from_pipeline, load
from lsvd.backbones.models import Backbone
from lsvd.backbones.registry import REGISTRY, Entry

__all__ = ["REGISTRY", "Backbone", "Entry", "from_pipeline", "load"]
