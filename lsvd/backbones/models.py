"""The diffusion models: one interface for text-to-image and unconditional ones, of latents or pixels.

Codes are what the diffusion runs on, shape (B, C, H, W): an autoencoder's latents, or for pixel models the picture
itself in [-1, 1]. Pictures are float32 in [0, 1], shape (B, 3, height, width).
"""

import re
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from torch import Tensor
from transformers import CLIPTokenizer

from lsvd.backbones import calls
from lsvd.backbones.calls import CallKwargs
from lsvd.backbones.configs import given, scheduler_text
from lsvd.backbones.devices import cpu_by_default
from lsvd.backbones.families import (
    Family,
    denoiser,
    family_of,
    from_autoencoder,
    latent_shape,
    makes_films,
    native_size,
    pack,
    to_autoencoder,
    unpack,
)
from lsvd.backbones.pictures import Pictures, as_tensor
from lsvd.backbones.registry import Entry, Kind
from lsvd.backbones.schedulers import Schedule, Scheduled, accepts, prepare, probing
from lsvd.backbones.steps import begins_late, first_step_fails, takes_variance
from lsvd.checks import check_code, check_seeds, integer, out_of_memory, shown

OnStep = Callable[[int, Tensor, Tensor], Tensor]
OTHER_STEPS = "take another number, or set timestep_spacing='trailing' where the scheduler has it"


class Backbone(ABC):
    """A diffusion model with its scheduler. Make one with `load`, or from a pipeline of your own.

    `pipe` is the diffusers pipeline, untouched; `scheduler` the one that sampling uses; `entry` the defaults; `size`
    the height and width of its pictures in pixels; `latent_shape` the shape (C, H, W) of one code.

    A scheduler that is given to the pipeline later (`backbone.pipe.scheduler = ...`), or to the backbone, is the one
    that sampling uses from then on. The backbones of `with_scheduler` keep theirs, whatever their pipeline is given.
    """

    kind: Kind

    def __init__(
        self,
        pipe: DiffusionPipeline,
        entry: Entry,
        scheduler: SchedulerMixin,
        words: Iterable[str] = (),
        size: tuple[int, int] | None = None,
    ):
        self.pipe, self.entry, self.words = pipe, entry, frozenset(words)
        self._follows, self.scheduler = True, scheduler  # see the property
        self.size = self._native_size() if size is None else size
        self.latent_shape = self._latent_shape()
        self._prepared: dict[int, tuple[type[SchedulerMixin], str, SchedulerMixin]] = {}

    @property
    def scheduler(self) -> SchedulerMixin:
        """The scheduler that sampling uses; sampling takes copies of it, and leaves it as it is."""
        sampler = _own_scheduler(self.pipe)
        if self._follows and sampler is not self._given:
            self._scheduler = self._given = sampler
        return self._scheduler

    @scheduler.setter
    def scheduler(self, scheduler: SchedulerMixin) -> None:
        if not isinstance(scheduler, SchedulerMixin) or "num_train_timesteps" not in scheduler.config:
            raise ValueError(f"not a scheduler of diffusion in timesteps: {scheduler!r}; give one, as DDIMScheduler()")
        self._scheduler, self._given = scheduler, _own_scheduler(self.pipe)

    @property
    def name(self) -> str:
        """The name it is registered under, or its folder's."""
        return self.entry.name

    @property
    def device(self) -> torch.device:
        """The device that it computes on, where codes are expected."""
        return self.pipe._execution_device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its codes."""
        return denoiser(self.pipe).dtype

    @property
    def T(self) -> int:
        """The number of timesteps of training; a schedule runs from about T down to 0."""
        return self.scheduler.config.num_train_timesteps

    def with_scheduler(self, scheduler: SchedulerMixin | type[SchedulerMixin]) -> "Backbone":
        """The same model, sharing its weights, with another scheduler; a class takes over the present one's config."""
        if isinstance(scheduler, type):
            with cpu_by_default():
                scheduler = scheduler.from_config(given(self.scheduler.config))
        other = type(self)(self.pipe, self.entry, scheduler, self.words, self.size)
        other._follows = False
        return other

    def schedule(self, steps: int) -> Schedule:
        """The schedule of `steps` inference steps. A scheduler of second order lists more timesteps than steps."""
        return Schedule.of(self.prepared(steps))

    def prepared(self, steps: int) -> SchedulerMixin:
        """A copy of the scheduler that is set to its schedule of `steps` steps: take a copy of it to use it.

        It follows what is changed on the scheduler. Raises ValueError for steps that the scheduler has no schedule of.
        """
        scheduler = self.scheduler
        kind, text = type(scheduler), scheduler_text(scheduler)
        known = self._prepared.get(steps)
        if known is None or known[:2] != (kind, text):
            try:
                known = self._prepared[steps] = kind, text, self._prepare(steps)
            except Exception as error:
                if out_of_memory(error) or isinstance(error, _NotTaken):
                    raise
                reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
                raise ValueError(f"{kind.__name__} cannot take {steps} steps ({reason}): {OTHER_STEPS}") from error
        return known[2]

    def check_steps(self, steps: int) -> int:
        """The number of steps. Raises ValueError for one that cannot be taken, or not by the scheduler.

        Warns (UserWarning) of a schedule that begins well below T, which cannot draw from noise.
        """
        number = integer(steps)
        if number is None or not 1 <= number <= self.T:
            raise ValueError(f"cannot take {shown(steps)} steps: choose a whole number from 1 to {self.T}")
        steps = number
        name, prepared = type(self.scheduler).__name__, self.prepared(steps)
        error = first_step_fails(prepared)
        if error is not None:
            where = f"from timestep {prepared.timesteps[0].item():g} of {self.T}"
            raise ValueError(f"{name} cannot take {steps} steps {where} ({error}): {OTHER_STEPS}") from error
        start = begins_late(prepared, self.T, steps)
        if start is not None:
            _warn(f"the {steps} steps of {name} begin at timestep {start:g} of {self.T}: {OTHER_STEPS}")
        return steps

    def _prepare(self, steps: int) -> SchedulerMixin:
        return prepare(self.scheduler, steps)

    def _native_size(self) -> tuple[int, int]:
        return native_size(self.pipe)

    @abstractmethod
    def _latent_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of the codes of pictures of its size. Raises ValueError if there is none."""

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """Standard normal noise, shape (B, C, H, W), picture i from a CPU generator seeded with seeds[i] alone.

        Drawn in float32 and then cast, so that every device and dtype starts from the same noise, bit for bit the same
        alone or in a batch. Raises ValueError for a seed that is not a whole number from 0 to 2**32 - 1 (torch's CPU
        generator reads 32 bits only).
        """
        draws = [self._draw(torch.Generator().manual_seed(seed)) for seed in check_seeds(seeds)]
        return torch.stack(draws).to(self.device, self.dtype)

    def _draw(self, generator: torch.Generator) -> Tensor:
        return torch.randn(self.latent_shape, generator=generator, dtype=torch.float32, device="cpu")

    def check_codes(self, codes: Tensor, count: int | None = None) -> Tensor:
        """The codes, on the model's device in its dtype. Raises ValueError if their shape is not (B, C, H, W), or not
        `count` of them, or if one is not finite."""
        check_code(codes)
        shape = tuple(codes.shape)
        if len(shape) != 4 or shape[1:] != self.latent_shape or (count is not None and shape[0] != count):
            wanted = ", ".join(str(n) for n in ("B" if count is None else count, *self.latent_shape))
            raise ValueError(f"{self.name} takes codes of shape ({wanted}), not {shape}")
        return codes.detach().to(self.device, self.dtype)

    @torch.no_grad()
    def encode(self, pictures: Pictures, batch: int = 16) -> Tensor:
        """Pictures to codes, shape (B, C, H, W): the mean, no sampling.

        pictures: shape (B, 3, height, width) in [0, 1], or PIL images of any size, arrays, or lists, as
        lsvd.backbones.pictures.as_tensor takes them. Raises ValueError for another shape, size or range.
        """
        scaled = as_tensor(pictures, self.size).to(self.device, self.dtype) * 2 - 1
        codes = torch.cat([self._encode(part) for part in scaled.split(batch)])
        if not codes.isfinite().all():
            raise ValueError(f"{self.name} makes NaN or infinity of these pictures: {self._whole}")
        return self.check_codes(codes, len(scaled))

    @torch.no_grad()
    def decode(self, codes: Tensor, batch: int = 16) -> Tensor:
        """Codes, shape (B, C, H, W), to pictures, shape (B, 3, height, width), float32 clipped to [0, 1].

        Raises ValueError for another shape, or codes or pictures that are not finite.
        """
        codes = self.check_codes(codes)
        pictures = torch.cat([self._decode(part).float().add(1).div(2).clamp(0, 1) for part in codes.split(batch)])
        if pictures.isnan().any():
            raise ValueError(f"{self.name} makes NaN of these codes instead of pictures: {self._whole}")
        return pictures

    @property
    def _whole(self) -> str:
        """What to do where the autoencoder computes no finite numbers."""
        half = denoiser(self.pipe).dtype.itemsize < 4
        return "load it with dtype=torch.float32" if half else "its autoencoder is damaged, load another copy"

    def check_call(self, call_kwargs: Mapping[str, Any], count: int) -> CallKwargs:
        """Further arguments of the pipeline's call for `count` pictures, as lsvd.backbones.calls.check_call has them.

        Raises ValueError for an argument that the pipeline does not take.
        """
        if call_kwargs:
            raise ValueError(f"{self.name} is unconditional and takes no {min(call_kwargs)}: leave it out")
        return ()

    def check_prompts(self, prompts: Sequence[str]) -> None:  # noqa: B027
        """Warn of words that the model never saw and of prompts that are too long; without prompts, of nothing."""

    def noticing(self, code: Tensor, request: Any, on_step: OnStep) -> OnStep:
        """The on_step for whatever denoises `code` in this backbone's place; here as it is.

        One that follows what is drawn (lsvd.explorer.watch) looks on by it.
        """
        return on_step

    @abstractmethod
    def _encode(self, pictures: Tensor) -> Tensor:
        """Pictures in [-1, 1] to codes."""

    @abstractmethod
    def _decode(self, codes: Tensor) -> Tensor:
        """Codes to pictures in [-1, 1], not clipped."""

    @abstractmethod
    def denoise(
        self,
        code: Tensor,
        scheduler: SchedulerMixin,
        request: Any,
        generators: list[torch.Generator],
        on_step: OnStep,
    ) -> None:
        """Run `scheduler` from its first timestep on, beginning with `code` as it is.

        request: lsvd.sampling.trajectory.Settings, which has steps, prompts, guidance, eta and call_kwargs.

        After each step, on_step(i, t, x) gets the new code and returns the one to go on with. Use
        `lsvd.sampling.trajectory.run`, which prepares all of this.
        """


class _NotTaken(ValueError):
    """A scheduler that a pipeline cannot use, whatever the number of steps."""


class TextToImage(Backbone):
    """A latent model that prompts steer: an untouched pipeline of one of lsvd.backbones.families."""

    kind = "text-to-image"

    @property
    def family(self) -> Family:
        """What its pipeline's class does in its own way."""
        return family_of(type(self.pipe))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its codes: the model's, unless its family keeps them in float32."""
        return torch.float32 if self.family.whole else denoiser(self.pipe).dtype

    def with_scheduler(self, scheduler):
        """See Backbone.with_scheduler. A class does not begin to clip latents, which clip_sample is not meant for."""
        other = super().with_scheduler(scheduler)
        config = other.scheduler.config
        if isinstance(scheduler, type) and config.get("clip_sample") and not self.scheduler.config.get("clip_sample"):
            other = super().with_scheduler(scheduler.from_config(config, clip_sample=False))
        return other

    def _latent_shape(self) -> tuple[int, int, int]:
        return latent_shape(self.pipe, self.family, self.size)

    def _encode(self, pictures: Tensor) -> Tensor:
        with _explained(self.name), _whole_autoencoder(self.pipe) as vae:
            pictures = pictures.to(vae.dtype)
            coded = vae.encode(pictures.unsqueeze(2) if makes_films(vae) else pictures)
            if hasattr(coded, "latent_dist"):
                means = coded.latent_dist.mode()
            else:  # those of Sana, and the tiny ones, do not sample
                means = coded.latent if hasattr(coded, "latent") else coded.latents
            return from_autoencoder(self.pipe, means)

    def _decode(self, codes: Tensor) -> Tensor:
        with _explained(self.name), _whole_autoencoder(self.pipe) as vae:
            pictures = vae.decode(to_autoencoder(self.pipe, codes), return_dict=False)[0]
        return pictures[:, :, 0] if makes_films(vae) else pictures

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Warn (UserWarning) of words outside the model's vocabulary, and of what an overlong prompt loses."""
        tokenizer = getattr(self.pipe, "tokenizer", None)
        if not isinstance(tokenizer, CLIPTokenizer) or getattr(self.pipe, "text_encoder_3", None) is not None:
            return  # others read hundreds of tokens
        for prompt in dict.fromkeys(prompts):
            strange = [w for w in dict.fromkeys(_words(prompt)) if self.words and w not in self.words]
            if strange:
                _warn(f"{self.name} was never shown the words {', '.join(strange)} of {prompt!r}: expect no effect")
            read = prompt
            if hasattr(self.pipe, "maybe_convert_prompt"):  # a word of textual inversion may stand for several tokens
                read = self.pipe.maybe_convert_prompt(prompt, tokenizer)
            ids = tokenizer(read, truncation=False, add_special_tokens=False, verbose=False).input_ids
            room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
            if len(ids) > room:
                cut = tokenizer.decode(ids[room:], skip_special_tokens=True)
                _warn(f"{self.name} reads {room} tokens of a prompt; of {prompt!r} it will not see {cut!r}")

    def check_call(self, call_kwargs: Mapping[str, Any], count: int) -> CallKwargs:
        """See Backbone.check_call; warns of negative prompts as `check_prompts` does of prompts."""
        checked = calls.check_call(self.pipe, self.family, call_kwargs, count)
        self.check_prompts(dict(checked).get("negative_prompt", ()))
        return checked

    def denoise(self, code, scheduler, request, generators, on_step) -> None:
        """See Backbone.denoise: here through the pipeline's own callback_on_step_end."""

        layout = self.family.layout

        raised = []  # by on_step, which has its own words

        def callback(pipe, step, t, tensors):
            latents = tensors["latents"]
            try:
                x = on_step(step, t, unpack(latents, layout, self.latent_shape))
            except Exception as error:
                raised.append(error)
                raise
            return {"latents": pack(x, layout).to(latents.dtype)}

        if getattr(denoiser(self.pipe), "is_cache_enabled", False):
            # what it leaves out depends on the steps before, and on a call before that was stopped
            raise ValueError(
                f"{self.name} skips parts of steps by what earlier steps left, so codes do not tell how it goes on: "
                "call disable_cache() on its denoiser"
            )
        with _explained(self.name, raised):
            self._call(scheduler, code, request, generators, callback)

    def _prepare(self, steps: int) -> SchedulerMixin:
        pipeline, kind = type(self.pipe).__name__, type(self.scheduler).__name__
        if getattr(self.pipe, "unet", None) is not None and not hasattr(self.scheduler, "scale_model_input"):
            # such as those of flow matching, for which the plain pipeline fails
            raise _NotTaken(f"a {pipeline} predicts noise, which {kind} does not take: take DDIMScheduler")
        if not self.family.flow:
            return prepare(self.scheduler, steps)
        code, generators = torch.zeros(1, *self.latent_shape, device=self.device, dtype=self.dtype), [torch.Generator()]
        try:
            request = SimpleNamespace(steps=steps, prompts=["a"], guidance=self.family.off, eta=0.0, call_kwargs=())
            self._call(probing(self.scheduler), code, request, generators, None)
        except Scheduled as stopped:
            return stopped.scheduler
        except (TypeError, ValueError) as error:
            if "set_timesteps" not in str(error):
                raise
            raise _NotTaken(
                f"a {pipeline} hands its scheduler noise levels of its own, which {kind} does not take: "
                "take FlowMatchEulerDiscreteScheduler"
            ) from error
        raise RuntimeError(f"{type(self.pipe).__name__} does not ask its scheduler for timesteps")

    def _call(self, scheduler, code, request, generators, callback) -> None:
        family, (height, width) = self.family, self.size
        call_kwargs = {
            name: [value] * len(request.prompts) if isinstance(value, str) else value
            for name, value in family.call_kwargs.items()
        }
        options = {"eta": request.eta, "height": height, "width": width, **call_kwargs}
        options |= self._given_call(request.call_kwargs)
        if family.guidance:
            options[family.guidance] = request.guidance
        for name in ("prompt", "negative_prompt"):
            if f"{name}_embeds" in options:
                options[name] = None
        with _lend(self.pipe, scheduler):
            self.pipe(
                prompt=options.pop("prompt", list(request.prompts)),
                num_inference_steps=request.steps,
                generator=generators,
                latents=pack(code, family.given or family.layout),
                output_type="latent",
                callback_on_step_end=callback,
                **{name: value for name, value in options.items() if accepts(self.pipe.__call__, name)},
            )

    def _given_call(self, call_kwargs: CallKwargs) -> dict[str, Any]:
        """Arguments of `check_call` as a pipeline takes them: lists, and tensors where it computes, in its dtype."""
        network = denoiser(self.pipe)

        def placed(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(self.device, network.dtype if value.is_floating_point() else None)
            return [placed(item) for item in value] if isinstance(value, tuple) else value

        return {name: placed(value) for name, value in call_kwargs}


class Unconditional(Backbone):
    """A pixel model without prompts: a loop over `unet` and scheduler, since DDPMPipeline takes no callback."""

    kind = "unconditional"

    def _native_size(self) -> tuple[int, int]:
        size = self.pipe.unet.config.sample_size
        sides = (size, size) if isinstance(size, int) else tuple(size)
        if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
            raise ValueError(f"the network's sample_size is {size}: correct its config.json, or load another copy")
        return sides

    def _latent_shape(self) -> tuple[int, int, int]:
        return self.pipe.unet.config.in_channels, *self.size

    def _encode(self, pictures: Tensor) -> Tensor:
        return pictures

    def _decode(self, codes: Tensor) -> Tensor:
        return codes

    @torch.no_grad()
    @cpu_by_default()
    def denoise(self, code, scheduler, request, generators, on_step) -> None:
        """See Backbone.denoise. Prompts and guidance are not used."""
        scheduler.set_timesteps(request.steps, device=self.device)
        extra = {"eta": request.eta, "generator": generators}
        extra = {name: value for name, value in extra.items() if accepts(scheduler.step, name)}
        x, splits = code, takes_variance(scheduler)
        for i, t in enumerate(scheduler.timesteps):
            given = scheduler.scale_model_input(x, t)
            with _explained(self.name):
                output = self.pipe.unet(given, t).sample
            if output.shape[1] == 2 * x.shape[1] and not splits:  # the second half is the variance of the step
                output = output[:, : x.shape[1]]
            x = on_step(i, t, scheduler.step(output, t, x, **extra).prev_sample)


_LENT: WeakKeyDictionary[DiffusionPipeline, SchedulerMixin] = WeakKeyDictionary()
_LOCKS: WeakKeyDictionary[DiffusionPipeline, threading.RLock] = WeakKeyDictionary()
_GUARD = threading.Lock()


def _alone(pipe: DiffusionPipeline) -> threading.RLock:
    """The lock of a pipeline: while it runs it keeps its request in its own attributes, so threads take turns."""
    with _GUARD:
        return _LOCKS.setdefault(pipe, threading.RLock())


def _own_scheduler(pipe: DiffusionPipeline) -> SchedulerMixin:
    """A pipeline's scheduler, also while it runs with another."""
    return _LENT.get(pipe, pipe.scheduler)


@contextmanager
def _lend(pipe: DiffusionPipeline, scheduler: SchedulerMixin):
    """Run a pipeline with another scheduler, one thread at a time, and give it its own back."""
    with _alone(pipe):
        # a hook may draw another picture meanwhile, and the request is in the pipeline's private attributes
        before, outermost = pipe.scheduler, pipe not in _LENT
        request = {} if outermost else {name: value for name, value in vars(pipe).items() if name.startswith("_")}
        _LENT.setdefault(pipe, before)
        pipe.scheduler = scheduler
        try:
            with cpu_by_default():
                yield
        finally:
            pipe.scheduler = before
            vars(pipe).update(request)
            if outermost:
                del _LENT[pipe]


@contextmanager
def _explained(name: str, passed: Sequence[BaseException] = ()):
    """Turn the errors of a network that cannot compute into ValueErrors, but for those of `passed`."""
    try:
        yield
    except (AttributeError, TypeError, RuntimeError) as error:
        if out_of_memory(error) or any(error is other for other in passed):
            raise
        reason = str(error).strip().splitlines()[0].rstrip(".:")
        raise ValueError(
            f"{name} cannot compute ({reason}): see whether all parts are there and config.json fits the weights"
        ) from error


@contextmanager
def _whole_autoencoder(pipe: DiffusionPipeline):
    """Its autoencoder, in float32 for the while if it overflows in float16, as its configuration says."""
    vae = pipe.vae
    raised = vae.dtype == torch.float16 and bool(vae.config.get("force_upcast"))
    if raised:
        vae.to(torch.float32)
    try:
        with cpu_by_default():
            yield vae
    finally:
        if raised:
            vae.to(torch.float16)


def _words(text: str) -> list[str]:
    """The words of a text in lower case, cut at everything but letters and digits."""
    return re.findall(r"[^\W_]+", text.lower())


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=6)  # who called `run`
