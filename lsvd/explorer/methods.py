"""The ways to edit that the explorer offers, a line each in METHODS.

A method draws with the library's own functions, and writes the lines of Python that draw the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from lsvd.avi.attribute import Attribute, apply_to
from lsvd.avi.edit import Edit as Edited
from lsvd.avi.edit import draw_pair, edit_between
from lsvd.avi.exact import AVIConfig
from lsvd.avi.losses import Lambdas
from lsvd.avi.placement import Placement
from lsvd.backbones.models import Backbone
from lsvd.explorer.recipe import Edit
from lsvd.guidance.edit import guide
from lsvd.guidance.settings import LowRank
from lsvd.sampling.trajectory import Trajectory, resume


@dataclass(frozen=True)
class Bench:
    """What an edit is made with.

    attributes: by the digest of their file. once: the result kept for a key, or else that of a function.
    """

    backbone: Backbone
    walk: Trajectory
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    once: Callable[[Any, Callable[[], Any]], Any] = lambda key, make: make()


@dataclass(frozen=True)
class Method:
    """A way to edit. label, note: the texts that the person reads. controls: the values of Edit that the method uses.

    draw: the edited trajectory. code: the lines of Python that make `edited` from `model` and `walk`. learn: the
    attribute that the edit has learned, for methods that learn one.
    """

    label: str
    note: str
    controls: tuple[str, ...]
    draw: Callable[[Bench, Edit], Trajectory]
    code: Callable[[Edit], list[str]]
    learn: Callable[[Bench, Edit], Attribute] | None = None


def placement(edit: Edit) -> Placement:
    """Where x and z are taken."""
    return Placement(edit.tx, edit.dtau, edit.branch)


def config(edit: Edit) -> AVIConfig:
    """How AVI integrates x and z."""
    k_x = edit.k if edit.basis == "both" else None
    return AVIConfig(k_x, edit.k, edit.keep_rest, Lambdas(*edit.weights), edit.basis)


def between(bench: Bench, edit: Edit, method: Any) -> Edited:
    """The edit of lsvd.avi.edit.edit_prompt; the target's code is drawn once for all methods and strengths."""
    backbone, walk = bench.backbone, bench.walk
    if edit.target == walk.settings.prompts[0]:
        raise ValueError("source and target prompt are the same, so there is nothing to edit: change one")
    places = placement(edit).on(backbone.schedule(walk.settings.steps))

    def pair() -> tuple[Trajectory, Trajectory]:
        return draw_pair(backbone, walk, edit.target, places, (places.t, places.t_target))

    source, target = bench.once(("pair", edit.target, places), pair)
    return edit_between(backbone, source, target, places, method)


def _avi(bench: Bench, edit: Edit) -> Trajectory:
    result = _solved(bench, edit)
    if edit.strength == 1:
        return result.edited
    return apply_to(bench.backbone, bench.walk, Attribute.of(result), edit.strength)


def _learn(bench: Bench, edit: Edit) -> Attribute:
    return Attribute.of(_solved(bench, edit))


def _solved(bench: Bench, edit: Edit) -> Edited:
    unscaled = replace(edit, strength=1.0, attributes=())
    return bench.once(("avi", unscaled), lambda: between(bench, edit, config(edit)))


def _avi_code(edit: Edit) -> list[str]:
    c = config(edit)
    options = [f"k_z={c.k_z}", f"keep_rest={c.keep_rest}", f"basis={c.basis!r}", f"lambdas=avi.Lambdas{edit.weights}"]
    options = [f"k_x={c.k_x}", *options] if c.k_x is not None else options
    lines = [
        "from lsvd import avi",
        "from lsvd.avi.placement import Placement",
        "",
        f"method = avi.AVIConfig({', '.join(options)})",
        f"edit = lsvd.edit(model, walk, {edit.target!r}, placement={_placed(edit)}, method=method)",
    ]
    if edit.strength == 1:
        return [*lines, "edited = edit.edited"]
    lines[2:2] = ["from lsvd.avi.attribute import apply_to"]
    return [*lines, f"edited = apply_to(model, walk, lsvd.Attribute.of(edit), {edit.strength!r})"]


def _guided(bench: Bench, edit: Edit) -> Trajectory:
    return guide(bench.backbone, bench.walk, edit.target, _low_rank(edit)).edited


def _low_rank(edit: Edit) -> LowRank:
    return LowRank(edit.rank, edit.strength, edit.start, edit.stop)


def _guided_code(edit: Edit) -> list[str]:
    settings = f"lsvd.LowRank({edit.rank}, {edit.strength!r}, start={edit.start!r}, end={edit.stop!r})"
    return [f"edited = lsvd.edit(model, walk, {edit.target!r}, method={settings}).edited"]


def _lerp(bench: Bench, edit: Edit) -> Trajectory:
    return between(bench, edit, lambda x, z: torch.lerp(x, z, edit.strength)).edited


def _lerp_code(edit: Edit) -> list[str]:
    return [
        "import torch",
        "from lsvd.avi.placement import Placement",
        "",
        f"method = lambda x, z: torch.lerp(x, z, {edit.strength!r})",
        f"edited = lsvd.edit(model, walk, {edit.target!r}, placement={_placed(edit)}, method=method).edited",
    ]


def _switch(bench: Bench, edit: Edit) -> Trajectory:
    return resume(bench.backbone, bench.walk, bench.walk.nearest(edit.tx), prompts=edit.target)


def _switch_code(edit: Edit) -> list[str]:
    return [f"edited = lsvd.resume(model, walk, walk.nearest({edit.tx!r}), prompts={edit.target!r})"]


def _saved(bench: Bench, edit: Edit) -> Trajectory:
    if not edit.attributes:
        raise ValueError("there is no attribute yet: make an edit by AVI and add it, or open a file")
    missing = [used.name for used in edit.attributes if used.digest not in bench.attributes]
    if missing:
        raise ValueError(f"the attribute {missing[0]} is not here: open its file")
    attributes = [bench.attributes[used.digest] for used in edit.attributes]
    return apply_to(bench.backbone, bench.walk, attributes, [used.strength for used in edit.attributes])


def _saved_code(edit: Edit) -> list[str]:
    names = ", ".join(repr(used.name) for used in edit.attributes)
    strengths = ", ".join(repr(used.strength) for used in edit.attributes)
    return [
        "from lsvd.avi import attribute",
        "",
        f"attributes = [attribute.load(name) for name in [{names}]]  # the files, wherever they lie",
        f"edited = attribute.apply_to(model, walk, attributes, [{strengths}])",
    ]


def _placed(edit: Edit) -> str:
    return f"Placement({edit.tx!r}, {edit.dtau}, {edit.branch!r})"


PLACES = ("target", "tx", "dtau", "branch")
METHODS: dict[str, Method] = {
    "avi": Method(
        "AVI",
        "Attribute Vector Integration: leading triplets of the target's code, with the singular values of least loss.",
        (*PLACES, "k", "basis", "keep_rest", "weights", "strength"),
        _avi,
        _avi_code,
        _learn,
    ),
    "guidance": Method(
        "Low-rank guidance",
        "In a window of timesteps, the leading triplets of the difference between two predictions are added.",
        ("target", "rank", "start", "stop", "strength"),
        _guided,
        _guided_code,
    ),
    "switch": Method(
        "Prompt switching", "From Tx on, the target prompt is the prompt.", ("target", "tx"), _switch, _switch_code
    ),
    "lerp": Method(
        "Interpolation",
        "The straight line from the source's code to the target's.",
        (*PLACES, "strength"),
        _lerp,
        _lerp_code,
    ),
    "attributes": Method(
        "Saved attributes", "One or several at once, each with its strength.", ("attributes",), _saved, _saved_code
    ),
}
