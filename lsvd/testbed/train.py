"""Train the embedded models from the renderer alone: python -m lsvd.testbed.train NAME.

A run that was stopped, by Ctrl-C or by --minutes, goes on where it was. When its steps are done, the weights are
written to lsvd/weights/NAME; --export writes what a stopped run has reached.
"""

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from lsvd.testbed import loop
from lsvd.testbed.diffusion import PixelDenoiser, TextDenoiser
from lsvd.testbed.jobs import WEIGHTS, Autoencoder, ClipCaptions, ClipPictures, Job, ReaderJob, Recipe
from lsvd.testbed.scenes import SCENES

PHOTO = {"style": "photo"}
# In the order in which they need each other.
RECIPES = {
    "autoencoder": Recipe(Autoencoder, "portraits", 24576, 128, steps=6000, batch=4, lr=1e-3),
    "reader-portraits": Recipe(ReaderJob, "portraits", 24576, 128, steps=2200, batch=64, lr=2e-3),
    "mini-clip-captions": Recipe(ClipCaptions, "portraits", 24576, 128, steps=3000, batch=64, lr=1e-3),
    "mini-clip": Recipe(
        ClipPictures, "portraits", 24576, 128, steps=8000, batch=64, lr=6e-4, start="mini-clip-captions"
    ),
    "mini-sd": Recipe(TextDenoiser, "portraits", 49152, 128, steps=30000, batch=16, lr=1e-3),
    "mini-cats": Recipe(PixelDenoiser, "cats", 16384, 64, steps=30000, batch=8, lr=1e-3),
    "mini-portraits": Recipe(
        PixelDenoiser, "portraits", 16384, 64, steps=30000, batch=8, lr=1e-3, fixed=PHOTO, start="mini-cats"
    ),
    "mini-churches": Recipe(PixelDenoiser, "churches", 16384, 64, steps=30000, batch=8, lr=1e-3, start="mini-cats"),
    "reader-cats": Recipe(ReaderJob, "cats", 16384, 64, steps=1500, batch=64, lr=2e-3),
    "reader-churches": Recipe(ReaderJob, "churches", 16384, 64, steps=1500, batch=64, lr=2e-3),
}
log = logging.getLogger(__name__)


def job(name: str, recipe: Recipe, runs: Path, weights: Path = WEIGHTS, device: str = "cpu") -> Job:
    """The job of a recipe, untrained."""
    return recipe.job(name, recipe, SCENES[recipe.scene], runs, weights, device)


def begin(work: Job) -> Job:
    """The job whose weights this one starts with. Raises FileNotFoundError if there are none yet."""
    first = job(work.recipe.start, RECIPES[work.recipe.start], work.runs, work.weights)
    if not first.folder.exists():
        raise FileNotFoundError(f"there are no weights of {first.name} to begin with: train it first")
    return first


def train(work: Job, settings: loop.Settings, *, from_shipped: bool = False) -> bool:
    """Train until all steps are done, and export; or until stopped. True if done."""
    folder = work.runs / work.name
    if (from_shipped or work.recipe.start) and not (folder / "checkpoint.pt").exists():
        first = work if from_shipped else begin(work)
        work.model.load_state_dict(first.shipped().state_dict())
    work.prepare()
    done = loop.fit(work.model, work.loss, settings, folder)
    if done:
        work.export()
    return done


def export(work: Job) -> None:
    """Write the averaged weights of the run's checkpoint, however far it is."""
    path = work.runs / work.name / "checkpoint.pt"
    loop.load(path, loop.read(path), "ema", work.model)
    work.export()


def finished(work: Job, steps: int) -> bool:
    """Are all steps done and the weights written?"""
    path = work.runs / work.name / "checkpoint.pt"
    return path.exists() and work.folder.exists() and loop.read(path)["step"] >= steps


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0 if all that was asked for is done, 3 if it was stopped before."""
    parser = argparse.ArgumentParser(prog="python -m lsvd.testbed.train", description=__doc__)
    parser.add_argument("name", choices=[*RECIPES, "all"])
    parser.add_argument("--steps", type=int, help="length of the whole run; the learning rate decays over it")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes, to go on another time")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--pictures", type=int, help="how many renderings to learn from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="checkpoints, losses and rendered pictures")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="where finished weights go")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--from-shipped", action="store_true", help="begin with this model's weights in --weights")
    parser.add_argument("--export", action="store_true", help="only write the weights of the checkpoint")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in RECIPES if options.name == "all" else [options.name]:
        given = {k: getattr(options, k) for k in ("steps", "batch", "lr", "pictures")}
        recipe = replace(RECIPES[name], **{k: v for k, v in given.items() if v is not None})
        try:
            work = job(name, recipe, options.runs, options.weights, options.device)
            if options.export:
                export(work)
            elif finished(work, recipe.steps):
                log.info("%s: done before", name)
            else:
                settings = loop.Settings(
                    recipe.steps, recipe.lr, seed=options.seed, ema=recipe.ema, minutes=options.minutes
                )
                if not train(work, settings, from_shipped=options.from_shipped):
                    return 3
        except (FileNotFoundError, ValueError, FloatingPointError) as error:
            raise SystemExit(f"{name}: {error}") from error
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
