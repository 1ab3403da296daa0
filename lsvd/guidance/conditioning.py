"""What a pipeline tells its network of a prompt, learned by watching one step of a call, for any pipeline.

Pipelines differ in how many encoders read a prompt, in masks and positions, and in how classifier-free guidance is
run: some put the unconditional and the conditional pictures into one batch, others call the network twice. Two calls
with different prompts show which arguments, and which rows of them, are the prompt's. The network is not run for it.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from torch import Tensor

from lsvd.backbones.families import denoiser
from lsvd.backbones.schedulers import starting_at

Path = tuple[str | int, ...]
ROWS = ("x", "cap_feats", "siglip_feats", "image_noise_mask")  # arguments that are lists with an entry for each picture
SHARED = ("image_rotary_emb", "freqs_cis", "txt_ids", "img_ids", "position_ids")  # that have no rows if of 2 dimensions
SECOND = ("encoder_hidden_states_llama3",)  # whose rows are the second dimension


@dataclass(frozen=True)
class NetworkCall:
    """The arguments of one call of a network, by name, for `rows` pictures: those that guidance adds are included.

    positional: how many of them came without their names, as hooks on a network may rely on.
    """

    arguments: Mapping[str, Any]
    rows: int
    positional: int = 0

    @classmethod
    def of(cls, network: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> "NetworkCall":
        """A call with these arguments, of which the first are the pictures."""
        forward = inspect.signature(getattr(network, "_orig_mod", network).forward)
        arguments = dict(forward.bind(*args, **kwargs).arguments)
        arguments |= arguments.pop("kwargs", {})
        return cls(arguments, len(next(iter(arguments.values()))), len(args))

    def run(self, network: Any, leaves: Mapping[Path, Any] | None = None) -> Any:
        """What a network answers, with other values at some places."""
        named = dict(self.arguments if leaves is None else self._with(leaves))
        first = [named.pop(name) for name in list(named)[: self.positional]]
        return network(*first, **named)

    @property
    def leaves(self) -> dict[Path, Any]:
        """Every value within the arguments, by where it is; a list of rows is one value."""
        found: dict[Path, Any] = {}

        def visit(path: Path, value: Any) -> None:
            if isinstance(value, Mapping):
                for name, each in value.items():
                    visit((*path, name), each)
            elif isinstance(value, list | tuple) and not (path[0] in ROWS and len(path) == 1):
                for i, each in enumerate(value):
                    visit((*path, i), each)
            else:
                found[path] = value

        for name, value in self.arguments.items():
            visit((name,), value)
        return found

    def _with(self, leaves: Mapping[Path, Any]) -> dict[str, Any]:

        def rebuilt(path: Path, value: Any) -> Any:
            if path in leaves:
                return leaves[path]
            if isinstance(value, Mapping):
                return {name: rebuilt((*path, name), each) for name, each in value.items()}
            if isinstance(value, list | tuple):
                return type(value)(rebuilt((*path, i), each) for i, each in enumerate(value))
            return value

        return {name: rebuilt((name,), value) for name, value in self.arguments.items()}

    def some(self, rows: range, leaves: Mapping[Path, Any]) -> dict[Path, Any]:
        """The values of some rows, those of `leaves` as they are given."""
        return {path: leaves.get(path, take(path, value, self.rows, rows)) for path, value in self.leaves.items()}


@dataclass(frozen=True)
class Conditioning:
    """What a network is told of source and target prompts, of `count` pictures.

    blocks: which blocks of `count` rows of a batch are the prompt's, where the pipeline runs guidance in one batch of
    `rows`; the others stay as they are. None where it calls the network for each. source, targets: the values that the
    prompt makes, for its rows.
    """

    count: int
    rows: int
    blocks: tuple[int, ...] | None
    source: Mapping[Path, Any]
    targets: tuple[Mapping[Path, Any], ...]

    def blocks_of(self, call: NetworkCall) -> tuple[int, ...]:
        """The blocks of a call that are the prompt's; none of a call for the negative prompt."""
        if self.blocks is not None and call.rows == self.rows:
            return self.blocks
        if call.rows != self.count:
            return ()
        live = call.leaves
        return (0,) if all(same(live.get(path), value) for path, value in self.source.items()) else ()

    def block(self, number: int) -> range:
        """The rows of a block."""
        return range(number * self.count, (number + 1) * self.count)


def conditioning(
    pipe: DiffusionPipeline,
    scheduler: SchedulerMixin,
    draw: Callable[[DiffusionPipeline, Any], None],
    source: Any,
    targets: Sequence[Any],
    count: int,
) -> Conditioning:
    """The conditioning of source and target prompts.

    scheduler: one of `stopping`. draw: calls a pipeline with prompts, for `count` pictures. Raises ValueError for a
    pipeline or a call without guidance, and for prompts that a network is told the same of.
    """
    seen = [_watched(pipe, scheduler, draw, prompts, count) for prompts in (source, *targets)]
    name = type(pipe).__name__
    first, others = seen[0], seen[1:]
    pairs = [[_differing(a, b) for a, b in zip(first, other, strict=False)] for other in others]
    if any(not any(paths) for paths in pairs):
        raise ValueError(f"a {name} tells its network the same of source and target: change one of the prompts")
    batched = len(first) == 1 and first[0].rows > count
    if not batched:
        conditional = {i for paths in pairs for i, each in enumerate(paths) if each}
        if len(first) < 2 or len(conditional) != 1:
            raise ValueError(_without(name))
        (which,) = conditional
        places = {path for paths in pairs for path in paths[which]}
        source_leaves = _chosen(first[which], places)
        return Conditioning(count, count, None, source_leaves, tuple(_chosen(o[which], places) for o in others))
    rows = first[0].rows
    if rows % count:
        raise ValueError(
            f"a {name} calls its network with {rows} rows for {count} pictures, which cannot be told apart"
        )
    places = {path for paths in pairs for path in paths[0]}
    blocks = tuple(
        block
        for block in range(rows // count)
        if any(_block_differs(first[0], other[0], places, block, count) for other in others)
    )
    if len(blocks) == rows // count:
        raise ValueError(_without(name))
    prompt = range(blocks[0] * count, (blocks[0] + 1) * count)
    chosen = [_chosen(calls[0], places, prompt) for calls in seen]
    return Conditioning(count, rows, blocks, chosen[0], tuple(chosen[1:]))


def dimension(path: Path, value: Any, rows: int) -> int | None:
    """Which dimension of an argument counts the pictures, None if there is none."""
    if isinstance(value, list | tuple):
        return 0 if len(value) == rows else None
    if not isinstance(value, Tensor) or (path[0] in SHARED and value.ndim < 3):
        return None
    place = int(path[0] in SECOND)
    return place if value.ndim > place and value.shape[place] == rows else None


def take(path: Path, value: Any, rows: int, some: range) -> Any:
    """Some rows of an argument; all of one that has none."""
    place = dimension(path, value, rows)
    if place is None:
        return value
    if isinstance(value, list | tuple):
        return [value[i] for i in some]
    return value.narrow(place, some.start, len(some))


def same(a: Any, b: Any) -> bool:
    """Whether two arguments are equal, tensors and lists of them included."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a is b or bool(a == b)


class Network:
    """Stands for a pipeline's network as one of its components; whatever it does not do itself, the network does."""

    def __init__(self, network: Any):
        self.network = network

    def __getattr__(self, name: str) -> Any:
        if name in ("network", "_hf_hook", "__deepcopy__"):
            raise AttributeError(name)
        return getattr(self.network, name)


def with_network(pipe: DiffusionPipeline, network: Network, scheduler: SchedulerMixin) -> DiffusionPipeline:
    """The same pipeline, sharing its components, with another network and scheduler; the original stays as it is."""
    other = copy.copy(pipe)
    setattr(other, "unet" if getattr(pipe, "unet", None) is not None else "transformer", network)
    other.scheduler = scheduler
    other._all_hooks = []  # those that move models about stay the original's
    return other


def stopping(scheduler: SchedulerMixin) -> SchedulerMixin:
    """A copy of a scheduler that ends the watching of `conditioning` at its first step, with its schedule set then."""
    base = type(scheduler)

    @functools.wraps(base.step)
    def step(self, *args, **kwargs):
        raise _Seen

    later = starting_at(scheduler, 0)
    later.__class__ = type(base.__name__, (type(later),), {"step": step})
    return later


class _Seen(Exception):
    """Raised where enough of a call was seen."""


class _Watcher(Network):
    """Notes the calls of a network in one step, and answers zeros."""

    def __init__(self, network: Any, count: int):
        super().__init__(network)
        self.count, self.calls = count, []

    def __call__(self, *args, **kwargs):
        call = NetworkCall.of(self.network, args, kwargs)
        self.calls.append(call)
        if call.rows > self.count or len(self.calls) == 2:
            raise _Seen
        pictures = next(iter(call.arguments.values()))
        if not isinstance(pictures, Tensor):
            raise _Seen  # a list of pictures is one batch
        return (torch.zeros_like(pictures),)


def _watched(
    pipe: DiffusionPipeline,
    scheduler: SchedulerMixin,
    draw: Callable[[DiffusionPipeline, Any], None],
    prompts: Any,
    count: int,
) -> list[NetworkCall]:
    """The calls of the network within the first step of a pipeline's call."""
    network = denoiser(pipe)
    watcher = _Watcher(network, count)
    before = getattr(network, "attn_processors", None)
    try:
        draw(with_network(pipe, watcher, scheduler), prompts)
    except _Seen:
        pass
    finally:
        # pipelines that exchange them for a call put them back at its end only
        if before and any(network.attn_processors[name] is not each for name, each in before.items()):
            network.set_attn_processor(dict(before))
    return watcher.calls


def _differing(a: NetworkCall, b: NetworkCall) -> set[Path]:
    """Where two calls differ."""
    one, other = a.leaves, b.leaves
    return {path for path in one.keys() | other.keys() if not same(one.get(path), other.get(path))}


def _block_differs(a: NetworkCall, b: NetworkCall, places: set[Path], block: int, count: int) -> bool:
    """Whether the rows of a block differ between two calls; padding, which is the prompts' together, aside."""
    rows, one, other = range(block * count, (block + 1) * count), a.leaves, b.leaves
    for path in places:
        if any(dimension(path, each.get(path), a.rows) is None for each in (one, other)):
            continue
        x, y = (take(path, each[path], a.rows, rows) for each in (one, other))
        if isinstance(x, Tensor) and x.shape != y.shape:
            along = [i for i in range(x.ndim) if x.shape[i] != y.shape[i]]
            if len(along) > 1 or not x.is_floating_point():  # a mask, which is as long as the longest prompt
                continue
            length = min(x.shape[along[0]], y.shape[along[0]])
            x, y = x.narrow(along[0], 0, length), y.narrow(along[0], 0, length)
        if not same(x, y):
            return True
    return False


def _chosen(call: NetworkCall, places: set[Path], rows: range | None = None) -> dict[Path, Any]:
    """The values at some places of a call, of some of its rows."""
    leaves = {path: value for path, value in call.leaves.items() if path in places}
    return leaves if rows is None else {path: take(path, value, call.rows, rows) for path, value in leaves.items()}


def _without(name: str) -> str:
    return (
        f"this call of a {name} has no guidance, whose difference is what is edited: take a guidance above 1 (Flux: "
        "true_cfg_scale and negative_prompt), and not a model that was distilled to do without"
    )
