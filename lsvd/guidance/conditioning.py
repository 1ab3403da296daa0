"""What a pipeline tells its network about a prompt, learned from one step of a call, for any pipeline.

Pipelines differ in how many encoders read a prompt, in masks and positions, and in how they run classifier-free
guidance: some put the unconditional and the conditional pictures into one batch, others call the network twice. Two
calls with different prompts show which arguments, and which rows of them, depend on the prompt. The network itself is
not run.
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
ROWS = ("x", "cap_feats", "siglip_feats", "image_noise_mask")  # arguments that list an entry per picture
SHARED = ("image_rotary_emb", "freqs_cis", "txt_ids", "img_ids", "position_ids")  # without rows if of 2 dimensions
SECOND = ("encoder_hidden_states_llama3",)  # arguments whose rows are the second dimension


@dataclass(frozen=True)
class NetworkCall:
    """The arguments of one call of a network, by name, for `rows` pictures, including those that guidance adds.

    positional: how many arguments came without their names. Hooks on a network may rely on it.
    """

    arguments: Mapping[str, Any]
    rows: int
    positional: int = 0

    @classmethod
    def of(cls, network: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> "NetworkCall":
        """A call with these arguments; the first one holds the pictures."""
        forward = inspect.signature(getattr(network, "_orig_mod", network).forward)
        arguments = dict(forward.bind(*args, **kwargs).arguments)
        arguments |= arguments.pop("kwargs", {})
        return cls(arguments, len(next(iter(arguments.values()))), len(args))

    def run(self, network: Any, leaves: Mapping[Path, Any] | None = None) -> Any:
        """A network's output for this call, with other values at some places."""
        named = dict(self.arguments if leaves is None else self._with(leaves))
        first = [named.pop(name) for name in list(named)[: self.positional]]
        return network(*first, **named)

    @property
    def leaves(self) -> dict[Path, Any]:
        """Every value within the arguments, by its place; a list of rows is one value."""
        values: dict[Path, Any] = {}

        def visit(path: Path, value: Any) -> None:
            if isinstance(value, Mapping):
                for name, item in value.items():
                    visit((*path, name), item)
            elif isinstance(value, list | tuple) and not (path[0] in ROWS and len(path) == 1):
                for i, item in enumerate(value):
                    visit((*path, i), item)
            else:
                values[path] = value

        for name, value in self.arguments.items():
            visit((name,), value)
        return values

    def _with(self, leaves: Mapping[Path, Any]) -> dict[str, Any]:
        """The arguments with other values at some places."""

        def rebuilt(path: Path, value: Any) -> Any:
            if path in leaves:
                return leaves[path]
            if isinstance(value, Mapping):
                return {name: rebuilt((*path, name), item) for name, item in value.items()}
            if isinstance(value, list | tuple):
                return type(value)(rebuilt((*path, i), item) for i, item in enumerate(value))
            return value

        return {name: rebuilt((name,), value) for name, value in self.arguments.items()}

    def some(self, rows: range, leaves: Mapping[Path, Any]) -> dict[Path, Any]:
        """The values of some rows; those in `leaves` are taken from there."""
        return {path: leaves.get(path, take(path, value, self.rows, rows)) for path, value in self.leaves.items()}


@dataclass(frozen=True)
class Conditioning:
    """The arguments that source and target prompts set in calls of a network, for `count` pictures.

    blocks: which blocks of `count` rows depend on the prompt, where the pipeline runs guidance in one batch of `rows`;
    the other blocks stay as they are. None where the pipeline calls the network once for each prompt. source, targets:
    the values that depend on the prompt, for its rows.
    """

    count: int
    rows: int
    blocks: tuple[int, ...] | None
    source: Mapping[Path, Any]
    targets: tuple[Mapping[Path, Any], ...]

    def blocks_of(self, call: NetworkCall) -> tuple[int, ...]:
        """The blocks of a call that depend on the prompt; none in a call for the negative prompt."""
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
    pipeline or a call without guidance, and for prompts that make no difference to the network.
    """
    runs = [_first_calls(pipe, scheduler, draw, prompts, count) for prompts in (source, *targets)]
    name = type(pipe).__name__
    first, others = runs[0], runs[1:]
    pairs = [[_differences(a, b) for a, b in zip(first, other, strict=False)] for other in others]
    if any(not any(paths) for paths in pairs):
        raise ValueError(f"a {name} tells its network the same about source and target: change one of the prompts")
    batched = len(first) == 1 and first[0].rows > count
    if not batched:
        conditional = {i for paths in pairs for i, differing in enumerate(paths) if differing}
        if len(first) < 2 or len(conditional) != 1:
            raise ValueError(_no_guidance(name))
        (index,) = conditional
        places = {path for paths in pairs for path in paths[index]}
        source_leaves = _values(first[index], places)
        return Conditioning(count, count, None, source_leaves, tuple(_values(o[index], places) for o in others))
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
        raise ValueError(_no_guidance(name))
    prompt = range(blocks[0] * count, (blocks[0] + 1) * count)
    leaves = [_values(calls[0], places, prompt) for calls in runs]
    return Conditioning(count, rows, blocks, leaves[0], tuple(leaves[1:]))


def dimension(path: Path, value: Any, rows: int) -> int | None:
    """The dimension of an argument that counts the pictures; None if it has none."""
    if isinstance(value, list | tuple):
        return 0 if len(value) == rows else None
    if not isinstance(value, Tensor) or (path[0] in SHARED and value.ndim < 3):
        return None
    place = int(path[0] in SECOND)
    return place if value.ndim > place and value.shape[place] == rows else None


def take(path: Path, value: Any, rows: int, some: range) -> Any:
    """Some rows of an argument; the whole argument if it has none."""
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
    """A component in place of a pipeline's network; it passes on everything that it does not define itself."""

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
    other._all_hooks = []  # hooks that move models between devices stay the original's
    return other


def stopping(scheduler: SchedulerMixin) -> SchedulerMixin:
    """A copy of a scheduler that ends a call at its first step, for `conditioning`; its schedule is set by then."""
    base = type(scheduler)

    @functools.wraps(base.step)
    def step(self, *args, **kwargs):
        raise _Enough

    later = starting_at(scheduler, 0)
    later.__class__ = type(base.__name__, (type(later),), {"step": step})
    return later


class _Enough(Exception):
    """Raised to end a call once enough of it is known."""


class _Watcher(Network):
    """Notes the calls of a network in one step, and returns zeros."""

    def __init__(self, network: Any, count: int):
        super().__init__(network)
        self.count, self.calls = count, []

    def __call__(self, *args, **kwargs):
        call = NetworkCall.of(self.network, args, kwargs)
        self.calls.append(call)
        if call.rows > self.count or len(self.calls) == 2:
            raise _Enough
        pictures = next(iter(call.arguments.values()))
        if not isinstance(pictures, Tensor):
            raise _Enough  # a list of pictures is one batch
        return (torch.zeros_like(pictures),)


def _first_calls(
    pipe: DiffusionPipeline,
    scheduler: SchedulerMixin,
    draw: Callable[[DiffusionPipeline, Any], None],
    prompts: Any,
    count: int,
) -> list[NetworkCall]:
    """The calls of the network within the first step of a pipeline's call."""
    network = denoiser(pipe)
    watcher = _Watcher(network, count)
    processors = getattr(network, "attn_processors", None)
    try:
        draw(with_network(pipe, watcher, scheduler), prompts)
    except _Enough:
        pass
    finally:
        # pipelines that replace them for a call restore them only at its end
        if processors and any(network.attn_processors[name] is not processor for name, processor in processors.items()):
            network.set_attn_processor(dict(processors))
    return watcher.calls


def _differences(a: NetworkCall, b: NetworkCall) -> set[Path]:
    """Where two calls differ."""
    one, other = a.leaves, b.leaves
    return {path for path in one.keys() | other.keys() if not same(one.get(path), other.get(path))}


def _block_differs(a: NetworkCall, b: NetworkCall, places: set[Path], block: int, count: int) -> bool:
    """Whether the rows of a block differ between two calls, apart from padding, which depends on all prompts."""
    rows, one, other = range(block * count, (block + 1) * count), a.leaves, b.leaves
    for path in places:
        if any(dimension(path, arguments.get(path), a.rows) is None for arguments in (one, other)):
            continue
        x, y = (take(path, arguments[path], a.rows, rows) for arguments in (one, other))
        if isinstance(x, Tensor) and x.shape != y.shape:
            unequal = [i for i in range(x.ndim) if x.shape[i] != y.shape[i]]
            if len(unequal) > 1 or not x.is_floating_point():  # a mask, as long as the longest prompt
                continue
            length = min(x.shape[unequal[0]], y.shape[unequal[0]])
            x, y = x.narrow(unequal[0], 0, length), y.narrow(unequal[0], 0, length)
        if not same(x, y):
            return True
    return False


def _values(call: NetworkCall, places: set[Path], rows: range | None = None) -> dict[Path, Any]:
    """The values at some places of a call, of some of its rows."""
    leaves = {path: value for path, value in call.leaves.items() if path in places}
    return leaves if rows is None else {path: take(path, value, call.rows, rows) for path, value in leaves.items()}


def _no_guidance(name: str) -> str:
    return (
        f"this call of a {name} has no guidance to edit: take a guidance above 1 (Flux: true_cfg_scale and "
        "negative_prompt), and a model that was not distilled to do without"
    )
