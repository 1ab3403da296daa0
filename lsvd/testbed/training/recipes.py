"""How each embedded model is trained, in the order in which they need each other."""

from pathlib import Path

from lsvd.paths import WEIGHTS
from lsvd.testbed.scenes import SCENES
from lsvd.testbed.training.autoencoder import Autoencoder
from lsvd.testbed.training.clip import ClipCaptions, ClipPictures
from lsvd.testbed.training.diffusion import PixelDenoiser, TextDenoiser
from lsvd.testbed.training.jobs import Job, Recipe
from lsvd.testbed.training.processes import Processes
from lsvd.testbed.training.readers import ReaderJob

PHOTO = {"style": "photo"}
RECIPES = {
    "autoencoder": Recipe(Autoencoder, "portraits", 24576, 128, steps=12000, batch=4, lr=1e-3),
    "reader-portraits": Recipe(ReaderJob, "portraits", 24576, 128, steps=2200, batch=64, lr=2e-3),
    "reader-portraits-2": Recipe(  # a second opinion: other pictures, another seed, another architecture
        ReaderJob,
        "portraits",
        24576,
        128,
        steps=2200,
        batch=64,
        lr=2e-3,
        model={"widths": (24, 64, 80, 160), "features": 96},
        renderings=6,
        seed=1,
    ),
    "mini-clip-captions": Recipe(ClipCaptions, "portraits", 24576, 128, steps=3000, batch=64, lr=1e-3),
    "mini-clip": Recipe(
        ClipPictures, "portraits", 24576, 128, steps=8000, batch=64, lr=6e-4, start="mini-clip-captions"
    ),
    "mini-sd": Recipe(TextDenoiser, "portraits", 49152, 128, steps=30000, batch=32, lr=1e-3),
    "mini-cats": Recipe(PixelDenoiser, "cats", 16384, 64, steps=30000, batch=8, lr=1e-3),
    "mini-portraits": Recipe(
        PixelDenoiser, "portraits", 16384, 64, steps=30000, batch=8, lr=1e-3, fixed=PHOTO, start="mini-cats"
    ),
    "mini-churches": Recipe(
        PixelDenoiser, "churches", 16384, 64, steps=30000, batch=8, lr=1e-3, start="mini-cats", clip=2.0
    ),
    "reader-cats": Recipe(ReaderJob, "cats", 16384, 64, steps=1500, batch=64, lr=2e-3),
    "reader-churches": Recipe(ReaderJob, "churches", 16384, 64, steps=1500, batch=64, lr=2e-3),
}


def job(
    name: str,
    recipe: Recipe,
    runs: Path,
    weights: Path = WEIGHTS,
    device: str = "cpu",
    processes: Processes | None = None,
) -> Job:
    """The job of a recipe, untrained."""
    return recipe.job(name, recipe, SCENES[recipe.scene], runs, weights, device, processes)
