"""Train the embedded models from the renderer alone: python -m lsvd.testbed.training.train NAME.

A run that was stopped, by Ctrl-C or by --minutes, goes on where it was, with the same options; only --steps may differ.
When its steps are done, the weights are written: those of autoencoder and mini-clip-captions into --runs, where mini-sd
and mini-clip take them from, the others into --weights. --export writes what a stopped run has reached.
"""

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lsvd.backbones import checksums
from lsvd.paths import WEIGHTS
from lsvd.storage.files import WriteError, check_writable
from lsvd.testbed.scenes import SCENES
from lsvd.testbed.training import loop
from lsvd.testbed.training.diffusion import PixelDenoiser, TextDenoiser
from lsvd.testbed.training.jobs import Autoencoder, ClipCaptions, ClipPictures, Job, ReaderJob, Recipe

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
    "mini-churches": Recipe(
        PixelDenoiser, "churches", 16384, 64, steps=30000, batch=8, lr=1e-3, start="mini-cats", clip=2.0
    ),
    "reader-cats": Recipe(ReaderJob, "cats", 16384, 64, steps=1500, batch=64, lr=2e-3),
    "reader-churches": Recipe(ReaderJob, "churches", 16384, 64, steps=1500, batch=64, lr=2e-3),
}
log = logging.getLogger(__name__)


def job(name: str, recipe: Recipe, runs: Path, weights: Path = WEIGHTS, device: str = "cpu", seed: int = 0) -> Job:
    """The job of a recipe, untrained."""
    return recipe.job(name, recipe, SCENES[recipe.scene], runs, weights, device, seed)


def begin(work: Job, from_shipped: bool) -> None:
    """Give a job the weights that it starts with, if any. Raises ValueError if they are missing or of other shapes."""
    name = work.name if from_shipped else work.recipe.start
    if name is None:
        return
    try:
        found = work.shipped() if from_shipped else job(name, RECIPES[name], work.runs, work.weights).latest()
        work.model.load_state_dict(found.state_dict())
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"cannot begin with the weights of {name} ({_first_line(error)})") from error


def describe(work: Job, from_shipped: bool) -> dict[str, Any]:
    """What determines the run, beside the loop's settings."""
    return {**work.describe(), "from_shipped": from_shipped}


def train(work: Job, settings: loop.Settings, *, from_shipped: bool = False) -> bool:
    """Train until all steps are done, and export; or until stopped. True if done."""
    folder = work.runs / work.name
    check_writable(work.folder)
    if not (folder / "checkpoint.pt").exists():
        begin(work, from_shipped)
    work.freeze()
    work.prepare()
    done = loop.fit(work.model, work.loss, settings, folder, describe(work, from_shipped))
    if done:
        write(work)
    return done


def write(work: Job) -> None:
    """Export the model as it is now. Raises OSError, in one sentence, if that fails."""
    try:
        work.export()
        if work.folder.is_relative_to(work.weights) and checksums.read(work.weights):
            checksums.record(work.folder, work.weights)
    except (OSError, SafetensorError) as error:
        said = str(error) if isinstance(error, WriteError) else f"cannot write {work.folder} ({_first_line(error)})"
        raise OSError(f"{said}; --export writes what the checkpoint holds") from error


def export(work: Job) -> None:
    """Write the averaged weights of the run's checkpoint, however far it is."""
    path = work.runs / work.name / "checkpoint.pt"
    loop.load(path, loop.read(path), "ema", work.model)
    write(work)


def finished(work: Job, settings: loop.Settings, *, from_shipped: bool = False) -> bool:
    """Are all steps done and the weights written? Raises ValueError if the checkpoint is another run's."""
    path = work.runs / work.name / "checkpoint.pt"
    if not path.exists() or not work.folder.exists():
        return False
    state = loop.read(path)
    loop.check(path, state, loop.identity(settings, describe(work, from_shipped)))
    return state["step"] >= settings.steps


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0 if all that was asked for is done, 3 if it was stopped before."""
    parser = argparse.ArgumentParser(prog="python -m lsvd.testbed.training.train", description=__doc__)
    parser.add_argument("name", choices=[*RECIPES, "all"])
    parser.add_argument("--steps", type=int, help="length of the whole run; the learning rate decays over it")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes, to go on another time")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--pictures", type=int, help="how many renderings to learn from")
    parser.add_argument("--seed", type=int, default=0, help="of the untrained weights and of all draws")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="checkpoints, losses and rendered pictures")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="where finished weights go, and shipped ones are")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--from-shipped", action="store_true", help="begin with this model's weights in --weights")
    parser.add_argument("--only", metavar="REGEX", help="train only parameters with this in their names")
    parser.add_argument("--export", action="store_true", help="only write the weights of the checkpoint")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in RECIPES if options.name == "all" else [options.name]:
        given = {k: getattr(options, k) for k in ("steps", "batch", "lr", "pictures", "only")}
        recipe = replace(RECIPES[name], **{k: v for k, v in given.items() if v is not None})
        settings = loop.Settings(recipe.steps, recipe.lr, seed=options.seed, ema=recipe.ema, minutes=options.minutes)
        try:
            work = job(name, recipe, options.runs, options.weights, options.device, options.seed)
            if options.export:
                export(work)
            elif finished(work, settings, from_shipped=options.from_shipped):
                log.info("%s: done before", name)
            elif not train(work, settings, from_shipped=options.from_shipped):
                return 3
        except (OSError, ValueError, FloatingPointError) as error:
            raise SystemExit(f"{name}: {_first_line(error)}") from error
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
