"""The latent space of diffusion models through singular value decomposition.

After Wang et al. 2025, "Exploring the latent space of diffusion models directly through singular value decomposition"
(arXiv 2502.02225). The names below are imported when they are first used, so that `import lsvd` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lsvd.avi.attribute import Attribute
    from lsvd.avi.edit import edit_prompt as edit
    from lsvd.backbones.loading import load
    from lsvd.decomposition.svd import svd
    from lsvd.guidance.settings import LowRank
    from lsvd.sampling.inversion import invert
    from lsvd.sampling.trajectory import resume, run

_HOMES = {
    "load": ("lsvd.backbones.loading", "load"),
    "run": ("lsvd.sampling.trajectory", "run"),
    "resume": ("lsvd.sampling.trajectory", "resume"),
    "svd": ("lsvd.decomposition.svd", "svd"),
    "edit": ("lsvd.avi.edit", "edit_prompt"),
    "invert": ("lsvd.sampling.inversion", "invert"),
    "Attribute": ("lsvd.avi.attribute", "Attribute"),
    "LowRank": ("lsvd.guidance.settings", "LowRank"),
}

__all__ = ["Attribute", "LowRank", "edit", "invert", "load", "resume", "run", "svd"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
