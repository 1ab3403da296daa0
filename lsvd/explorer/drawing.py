"""Trajectories, pictures and spectra of a recipe, all by the library's own functions."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lsvd.avi.attribute import Attribute
from lsvd.backbones.models import Backbone
from lsvd.decomposition.svd import ChannelSVD, svd
from lsvd.explorer.code import scalings
from lsvd.explorer.methods import METHODS, Bench
from lsvd.explorer.recipe import SLIDERS, Recipe, Request, Triplets, with_scheduler
from lsvd.explorer.watch import Stopped, Watch, Watched
from lsvd.sampling import estimates
from lsvd.sampling.inversion import Inversion, invert
from lsvd.sampling.trajectory import Settings, Trajectory, draw, joined, resume

NOISES = 16  # samples of noise behind the spectrum
FILM = 8  # estimates along the timeline
KEPT = 24  # results kept to be shown again


class Shelf:
    """The newest few results, by key."""

    def __init__(self, size: int = KEPT):
        self._held: OrderedDict[Any, Any] = OrderedDict()
        self._size = size

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """The result kept for the key, or else that of make()."""
        if key not in self._held:
            self._held[key] = make()
        self._held.move_to_end(key)
        while len(self._held) > self._size:
            self._held.popitem(last=False)
        return self._held[key]

    def __contains__(self, key: Any) -> bool:
        return key in self._held


@dataclass(frozen=True, eq=False)
class Moment:
    """One timestep of a trajectory in detail.

    t: the timestep. estimate: the picture of the estimated clean code, (1, 3, H, W); None where the scheduler gives
    none. code: x_t, (C, H, W). parts: its decomposition.
    """

    t: float
    estimate: Tensor | None
    code: Tensor
    parts: ChannelSVD

    def layers(self) -> Tensor:
        """The rank-one parts sigma_i u_i v_i^T of the first triplets, shape (n, C, H, W), the rest after them."""
        p, n = self.parts, min(SLIDERS, self.parts.rank)
        parts = [(p.U[..., i : i + 1] * p.S[..., None, i : i + 1]) @ p.Vh[..., i : i + 1, :] for i in range(n)]
        return torch.stack([*parts, self.code.to(parts[0]) - sum(parts)])


@dataclass
class Studio:
    """A model with what it has drawn. uploads: the person's own pictures, by digest. attributes: likewise."""

    backbone: Backbone
    uploads: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Attribute] = field(default_factory=dict)

    def __post_init__(self):
        self.backbone = apart(self.backbone)
        self._shelf, self._partial = Shelf(), {}
        self._pictures: WeakKeyDictionary[Trajectory, Tensor] = WeakKeyDictionary()
        self._schedulers: dict[str, Backbone] = {}

    def model(self, request: Request) -> Backbone:
        """The backbone with the request's scheduler."""
        name = request.scheduler
        if name == type(self.backbone.scheduler).__name__:
            return self.backbone
        if name not in self._schedulers:
            self._schedulers[name] = with_scheduler(self.backbone, name)
        return self._schedulers[name]

    def source(self, recipe: Recipe, watch: Watch) -> Trajectory:
        """The trajectory that everything begins with: drawn from the request, or inverted from the upload.

        Raises Stopped; the part drawn so far is kept for `partial`.
        """
        request = recipe.request
        if recipe.upload is not None:
            return self.inverted(recipe, watch).trajectory
        return self._shelf.once(self.key(recipe), lambda: self._drawn(request, watch))

    def has_source(self, recipe: Recipe) -> bool:
        """Whether the source is kept already."""
        return self.key(recipe) in self._shelf

    def inverted(self, recipe: Recipe, watch: Watch) -> Inversion:
        """The inversion of the upload."""
        request, upload = recipe.request, recipe.upload
        if upload.digest not in self.uploads:
            raise ValueError(f"the picture {upload.name} is not here: upload it again")

        def inversion() -> Inversion:
            backbone = self.model(request)
            text = backbone.kind == "text-to-image"
            codes = backbone.encode(self.uploads[upload.digest])
            watch.begin("finding the noise", request.steps * (upload.iterations + 2), looking=False)
            return invert(
                Watched(backbone, watch),
                codes,
                request.prompt if text else None,
                request.steps,
                request.guidance,
                iterations=upload.iterations,
                **_negative(request),
            )

        return self._shelf.once(self.key(recipe), inversion)

    def _drawn(self, request: Request, watch: Watch) -> Trajectory:
        backbone = self.model(request)
        whole = replace(request, until=None)
        watched_model, part = Watched(backbone, watch), self._partial.get(whole)
        steps = len(backbone.schedule(request.steps))
        try:
            if part is not None and request.until is None:
                watch.begin("drawing", steps - len(part.codes) + 1)
                walk = joined(part, resume(watched_model, part, part.timesteps[-1]))
                del self._partial[whole]
                return walk
            part = None
            watch.begin("drawing", steps)
            return draw(watched_model, _settings(backbone, request), until=request.until)
        except Stopped:
            self._keep(backbone, whole, part, watch)
            raise

    def _keep(self, backbone: Backbone, request: Request, part: Trajectory | None, watch: Watch) -> None:
        """Keep the part of a trajectory that was drawn before the stop."""
        codes_by_step, first = watch.codes, len(part.codes) - 1 if part is not None else 0
        schedule, end = backbone.schedule(request.steps), max(codes_by_step, default=0)
        if not first < end < len(schedule):
            return
        new_codes = torch.stack([codes_by_step[step] for step in range(first, end + 1)])
        codes = new_codes if part is None else torch.cat([part.codes[:first], new_codes])
        settings = _settings(backbone, request)
        self._partial[request] = Trajectory(settings, schedule.part(0, end + 1), codes)

    def partial(self, request: Request) -> Trajectory | None:
        """The part of a request's trajectory that was drawn before a stop; None if there is none."""
        return self._partial.get(replace(request, until=None))

    def take_partial(self, recipe: Recipe) -> Recipe | None:
        """The recipe of the part drawn before a stop, whose source is then kept; None if there is none."""
        walk = self.partial(recipe.request)
        if walk is None or recipe.upload is not None:
            return None
        until = walk.timesteps[-1].item()
        part = replace(recipe, request=replace(recipe.request, until=until))
        self._shelf.once(self.key(part), lambda: walk)
        return part

    def picture(self, recipe: Recipe, walk: Trajectory) -> Tensor:
        """The picture of a trajectory, (1, 3, H, W); of an unfinished one, that of its last estimate."""
        if walk not in self._pictures:
            backbone, whole = self.model(recipe.request), len(walk.codes) > len(walk.timesteps)
            self._pictures[walk] = backbone.decode(walk.final if whole else estimates.clean(backbone, walk)[-1])
        return self._pictures[walk]

    def edited(self, recipe: Recipe, watch: Watch) -> Trajectory | None:
        """The trajectory beside the source's: with triplets scaled, or edited; None if nothing is changed."""
        if recipe.shown == "triplets":
            return None if recipe.triplets.idle else self.scaled(recipe, watch)
        method, source = METHODS[recipe.edit.method], self.source(recipe, watch)
        values = {name: getattr(recipe.edit, name) for name in method.controls}
        key = (self.key(recipe), recipe.edit.method, tuple(values.items()))

        def edit_source() -> Trajectory:
            steps = len(source.timesteps)
            watch.begin(f"editing: {method.label}", round(1.2 * steps * recipe.edit.tx) + 1)
            return method.draw(self.bench(recipe, watch), recipe.edit)

        return self._shelf.once(key, edit_source)

    def bench(self, recipe: Recipe, watch: Watch) -> Bench:
        """What the methods need to edit the source."""
        key = self.key(recipe)
        return Bench(
            Watched(self.model(recipe.request), watch),
            self.source(recipe, watch),
            self.attributes,
            lambda part, make: self._shelf.once((key, part), make),
        )

    def scaled(self, recipe: Recipe, watch: Watch) -> Trajectory:
        """The source redrawn from the recipe's t on, with its triplets scaled."""
        source, backbone = self.source(recipe, watch), self.model(recipe.request)
        t = self.timestep(recipe, source)
        key = (self.key(recipe), t, recipe.triplets)

        def redraw() -> Trajectory:
            code = scale(svd(source.at(t)), recipe.triplets).recompose()
            watch.begin("redrawing", len(backbone.schedule(recipe.request.steps)) - source.index(t))
            return resume(Watched(backbone, watch), source, t, code)

        return self._shelf.once(key, redraw)

    def target(self, recipe: Recipe, watch: Watch) -> Trajectory:
        """The trajectory of the target prompt alone, from the same noise."""
        source = self.source(recipe, watch)

        def draw_target() -> Trajectory:
            watch.begin("drawing the target prompt", len(source.timesteps), looking=False)
            backbone = Watched(self.model(recipe.request), watch)
            return resume(backbone, source, source.timesteps[0], prompts=recipe.edit.target)

        return self._shelf.once((self.key(recipe), "target", recipe.edit.target), draw_target)

    def timestep(self, recipe: Recipe, walk: Trajectory) -> float:
        """The timestep of timeline and triplets: the trajectory's nearest to the recipe's."""
        return walk.nearest(recipe.t)

    def moment(self, recipe: Recipe, walk: Trajectory) -> Moment:
        """The source at the recipe's timestep, in detail."""
        backbone, t = self.model(recipe.request), self.timestep(recipe, walk)
        step = walk.index(t)

        def look() -> Moment:
            pair = walk.codes[step : step + 2]
            levels = estimates.Levels.of(backbone.prepared(recipe.request.steps))
            estimate = None
            if levels is not None and len(pair) == 2:
                estimate = backbone.decode(levels.clean(step, *pair))
            code = walk.codes[step, 0]
            return Moment(t, estimate, code, svd(code))

        return self._shelf.once((self.key(recipe), "moment", t), look)

    def film(self, recipe: Recipe, walk: Trajectory) -> tuple[list[float], Tensor] | None:
        """Timesteps and pictures of some estimates along a trajectory, (n, 3, H, W); None where there are none."""
        backbone = self.model(recipe.request)

        def decode() -> tuple[list[float], Tensor] | None:
            try:
                codes = estimates.clean(backbone, walk)[:, 0]
            except ValueError:
                return None
            count = min(FILM, len(codes))
            if not count:
                return None
            rows = [round(i * (len(codes) - 1) / max(1, count - 1)) for i in range(count)]
            return [walk.timesteps[row].item() for row in rows], backbone.decode(codes[rows])

        return self._shelf.once((self.key(recipe), "film"), decode)

    def noise(self, recipe: Recipe) -> Tensor:
        """The middle 95% of the singular values of the initial noise, shape (2, k)."""

        def measure() -> Tensor:
            S = svd(self.backbone.noise(range(1000, 1000 + NOISES))).S.flatten(0, 1).cpu()
            return S.quantile(torch.tensor([0.025, 0.975], device=S.device), dim=0)

        return self._shelf.once("noise", measure)

    def key(self, recipe: Recipe) -> Any:
        """What determines the source."""
        request = replace(recipe.request, seed=0, until=None) if recipe.upload is not None else recipe.request
        return request, recipe.upload


def apart(backbone: Backbone) -> Backbone:
    """The same model around a copy of its pipeline, which shares the networks.

    A pipeline holds one scheduler, so two threads must not share a pipeline, and a person's cells use the model.
    """
    other = copy.copy(backbone)
    other.pipe = copy.copy(backbone.pipe)
    return other


def scale(parts: ChannelSVD, triplets: Triplets) -> ChannelSVD:
    """A decomposition with the singular values scaled by the factors of `triplets`."""
    for indices, factor in scalings(triplets):
        rows = range(indices.start, parts.rank) if isinstance(indices, range) else indices
        parts = parts.scale(rows, factor, triplets.channel)
    return parts


def _settings(backbone: Backbone, request: Request) -> Settings:
    prompts = request.prompt if backbone.kind == "text-to-image" else None
    return Settings.of(backbone, prompts, request.seed, request.steps, request.guidance, **_negative(request))


def _negative(request: Request) -> dict[str, str]:
    return {"negative_prompt": request.negative} if request.negative else {}
