"""The recipe of the screen: plain values that determine every picture, checked when they are set."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from math import isfinite
from typing import Any

from lsvd.backbones.models import Backbone
from lsvd.checks import check_text, known, whole
from lsvd.storage.tensors import parse

SLIDERS = 8  # triplets that have a slider of their own
SHOWN = ("triplets", "edit")  # the results that can be shown beside the source


@dataclass(frozen=True)
class Request:
    """A picture to draw. prompt: "" for unconditional models. scheduler: a class of diffusers.

    until: the timestep at which the person stopped; None for a whole trajectory.
    """

    prompt: str
    negative: str
    seed: int
    steps: int
    guidance: float | None
    scheduler: str
    until: float | None = None


@dataclass(frozen=True)
class Upload:
    """The person's own picture: its file's name, the digest of its bytes, and the iterations of its inversion."""

    name: str
    digest: str
    iterations: int = 5


@dataclass(frozen=True)
class Triplets:
    """Factors of the first singular values, and one of the rest, in all channels (None) or one of them."""

    factors: tuple[float, ...] = (1.0,) * SLIDERS
    rest: float = 1.0
    channel: int | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is scaled."""
        return self.rest == 1 and set(self.factors) == {1.0}


@dataclass(frozen=True)
class Used:
    """An attribute in use: its name, the digest of its file, its strength."""

    name: str
    digest: str
    strength: float = 1.0


@dataclass(frozen=True)
class Edit:
    """A prompt edit. method: a key of lsvd.explorer.methods.METHODS, which names the other values that it uses.

    tx, branch: fractions of T. dtau: steps. k: triplets of z. weights: those of the four losses. rank: triplets of
    low-rank guidance, start, stop its window, as fractions of T.
    """

    method: str
    target: str
    tx: float
    dtau: int
    branch: float
    k: int
    basis: str
    keep_rest: bool
    weights: tuple[float, ...]
    strength: float = 1.0
    rank: int = 1
    start: float = 0.6
    stop: float = 0.3
    attributes: tuple[Used, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """Everything on the screen. t: the timestep of timeline and triplets, as a fraction of T. shown: see SHOWN."""

    model: str
    request: Request
    edit: Edit
    triplets: Triplets = field(default_factory=Triplets)
    upload: Upload | None = None
    t: float = 0.5
    shown: str = "triplets"

    @classmethod
    def of(cls, backbone: Backbone) -> "Recipe":
        """The first recipe: the backbone's defaults."""
        entry, text = backbone.entry, backbone.kind == "text-to-image"
        request = Request(
            "a person" if text else "", "", 0, entry.steps, entry.guidance, type(backbone.scheduler).__name__
        )
        edit = Edit(
            "avi",
            "a young person" if text else "",
            entry.tx,
            entry.dtau,
            entry.branch,
            min(entry.k, *backbone.latent_shape[1:]),
            entry.basis,
            entry.keep_rest,
            (1.0, 0.02, 0.01, 0.01),
        )
        return cls(backbone.name, request, edit)

    def put(self, path: str, value: Any, backbone: Backbone) -> "Recipe":
        """The recipe with another value at a path such as "request.seed" or "triplets.factors.0".

        Raises ValueError, in one sentence, for an invalid value or an unknown path.
        """
        head, *rest = path.split(".")
        try:
            new = _put(self, [head, *rest], check(path, value, backbone))
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"there is no control {path!r}") from error
        return new

    def text(self) -> str:
        """The recipe as one line of JSON, which `read` reads."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(", ", ": "))


def _put(part: Any, path: list[str], value: Any) -> Any:
    head, *rest = path
    if isinstance(part, tuple):
        index = range(len(part))[int(head)]
        return (*part[:index], _put(part[index], rest, value) if rest else value, *part[index + 1 :])
    if not is_dataclass(part) or head not in {entry.name for entry in fields(part)}:
        raise KeyError(head)
    return replace(part, **{head: _put(getattr(part, head), rest, value) if rest else value})


# name: (lowest, highest) of controls that are numbers; the front shows the same ranges
RANGES: dict[str, tuple[float, float]] = {
    "triplets.factors": (-1.0, 3.0),
    "triplets.rest": (-1.0, 3.0),
    "edit.tx": (0.0, 1.0),
    "edit.branch": (0.0, 1.0),
    "edit.start": (0.0, 1.0),
    "edit.stop": (0.0, 1.0),
    "edit.strength": (-0.5, 1.5),
    "edit.attributes.strength": (-0.5, 1.5),
    "edit.weights": (0.0, 100.0),
    "request.guidance": (0.0, 50.0),
    "t": (0.0, 1.0),
}
WHOLE: dict[str, tuple[int, int]] = {
    "request.seed": (0, 2**32 - 1),
    "edit.dtau": (-100, 100),
    "upload.iterations": (0, 100),
}
TEXTS = {"request.prompt": "the prompt", "request.negative": "the negative prompt", "edit.target": "the target prompt"}
LABELS = {
    "request.seed": "the seed",
    "request.steps": "the number of steps",
    "request.guidance": "the guidance",
    "edit.tx": "Tx",
    "edit.dtau": "Δτ",
    "edit.branch": "the branch",
    "edit.start": "the start of the window",
    "edit.stop": "the end of the window",
    "edit.k": "k",
    "edit.rank": "the rank",
    "edit.weights": "the weight of a loss",
    "edit.strength": "the strength",
    "edit.attributes.strength": "the strength of an attribute",
    "triplets.factors": "the factor of a triplet",
    "triplets.rest": "the factor of the rest",
    "triplets.channel": "the channel",
    "upload.iterations": "the number of iterations",
    "t": "the timestep",
}
SCHEDULERS = ("DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler")


def schedulers(backbone: Backbone) -> tuple[str, ...]:
    """The schedulers that the explorer offers: the model's own, and those that resume codes between steps.

    Pipelines of flow matching hand their schedule to their own scheduler, so they have no other.
    """
    default = type(backbone.scheduler).__name__
    flow = backbone.kind == "text-to-image" and backbone.family.flow
    return (default,) if flow else tuple(dict.fromkeys((default, *SCHEDULERS)))


def check(path: str, value: Any, backbone: Backbone) -> Any:
    """The value for a path, in the form that is kept. Raises ValueError, in one sentence, for an invalid one."""
    name = ".".join(part for part in path.split(".") if not part.isdigit())
    what = LABELS.get(name, name)
    if name in TEXTS:
        return check_text(value, TEXTS[name]).strip()
    if name in WHOLE:
        return whole(value, what, *WHOLE[name])
    if name == "request.steps":
        return backbone.check_steps(whole(value, what, 1, backbone.T))
    if name == "request.guidance" and backbone.kind == "unconditional":
        return None
    if name in ("edit.k", "edit.rank"):
        return whole(value, what, 1, min(backbone.latent_shape[1:]))
    if name == "triplets.channel":
        return None if value is None else whole(value, what, 0, backbone.latent_shape[0] - 1)
    if name in RANGES:
        return number(value, what, *RANGES[name])
    if name == "request.scheduler":
        return known(value, schedulers(backbone), "scheduler")
    if name == "edit.basis":
        return known(value, ("both", "complement"), "basis")
    if name == "edit.keep_rest":
        return bool(value)
    if name == "edit.method":
        from lsvd.explorer.methods import METHODS

        return known(value, METHODS, "method")
    if name == "shown":
        return known(value, SHOWN, "view")
    if name == "request.until":
        return None if value is None else number(value, "the timestep to stop at", 0, float("inf"))
    raise ValueError(f"there is no control {path!r}")


def number(value: Any, what: str, low: float, high: float) -> float:
    """The value as a float. Raises ValueError unless it is a number from low to high."""
    result = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")
    if not low <= result <= high or not isfinite(result):
        raise ValueError(f"{what} cannot be {value!r}: give a number from {low:g} to {high:g}")
    return result


def read(text: str, backbone: Backbone) -> Recipe:
    """The recipe in a line that `Recipe.text` wrote, with every value checked.

    Raises ValueError for any other text, or a recipe for another model.
    """
    try:
        values = parse(text)
        model, first = values["model"], Recipe.of(backbone)
        if model != backbone.name:
            raise ValueError(f"this is a recipe for {model}: load that model instead of {backbone.name}")
        recipe = first
        upload = values["upload"]
        if upload is not None:
            recipe = replace(recipe, upload=Upload(_line(upload["name"]), _digest(upload["digest"])))
        used = tuple(Used(_line(entry["name"]), _digest(entry["digest"])) for entry in values["edit"]["attributes"])
        recipe = replace(recipe, edit=replace(recipe.edit, attributes=used))
        if len(values["triplets"]["factors"]) != SLIDERS or len(values["edit"]["weights"]) != 4:
            raise KeyError("factors")
        scheduler = check("request.scheduler", values["request"]["scheduler"], backbone)
        backbone = with_scheduler(backbone, scheduler)
        for path, value in _leaves(values):
            if path.split(".")[-1] not in ("name", "digest", "model"):
                recipe = recipe.put(path, value, backbone)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError("this is not a recipe of the explorer: paste a cell that it wrote") from error
    return recipe


def with_scheduler(backbone: Backbone, scheduler: str) -> Backbone:
    """The backbone with a scheduler of that name; its own scheduler keeps its configuration."""
    import diffusers

    if scheduler == type(backbone.scheduler).__name__:
        return backbone
    return backbone.with_scheduler(getattr(diffusers, scheduler))


def _leaves(values: Any, path: str = "") -> list[tuple[str, Any]]:
    """The path and value of every entry in a recipe's JSON."""
    if isinstance(values, Mapping):
        return [pair for name, value in values.items() for pair in _leaves(value, f"{path}.{name}".lstrip("."))]
    if isinstance(values, list):
        return [pair for i, value in enumerate(values) for pair in _leaves(value, f"{path}.{i}")]
    return [] if path == "upload" else [(path, values)]


def _line(text: Any) -> str:
    return check_text(text, "a file's name").replace("\n", " ")[:200]


def _digest(text: Any) -> str:
    if not isinstance(text, str) or len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise ValueError("a digest in this recipe is damaged: paste the cell as it was written")
    return text
