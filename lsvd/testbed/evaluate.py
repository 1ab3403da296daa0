"""Measure readers and generators: python -m lsvd evaluate [NAME ...].

Renderings and seeds are those that no training used. Prompts are drawn afresh, from the grammar of the captions of
training, so that a short one may have been a caption there.

outputs/tables/reader.csv gets each reader's score for each factor. outputs/tables/backbones.csv gets, for each
generator, the Fréchet distance of its samples from renderings, in the reader's features and in mini-clip's; for mini-sd
also how often the reader agrees with the prompt, and the autoencoder's fidelity; for mini-clip how often it picks the
right one of the captions that name one attribute. outputs/figures/samples_NAME.webp shows seeds 0 to 63. Samples are
kept in build/cache: a stopped run goes on. Rows of what is not measured stay as they are.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lsvd import backbones, paths
from lsvd.backbones import clip as clips
from lsvd.backbones.clip import Clip
from lsvd.backbones.models import Backbone
from lsvd.checks import known, whole
from lsvd.paths import build, outputs
from lsvd.sampling import trajectory
from lsvd.statistics import intervals
from lsvd.statistics.fidelity import bootstrap, floor, psnr
from lsvd.storage.files import is_temporary, update_csv, write_bytes, write_csv
from lsvd.storage.pictures import encoded
from lsvd.testbed import reader as readers
from lsvd.testbed import renderings
from lsvd.testbed.reader import Reader
from lsvd.testbed.scenes import SCENES, captions
from lsvd.testbed.scenes.scene import Scene, Values

READERS = {f"reader-{name}": name for name in SCENES}
# The scene of each generator, and what its pictures have in common: prompts ask for photos, as mini-portraits learned.
GENERATORS = {
    "mini-sd": ("portraits", {"style": "photo"}),
    "mini-portraits": ("portraits", {"style": "photo"}),
    "mini-cats": ("cats", {}),
    "mini-churches": ("churches", {}),
}
KNOWN = (*READERS, *GENERATORS, clips.NAME)
PROMPTED = ("gender", "age", "glasses", "smile", "hair_colour", "background")
HELD_OUT, PROMPT_SEED, FAULT_SEED = 2, 3, 4
RENDERINGS, ZERO_SHOT, RECONSTRUCTIONS, SHEET = 4000, 1000, 500, 64
FEWEST = 130  # samples: two more than mini-clip has features, or no covariance can be fitted
CLIP_LENGTH = 100  # of mini-clip's vectors in Fréchet distances: those of unit vectors begin with zeros
CHUNK = 32  # pictures in one file of the cache: a stopped run loses no more
Row = dict[str, str]
log = logging.getLogger(__name__)


def score_reader(reader: Reader, pictures: renderings.Pictures) -> list[Row]:
    """Accuracy or R² (1 - squared error / variance) of each factor over the renderings in which it is visible.

    `score` is on the renderings as they are, `degraded` on the same with the faults of a generator (reader.degrade,
    which leaves one in four as it is).
    """
    scene, values = reader.scene, pictures.values
    visible = scene.visible(values)
    readings = {"score": _read(reader, pictures), "degraded": _read(reader, pictures, degraded=True)}
    rows = []
    for f in scene.factors:
        row, truth = {"scene": scene.name, "factor": f.name, "scale": f.scale, "kind": f.kind}, values[f.name].double()
        for column, read in readings.items():
            score = _score(truth[visible[f.name]], read[f.name][visible[f.name]].double(), exact=bool(f.levels))
            row[column] = f"{score:.4f}"
        rows.append(row)
    return rows


def _score(truth: Tensor, guess: Tensor, exact: bool) -> float:
    if exact:
        return (guess == truth).double().mean().item()
    return 1 - ((guess - truth).square().mean() / truth.var(correction=0)).item()


def distance(look: Reader | Clip, samples: renderings.Chunks, references: renderings.Pictures) -> Row:
    """Fréchet distance of n samples from the first n of 2n renderings, its interval, and the floor at this n.

    It is taken in the features of a reader, or in mini-clip's vectors, of length 100.
    """
    reference = _features(look, references)
    d = bootstrap(_features(look, samples), reference[: len(samples)])
    name = "frechet distance, mini-clip" if isinstance(look, Clip) else "frechet distance"
    return _row(name, d.value, d.low, d.high, len(samples), floor(reference))


def agreement(read: Values, asked: Mapping[str, Tensor]) -> list[Row]:
    """For each factor of PROMPTED, the share of pictures read as asked, among those whose prompt mentions it.

    `read` and `asked` hold level indices, shape (n,); -1 in `asked` stands for not mentioned. Exact intervals of 95%.
    """
    rows = []
    for name in PROMPTED:
        asks = asked[name] >= 0
        n, right = int(asks.sum()), int((read[name] == asked[name])[asks].sum())
        if n:
            agreed = intervals.share(right, n)
            rows.append(_row(f"prompt agreement: {name}", agreed.value, agreed.low, agreed.high, n))
        else:
            log.warning("no prompt mentions %s: take more samples", name)
    return rows


def fidelity(backbone: Backbone, pictures: renderings.Pictures) -> Row:
    """Mean PSNR in dB of pictures coded and decoded; interval of 95%."""
    parts = []
    for rows in _batches(len(pictures)):
        original = pictures[rows]
        parts.append(psnr(backbone.decode(backbone.encode(original)).cpu(), original))
    decibels = intervals.mean(torch.cat(parts))
    return _row("autoencoder PSNR (dB)", decibels.value, decibels.low, decibels.high, len(pictures))


def zero_shot(clip: Clip, pictures: renderings.Pictures, scene: Scene) -> list[Row]:
    """For each factor of PROMPTED, how often the caption nearest to a picture, of those naming one level, is right.

    Classification without training (Radford et al. 2021, arXiv 2103.00020), exact intervals; the floor is the share
    of the commonest level.
    """
    seen = torch.cat([clip.pictures(pictures[rows]) for rows in _batches(len(pictures))])
    rows = []
    for name in PROMPTED:
        labels = clip.texts([captions.describe({name: level}) for level in scene.factor(name).levels])
        nearest, truth = (seen @ labels.T).argmax(-1).cpu(), pictures.values[name]
        right = intervals.share(int((nearest == truth).sum()), len(truth))
        common = truth.bincount().max().item() / len(truth)
        rows.append(_row(f"zero-shot: {name}", right.value, right.low, right.high, len(truth), common))
    return rows


def prompts(n: int) -> tuple[list[str], dict[str, Tensor]]:
    """The first n prompts of the evaluation, and what they ask for (see captions.prompts); they do not depend on n."""
    parts = [captions.prompts(CHUNK, renderings.generator(PROMPT_SEED, i)) for i in range(-(-n // CHUNK))]
    texts = [text for part, _ in parts for text in part]
    return texts[:n], {name: torch.cat([asked[name] for _, asked in parts])[:n] for name in parts[0][1]}


def samples(backbone: Backbone, n: int, texts: Sequence[str] | None, home: Path) -> renderings.Chunks:
    """Pictures of seeds 0 to n - 1 with the backbone's defaults, uint8, kept in `home` as they are finished.

    `texts`: n prompts, or None for an unconditional model. Raises what lsvd.sampling.trajectory.run raises.
    """

    def draw(number: int) -> np.ndarray:
        part = slice(number * CHUNK, min(n, (number + 1) * CHUNK))
        seeds = range(part.start, part.stop)
        pixels = trajectory.sample(backbone, None if texts is None else texts[part], seeds, batch=CHUNK)
        return (pixels * 255).round().to(torch.uint8).numpy()

    files = renderings.fill(home, -(-n // CHUNK), draw, f"sampling {backbone.name}", progress=True)
    return renderings.Chunks(files, CHUNK, n)


def digest(folder: Path, *settings) -> str:
    """Twelve hex digits of all files in a folder and of settings: the name under which samples are kept."""
    seen = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and not is_temporary(p)):
        seen.update(str(file.relative_to(folder)).encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return seen.hexdigest()[:12]


def sheet(pictures: Tensor, columns: int = 8, gap: int = 2) -> Image.Image:
    """A picture of pictures, shape (n, 3, H, W), uint8, row by row; those under 100 pixels are doubled in size.

    Pixel for pixel, to look at grain: a figure (lsvd.figures.sheets.sheet) would resample them.
    """
    n, _, height, width = pictures.shape
    zoom = 2 if height < 100 else 1
    step_y, step_x = height * zoom + gap, width * zoom + gap
    whole = Image.new("RGB", (columns * step_x - gap, -(-n // columns) * step_y - gap), "white")
    for i, picture in enumerate(pictures.permute(0, 2, 3, 1).numpy()):
        image = Image.fromarray(picture).resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
        whole.paste(image, (i % columns * step_x, i // columns * step_y))
    return whole


def measure_reader(scene: str, device="cpu") -> None:
    """Score a scene's reader on held-out renderings, clean and degraded, and put the rows into reader.csv."""
    reader = readers.load(scene, device)
    pictures = _renderings(scene, RENDERINGS, reader.size, {}, device)
    rows = score_reader(reader, pictures)
    for r in rows:
        log.info("reader of %s: %s %s, degraded %s", scene, r["factor"], r["score"], r["degraded"])
    update_csv(outputs("tables", "reader.csv"), rows, ["scene"], SCENES)


def measure_generator(name: str, n: int, device="cpu") -> None:
    """Measure a generator by n samples; write its rows of backbones.csv and its sheet of samples."""
    scene, fixed = GENERATORS[name]
    backbone, reader, clip = backbones.load(name, device), readers.load(scene, device), clips.load(device=device)
    entry = backbone.entry
    prompted = backbone.kind == "text-to-image"
    texts, asked = prompts(n) if prompted else (None, {})
    key = digest(paths.WEIGHTS / entry.folder, CHUNK, entry.steps, entry.guidance, PROMPT_SEED, (texts or [])[:CHUNK])
    # A last file that is not full belongs to its n alone.
    output = samples(backbone, n, texts, build("cache", "evaluate", name, key if n % CHUNK == 0 else f"{key}-{n}"))
    first = torch.arange(SHEET)
    write_bytes(outputs("figures", f"samples_{name}.webp"), encoded(sheet(output[first]), "webp"))
    rows = []
    if prompted:
        lines = [{"seed": seed, "prompt": text} for seed, text in enumerate(texts[:SHEET])]
        write_csv(outputs("tables", f"samples_{name}.csv"), lines)
        rows += agreement(_read(reader, output), asked)
        rows.append(fidelity(backbone, _renderings(scene, RECONSTRUCTIONS, entry.size, {}, device)))
    pictures = _renderings(scene, 2 * n, entry.size, fixed, device)
    rows += [distance(look, output, pictures) for look in (reader, clip)]
    _keep(name, rows)


def measure_clip(device="cpu") -> None:
    """Put the rows of mini-clip into backbones.csv."""
    scene, fixed = GENERATORS["mini-sd"]
    clip = clips.load(device=device)
    pictures = _renderings(scene, ZERO_SHOT, clip.model.config.vision_config.image_size, fixed, device)
    _keep(clips.NAME, zero_shot(clip, pictures, SCENES[scene]))


def measure(names: Sequence[str] = (), n: int = 2000, device="cpu") -> list[str]:
    """Measure what is named of KNOWN, generators by n samples; all if nothing is named. Returns what was left out.

    Left out is, with no names given, what has no weights. Raises ValueError for an unknown name or too few samples.
    """
    whole(n, "the number of samples", FEWEST)
    missing = []
    for name in [known(name, KNOWN, "reader or generator") for name in names] or KNOWN:
        try:
            if name in READERS:
                measure_reader(READERS[name], device)
            elif name == clips.NAME:
                measure_clip(device)
            else:
                measure_generator(name, n, device)
        except FileNotFoundError as error:
            if names:
                error.add_note(name)
                raise
            log.warning("%s is left out: %s", name, error)
            missing.append(name)
        except (ValueError, OSError) as error:
            error.add_note(name)
            raise
    return missing


def _keep(name: str, rows: Iterable[Row]) -> None:
    """Put a model's rows into backbones.csv."""
    for r in rows:
        log.info("%s: %s %s", name, r["measure"], r["value"])
    rows = [{"backbone": name, **r} for r in rows]
    update_csv(outputs("tables", "backbones.csv"), rows, ["backbone"], (*GENERATORS, clips.NAME))


def reference_features(reader: Reader, n: int, size: int, fixed: Mapping[str, str]) -> np.ndarray:
    """The reader's features of n held-out renderings of its scene, (n, d). fixed: factors with one level for all."""
    return _features(reader, _renderings(reader.scene.name, n, size, fixed, progress=False))


def _renderings(
    scene: str, n: int, size: int, fixed: Mapping[str, str], device="cpu", progress: bool = True
) -> renderings.Pictures:
    home = build("cache", "renderings")
    return renderings.pictures(SCENES[scene], n, size, HELD_OUT, home, fixed, device=device, progress=progress)


def _batches(n: int, size: int = 100) -> Iterable[Tensor]:
    return torch.arange(n).split(size)


def _floats(pictures: Tensor) -> Tensor:
    return pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures


@torch.no_grad()
def _features(look: Reader | Clip, pictures: renderings.Chunks) -> np.ndarray:
    def seen(part: Tensor) -> Tensor:
        if isinstance(look, Clip):
            return CLIP_LENGTH * look.pictures(part)
        return look.features(part.to(next(look.parameters()).device))

    parts = [seen(_floats(pictures[rows])).cpu() for rows in _batches(len(pictures))]
    return torch.cat(parts).double().numpy()


def _read(reader: Reader, pictures: renderings.Chunks, *, degraded: bool = False) -> Values:
    device, parts = next(reader.parameters()).device, []
    for number, rows in enumerate(_batches(len(pictures))):
        shown = _floats(pictures[rows])
        if degraded:
            shown = readers.degrade(shown, renderings.generator(FAULT_SEED, number))
        parts.append(reader.read(shown.to(device)).values)
    return {name: torch.cat([p[name] for p in parts]).cpu() for name in parts[0]}


def _row(measure: str, value: float, low: float, high: float, n: int, floor: float | None = None) -> Row:
    """One row of backbones.csv, without the backbone's name; n is the number of pictures that count."""
    numbers = {"value": value, "low": low, "high": high, "floor": floor}
    return {"measure": measure, **{k: "" if x is None else f"{x:.4f}" for k, x in numbers.items()}, "n": str(n)}
