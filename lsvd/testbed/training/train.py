"""Train the embedded models from the renderer alone: python -m lsvd train NAME.

Everything that a run writes goes into a folder of its own in --runs, named by the model and by what determines the run:
its checkpoint, its losses with the pictures learned from per second, and at the end its weights. mini-sd and mini-clip
take the parts that were trained last there, before those that ship. --publish replaces the weights that ship.

--minutes stops a run, to go on another time. With --by-clock the run ends with the minutes instead: the learning rate
falls to zero over them, however many steps that is. If it is stopped before, it has the rest of them left.

A run that was stopped, by Ctrl-C or by --minutes, goes on where it was when it is started again with the same options;
only --steps, --minutes, --by-clock and --device may differ. --export writes the weights of what a stopped run has
reached.

Several processes share each batch: `accelerate launch --num_processes 2 -m lsvd train NAME --device
cuda` on two GPUs, `torchrun --nproc-per-node 2 -m lsvd train NAME` on CPUs.
"""

import argparse
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError

from lsvd.backbones import checksums
from lsvd.paths import WEIGHTS
from lsvd.storage.files import WriteError, alone, check_writable
from lsvd.testbed.training import checkpoints, loop
from lsvd.testbed.training.jobs import Job
from lsvd.testbed.training.processes import Processes
from lsvd.testbed.training.recipes import RECIPES, job
from lsvd.testbed.training.state import CHECKPOINT, Settings, check, choose, identity, read

log = logging.getLogger(__name__)


def begin(work: Job) -> None:
    """Give a job the weights that it starts with, if any. Raises ValueError if they are missing or of other shapes."""
    name = work.recipe.start
    if name is None:
        return
    try:
        if name == work.name:
            beginning = work.shipped()
        else:
            beginning = job(name, RECIPES[name], work.runs, work.weights).latest()
        work.begin_with(beginning.state_dict())
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"cannot begin with the weights of {name} ({_first_line(error)})") from error


def train(work: Job, settings: Settings | None = None) -> bool:
    """Train until the run is over, and export; or until stopped. True if it is over.

    Raises OSError while another training has the run's folder.
    """
    if not work.processes.first:
        return _train(work, settings or work.settings())
    check_writable(work.folder)
    with alone(work.home, "wait for it, or give another folder with --runs"):
        return _train(work, settings or work.settings())


def _train(work: Job, settings: Settings) -> bool:
    """As `train`, in a folder that is this run's alone."""
    processes = work.processes
    if not (work.home / CHECKPOINT).exists():
        begin(work)
        processes.wait()  # until all have looked for the checkpoint
    work.freeze()
    with processes.first_alone():
        work.prepare()
    done = loop.fit(
        work.model,
        work.loss,
        settings,
        work.home,
        work.describe(),
        score=work.score,
        pictures=work.pictures,
        processes=processes,
        after_backward=work.after_backward,
    )
    if done and processes.first:
        write(work)
    return done


def write(work: Job) -> None:
    """Export the model as it is now. Raises OSError, in one sentence, if that fails."""
    _explained(work.export, work.folder, "--export writes what the checkpoint holds")


def publish(work: Job) -> None:
    """Replace the shipped weights by what the run has exported. Raises OSError or ValueError."""

    def replaced() -> None:
        work.publish()
        if checksums.read(work.weights):
            checksums.record(work.ships, work.weights)

    _explained(replaced, work.ships, f"what was trained stays in {work.folder}")
    log.info("%s: published in %s", work.name, work.ships)


def _explained(act: Callable[[], None], folder: Path, kept: str) -> None:
    try:
        act()
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError) as error:
        said = str(error) if isinstance(error, WriteError) else f"cannot write {folder} ({_first_line(error)})"
        raise OSError(f"{said}; {kept}") from error


def export(work: Job) -> None:
    """Write the best averaged weights of the run's checkpoint, however far it is."""
    path = work.home / CHECKPOINT
    _, averages = read(path)
    try:
        choose(work.model, averages, work.score, work.name)
    except RuntimeError as error:
        raise ValueError(f"{path} belongs to another architecture: {checkpoints.REMEDY}") from error
    write(work)


def finished(work: Job, settings: Settings | None = None) -> bool:
    """Is the run over and are its weights written? Raises ValueError if the checkpoint is another run's."""
    path, settings = work.home / CHECKPOINT, settings or work.settings()
    if not path.exists() or not work.folder.exists():
        return False
    _, about = checkpoints.load(path)
    check(path, about, identity(settings, work.describe()))
    if settings.by_clock:
        return about.get("seconds", 0) / (60 * settings.minutes) >= 1
    return about["step"] >= settings.steps


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def check_device(device: str) -> None:
    """Raise ValueError unless torch can compute on the device, which it says in all kinds of errors."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"there is no device {device!r} here: name one that torch has, such as cpu") from error


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """An argument's type: a finite number above zero."""

    def number(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError
        return value

    number.__name__ = "positive number"
    return number


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0 if all that was asked for is done, 3 if it was stopped before.

    Raises ValueError, in one sentence that names the model, for what cannot be done.
    """
    parser = argparse.ArgumentParser(prog="python -m lsvd train", description=__doc__)
    parser.add_argument("name", choices=[*RECIPES, "all"])
    count = _positive(int)
    parser.add_argument("--steps", type=count, help="length of the whole run; the learning rate decays to zero over it")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes, to go on another time")
    parser.add_argument("--by-clock", action="store_true", help="end after --minutes, not after --steps")
    parser.add_argument("--batch", type=count, help="pictures of a step, in all processes together")
    parser.add_argument("--lr", type=_positive(float))
    parser.add_argument("--pictures", type=count, help="how many renderings to learn from")
    parser.add_argument("--seed", type=int, help="of the untrained weights and of all draws")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where all that is written goes (runs)")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="where the weights that ship lie")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps, as torch names it (cpu)")
    parser.add_argument("--from-shipped", action="store_true", help="begin with this model's weights in --weights")
    parser.add_argument("--only", metavar="REGEX", help="train only parameters with this in their names")
    parser.add_argument("--export", action="store_true", help="only write the weights of the checkpoint, into --runs")
    parser.add_argument("--publish", action="store_true", help="replace the weights that ship by the run's, when done")
    options = parser.parse_args(arguments)
    names = list(RECIPES) if options.name == "all" else [options.name]
    if options.by_clock and not (options.minutes or 0) > 0:
        raise ValueError("--by-clock fills the time that --minutes gives: give a number of minutes above 0")
    check_device(options.device)
    processes = Processes(options.device)
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs that have it; nothing on others
    torch.backends.cudnn.benchmark = True  # batches are all of one size
    for name in names:
        try:
            if not _run(name, options, processes):
                return 3
        except (OSError, ValueError, FloatingPointError) as error:
            raise ValueError(f"{name}: {_first_line(error)}") from error
    return 0


def _run(name: str, options: argparse.Namespace, processes: Processes) -> bool:
    """Do what the command line asks for with one model; False if it was stopped before it was done."""
    given = {k: getattr(options, k) for k in ("steps", "batch", "lr", "pictures", "seed", "only")}
    given |= {"start": name if options.from_shipped else None}
    recipe = replace(RECIPES[name], **{k: v for k, v in given.items() if v is not None})
    work = job(name, recipe, options.runs, options.weights, options.device, processes)
    settings = work.settings(minutes=options.minutes, by_clock=options.by_clock)
    if options.publish and options.name == name:
        work.check_ships()
    if options.export:
        if processes.first:
            export(work)
    elif finished(work, settings):
        log.info("%s: done before, in %s", name, work.folder)
    else:
        known = (work.home / CHECKPOINT).exists()
        log.info("%s: %s in %s", name, "goes on" if known else "begins", work.home)
        if not train(work, settings):
            return False
    if options.publish and work.part_of is None and processes.first:
        publish(work)
    return True
