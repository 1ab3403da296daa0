"""Measurements of editors, in pieces of one setting, one attribute and a few seeds.

Each finished piece is kept in build/cache, so a stopped run goes on and several processes share the
work; a whole stage is kept in measurements/comparison.
"""

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lsvd import backbones
from lsvd.backbones import clip as clips
from lsvd.backbones.clip import Clip
from lsvd.backbones.families import denoiser
from lsvd.backbones.models import TextToImage
from lsvd.paths import measurements
from lsvd.sampling import identity
from lsvd.sampling.kept import trajectories
from lsvd.sampling.trajectory import sample
from lsvd.storage import results
from lsvd.storage.files import check_writable
from lsvd.storage.pictures import encoded
from lsvd.storage.sharing import Piece, collect, remembered, work_off
from lsvd.studies import perception
from lsvd.studies.editors.editor import Editor, Job
from lsvd.studies.rig import rig_of
from lsvd.studies.ways import ATTRIBUTES, SOURCE, target_prompt
from lsvd.testbed.effects import Effects, compare, tally
from lsvd.testbed.reader import Reader

FORMAT = 2  # of what is measured; raise it when the code that measures changes
REFERENCE = 5000
"""The first seed of the target prompt's pictures that Fréchet distances are taken from."""


@dataclass(frozen=True, eq=False)
class Bench:
    """The models that edit and measure; judge is None if no reader knows the pictures."""

    backbone: TextToImage
    clip: Clip
    judge: Reader | None = None

    @cached_property
    def instruments(self) -> Mapping[str, perception.Layers]:
        """The measures of how far pictures moved, by name."""
        return perception.instruments(self.clip)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that determines a measurement, but for rounding, as of the first use."""
        backbone, shape = self.backbone, identity.identity(self.backbone)
        return {name: shape[name] for name in ("weights", "scheduler", "config", "dtype", "size")} | {
            "steps": backbone.entry.steps,
            "guidance": backbone.entry.guidance,
            "reader": self.judge and results.checksum(self.judge.state_dict()),
            "clip": results.checksum(self.clip.model.state_dict()),
            "instruments": sorted(self.instruments),
            "format": FORMAT,
        }


@dataclass(frozen=True, eq=False)
class Outcome:
    """The effects of one setting on n pictures, a tensor of shape (n,) each.

    had, has: whether the attribute was read before and after; side: the mean move of all other factors. Without a
    reader none of them means anything. gain: how far the CLIP score went from the source's to the target prompt's,
    which pictures of the target prompt have on average 1 of; NaN with a reader. clip: the cosine of picture and
    target prompt, times 100.
    lpips_clip, lpips_imagenet: distance to the source, NaN if not measured. features: for Fréchet distances, (n, d).
    evaluations: of the network, for each picture, beside those of the source's picture. seconds: likewise, of one
    processor core where that is what computes. What an editor trains beforehand counts in neither.
    """

    had: Tensor
    has: Tensor
    side: Tensor
    gain: Tensor
    clip: Tensor
    lpips_clip: Tensor
    lpips_imagenet: Tensor
    evaluations: Tensor
    seconds: Tensor
    features: Tensor = field(repr=False)

    @property
    def effects(self) -> Effects:
        """Success and side effects, with intervals."""
        return tally(self.had, self.has, self.side)


Measured = Mapping[str, Mapping[Editor, Outcome]]
"""The outcome of each setting, by attribute."""


def load_bench(name: str = "mini-sd", device: str = "cpu", clip: str | Path | None = None) -> Bench:
    """The bench of a text-to-image backbone, by name or folder. clip: a folder with the CLIP model to score with.

    Raises ValueError for a backbone without prompts, and for pictures that mini-clip does not know without `clip`.
    """
    backbone = backbones.load(name, device)
    if backbone.kind != "text-to-image":
        raise ValueError(f"{backbone.name} takes no prompts: compare edits of a text-to-image backbone")
    rig = rig_of(backbone)
    if rig is None and clip is None:
        raise ValueError(f"mini-clip does not know the pictures of {backbone.name}: give --clip, the folder of another")
    return Bench(backbone, clips.load(clip, device=device), rig and rig.judge)


def stage(
    bench: Bench,
    attributes: Sequence[str],
    editors: Sequence[Editor],
    seeds: Sequence[int],
    *,
    chunk: int = 16,
    folder: str | Path | None = None,
    progress: bool = False,
) -> Measured:
    """The outcome of each setting for the seeds' pictures, by attribute; read if it was measured before.

    chunk: seeds a piece. folder: measurements("comparison") if None. Raises WriteError, before anything is measured, if
    the outcome could not be kept.
    """
    chunks, home = (
        [tuple(seeds[i : i + chunk]) for i in range(0, len(seeds), chunk)],
        folder or measurements("comparison"),
    )
    about = {**bench.identity, "source": SOURCE, "chunks": chunks, "editors": [editor.key() for editor in editors]}
    pieces = {}
    for name in attributes:
        file = results.place(bench.backbone.name, about | {"attribute": name}, home)
        if not file.exists():
            check_writable(file)
            pieces[name] = _pieces(bench, name, editors, chunks)
    together = [piece for group in pieces.values() for piece in group]
    made = work_off(together, title=bench.backbone.name, progress=progress)
    outcomes: dict[str, dict[Editor, Outcome]] = {}
    for name in attributes:

        def measure(name: str = name) -> results.Tensors:
            if name in pieces:
                return _stacked(collect(pieces[name], made), len(editors))
            group = _pieces(bench, name, editors, chunks)
            return _stacked(collect(group, title=bench.backbone.name, progress=progress), len(editors))

        settings = about | {"attribute": name}
        stacked = results.remember(bench.backbone.name, settings, measure, folder=home, must_keep=True)
        outcomes[name] = {e: Outcome(**{k: values[i] for k, values in stacked.items()}) for i, e in enumerate(editors)}
    return outcomes


def references(
    bench: Bench,
    names: Sequence[str],
    count: int,
    chunk: int = 16,
    folder: str | Path | None = None,
    progress: bool = False,
) -> dict[str, Tensor]:
    """Features of `count` pictures of each attribute's prompt, of seeds that are never edited: (count, d)."""
    seeds = tuple(range(REFERENCE, REFERENCE + count))

    def make(name: str) -> dict[str, Tensor]:
        pictures = sample(bench.backbone, target_prompt(ATTRIBUTES[name]), seeds, batch=chunk)
        return {"features": _features(bench, pictures.to(bench.backbone.device))}

    keeping = {"folder": folder or measurements("comparison"), "must_keep": True}
    pieces = [
        remembered(
            bench.backbone.name,
            {**bench.identity, "reference for": name, "seeds": seeds},
            partial(make, name),
            **keeping,
        )
        for name in names
    ]
    parts = collect(pieces, title=bench.backbone.name, progress=progress)
    return {name: part["features"] for name, part in zip(names, parts, strict=True)}


def job_of(bench: Bench, name: str, seeds: Sequence[int]) -> Job:
    """The edit of the seeds' pictures towards an attribute."""
    source = trajectories(bench.backbone, SOURCE, seeds, batch=len(seeds))
    return Job(bench.backbone, source, bench.backbone.decode(source.final), target_prompt(ATTRIBUTES[name]))


def drawn(
    bench: Bench, name: str, editors: Sequence[Editor], seeds: Sequence[int], folder: str | Path | None = None
) -> Tensor:
    """The seeds' pictures, and those after each editor, towards an attribute: (1 + editors, n, 3, H, W).

    They are kept as one WebP file each time, which loses what the eye does not miss.
    """
    backbone, seeds = bench.backbone, tuple(seeds)
    height, width = backbone.size

    def make() -> dict[str, Tensor]:
        job = job_of(bench, name, seeds)
        rows = torch.stack([job.pictures.cpu(), *(editor.edit(job).cpu() for editor in editors)])
        mosaic = rows.permute(0, 3, 1, 4, 2).reshape(len(rows) * height, len(seeds) * width, 3)
        image = Image.fromarray((mosaic.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
        return {"webp": torch.frombuffer(bytearray(encoded(image, "webp")), dtype=torch.uint8)}

    about = {**bench.identity, "drawn": name, "source": SOURCE, "seeds": seeds}
    about |= {"editors": [editor.key() for editor in editors]}
    folder = folder or measurements("comparison")
    kept = results.remember(backbone.name, about, make, folder=folder, must_keep=True)["webp"]
    mosaic = torch.from_numpy(np.array(Image.open(io.BytesIO(kept.numpy().tobytes())).convert("RGB")))
    rows = mosaic.reshape(len(editors) + 1, height, len(seeds), width, 3)
    return rows.permute(0, 2, 4, 1, 3) / 255


@contextmanager
def counting(network: torch.nn.Module) -> Iterator[list[int]]:
    """The numbers of pictures in the calls of a network, and of copies made meanwhile."""
    counts: list[int] = []

    def count(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        counts.append(len(args[0] if args else next(iter(kwargs.values()))))

    handle = network.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield counts
    finally:
        handle.remove()


def _pieces(
    bench: Bench, name: str, editors: Sequence[Editor], chunks: Sequence[tuple[int, ...]]
) -> list[Piece[results.Tensors]]:
    """The fields of Outcome of each setting and each chunk of seeds, kept in build/cache."""
    home = f"{bench.backbone.name}-comparison"
    about = {**bench.identity, "attribute": name, "source": SOURCE}
    return [
        remembered(home, about | {"seeds": seeds, "editor": editor.key()}, partial(_piece, bench, name, editor, seeds))
        for editor in editors
        for seeds in chunks
    ]


def _stacked(pieces: Sequence[results.Tensors], editors: int) -> results.Tensors:
    """The fields of Outcome of all settings, from those of each chunk of seeds of each."""
    chunks = len(pieces) // editors
    groups = [pieces[i * chunks : (i + 1) * chunks] for i in range(editors)]
    return {key: torch.stack([torch.cat([part[key] for part in group]) for group in groups]) for key in pieces[0]}


def _piece(bench: Bench, name: str, editor: Editor, seeds: tuple[int, ...]) -> dict[str, Tensor]:
    """The fields of Outcome of one setting."""
    job, clock = job_of(bench, name, seeds), _clock(bench.backbone)
    before, target, n = job.pictures, job.target, len(seeds)
    editor.prepare(job)
    start = clock()
    with counting(denoiser(bench.backbone.pipe)) as counts:
        after = editor.edit(job)
    seconds = (clock() - start) / n
    text, vectors = bench.clip.texts([target]), [bench.clip.pictures(p) for p in (before, after)]
    score_before, score_after = ((pictures @ text.T)[:, 0].double().cpu() for pictures in vectors)
    values = {"clip": 100 * score_after, "gain": torch.full((n,), torch.nan)}
    if bench.judge is None:
        values["gain"] = (score_after - score_before) / _rise(bench, name, seeds)
    for instrument in ("lpips_clip", "lpips_imagenet"):
        layers = bench.instruments.get(instrument)
        distance = torch.full((n,), torch.nan) if layers is None else perception.distances(before, after, layers)
        values[instrument] = distance
    if bench.judge is None:
        values |= {"had": torch.zeros(n, dtype=torch.bool), "has": torch.zeros(n, dtype=torch.bool)}
        values |= {"side": torch.zeros(n), "features": vectors[1].half().cpu()}
    else:
        readings = [bench.judge.read(p) for p in (before, after)]
        had, has, side = compare(*readings, bench.judge.scene, ATTRIBUTES[name])
        values |= {"had": had.cpu(), "has": has.cpu(), "side": side.cpu(), "features": _features(bench, after)}
    values |= {"evaluations": torch.full((n,), sum(counts) / n), "seconds": torch.full((n,), seconds)}
    values |= {name: value.float() for name, value in values.items() if value.dtype == torch.float64}
    return {entry.name: values[entry.name] for entry in fields(Outcome)}


def _clock(backbone: TextToImage) -> Callable[[], float]:
    """Seconds of this process on a CPU, which others on the machine do not lengthen; else of the wall."""
    return time.process_time if torch.device(backbone.device).type == "cpu" else time.perf_counter


def _rise(bench: Bench, name: str, seeds: tuple[int, ...]) -> float:
    """The mean CLIP score of pictures of the target prompt minus that of the source's pictures."""

    def make() -> dict[str, Tensor]:
        text = bench.clip.texts([target_prompt(ATTRIBUTES[name])])
        walks = [
            trajectories(bench.backbone, p, seeds, batch=len(seeds)) for p in (SOURCE, target_prompt(ATTRIBUTES[name]))
        ]
        scores = [(bench.clip.pictures(bench.backbone.decode(walk.final)) @ text.T).mean() for walk in walks]
        return {"rise": (scores[1] - scores[0]).double().reshape(1)}

    about = {**bench.identity, "rise of": name, "source": SOURCE, "seeds": seeds}
    rise = float(results.remember(f"{bench.backbone.name}-comparison", about, make)["rise"])
    return rise if abs(rise) > 1e-6 else 1e-6


@torch.no_grad()
def _features(bench: Bench, pictures: Tensor) -> Tensor:
    """The reader's features, or mini-clip's where no reader knows the pictures, float16 on the CPU: (n, d)."""
    features = bench.clip.pictures(pictures) if bench.judge is None else bench.judge.features(pictures)
    return features.half().cpu()
