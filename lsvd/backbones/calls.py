"""Further arguments of a pipeline's call: negative prompts, embeddings, guidance_rescale and the like."""

import difflib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from diffusers import DiffusionPipeline
from torch import Tensor
from transformers import CLIPTextModel

from lsvd.backbones.families import Family
from lsvd.checks import integer, shown

CallKwargs = tuple[tuple[str, Any], ...]

# arguments that are set already, and what sets them
SET = {
    "prompt": "prompts",
    "num_inference_steps": "steps",
    "timesteps": "steps and the scheduler",
    "sigmas": "steps and the scheduler",
    "generator": "seeds",
    "latents": "seeds, or codes",
    "eta": "eta",
    "height": "the backbone's size",
    "width": "the backbone's size",
    "denoising_end": "until",
    **dict.fromkeys(("output_type", "return_dict", "callback", "callback_steps"), "the trajectory that is returned"),
    **dict.fromkeys(("callback_on_step_end", "callback_on_step_end_tensor_inputs"), "the trajectory that is returned"),
}


def check_call(pipe: DiffusionPipeline, family: Family, call_kwargs: Mapping[str, Any], count: int) -> CallKwargs:
    """Further arguments of a pipeline's call for `count` pictures, as pairs of name and value, sorted by name.

    Texts of prompts become one per picture, embeddings tensors with one row per picture. With `num_images_per_prompt`
    n there may be count / n of either, each for n pictures in a row; it is left out of the result, where each picture
    has its own. All other values are kept as JSON holds them. Raises ValueError, in one sentence, for an argument that
    the pipeline does not take, that something else sets, or whose value cannot be used.
    """
    kind = type(pipe).__name__
    taken = [name for name in inspect.signature(pipe.__call__).parameters if name not in SET and name != "kwargs"]
    set_by = SET | ({family.guidance: "guidance"} if family.guidance else {})
    copies = _each(call_kwargs.get("num_images_per_prompt", 1), count)
    values = {}
    for name, value in sorted(call_kwargs.items()):
        if name in set_by:
            raise ValueError(f"{name} is set by {set_by[name]}: leave it out of the call's arguments")
        if name not in taken:
            near = difflib.get_close_matches(name, taken, 1)
            hint = f"did you mean {near[0]}?" if near else "leave it out"
            raise ValueError(f"a {kind} takes no argument {name!r}: {hint}")
        if value is not None and name != "num_images_per_prompt":
            values[name] = _value(name, value, count, copies)
    for name in ("prompt", "negative_prompt"):
        if f"{name}_embeds" in values and name in values:
            raise ValueError(f"{name} and {name}_embeds say the same twice: leave one out")
    encoder = getattr(pipe, "text_encoder", None)
    alone = isinstance(encoder, CLIPTextModel) and getattr(pipe, "text_encoder_2", None) is None
    if "clip_skip" in values and alone and not hasattr(encoder, "text_model"):  # of transformers before 5.23
        raise ValueError("this diffusers cannot skip layers of this transformers' CLIP: give prompt_embeds instead")
    return tuple(values.items())


def rows(call_kwargs: CallKwargs, part: slice | Sequence[int]) -> CallKwargs:
    """The arguments of some of the pictures, from those that `check_call` returned."""

    def some(value: Any) -> Any:
        if isinstance(part, slice) or isinstance(value, Tensor):
            return value[part if isinstance(part, slice) else list(part)]
        return tuple(value[row] for row in part)

    return tuple((name, some(value) if _per_picture(name, value) else value) for name, value in call_kwargs)


def _each(number: Any, count: int) -> int:
    copies = integer(number)
    if copies is None or copies < 1 or count % copies:
        raise ValueError(
            f"num_images_per_prompt {shown(number)} does not divide {count} seeds: give a seed per picture"
        )
    return copies


def _per_picture(name: str, value: Any) -> bool:
    return isinstance(value, Tensor) or _is_text(name)


def _is_text(name: str) -> bool:
    return re.fullmatch(r"(negative_)?prompt(_\d)?", name) is not None


def _value(name: str, value: Any, count: int, copies: int) -> Any:
    """The value of one argument, one per picture where it is a prompt's."""
    if isinstance(value, Tensor) and not _is_text(name):
        return _embeddings(name, value, count, copies)
    if _per_picture(name, value):
        texts = [value] * count if isinstance(value, str) else value
        if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{name} is text: give a string, or one per picture")
        texts = [text for text in texts for _ in range(copies)] if len(texts) * copies == count else texts
        if len(texts) != count:
            raise ValueError(f"{len(texts)} of {name} for {count} pictures: give one for all, or one per picture")
        return tuple(texts)
    try:
        return _frozen(json.loads(json.dumps(value, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is a {type(value).__name__}, which a trajectory cannot note: give numbers, texts, lists or tensors"
        ) from error


def _embeddings(name: str, value: Tensor, count: int, copies: int) -> Tensor:
    if value.ndim < 2:
        raise ValueError(f"{name} has shape {tuple(value.shape)}: give one row per picture")
    if value.is_floating_point() and not value.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity: leave these out")
    if len(value) == 1:
        return value.expand(count, *value.shape[1:])
    value = value.repeat_interleave(copies, 0) if len(value) * copies == count else value
    if len(value) != count:
        raise ValueError(f"{len(value)} of {name} for {count} pictures: give one for all, or one per picture")
    return value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
