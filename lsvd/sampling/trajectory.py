"""Run a sampler and keep every x_t; take it up again at any t, with the same code or another.

What is exact: a kept x_t taken up unchanged, by the same batch, ends in the same picture bit for bit, with every
scheduler, at any eta. Initial noise and the noise of each step are bit for bit the same alone or in a batch. What is
not: batched convolutions and matrix products may round otherwise than single ones, so a picture drawn alone agrees with
the same picture in a batch to rounding only.
"""

import json
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from lsvd.backbones import calls
from lsvd.backbones.configs import described, scheduler_text
from lsvd.backbones.models import Backbone
from lsvd.backbones.schedulers import Schedule, accepts, check_takes_codes, remembers, starting_at
from lsvd.checks import check_kind, check_seeds, check_text, mix, number, shown
from lsvd.progress import bar
from lsvd.sampling.identity import weights
from lsvd.sampling.memory import MAX_MEMORY, Limit


@dataclass(frozen=True, eq=False)
class Settings:
    """A request: everything that determines a trajectory, given start codes aside. One prompt and seed per picture.

    Equal to another of the same values, tensors among them compared whole.

    config: the scheduler's configuration, as lsvd.backbones.configs.scheduler_text has it. model: a digest of what the
    model computes with, by lsvd.sampling.identity.weights; "" where it is not known. call_kwargs: what else the
    pipeline is called with, by name, with an entry for each picture where it is a prompt's.
    """

    backbone: str
    scheduler: str
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    guidance: float | None
    eta: float
    config: str = field(default="{}", repr=False)
    model: str = field(default="", repr=False)
    call_kwargs: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        prompts: str | Sequence[str] | None,
        seeds: int | Sequence[int] = 0,
        steps: int | None = None,
        guidance: float | None = None,
        eta: float = 0.0,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        **call_kwargs: Any,
    ) -> "Settings":
        """The request of `run` with these arguments. Raises ValueError for bad ones."""
        seeds = check_seeds(seeds)
        if negative_prompt is not None:
            call_kwargs["negative_prompt"] = negative_prompt
        return cls(
            backbone=backbone.name,
            scheduler=type(backbone.scheduler).__name__,
            prompts=_prompts(backbone, prompts, len(seeds)),
            seeds=seeds,
            steps=_steps(backbone, steps),
            guidance=_guidance(backbone, guidance),
            eta=_eta(backbone, eta),
            config=scheduler_text(backbone.scheduler),
            model=weights(backbone),
            call_kwargs=backbone.check_call(call_kwargs, len(seeds)) if call_kwargs else (),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def _values(self) -> tuple:
        """All fields as they are compared: the call's arguments as text, since tensors have no one truth value."""
        calls = json.dumps(described(self.call_kwargs), sort_keys=True)
        return tuple((vars(self) | {"call_kwargs": calls}).values())

    def with_prompts(self, backbone: Backbone, prompts: str | Sequence[str]) -> "Settings":
        """The same request for other prompts, one for all or one each. Raises ValueError for bad ones."""
        return replace(self, prompts=_prompts(backbone, prompts, len(self.seeds)))

    def rows(self, rows: slice | Sequence[int]) -> "Settings":
        """The request for some of its pictures."""

        def some(values: tuple) -> tuple:
            return values[rows] if isinstance(rows, slice) else tuple(values[row] for row in rows)

        kept = calls.rows(self.call_kwargs, rows)
        return replace(self, prompts=some(self.prompts), seeds=some(self.seeds), call_kwargs=kept)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Codes of B pictures along the n steps of a schedule.

    codes: shape (n + 1, B, C, H, W); codes[i] is x at the start of step i, which is x_t for t = timesteps[i], and
    codes[-1] is x_0, to be decoded. A trajectory stopped early has no x_0: its codes have shape (n, B, C, H, W).
    restarts: the steps at which the solver began without a memory of earlier ones.
    """

    settings: Settings
    schedule: Schedule
    codes: Tensor
    restarts: tuple[int, ...] = (0,)

    @property
    def timesteps(self) -> Tensor:
        """The timesteps, shape (n,), the noisiest first."""
        return self.schedule.timesteps

    @property
    def T(self) -> int:
        """The number of timesteps of training."""
        return self.schedule.T

    @property
    def final(self) -> Tensor:
        """The codes at the end, x_0, shape (B, C, H, W). Raises ValueError for a trajectory that was stopped early."""
        if len(self.codes) == len(self.timesteps):
            raise ValueError(
                f"the trajectory was stopped at timestep {self.timesteps[-1]:g}: draw it whole (whole=True in edits)"
            )
        return self.codes[-1]

    def rows(self, rows: slice | Sequence[int]) -> "Trajectory":
        """Some of its pictures, sharing memory with the whole for a slice."""
        return replace(self, settings=self.settings.rows(rows), codes=self.codes[:, rows])

    def index(self, t: float | Tensor) -> int:
        """The step that begins at timestep t. Raises ValueError if no whole step does."""
        return self.schedule.step_of(t)

    def at(self, t: float | Tensor) -> Tensor:
        """x_t, shape (B, C, H, W). Raises ValueError if no whole step begins at t."""
        return self.codes[self.index(t)]

    def nearest(self, fraction: float) -> int | float:
        """The timestep nearest to fraction * T at which codes may be taken up. Raises as Schedule.nearest."""
        return self.schedule.nearest(fraction)


def run(
    backbone: Backbone,
    prompts: str | Sequence[str] | None = None,
    seeds: int | Sequence[int] = 0,
    steps: int | None = None,
    guidance: float | None = None,
    eta: float = 0.0,
    *,
    negative_prompt: str | Sequence[str] | None = None,
    codes: Tensor | None = None,
    until: float | Tensor | None = None,
    max_memory: float = MAX_MEMORY,
    progress: bool = False,
    **call_kwargs: Any,
) -> Trajectory:
    """Draw a batch of pictures and keep every code on the way, on the backbone's device.

    prompts: one for all or one per seed; None for unconditional models. steps, guidance: the backbone's defaults if
    None. eta: 0 for the deterministic DDIM, 1 for as much noise as DDPM (DDIM schedulers only). negative_prompt: as
    prompts. codes: x_T to start from, shape (B, C, H, W), instead of the seeds' noise. until: the timestep to stop at,
    whose code is the last that is kept; None for the end. max_memory: GB that codes and computing may take together;
    more pictures than fit are drawn in chunks (lsvd.sampling.memory). call_kwargs: what else the pipeline's own call
    takes, such as guidance_rescale or clip_skip. Draw `backbone.decode(trajectory.final)`.

    With eta = 0 the result is that of the plain diffusers pipeline with one generator per picture, bit for bit. Noise
    added on the way comes from a generator seeded by (seed, step), so that it is the same when taken up again; the
    plain pipeline goes on with its first generator instead. Raises ValueError for bad arguments, and where the codes
    themselves take more than half of max_memory.
    """
    settings = Settings.of(
        backbone, prompts, seeds, steps, guidance, eta, negative_prompt=negative_prompt, **call_kwargs
    )
    return draw(backbone, settings, codes=codes, until=until, max_memory=max_memory, progress=progress)


def draw(
    backbone: Backbone,
    settings: Settings,
    *,
    codes: Tensor | None = None,
    until: float | Tensor | None = None,
    max_memory: float = MAX_MEMORY,
    progress: bool = False,
) -> Trajectory:
    """As `run`, from settings that were checked when they were made. Raises ValueError for bad codes or timesteps."""
    schedule = backbone.schedule(settings.steps)
    n, end = len(settings.seeds), schedule.end(0, until)
    Limit.of(backbone, max_memory).check(n, end + 1)
    x = backbone.noise(settings.seeds) * schedule.sigma if codes is None else backbone.check_codes(codes, n)
    return _finite(denoise(backbone, settings, schedule, 0, end, x, max_memory=max_memory, progress=progress))


def resume(
    backbone: Backbone,
    source: Trajectory | Settings,
    t: float | Tensor,
    code: Tensor | None = None,
    prompts: str | Sequence[str] | None = None,
    *,
    until: float | Tensor | None = None,
    max_memory: float = MAX_MEMORY,
    progress: bool = False,
    by: Backbone | None = None,
) -> Trajectory:
    """Take a trajectory up again at timestep t with the code given, or with its own x_t; returns its part from t on.

    code: shape (B, C, H, W). prompts: those of the source if None. until: as for `run`. A code that is put in, or
    another prompt, is what goes on: a multistep solver begins there again without a memory of earlier steps. Only an
    x_t that is taken up unchanged, under the same prompts, goes on bit for bit as it did; with a multistep solver the
    source's kept codes are then replayed from where its memory began. From Settings alone (no trajectory), code is
    required. by: what denoises, the same model with guidance of its own (lsvd.guidance); the backbone itself if None.

    Raises ValueError if no whole step begins at t, if `until` is not from t on, if codes have another shape or are not
    finite, or if the source was made with another model, scheduler or configuration of the scheduler.
    """
    check_kind(source, (Trajectory, Settings), "a trajectory, or its settings")
    walk = source if isinstance(source, Trajectory) else None
    settings = source if walk is None else source.settings
    check_made_with(backbone, settings)
    schedule = backbone.schedule(settings.steps)
    first = schedule.step_of(t)
    if code is None:
        if walk is None:
            raise ValueError("settings hold no codes: give the code to go on with")
        code = walk.at(t)
    code = backbone.check_codes(code, len(settings.seeds))
    asked = settings if prompts is None else settings.with_prompts(backbone, prompts)
    kept = walk is not None and asked == settings and _is_kept(walk, schedule, first, code)
    if first and not kept:
        check_takes_codes(backbone.scheduler)
    replay = _replay(walk, schedule, first) if kept and remembers(backbone.prepared(settings.steps)) else None
    end = schedule.end(first, until)
    shared = {"max_memory": max_memory, "progress": progress}
    return _finite(denoise(by or backbone, asked, schedule, first, end, code, replay, **shared))


def _finite(walk: Trajectory) -> Trajectory:
    """The trajectory. Raises ValueError if it ends in NaN or infinity."""
    if walk.codes[-1].isfinite().all():
        return walk
    lower = "lower the guidance, or " if walk.settings.guidance else ""
    raise ValueError(
        f"{walk.settings.backbone} makes NaN or infinity of this request: {lower}load the model with "
        "dtype=torch.float32, or another copy of it"
    )


def _is_kept(walk: Trajectory, schedule: Schedule, step: int, code: Tensor) -> bool:
    """Whether a code is the one that a trajectory has at a step of the whole schedule."""
    here = step - schedule.step_of(walk.timesteps[0])
    return 0 <= here < len(walk.codes) and torch.equal(walk.codes[here].to(code), code)


def _replay(walk: Trajectory, schedule: Schedule, step: int) -> Tensor | None:
    """The kept codes from where the solver's memory of a step began up to it, (m, B, C, H, W); None if it begins there.

    Raises ValueError if the trajectory does not reach back far enough.
    """
    here = step - schedule.step_of(walk.timesteps[0])
    began = [restart for restart in walk.restarts if restart <= here]
    if not began:
        raise ValueError(f"{walk.settings.scheduler} remembers earlier steps: resume from the whole trajectory")
    return walk.codes[began[-1] : here] if began[-1] < here else None


def branch(
    backbone: Backbone,
    source: Trajectory,
    t: float | Tensor,
    prompts: str | Sequence[str],
    *,
    until: float | Tensor | None = None,
    max_memory: float = MAX_MEMORY,
    progress: bool = False,
) -> Trajectory:
    """The source trajectory with other prompts from timestep t on, from x_T to x_0, or to timestep `until`.

    Down to t the codes are the source's, though the settings name the other prompts; so `resume` takes it up at t and
    later timesteps only. Raises ValueError as `resume`, and for a source that does not begin with x_T.
    """
    if source.timesteps[0] != backbone.schedule(source.settings.steps).timesteps[0]:
        raise ValueError("only a part of the source trajectory is there: branch off the whole one")
    later = resume(backbone, source, t, prompts=prompts, until=until, max_memory=max_memory, progress=progress)
    return joined(source, later)


def joined(head: Trajectory, later: Trajectory) -> Trajectory:
    """A trajectory down to the timestep that another begins with, and from there on the other, with its settings.

    Raises ValueError if the first does not get that far.
    """
    first = head.index(later.timesteps[0])
    schedule = head.schedule.part(0, first).joined(later.schedule)
    restarts = [step for step in head.restarts if step < first] + [first + step for step in later.restarts]
    return replace(
        later, schedule=schedule, codes=torch.cat([head.codes[:first], later.codes]), restarts=tuple(restarts)
    )


def check_made_with(backbone: Backbone, settings: Settings) -> None:
    """Raise ValueError, naming what differs, unless the settings are of this model with this scheduler.

    A model is known by what it computes with. Settings that were kept without that know it by its name.
    """
    problem = model_differs(backbone, settings) or scheduler_differs(backbone.scheduler, settings)
    if problem:
        raise ValueError(f"the trajectory was made with {problem}: resume it with the same")


def model_differs(backbone: Backbone, settings: Settings) -> str:
    """What of a model is not the settings', "" if nothing."""
    if not settings.model and settings.backbone != backbone.name:
        return f"{settings.backbone}, not {backbone.name}"
    if settings.model and settings.model != weights(backbone):
        same = settings.backbone == backbone.name
        return f"other weights of {backbone.name}" if same else f"{settings.backbone}, not {backbone.name}"
    return ""


def scheduler_differs(scheduler: SchedulerMixin, settings: Settings, *, shared: bool = False) -> str:
    """What of a scheduler and its configuration is not the settings', "" if nothing.

    shared: compare only entries of the configuration that both list; another version of diffusers may list more.
    """
    name = type(scheduler).__name__
    then, now = json.loads(settings.config), json.loads(scheduler_text(scheduler))
    keys = then.keys() & now.keys() if shared else then.keys() | now.keys()
    differing = [key for key in sorted(keys) if then.get(key, ...) != now.get(key, ...)]
    if settings.scheduler != name:
        return f"{settings.scheduler}, not {name}"
    if not differing:
        return ""
    was, is_now = (
        f"{name}({', '.join(f'{key}={reprlib.repr(config[key])}' for key in differing if key in config)})"
        for config in (then, now)
    )
    return f"{was}, not {is_now}"


def denoise(
    backbone: Backbone,
    settings: Settings,
    schedule: Schedule,
    first: int,
    end: int,
    code: Tensor,
    replay: Tensor | None = None,
    *,
    max_memory: float = MAX_MEMORY,
    progress: bool = False,
) -> Trajectory:
    """Denoise from step `first` to the start of step `end`, in chunks of pictures that fit into memory.

    With `replay`, the codes of the steps before `first`, from the first of these on, those put in. Raises ValueError
    where the result takes more than half of max_memory.
    """
    limit, count = Limit.of(backbone, max_memory), len(code)
    limit.check(count, end - first + 1)
    codes = code.new_empty(end - first + 1, *code.shape)
    codes[0] = code
    part, restarts = schedule.part(first, end + 1), (0,) if replay is None else ()
    if end == first:
        return Trajectory(settings, part, codes, restarts)
    chunks = limit.chunks(count)
    steps = end - first + (0 if replay is None else len(replay))
    with bar(progress=progress, total=steps * len(chunks), desc=settings.backbone) as shown:
        for rows in chunks:
            own = settings if len(chunks) == 1 else settings.rows(rows)
            before = None if replay is None else replay[:, rows]
            _denoise(backbone, own, first, end, code[rows], before, codes[:, rows], shown.update)
    return Trajectory(settings, part, codes, restarts)


def _denoise(
    backbone: Backbone,
    settings: Settings,
    first: int,
    end: int,
    code: Tensor,
    replay: Tensor | None,
    codes: Tensor,
    update: Callable[[], Any],
) -> None:
    """As `denoise`, of one chunk, into codes[1:]."""
    # copies, laid out as a fresh tensor is: how a convolution rounds depends on strides and alignment too
    code = code.clone(memory_format=torch.contiguous_format)
    begin = first if replay is None else first - len(replay)
    generators = [torch.Generator() for _ in settings.seeds]
    _reseed(generators, settings.seeds, begin)

    def on_step(step: int, t: Tensor, x: Tensor) -> Tensor:
        after = begin + step + 1  # the step that x is the start of
        if x.shape != code.shape:
            shapes = f"{tuple(code.shape)} into {tuple(x.shape)}"
            raise ValueError(
                f"{settings.backbone} turns codes of {shapes}: see whether its config.json fits its weights"
            )
        if after < first:
            x = replay[after - begin].clone(memory_format=torch.contiguous_format)
        elif after == first:
            x = code
        else:
            codes[after - first] = x
        _reseed(generators, settings.seeds, after)
        update()
        return x

    start = code if replay is None else replay[0].clone(memory_format=torch.contiguous_format)
    scheduler = starting_at(backbone.scheduler, begin, end, generators)
    backbone.denoise(start, scheduler, settings, generators, on_step)


def _reseed(generators: list[torch.Generator], seeds: tuple[int, ...], step: int) -> None:
    """Seed each picture's generator for the noise of one step, by (seed, step) alone."""
    for generator, seed in zip(generators, seeds, strict=True):
        generator.manual_seed(mix(seed, step))


def sample(
    backbone: Backbone,
    prompts: str | Sequence[str] | None = None,
    seeds: int | Sequence[int] = 0,
    *,
    batch: int = 32,
    progress: bool = False,
    **request: Any,
) -> Tensor:
    """Draw many pictures, `batch` at a time, without their trajectories: shape (B, 3, height, width) in [0, 1], on CPU.

    request: steps, guidance and all else that `Settings.of` takes.
    """
    whole = Settings.of(backbone, prompts, seeds, **request)
    pictures = []
    for start in bar(range(0, len(whole.seeds), batch), progress=progress, desc=backbone.name):
        part = whole.rows(slice(start, start + batch))
        pictures.append(backbone.decode(draw(backbone, part).final).cpu())
    return torch.cat(pictures)


def _prompts(backbone: Backbone, prompts: str | Sequence[str] | None, count: int) -> tuple[str, ...]:
    if backbone.kind == "unconditional":
        if prompts is not None:
            raise ValueError(f"{backbone.name} is unconditional and takes no prompts: leave them out")
        return ("",) * count
    if prompts is None:
        raise ValueError(f'{backbone.name} takes prompts: give one, or one per seed ("" for none)')
    if isinstance(prompts, Set | Mapping) or not isinstance(prompts, Iterable):  # of no order, or none at all
        raise ValueError(f"prompts cannot be {shown(prompts)}: give a string, or a list with one per seed")
    prompts = (prompts,) * count if isinstance(prompts, str) else tuple(prompts)
    if any(not isinstance(prompt, str) for prompt in prompts):
        raise ValueError("prompts are text: give a string, or one per seed")
    for prompt in dict.fromkeys(prompts):
        check_text(prompt, "the prompt")
    if len(prompts) != count:
        raise ValueError(f"{len(prompts)} prompts for {count} seeds: give one for all, or one per seed")
    backbone.check_prompts(prompts)
    return prompts


def _steps(backbone: Backbone, steps: int | None) -> int:
    return backbone.check_steps(backbone.entry.steps if steps is None else steps)


def _guidance(backbone: Backbone, guidance: float | None) -> float | None:
    if backbone.kind == "unconditional":
        if guidance is not None:
            raise ValueError(f"{backbone.name} is unconditional and takes no guidance: leave it out")
        return None
    value = number(backbone.entry.guidance if guidance is None else guidance)
    if value is None or not 0 <= value < float("inf"):
        none = format(backbone.family.off, "g")
        raise ValueError(f"guidance {shown(guidance)} makes no sense: choose {none} for none, or a number above")
    return value


def _eta(backbone: Backbone, eta: float) -> float:
    value = number(eta)
    if value is None or not 0 <= value <= 1:
        raise ValueError(f"eta {shown(eta)} makes no sense: choose from 0 (deterministic) to 1 (as noisy as DDPM)")
    if value and not accepts(backbone.scheduler.step, "eta"):
        raise ValueError(f"{type(backbone.scheduler).__name__} takes no eta: leave it at 0, or use DDIMScheduler")
    return value
