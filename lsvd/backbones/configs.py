"""What a part of a model computes with, as text: configurations as they count now, and attributes changed by hand.

diffusers lets a configuration be changed by `scheduler.config.x = y`: what samples reads the attribute, while the entry
of that name keeps the old value. Here the attribute counts.
"""

import functools
import json
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any

import numpy as np
import torch
from diffusers import SchedulerMixin

from lsvd.backbones.checkpoints import silently
from lsvd.backbones.devices import cpu_by_default
from lsvd.storage.results import checksum

LIBRARIES = {"accelerate", "builtins", "diffusers", "functools", "lsvd", "numpy", "peft", "torch", "transformers"}
STATE = {"_internal_dict", "_begin_index", "_step_index"}  # the configuration, and where a scheduler begins and is


def settled(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as it counts, without the libraries' private notes: where it was read from, by which version.

    Entries that another class left there count too: some schedulers read sigma_min though they do not list it.
    """
    changed = getattr(config, "__dict__", {})
    return {name: changed.get(name, value) for name, value in config.items() if not name.startswith("_")}


def given(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration for another class's `from_config`, which takes its own defaults where these were defaults."""
    now = settled(config)
    defaults = [name for name in config.get("_use_default_values", ()) if now.get(name) == config.get(name)]
    return {**config, **now, "_use_default_values": defaults}


def config_text(config: Mapping[str, Any]) -> str:
    """`settled` as JSON."""
    return json.dumps(settled(config), sort_keys=True, default=_plain)


def scheduler_text(scheduler: SchedulerMixin) -> str:
    """A scheduler's configuration as JSON, with a digest of each attribute that differs from what that would make.

    What a run leaves in a scheduler, such as its timesteps, is left out.
    """
    text = config_text(scheduler.config)
    fresh, mine = _fresh(type(scheduler), text), vars(scheduler)
    named = {name: described(mine[name]) for name in fresh if name in mine}
    changed = {name: f"changed: {_digest(value)}" for name, value in named.items() if value != fresh[name]}
    replaced = [name for name, value in mine.items() if callable(value) and callable(getattr(type(scheduler), name, 0))]
    changed |= {name: f"replaced: {_digest(described(mine[name]))}" for name in replaced}
    return json.dumps(json.loads(text) | changed, sort_keys=True) if changed else text


@functools.lru_cache(maxsize=64)
def _fresh(kind: type[SchedulerMixin], text: str) -> dict[str, Any]:
    """The attributes that a fresh scheduler of this configuration has, without those that sampling changes."""
    with silently(), cpu_by_default(), torch.random.fork_rng(devices=[]):  # some steps draw noise
        try:
            scheduler = kind.from_config(json.loads(text))
        except Exception:  # a configuration that was changed to one that its class would refuse
            return {}
        before = {name: described(value) for name, value in vars(scheduler).items() if name not in STATE}
        try:
            scheduler.set_timesteps(4)
            x = torch.zeros(1, 1, 8, 8)
            for t in scheduler.timesteps[:2]:
                scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
                scheduler.step(torch.zeros_like(x), t, x)
        except Exception:  # some want more arguments: what was changed until then is known
            pass
    after = {name: described(value) for name, value in vars(scheduler).items() if name in before}
    return {name: value for name, value in before.items() if after.get(name, ...) == value}


def described(value: Any, depth: int = 2) -> Any:
    """A value as JSON can hold it, the same for what computes the same.

    Tensors by a digest; objects by their class and attributes, `depth` levels deep; functions and classes that are not
    of a library, whose version stands for it, by their code.
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case torch.Tensor():
            return checksum({"": value})
        case np.ndarray() | np.generic():
            return [str(value.dtype), np.asarray(value).tolist()]
        case torch.dtype() | torch.device():
            return str(value)
        case Mapping():
            return {str(name): described(item, depth) for name, item in value.items()}
        case list() | tuple():
            return [described(item, depth) for item in value]
        case set() | frozenset():
            return sorted(str(described(item, depth)) for item in value)
        case functools.partial():
            return [described(item, depth) for item in (value.func, value.args, value.keywords)]
        case torch.nn.Module():
            return origin(type(value))
    if isinstance(value, type) or hasattr(value, "__code__") or hasattr(value, "__func__"):
        return origin(value)
    if not depth or not hasattr(value, "__dict__"):
        return origin(type(value))
    return [origin(type(value)), {name: described(item, depth - 1) for name, item in sorted(vars(value).items())}]


def origin(value: Callable) -> Any:
    """The name of a class or function, with a digest of its code where it is not of a library."""
    name = f"{value.__module__}.{value.__qualname__}"
    if str(value.__module__).split(".")[0] in LIBRARIES:
        return name
    if not isinstance(value, type):
        return [name, _digest(_code(value))]
    inherited = [origin(base) for base in value.__bases__]
    methods = {name: _code(method) for name, method in sorted(vars(value).items()) if callable(method)}
    return [name, _digest(methods), inherited]


def _code(function: Callable) -> Any:
    """A function's code, with the numbers, texts and tensors that it keeps from around it or as defaults."""
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        return described(function, 0)
    around = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    around += [cell.cell_contents for cell in function.__closure__ or ()]
    # lists and dicts are mostly what a function notes things in
    kept = [part for part in around if isinstance(part, bool | int | float | str | torch.Tensor)]
    return [_instructions(code), described(kept)]


def _instructions(code: CodeType) -> Any:
    constants = [_instructions(part) if isinstance(part, CodeType) else repr(part) for part in code.co_consts]
    return [code.co_code.hex(), constants, code.co_names]


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return checksum({"": torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)})[:12]


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
