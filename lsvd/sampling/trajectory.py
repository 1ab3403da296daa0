"""Run a sampler and keep every x_t; take it up again at any t, with the same code or another.

What is exact: a kept x_t taken up unchanged, by the same batch, ends in the same picture bit for bit, with every
scheduler, at any eta. Initial noise and the noise of each step are bit for bit the same alone or in a batch. What is
not: batched convolutions and matrix products may round otherwise than single ones, so a picture drawn alone agrees with
the same picture in a batch to rounding only.
"""

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lsvd.backbones.models import Backbone
from lsvd.backbones.schedulers import accepts, remembers, starting_at
from lsvd.checks import check_seeds, mix


@dataclass(frozen=True)
class Settings:
    """Everything that determines a trajectory, weights and given start codes aside. One prompt and seed per picture.

    config: the scheduler's configuration, as `config_text` writes it.
    """

    backbone: str
    scheduler: str
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    guidance: float | None
    eta: float
    config: str = field(default="{}", repr=False)

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        prompts: str | Sequence[str] | None,
        seeds: int | Sequence[int],
        steps: int | None,
        guidance: float | None,
        eta: float,
    ) -> "Settings":
        """The settings of `run` with these arguments. Raises ValueError for bad ones."""
        seeds = check_seeds(seeds)
        return cls(
            backbone=backbone.name,
            scheduler=type(backbone.scheduler).__name__,
            prompts=_prompts(backbone, prompts, len(seeds)),
            seeds=seeds,
            steps=_steps(backbone, steps),
            guidance=_guidance(backbone, guidance),
            eta=_eta(backbone, eta),
            config=config_text(backbone.scheduler.config),
        )


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Codes of B pictures along the n steps of a schedule.

    timesteps: shape (n,), descending, as the scheduler gives them. codes: shape (n + 1, B, C, H, W); codes[i] is x at
    the start of step i, which is x_t for t = timesteps[i], and codes[-1] is x_0, to be decoded. Of a trajectory that
    was stopped before, there is no x_0: shape (n, B, C, H, W). T is the number of timesteps of training.
    """

    settings: Settings
    timesteps: Tensor
    codes: Tensor
    T: int

    @property
    def final(self) -> Tensor:
        """The codes at the end, x_0, shape (B, C, H, W). Raises ValueError if it was stopped before."""
        if len(self.codes) == len(self.timesteps):
            raise ValueError(
                f"the trajectory was stopped at timestep {self.timesteps[-1]:g}: draw it whole (whole=True in edits)"
            )
        return self.codes[-1]

    def rows(self, rows: slice) -> "Trajectory":
        """Some of its pictures, sharing memory with the whole."""
        settings = replace(self.settings, prompts=self.settings.prompts[rows], seeds=self.settings.seeds[rows])
        return replace(self, settings=settings, codes=self.codes[:, rows])

    def index(self, t: float | Tensor) -> int:
        """The step that starts at timestep t. Raises ValueError if t is not on the schedule."""
        return step_of(self.timesteps, t)

    def at(self, t: float | Tensor) -> Tensor:
        """x_t, shape (B, C, H, W). Raises ValueError if t is not on the schedule."""
        return self.codes[self.index(t)]

    def nearest(self, fraction: float) -> int | float:
        """The timestep of the schedule nearest to fraction * T. Raises ValueError unless 0 <= fraction <= 1."""
        return nearest(self.timesteps, self.T, fraction)


def config_text(config: Mapping[str, Any]) -> str:
    """A configuration as JSON, without the libraries' private notes: where it was read from, by which version.

    Entries that another class left there count too: some schedulers read sigma_min though they do not list it.
    """
    public = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in config.items() if not k.startswith("_")}
    return json.dumps(public, sort_keys=True, default=str)


def nearest(timesteps: Tensor, T: int, fraction: float) -> int | float:
    """The timestep of a schedule nearest to fraction * T. Raises ValueError unless 0 <= fraction <= 1."""
    if not 0 <= fraction <= 1:
        raise ValueError(f"{fraction} of T is no timestep: give a fraction from 0 to 1")
    return timesteps[(timesteps - fraction * T).abs().argmin()].item()


def step_of(timesteps: Tensor, t: float | Tensor) -> int:
    """The first step of a schedule, shape (n,), that starts at t. Raises ValueError naming the nearest if none does."""
    t = float(t)
    hits = (timesteps == t).nonzero()
    if len(hits):
        return int(hits[0])
    if t != t:
        raise ValueError(f"NaN is no timestep: choose one of {_brief(timesteps)}")
    near = timesteps[(timesteps - t).abs().argmin()].item()
    raise ValueError(f"timestep {t:g} is not on the schedule {_brief(timesteps)}: the nearest that is, is {near:g}")


def _brief(timesteps: Tensor) -> str:
    values = [f"{t:g}" for t in timesteps.tolist()]
    return ", ".join(values if len(values) < 8 else [*values[:3], "...", *values[-2:]])


def run(
    backbone: Backbone,
    prompts: str | Sequence[str] | None = None,
    seeds: int | Sequence[int] = 0,
    steps: int | None = None,
    guidance: float | None = None,
    eta: float = 0.0,
    *,
    codes: Tensor | None = None,
    until: float | Tensor | None = None,
    progress: bool = False,
) -> Trajectory:
    """Draw a batch of pictures and keep every code on the way, on the backbone's device.

    prompts: one for all or one per seed; None for unconditional models. steps, guidance: the backbone's defaults if
    None. eta: 0 for the deterministic DDIM, 1 for as much noise as DDPM (DDIM schedulers only). codes: x_T to start
    from, shape (B, C, H, W), instead of the seeds' noise. until: the timestep to stop at, whose code is the last that
    is kept; None for the end. Draw `backbone.decode(trajectory.final)`.

    With eta = 0 the result is that of the plain diffusers pipeline with one generator per picture, bit for bit. Noise
    added on the way comes from a generator seeded by (seed, step), so that it is the same when taken up again; the
    plain pipeline goes on with its first generator instead. Raises ValueError for bad arguments.
    """
    settings = Settings.of(backbone, prompts, seeds, steps, guidance, eta)
    return draw(backbone, settings, codes=codes, until=until, progress=progress)


def draw(
    backbone: Backbone,
    settings: Settings,
    *,
    codes: Tensor | None = None,
    until: float | Tensor | None = None,
    progress: bool = False,
) -> Trajectory:
    """As `run`, from settings that were checked when they were made. Raises ValueError for bad codes or timesteps."""
    timesteps, sigma = backbone.schedule(settings.steps)
    n = len(settings.seeds)
    x = backbone.noise(settings.seeds) * sigma if codes is None else backbone.check_codes(codes, n)
    return _walk(backbone, settings, timesteps, 0, _end(timesteps, 0, until), x, None, progress)


def resume(
    backbone: Backbone,
    source: Trajectory | Settings,
    t: float | Tensor,
    code: Tensor | None = None,
    prompts: str | Sequence[str] | None = None,
    *,
    until: float | Tensor | None = None,
    progress: bool = False,
) -> Trajectory:
    """Take a trajectory up again at timestep t with the code given, or with its own x_t; returns its part from t on.

    code: shape (B, C, H, W). prompts: those of the source if None. until: as for `run`. Only the steps from t on are
    paid for, except with a scheduler that remembers earlier steps (multistep solvers): there the source is replayed
    from its start, its kept codes put in at each step, which takes the source's trajectory from its very beginning.
    With `prompts` given, it is replayed under these. From Settings alone (no trajectory), code is required.

    Raises ValueError if t is not on the schedule, if `until` is not from t on, if codes have another shape or are not
    finite, or if the source was made with another backbone, scheduler or configuration of the scheduler.
    """
    whole = isinstance(source, Trajectory)
    settings = source.settings if whole else source
    _check_made_with(backbone, settings)
    if prompts is not None:
        settings = Settings.of(backbone, prompts, settings.seeds, settings.steps, settings.guidance, settings.eta)
    timesteps, _ = backbone.schedule(settings.steps)
    first = step_of(timesteps, t)
    if code is None:
        if not whole:
            raise ValueError("settings hold no codes: give the code to go on with")
        code = source.at(t)
    code = backbone.check_codes(code, len(settings.seeds))
    replay = None
    if first and remembers(backbone.prepared(settings.steps)):
        if not whole or source.timesteps[0] != timesteps[0] or len(source.codes) < first:
            raise ValueError(f"{settings.scheduler} remembers earlier steps: resume from the whole trajectory")
        replay = source.codes[:first]
    return _walk(backbone, settings, timesteps, first, _end(timesteps, first, until), code, replay, progress)


def branch(
    backbone: Backbone,
    source: Trajectory,
    t: float | Tensor,
    prompts: str | Sequence[str],
    *,
    until: float | Tensor | None = None,
    progress: bool = False,
) -> Trajectory:
    """The source trajectory with other prompts from timestep t on, from x_T to x_0, or to timestep `until`.

    Down to t the codes are the source's, though the settings name the other prompts; so `resume` takes it up at t and
    later timesteps only. Raises ValueError as `resume`, and for a source that does not begin with x_T.
    """
    if source.timesteps[0] != backbone.schedule(source.settings.steps)[0][0]:
        raise ValueError("only a part of the source trajectory is there: branch off the whole one")
    later = resume(backbone, source, t, prompts=prompts, until=until, progress=progress)
    return joined(source, later)


def joined(head: Trajectory, later: Trajectory) -> Trajectory:
    """A trajectory down to the timestep that another begins with, and from there on the other, with its settings.

    Raises ValueError if the first does not get that far.
    """
    first = head.index(later.timesteps[0])
    timesteps = torch.cat([head.timesteps[:first], later.timesteps])
    return replace(later, timesteps=timesteps, codes=torch.cat([head.codes[:first], later.codes]))


def _check_made_with(backbone: Backbone, settings: Settings) -> None:
    """Raise ValueError, naming what differs, unless the settings are of this backbone with this scheduler."""
    scheduler = type(backbone.scheduler).__name__
    then, now = json.loads(settings.config), json.loads(config_text(backbone.scheduler.config))
    differing = [name for name in sorted({*then, *now}) if then.get(name, ...) != now.get(name, ...)]
    if settings.backbone != backbone.name:
        made, mine = settings.backbone, backbone.name
    elif settings.scheduler != scheduler:
        made, mine = settings.scheduler, scheduler
    elif differing:
        made, mine = (
            f"{scheduler}({', '.join(f'{name}={reprlib.repr(config[name])}' for name in differing if name in config)})"
            for config in (then, now)
        )
    else:
        return
    raise ValueError(f"the trajectory was made with {made}, not {mine}: resume it with the same")


def _end(timesteps: Tensor, first: int, until: float | Tensor | None) -> int:
    """The step to stop before: the one that starts at `until`, or one more than there are. Raises ValueError."""
    if until is None:
        return len(timesteps)
    end = step_of(timesteps, until)
    if end < first:
        raise ValueError(f"timestep {float(until):g} comes before {timesteps[first]:g}: stop at a later one")
    return end


def _walk(
    backbone: Backbone,
    settings: Settings,
    timesteps: Tensor,
    first: int,
    end: int,
    code: Tensor,
    replay: Tensor | None,
    progress: bool,
) -> Trajectory:
    """Denoise from step `first` to the start of step `end`. With `replay`, the codes of steps 0..first-1, from the
    start, those put in."""
    # copies, laid out as a fresh tensor is: how a convolution rounds depends on strides and alignment too
    code = code.clone(memory_format=torch.contiguous_format)
    codes = code.new_empty(end - first + 1, *code.shape)
    codes[0] = code
    part = timesteps[first : end + 1]
    if end == first:
        return Trajectory(settings, part, codes, backbone.T)
    begin = first if replay is None else 0
    generators = [torch.Generator() for _ in settings.seeds]
    _reseed(generators, settings.seeds, begin)

    with tqdm(total=end - begin, disable=not progress, desc=settings.backbone, leave=False) as bar:

        def on_step(step: int, t: Tensor, x: Tensor) -> Tensor:
            after = begin + step + 1  # the step that x is the start of
            if after < first:
                x = replay[after].clone()
            elif after == first:
                x = code
            else:
                codes[after - first] = x
            _reseed(generators, settings.seeds, after)
            bar.update()
            return x

        backbone.denoise(
            code if replay is None else replay[0].clone(),
            starting_at(backbone.scheduler, begin, end),
            settings.steps,
            settings.prompts,
            settings.guidance,
            settings.eta,
            generators,
            on_step,
        )
    return Trajectory(settings, part, codes, backbone.T)


def _reseed(generators: list[torch.Generator], seeds: tuple[int, ...], step: int) -> None:
    """Seed each picture's generator for the noise of one step, by (seed, step) alone."""
    for generator, seed in zip(generators, seeds, strict=True):
        generator.manual_seed(mix(seed, step))


def sample(
    backbone: Backbone,
    prompts: str | Sequence[str] | None = None,
    seeds: int | Sequence[int] = 0,
    steps: int | None = None,
    guidance: float | None = None,
    eta: float = 0.0,
    *,
    batch: int = 32,
    progress: bool = False,
) -> Tensor:
    """Draw many pictures, `batch` at a time, without their trajectories: shape (B, 3, height, width) in [0, 1], on CPU.

    Arguments as for `run`.
    """
    whole = Settings.of(backbone, prompts, seeds, steps, guidance, eta)
    pictures = []
    for start in tqdm(range(0, len(whole.seeds), batch), disable=not progress, desc=backbone.name, leave=False):
        part = slice(start, start + batch)
        own = whole.prompts[part] if backbone.kind == "text-to-image" else None
        pictures.append(backbone.decode(run(backbone, own, whole.seeds[part], steps, guidance, eta).final).cpu())
    return torch.cat(pictures)


def _prompts(backbone: Backbone, prompts: str | Sequence[str] | None, count: int) -> tuple[str, ...]:
    if backbone.kind == "unconditional":
        if prompts is not None:
            raise ValueError(f"{backbone.name} is unconditional and takes no prompts: leave them out")
        return ("",) * count
    if prompts is None:
        raise ValueError(f'{backbone.name} takes prompts: give one, or one per seed ("" for none)')
    prompts = (prompts,) * count if isinstance(prompts, str) else tuple(prompts)
    if any(not isinstance(prompt, str) for prompt in prompts):
        raise ValueError("prompts are text: give a string, or one per seed")
    if len(prompts) != count:
        raise ValueError(f"{len(prompts)} prompts for {count} seeds: give one for all, or one per seed")
    backbone.check_prompts(prompts)
    return prompts


def _steps(backbone: Backbone, steps: int | None) -> int:
    steps = backbone.entry.steps if steps is None else steps
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= backbone.T:
        raise ValueError(f"cannot take {steps} steps: choose a whole number from 1 to {backbone.T}")
    return steps


def _guidance(backbone: Backbone, guidance: float | None) -> float | None:
    if backbone.kind == "unconditional":
        if guidance is not None:
            raise ValueError(f"{backbone.name} is unconditional and takes no guidance: leave it out")
        return None
    guidance = backbone.entry.guidance if guidance is None else guidance
    if not 0 <= guidance < float("inf"):
        none = format(backbone.family.off, "g")
        raise ValueError(f"guidance {guidance} makes no sense: choose {none} for none, or a number above")
    return float(guidance)


def _eta(backbone: Backbone, eta: float) -> float:
    if not 0 <= eta <= 1:
        raise ValueError(f"eta {eta} makes no sense: choose from 0 (deterministic) to 1 (as noisy as DDPM)")
    if eta and not accepts(backbone.scheduler.step, "eta"):
        raise ValueError(f"{type(backbone.scheduler).__name__} takes no eta: leave it at 0, or use DDIMScheduler")
    return float(eta)
