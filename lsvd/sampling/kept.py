"""Trajectories kept on disk, and shared between notebooks: what was drawn before is read instead."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import SchedulerMixin

from lsvd.backbones.models import Backbone
from lsvd.checks import integer, shown
from lsvd.paths import build
from lsvd.progress import bar
from lsvd.sampling.identity import identity
from lsvd.sampling.trajectory import Settings, Trajectory, draw
from lsvd.storage import results
from lsvd.storage.tensors import Spec

CHUNK = 32  # pictures drawn together, and kept in one file
FORMAT = 1  # of the files; raise it when what is stored changes
log = logging.getLogger(__name__)


def trajectories(
    backbone: Backbone,
    prompts: str | Sequence[str] | None = None,
    seeds: int | Sequence[int] = 0,
    *,
    steps: int | None = None,
    guidance: float | None = None,
    eta: float = 0.0,
    batch: int = CHUNK,
    scheduler: SchedulerMixin | type[SchedulerMixin] | None = None,
    folder: str | Path | None = None,
    progress: bool = False,
) -> Trajectory:
    """As `lsvd.sampling.trajectory.run`, `batch` seeds at a time; what was drawn before is read from the disk instead.

    scheduler: another than the backbone's, as for `Backbone.with_scheduler`; resume with the same. folder:
    build("cache", "trajectories") if None. Each chunk of `batch` seeds is a file of its own: more seeds, appended,
    draw only what is new, and a stopped run goes on with the first chunk that is missing. Codes are kept exactly, in
    the dtype they have. progress: a bar over the chunks.

    How a picture is rounded depends on those drawn with it, so `batch` is part of what is drawn. Bit for bit,
    `resume` repeats the chunks (see `split`), not the whole, and only on a machine that rounds alike: device and
    number of threads count as settings (see `identity`).

    Raises ValueError for bad arguments.
    """
    _check_batch(batch)
    backbone = backbone if scheduler is None else backbone.with_scheduler(scheduler)
    # checked as a whole, before it is cut up; warnings of odd prompts name who called this
    settings = Settings.of(backbone, prompts, seeds, steps, guidance, eta)
    shared = {"made by": identity(backbone), "steps": settings.steps, "guidance": settings.guidance}
    shared |= {"eta": settings.eta, "format": FORMAT}
    home = Path(folder or build("cache", "trajectories")) / results.safe(backbone.name)
    parts, keeping, schedule = [], True, backbone.schedule(settings.steps)
    n = len(schedule.timesteps)
    for start in bar(range(0, len(settings.seeds), batch), desc=backbone.name, unit="chunk", progress=progress):
        rows = slice(start, start + batch)
        label = results.label_of({**shared, "prompts": settings.prompts[rows], "seeds": settings.seeds[rows]})
        codes = Spec((n + 1, len(settings.seeds[rows]), *backbone.latent_shape), backbone.dtype)
        part = results.read(results.file_of(home, label), label, {"codes": codes, "timesteps": Spec((n,))})
        if part is None:
            walk = draw(backbone, replace(settings, prompts=settings.prompts[rows], seeds=settings.seeds[rows]))
            part = {"codes": walk.codes.cpu(), "timesteps": walk.timesteps.cpu()}
            keeping = keeping and results.keep(results.file_of(home, label), label, part)
        parts.append(part)
    codes = torch.cat([part["codes"] for part in parts], dim=1).to(backbone.device)
    return Trajectory(settings, schedule, codes)


def split(walk: Trajectory, batch: int = CHUNK) -> list[Trajectory]:
    """The trajectories of each `batch` pictures, sharing memory with the whole: the chunks that `trajectories` drew.

    `resume` repeats each of them bit for bit; the whole it repeats to rounding, since it would be one batch.
    """
    _check_batch(batch)
    return [walk.rows(slice(start, start + batch)) for start in range(0, len(walk.settings.seeds), batch)]


def _check_batch(batch: int) -> None:
    if integer(batch) is None or batch < 1:
        raise ValueError(f"cannot take {shown(batch)} pictures at a time: choose a whole number from 1")
