"""Learned attributes as objects: kept in a small file, applied with a strength, to other seeds, several at once.

What an edit by lsvd.avi adds to the source code at its timestep Tx, Delta = y - x = sum_i (a_i - sigma_i) u_i v_i^T +
sum_j b_j u'_j v'_j^T, less x's remaining triplets if they were dropped, is kept per channel as a product of two thin
matrices. Strength 0 is the source, 1 what was learned, beyond is extrapolation (Wang et al. 2025, arXiv 2502.02225,
Figure 7). The paper's summary does not settle how a learned attribute is used on other pictures. Our choice: a seed it
was learned on takes its own Delta, whatever its prompt now; any other seed takes their mean.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from lsvd.avi.edit import Edit, edit_prompt
from lsvd.avi.exact import AVIConfig, integrate
from lsvd.avi.losses import Lambdas
from lsvd.backbones.families import denoiser
from lsvd.backbones.models import Backbone
from lsvd.checks import check_code, check_kind, check_seeds, check_text, printable, shown, whole
from lsvd.decomposition.svd import svd
from lsvd.sampling import identity
from lsvd.sampling.memory import MAX_MEMORY
from lsvd.sampling.trajectory import (
    Settings,
    Trajectory,
    check_made_with,
    joined,
    model_differs,
    resume,
    run,
    scheduler_differs,
)
from lsvd.storage.files import write_bytes
from lsvd.storage.results import checksum
from lsvd.storage.tensors import Spec, mismatch, pack, parse
from lsvd.storage.tensors import load as load_tensors

FORMAT = "lsvd attribute 2"  # raise the number when what is stored changes
NOTED = ("t", "t_target", "same_level", "t_branch")  # of an edit, with the attribute


@dataclass(frozen=True, eq=False)
class Attribute:
    """The change of a code x_t of one timestep into the edited one, learned from a pair of prompts on N seeds.

    Delta of seed n is left[n] @ right[n]: left (N, C, H, m), right (N, C, m, W), float32 on the CPU, where m is the
    largest rank of any channel, at most min(H, W). settings: those of the source trajectories, with their seeds and
    prompts. target: the other prompt of each seed. t: the timestep, t_target that of the target codes. same_level,
    t_branch: how these were made, as lsvd.avi.edit.Edit has it. models: by dtype, such as "float16", what the model's
    parts compute with when their weights are rounded to it, as lsvd.sampling.identity.parts has it.

    Raises ValueError unless shapes and numbers of seeds and prompts agree, values are finite and seeds differ.
    """

    left: Tensor = field(repr=False)
    right: Tensor = field(repr=False)
    settings: Settings
    target: tuple[str, ...]
    t: int | float
    t_target: int | float
    config: AVIConfig
    same_level: bool = False
    t_branch: int | float | None = None
    models: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)

    def __post_init__(self):
        _check_distinct(self.settings.seeds)
        left, right, n = self.left, self.right, len(self.settings.seeds)
        fit = left.ndim == right.ndim == 4 and (left.shape[:2], left.shape[3]) == (right.shape[:2], right.shape[2])
        if not fit or not n == len(left) == len(self.target) == len(self.settings.prompts):
            raise ValueError(
                f"factors of shapes {tuple(left.shape)} and {tuple(right.shape)} do not make an attribute of {n} seeds "
                f"and {len(self.target)} target prompts: learn it with lsvd.avi.attribute.learn"
            )
        if not left.dtype == right.dtype == torch.float32 or not (left.isfinite().all() and right.isfinite().all()):
            raise ValueError(
                "an attribute's factors must be finite and float32: learn it with lsvd.avi.attribute.learn"
            )

    @classmethod
    def of(cls, edit: Edit, backbone: Backbone | None = None) -> "Attribute":
        """The attribute that an edit has learned; see `learn`.

        backbone: that of the edit; with it, the attribute is also known to be of that model where this is loaded in
        half precision, and in other pipelines of its network. Raises ValueError for an edit that AVI did not make, and
        for another backbone.
        """
        solution, places = edit.solution, edit.places
        if solution is None or edit.config is None:
            raise ValueError("an attribute is learned by AVI: edit with an AVIConfig as the method")
        # y itself is rounded to the backbone's dtype, and the difference would be of full rank
        y = integrate(solution.a, solution.b, solution.x, solution.z, solution.rest).to("cpu")
        left, right = factor(y - edit.source.at(places.t).cpu().double())
        fields = {"t": places.t, "t_target": places.t_target}
        fields |= {"same_level": places.same_level, "t_branch": places.t_branch}
        settings = edit.source.settings
        if backbone is not None:
            check_made_with(backbone, settings)
            pipe = backbone.pipe
            fields["models"] = {name: identity.parts(pipe, dtype) for name, dtype in _precisions(pipe)}
        return cls(left, right, settings, edit.target.settings.prompts, config=edit.config, **fields)

    @property
    def name(self) -> str:
        """The prompts it was learned from, for messages: those of the first seed."""
        return f"{self.settings.prompts[0]!r} to {self.target[0]!r}"

    @property
    def rank(self) -> int:
        """The largest rank of Delta in any channel."""
        return self.left.shape[-1]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of the codes it is for."""
        return self.left.shape[1], self.left.shape[2], self.right.shape[3]

    @property
    def mean(self) -> Tensor:
        """The mean Delta over the learned seeds, shape (C, H, W), float64: what other seeds take."""
        return self._each.mean(0)

    @property
    def _each(self) -> Tensor:
        return self.left.double() @ self.right.double()

    def delta(self, seeds: int | Sequence[int]) -> Tensor:
        """Delta of each seed, shape (B, C, H, W), float64: its own if it was learned on, else the mean."""
        row_of = {seed: i for i, seed in enumerate(self.settings.seeds)}
        rows = torch.cat([self._each, self.mean[None]])
        return rows[[row_of.get(seed, -1) for seed in check_seeds(seeds)]]

    def code(self, x: Tensor, strength: float = 1.0, seeds: int | Sequence[int] | None = None) -> Tensor:
        """x + strength * Delta for codes x of timestep t, shape (B, C, H, W), in x's dtype on its device.

        seeds: the seed of each code; None if no code belongs to a learned seed. Raises ValueError for codes of
        another shape or that are not finite, for another number of seeds, or a strength that is not finite.
        """
        self.check_shape(x)
        (strength,) = _strengths([strength], 1)
        delta = self.mean.expand(x.shape) if seeds is None else self.delta(seeds)
        if len(delta) != len(x):
            raise ValueError(f"{len(delta)} seeds for {len(x)} codes: give one each")
        return add(x, strength * delta)

    def check_shape(self, x: Tensor) -> None:
        """Raise ValueError unless x has the shape (B, C, H, W) of codes that it can be added to."""
        if x.ndim != 4 or x.shape[1:] != self.latent_shape:
            shape = ", ".join(str(size) for size in ("B", *self.latent_shape))
            raise ValueError(f"the attribute {self.name} is for codes of shape ({shape}), not {tuple(x.shape)}")

    def save(self, path: str | Path) -> Path:
        """Write it to a safetensors file, whole or not at all. Returns the path.

        The file holds a digest of any embeddings that it was learned with. Raises lsvd.storage.files.WriteError.
        """
        tensors = {"left": self.left.contiguous(), "right": self.right.contiguous()}
        notes = {name: asdict(getattr(self, name)) for name in ("settings", "config")}
        notes |= {"target": self.target, **{name: getattr(self, name) for name in NOTED}}
        notes |= {"models": self.models} if self.models else {}
        text = json.dumps(notes, sort_keys=True, default=_json_value)
        metadata = {"format": FORMAT, "attribute": text, "sha256": _digest(tensors, text)}
        return write_bytes(path, pack(tensors, metadata))


def _json_value(value: Any) -> Any:
    """An entry of an attribute's notes that JSON cannot hold: a digest for a tensor, a float for other numbers."""
    if isinstance(value, Tensor) and value.ndim:
        return f"tensor of shape {tuple(value.shape)}, {checksum({'': value})}"
    return float(value)


def learn(
    backbone: Backbone,
    source: str | Sequence[str],
    target: str | Sequence[str],
    seeds: int | Sequence[int] = 0,
    **settings: Any,
) -> Attribute:
    """Learn the change from the source prompt to the target prompt, on one or several seeds.

    settings: placement, method, steps and all others of `lsvd.avi.edit.edit_prompt`. For the edit's pictures too, call
    `edit_prompt`, then `Attribute.of`. Raises ValueError as `edit_prompt`, and if a seed is named twice.
    """
    seeds = check_seeds(seeds)
    _check_distinct(seeds)
    return Attribute.of(edit_prompt(backbone, source, target, seeds=seeds, **settings), backbone)


def apply(
    backbone: Backbone,
    attributes: Attribute | Sequence[Attribute],
    prompt: str | Sequence[str],
    seeds: int | Sequence[int] = 0,
    strengths: float | Sequence[float] = 1.0,
    *,
    steps: int | None = None,
    guidance: float | None = None,
    eta: float | None = None,
    max_memory: float = MAX_MEMORY,
    progress: bool = False,
    **request: Any,
) -> tuple[Trajectory, Trajectory]:
    """Draw pictures of a prompt without and with attributes: the source trajectory, and the edited one.

    strengths: one for all attributes, or one each. steps, guidance, eta: None takes the value that the attributes were
    learned with. request: all else that `Settings.of` takes. max_memory: as for `run`. Otherwise as `apply_to`. Raises
    ValueError for bad arguments, and for None where the attributes' values differ.
    """
    attributes, strengths = paired(attributes, strengths)
    _check_made_for(backbone, attributes)
    shared = {"steps": steps, "guidance": guidance, "eta": eta}
    for name, choice in shared.items():
        learned_values = {getattr(attribute.settings, name) for attribute in attributes}
        if choice is None and len(learned_values) > 1:
            values = " and ".join(f"{value:g}" for value in sorted(learned_values))
            raise ValueError(f"the attributes were learned with {name} of {values}: say which to draw with")
        shared[name] = learned_values.pop() if choice is None else choice
    shared |= {"max_memory": max_memory, "progress": progress}
    source = run(backbone, prompt, seeds, **shared, **request)
    return source, apply_to(backbone, source, attributes, strengths, max_memory=max_memory, progress=progress)


def apply_to(
    backbone: Backbone,
    source: Trajectory,
    attributes: Attribute | Sequence[Attribute],
    strengths: float | Sequence[float] = 1.0,
    *,
    max_memory: float = MAX_MEMORY,
    progress: bool = False,
) -> Trajectory:
    """The source trajectory with attributes added, each at the timestep it was learned at; the prompt stays.

    source: from `lsvd.sampling.trajectory.run` or `lsvd.sampling.kept.trajectories`, of any prompt and seeds. The
    result is as long: the source's codes down to the first timestep with an attribute, then the edited code and its
    continuation. Each later attribute is added to that continuation. With all strengths 0 nothing is drawn, and the
    source is returned.

    Raises ValueError for another number of strengths than of attributes, strengths that are not finite, and attributes
    of another backbone, scheduler, latent shape, or of a timestep that is not on the source's schedule.
    """
    attributes, strengths = paired(attributes, strengths)
    _check_made_for(backbone, attributes)
    for attribute in attributes:
        attribute.check_shape(source.final)
        if not (source.timesteps == attribute.t).any():
            raise ValueError(
                f"the attribute {attribute.name} was learned at timestep {attribute.t:g} of {attribute.settings.steps} "
                f"steps, which the trajectory of {source.settings.steps} steps does not stop at: take as many"
            )
    walk = source
    for t in sorted({attribute.t for attribute in attributes}, reverse=True):
        here = [(a, s) for a, s in zip(attributes, strengths, strict=True) if s and a.t == t]
        if not here:
            continue
        code = add(walk.at(t), sum(s * a.delta(source.settings.seeds) for a, s in here))
        # from the beginning: schedulers that remember earlier steps need them all to resume at the next timestep
        walk = joined(walk, resume(backbone, walk, t, code, max_memory=max_memory, progress=progress))
    return walk


def load(path: str | Path) -> Attribute:
    """The attribute in a file that `Attribute.save` wrote, the same bit for bit.

    Raises FileNotFoundError if there is none; lsvd.storage.files.ReadError if it cannot be read; ValueError if the file
    is not an attribute, or truncated, damaged or forged.
    """
    path = Path(path)
    try:
        tensors, metadata = load_tensors(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {path}: learn the attribute and save it") from error
    except ValueError as error:
        raise ValueError(f"{error}: learn the attribute again") from error
    if metadata.get("format") != FORMAT:
        note = metadata.get("format", "no such note")
        raise ValueError(f"{path} holds no attribute that can be read here ({note!r}, not {FORMAT!r}): choose another")
    text = metadata.get("attribute", "")
    if metadata.get("sha256") != _digest(tensors, text):
        raise ValueError(f"{path} is damaged, its contents are not what was written: learn the attribute again")
    try:
        return _restored(tensors, parse(text))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        reason = printable(str(error))[:200]
        raise ValueError(
            f"{path} was saved by another version of lsvd, or forged ({reason}): learn the attribute again"
        ) from error


def _restored(tensors: dict[str, Tensor], notes: Any) -> Attribute:
    """The attribute of a file's tensors and notes, with nothing in it that `save` does not write."""
    problem = mismatch(tensors, {"left": Spec((None,) * 4, torch.float32), "right": Spec((None,) * 4, torch.float32)})
    if problem:
        raise ValueError(problem)
    settings = notes["settings"] | {name: tuple(notes["settings"][name]) for name in ("prompts", "seeds")}
    calls = notes["settings"].get("call_kwargs", ())  # files of earlier versions have none
    settings["call_kwargs"] = tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in calls)
    settings = Settings(**settings)
    target = tuple(notes["target"])
    names = [name for name, _ in settings.call_kwargs]
    for text in (settings.backbone, settings.scheduler, settings.model, *names, *settings.prompts, *target):
        check_text(text, "a name or prompt")
    check_seeds(settings.seeds)
    whole(settings.steps, "the number of steps", 1)
    if not isinstance(parse(settings.config), dict):
        raise ValueError("the scheduler's configuration is not a mapping")
    config = AVIConfig(**notes["config"] | {"lambdas": Lambdas(**notes["config"]["lambdas"])})
    whole(config.k_z, "k_z")
    whole(config.k_x or 0, "k_x")
    numbers = [settings.eta, notes["t"], notes["t_target"]]
    numbers += [number for number in (settings.guidance, notes["t_branch"]) if number is not None]
    if not all(type(number) in (int, float) and isfinite(number) for number in numbers):
        raise ValueError("a timestep, eta or guidance is not a finite number")
    if not all(type(switch) is bool for switch in (notes["same_level"], config.keep_rest)):
        raise ValueError("a switch is neither true nor false")
    models = notes.get("models", {})  # likewise
    for name in (text for digests in models.values() for pair in digests.items() for text in pair):
        check_text(name, "a digest")
    places = {name: notes[name] for name in NOTED} | {
        "models": {str(name): dict(digests) for name, digests in models.items()}
    }
    return Attribute(tensors["left"], tensors["right"], settings, target, config=config, **places)


def factor(delta: Tensor) -> tuple[Tensor, Tensor]:
    """Thin factors of a difference of codes, shape (..., C, H, W): left (..., C, H, m) and right (..., C, m, W).

    left @ right is delta to the rounding of float32, which both are in. Singular values below max(H, W) times that
    rounding, relative to the largest of all channels of their code, count as 0; m is the largest rank that remains.
    Raises ValueError if delta is not finite.
    """
    triplets = svd(delta)
    largest = triplets.S[..., :1].amax(-2, keepdim=True)
    least = max(delta.shape[-2:]) * torch.finfo(torch.float32).eps * largest
    large = triplets.S > least
    rank = int(large.sum(-1).max()) if large.numel() else 0
    left = (triplets.U * (triplets.S * large).unsqueeze(-2))[..., :rank]
    return left.float().contiguous(), triplets.Vh[..., :rank, :].float().contiguous()


def add(x: Tensor, shift: Tensor) -> Tensor:
    """x + shift, added up in float64 on the CPU (some devices have none) and rounded once. Checks that x is finite."""
    check_code(x)
    code = (x.detach().cpu().double() + shift).to(x.dtype)
    if not code.isfinite().all():
        raise ValueError("the strengths make codes that are not finite: choose some nearer to 0")
    return code.to(x.device)


def paired(
    attributes: Attribute | Sequence[Attribute], strengths: float | Sequence[float]
) -> tuple[list[Attribute], list[float]]:
    """Attributes with one strength each. Raises ValueError if there are none, or the numbers differ."""
    attributes = list(attributes) if isinstance(attributes, list | tuple) else [attributes]
    for attribute in attributes:
        check_kind(attribute, Attribute, "an Attribute, such as attribute.load(file)")
    if not attributes:
        raise ValueError("there are no attributes: give at least one")
    return attributes, _strengths(strengths, len(attributes))


def _strengths(strengths: float | Sequence[float], count: int) -> list[float]:
    try:
        values = torch.as_tensor(strengths, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{shown(strengths)} is not a strength: give a number, 0 for the source, 1 as learned"
        ) from error
    values = values.expand(count) if values.ndim == 0 else values
    if values.shape != (count,):
        raise ValueError(f"strengths of shape {tuple(values.shape)} for {count} attributes: give one for all, or each")
    if not values.isfinite().all():
        raise ValueError(
            f"the strength {shown(strengths)} is not finite: give a number, 0 for the source, 1 as learned"
        )
    return values.tolist()


def _check_distinct(seeds: Sequence[int]) -> None:
    repeated = next((seed for seed, count in Counter(seeds).items() if count > 1), None)
    if repeated is not None:
        raise ValueError(f"an attribute has one Delta for each seed, and seed {repeated} is named twice: name it once")


def _check_made_for(backbone: Backbone, attributes: Sequence[Attribute]) -> None:
    """Raise ValueError, naming what differs, unless the attributes were learned with this model and scheduler."""
    for attribute in attributes:
        problem = _other_model(backbone, attribute) or scheduler_differs(
            backbone.scheduler, attribute.settings, shared=True
        )
        if not problem and attribute.latent_shape != backbone.latent_shape:
            problem = f"codes of shape {attribute.latent_shape}, not {backbone.latent_shape}"
        if problem:
            raise ValueError(
                f"the attribute {attribute.name} was learned with {problem}: use the same, or learn it again"
            )


def _other_model(backbone: Backbone, attribute: Attribute) -> str:
    """How a model differs from the one that an attribute was learned with; "" if only in precision."""
    problem = model_differs(backbone, attribute.settings)
    return "" if problem and same_but_rounded(backbone.pipe, attribute) else problem


def same_but_rounded(pipe: DiffusionPipeline, attribute: Attribute, only: Collection[str] | None = None) -> bool:
    """Whether a pipeline's parts are those that an attribute was learned with, once both are rounded to one precision.

    only: the names of the parts to compare, all if None.
    """
    dtypes = dict(_precisions(pipe))
    names = [name for name in dtypes if name in attribute.models]
    # in the pipeline's own precision if possible
    return any(
        identity.parts(pipe, dtypes[name], only)
        == {n: v for n, v in attribute.models[name].items() if only is None or n in only}
        for name in names[:1]
    )


def _precisions(pipe: DiffusionPipeline) -> list[tuple[str, torch.dtype]]:
    """The precisions that a pipeline's weights can be rounded to without a doubt, with their names, its own first."""
    current = denoiser(pipe).dtype
    dtypes = [current, torch.float16, torch.bfloat16] if current.itemsize > 2 else [current]
    return [(str(dtype).removeprefix("torch."), dtype) for dtype in dtypes]


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    return hashlib.sha256((checksum(tensors) + text).encode()).hexdigest()
