"""The diffusion models: one interface for text-to-image and unconditional ones, of latents or pixels.

Codes are what the diffusion runs on, shape (B, C, H, W): an autoencoder's latents, or for pixel models the picture
itself in [-1, 1]. Pictures are float32 in [0, 1], shape (B, 3, height, width).
"""

import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import DDIMScheduler, DDPMPipeline, DiffusionPipeline, SchedulerMixin
from torch import Tensor
from transformers import CLIPTokenizer

from lsvd import folders, hub
from lsvd.families import (
    FAMILIES,
    Family,
    denoiser,
    from_autoencoder,
    latent_shape,
    makes_films,
    native_size,
    pack,
    to_autoencoder,
    unpack,
)
from lsvd.registry import REGISTRY, Entry, Kind
from lsvd.schedulers import Scheduled, accepts, prepare, probing
from lsvd.svd import check_code

OnStep = Callable[[int, Tensor, Tensor], Tensor]
WEIGHTS = Path(__file__).resolve().parent / "weights"


class Backbone(ABC):
    """A diffusion model with its scheduler. Make one with `load`, or from a pipeline of your own.

    `pipe` is the diffusers pipeline, untouched; `scheduler` the one that sampling uses; `entry` the defaults; `size`
    the height and width of its pictures in pixels; `latent_shape` the shape (C, H, W) of one code.
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
        self.pipe, self.entry, self.scheduler, self.words = pipe, entry, scheduler, frozenset(words)
        self.size = self._native_size() if size is None else size
        self.latent_shape = self._latent_shape()
        self._prepared: dict[int, SchedulerMixin] = {}

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
            scheduler = scheduler.from_config(self.scheduler.config)
        return type(self)(self.pipe, self.entry, scheduler, self.words, self.size)

    def schedule(self, steps: int) -> tuple[Tensor, float]:
        """The timesteps of `steps` inference steps, on the CPU, and the scale of the noise at the first.

        A scheduler of second order may list more timesteps than steps.
        """
        scheduler = self.prepared(steps)
        return scheduler.timesteps.cpu(), float(getattr(scheduler, "init_noise_sigma", 1.0))

    def prepared(self, steps: int) -> SchedulerMixin:
        """A copy of the scheduler that is set to its schedule of `steps` steps: take a copy of it to use it."""
        if steps not in self._prepared:
            self._prepared[steps] = self._prepare(steps)
        return self._prepared[steps]

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
        alone or in a batch. Raises ValueError for a seed that is no whole number from 0 to 2**32 - 1 (torch's CPU
        generator reads 32 bits only).
        """
        draws = [torch.randn(self.latent_shape, generator=torch.Generator().manual_seed(s)) for s in check_seeds(seeds)]
        return torch.stack(draws).to(self.device, self.dtype)

    def check_codes(self, codes: Tensor, count: int | None = None) -> Tensor:
        """The codes, on the model's device in its dtype. Raises ValueError if their shape is not (B, C, H, W), or not
        `count` of them, or if one is not finite."""
        check_code(codes)
        shape = tuple(codes.shape)
        if len(shape) != 4 or shape[1:] != self.latent_shape or (count is not None and shape[0] != count):
            wanted = ", ".join(str(n) for n in ("B" if count is None else count, *self.latent_shape))
            raise ValueError(f"{self.name} takes codes of shape ({wanted}), not {shape}")
        return codes.to(self.device, self.dtype)

    @torch.no_grad()
    def encode(self, pictures: Tensor, batch: int = 16) -> Tensor:
        """Pictures, shape (B, 3, height, width) in [0, 1], to codes, shape (B, C, H, W): the mean, no sampling.

        Raises ValueError for another shape or range.
        """
        scaled = check_pictures(pictures).to(self.device, self.dtype) * 2 - 1
        return self.check_codes(torch.cat([self._encode(part) for part in scaled.split(batch)]), len(pictures))

    @torch.no_grad()
    def decode(self, codes: Tensor, batch: int = 16) -> Tensor:
        """Codes, shape (B, C, H, W), to pictures, shape (B, 3, height, width), float32 clipped to [0, 1].

        Raises ValueError for another shape, or codes that are not finite.
        """
        codes = self.check_codes(codes)
        parts = [self._decode(part).float().add(1).div(2).clamp(0, 1) for part in codes.split(batch)]
        return torch.cat(parts)

    def check_prompts(self, prompts: Sequence[str]) -> None:  # noqa: B027
        """Warn of words that the model never saw and of prompts that are too long; without prompts, of nothing."""

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
        steps: int,
        prompts: Sequence[str],
        guidance: float | None,
        eta: float,
        generators: list[torch.Generator],
        on_step: OnStep,
    ) -> None:
        """Run `scheduler` from its first timestep on, beginning with `code` as it is.

        After each step, on_step(i, t, x) gets the new code and returns the one to go on with. Use
        `lsvd.trajectory.run`, which prepares all of this.
        """


class TextToImage(Backbone):
    """A latent model that prompts steer: an untouched pipeline of one of lsvd.families."""

    kind = "text-to-image"

    @property
    def family(self) -> Family:
        """What its pipeline's class does in its own way."""
        return FAMILIES[type(self.pipe).__name__]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its codes: the model's, unless its family keeps them in float32."""
        return torch.float32 if self.family.whole else denoiser(self.pipe).dtype

    def _latent_shape(self) -> tuple[int, int, int]:
        return latent_shape(self.pipe, self.family, self.size)

    def _encode(self, pictures: Tensor) -> Tensor:
        with _whole_autoencoder(self.pipe) as vae:
            pictures = pictures.to(vae.dtype)
            coded = vae.encode(pictures.unsqueeze(2) if makes_films(vae) else pictures)
            means = coded.latent_dist.mode() if hasattr(coded, "latent_dist") else coded.latent
            return from_autoencoder(self.pipe, means)

    def _decode(self, codes: Tensor) -> Tensor:
        with _whole_autoencoder(self.pipe) as vae:
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
            ids = tokenizer(prompt, truncation=False, add_special_tokens=False, verbose=False).input_ids
            room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
            if len(ids) > room:
                cut = tokenizer.decode(ids[room:], skip_special_tokens=True)
                _warn(f"{self.name} reads {room} tokens of a prompt; of {prompt!r} it will not see {cut!r}")

    def denoise(self, code, scheduler, steps, prompts, guidance, eta, generators, on_step) -> None:
        """See Backbone.denoise: here through the pipeline's own callback_on_step_end."""

        layout = self.family.layout

        def callback(pipe, step, t, tensors):
            latents = tensors["latents"]
            x = on_step(step, t, unpack(latents, layout, self.latent_shape))
            return {"latents": pack(x, layout).to(latents.dtype)}

        self._call(scheduler, code, steps, prompts, guidance, eta, generators, callback)

    def _prepare(self, steps: int) -> SchedulerMixin:
        if not self.family.flow:
            return prepare(self.scheduler, steps)
        code, generators = torch.zeros(1, *self.latent_shape, device=self.device, dtype=self.dtype), [torch.Generator()]
        try:
            self._call(probing(self.scheduler), code, steps, ["a"], self.family.off, 0.0, generators, None)
        except Scheduled as stopped:
            return stopped.scheduler
        raise RuntimeError(f"{type(self.pipe).__name__} does not ask its scheduler for timesteps")

    def _call(self, scheduler, code, steps, prompts, guidance, eta, generators, callback) -> None:
        family, (height, width) = self.family, self.size
        told = {
            name: [value] * len(prompts) if isinstance(value, str) else value for name, value in family.told.items()
        }
        options = {"eta": eta, "height": height, "width": width, **told}
        if family.guidance:
            options[family.guidance] = guidance
        with _lend(self.pipe, scheduler):
            self.pipe(
                prompt=list(prompts),
                num_inference_steps=steps,
                generator=generators,
                latents=pack(code, family.given or family.layout),
                output_type="latent",
                callback_on_step_end=callback,
                **{name: value for name, value in options.items() if accepts(self.pipe.__call__, name)},
            )


class Unconditional(Backbone):
    """A pixel model without prompts: a loop over `unet` and scheduler, since DDPMPipeline takes no callback."""

    kind = "unconditional"

    def _native_size(self) -> tuple[int, int]:
        size = self.pipe.unet.config.sample_size
        return (size, size) if isinstance(size, int) else tuple(size)

    def _latent_shape(self) -> tuple[int, int, int]:
        return self.pipe.unet.config.in_channels, *self.size

    def _encode(self, pictures: Tensor) -> Tensor:
        return pictures

    def _decode(self, codes: Tensor) -> Tensor:
        return codes

    @torch.no_grad()
    def denoise(self, code, scheduler, steps, prompts, guidance, eta, generators, on_step) -> None:
        """See Backbone.denoise. Prompts and guidance are not used."""
        scheduler.set_timesteps(steps, device=self.device)
        extra = {"eta": eta, "generator": generators}
        extra = {name: value for name, value in extra.items() if accepts(scheduler.step, name)}
        x = code
        for i, t in enumerate(scheduler.timesteps):
            output = self.pipe.unet(scheduler.scale_model_input(x, t), t).sample
            x = on_step(i, t, scheduler.step(output, t, x, **extra).prev_sample)


@contextmanager
def _lend(pipe: DiffusionPipeline, scheduler: SchedulerMixin):
    """Run a pipeline with another scheduler, and give it its own back."""
    own = pipe.scheduler
    pipe.scheduler = scheduler
    try:
        yield
    finally:
        pipe.scheduler = own


@contextmanager
def _whole_autoencoder(pipe: DiffusionPipeline):
    """Its autoencoder, in float32 for the while if it overflows in float16, as its configuration says."""
    vae = pipe.vae
    raised = vae.dtype == torch.float16 and bool(vae.config.get("force_upcast"))
    if raised:
        vae.to(torch.float32)
    try:
        yield vae
    finally:
        if raised:
            vae.to(torch.float16)


UNCONDITIONAL = ("DDPMPipeline", "DDIMPipeline")


def load(
    name: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    revision: str | None = None,
    variant: str | None = None,
) -> Backbone:
    """The backbone of a registered name, of a folder on disk in diffusers' format, or of an id on the hub.

    dtype: None for float32 on the CPU and with embedded weights, and for the registered half precision elsewhere. size:
    of pictures in pixels, or (height, width); None for the model's own. revision, variant: of a repository on the hub,
    None for those registered. Weights are read from safetensors files; where a checkpoint has only others, with
    weights_only. Unconditional models get a DDIM scheduler with the settings of their own.

    Raises ValueError for a name that is none of these, a pipeline class that is not supported, a size that it cannot
    draw, damaged files, or files that do not fit together; FileNotFoundError for missing ones.
    """
    entry = REGISTRY.get(str(name))
    folder, remedy, variant = _find(name, entry, device, revision, variant)
    index = folder / "model_index.json"
    if not index.is_file():
        raise FileNotFoundError(f"there are no weights in {folder} (no model_index.json): {remedy}")
    components = folders.read_json(index, remedy)
    if "_class_name" not in components:
        raise ValueError(f"{index} is damaged: {remedy}")
    kind = _kind(str(components["_class_name"]), f", as in {folder},")
    words = _read_words(folder / "vocabulary.txt", remedy)
    dtype = dtype or (entry.dtype(device) if entry else torch.float32)
    own = bool(entry and entry.folder)
    parts = _read_parts(folder, components, remedy, dtype, variant, own)
    extra = {"requires_safety_checker": False} if "requires_safety_checker" in components else {}
    extra |= {"variant": variant} if variant and any(folder.glob(f"*/*.{variant}*")) else {}
    with folders.explained(folder, remedy), folders.silently():
        # imports the pipeline's module, which has reports of its own
        loader = getattr(diffusers, components["_class_name"]) if kind == "text-to-image" else DDPMPipeline
        pipe = loader.from_pretrained(folder, **parts, **extra, dtype=dtype, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)  # lsvd.trajectory shows one bar for both kinds
    for network in (part for part in pipe.components.values() if own and isinstance(part, torch.nn.Module)):
        network.to(memory_format=torch.channels_last)  # up to a fifth faster on a CPU
    label = str(name) if hub.is_id(str(name)) and not Path(name).expanduser().is_dir() else folder.name
    return from_pipeline(pipe.to(device), entry or _entry(label, kind, pipe, str(folder)), words, size)


def _find(name, entry, device, revision, variant) -> tuple[Path, str, str | None]:
    """The folder of a backbone, what to do if something is wrong with it, and the variant of its files."""
    if entry and entry.folder:
        return WEIGHTS / entry.folder, folders.restore(entry.folder), None
    folder = Path(name).expanduser()
    if entry is None and folder.is_dir():
        if not (folder / "model_index.json").is_file() and _is_clip(folder / "config.json"):
            raise ValueError(f"{name} is a CLIP model, which compares pictures with texts: load it with lsvd.clip.load")
        return folder, folders.COPY, variant
    if str(name) == "mini-clip":
        raise ValueError(f"{name} is a CLIP model, which compares pictures with texts: load it with lsvd.clip.load")
    if entry is None and not hub.is_id(str(name)):
        known = ", ".join(REGISTRY)
        raise ValueError(f"there is no backbone {str(name)!r}, nor a folder of that name: choose from {known}")
    half = torch.device(device).type != "cpu"
    variants = [variant] if variant else [entry.variant, None] if entry and entry.variant and half else [None]
    folder, variant = hub.fetch(entry.hub if entry else (str(name),), revision or (entry and entry.revision), variants)
    return folder, f"remove {folder} and load it again", variant


def _kind(pipeline: str, where: str = "") -> Kind:
    """The kind of a diffusers pipeline class. Raises ValueError for one that is not supported."""
    if pipeline in FAMILIES:
        return "text-to-image"
    if pipeline in UNCONDITIONAL:
        return "unconditional"
    known = ", ".join((*FAMILIES, *UNCONDITIONAL))
    raise ValueError(f"a {pipeline}{where} is not supported: choose from {known}")


def _entry(name: str, kind: Kind, pipe: DiffusionPipeline, folder: str = "") -> Entry:
    """The defaults of a model that is not registered."""
    return Entry(
        name, kind, folder, guidance=FAMILIES[type(pipe).__name__].default if kind == "text-to-image" else None
    )


def from_pipeline(
    pipe: DiffusionPipeline,
    entry: Entry | None = None,
    words: Iterable[str] = (),
    size: int | tuple[int, int] | None = None,
) -> Backbone:
    """A backbone around a diffusers pipeline in memory; `words` are those it knows, none to check none.

    size: of its pictures in pixels, or (height, width); None for the model's own. Raises ValueError for a pipeline
    class that is not supported, or a size that it cannot draw.
    """
    name = type(pipe).__name__
    kind = _kind(name)
    entry = entry or _entry(name, kind, pipe)
    size = (size, size) if isinstance(size, int) else size
    if kind == "text-to-image":
        return TextToImage(pipe, entry, pipe.scheduler, words, size)
    return Unconditional(pipe, entry, DDIMScheduler.from_config(pipe.scheduler.config), words, size)


def check_pictures(pictures: Tensor) -> Tensor:
    """The pictures. Raises ValueError unless their shape is (B, 3, height, width) and they lie in [0, 1]."""
    check_code(pictures, "the picture")
    if pictures.ndim != 4 or pictures.shape[1] != 3:
        raise ValueError(f"pictures have shape (B, 3, height, width), not {tuple(pictures.shape)}")
    if pictures.min() < 0 or pictures.max() > 1:
        raise ValueError("pictures lie in [0, 1]: divide bytes by 255, map [-1, 1] by (x + 1) / 2")
    return pictures


def mix(*keys: int) -> int:
    """One seed made of several integers, such as (seed, step), unrelated for close ones; a last 0 counts as none."""
    return int(np.random.SeedSequence(keys).generate_state(1)[0])


def check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """Seeds as a tuple of at least one int. Raises ValueError unless each is whole and from 0 to 2**32 - 1."""
    seeds = [seeds] if isinstance(seeds, int) else list(seeds)
    for seed in seeds:
        if isinstance(seed, bool) or not hasattr(seed, "__index__") or not 0 <= seed < 2**32:
            raise ValueError(f"{seed!r} is no seed: give whole numbers from 0 to {2**32 - 1}")
    if not seeds:
        raise ValueError("there are no seeds: give at least one")
    return tuple(int(seed) for seed in seeds)


def _read_parts(
    folder: Path, components: Mapping[str, Any], remedy: str, dtype: torch.dtype, variant: str | None, own: bool
) -> dict[str, Any]:
    """The networks and the CLIP tokenizers of a pipeline, checked; of its other parts, only that they can be read.

    `own` are weights of this package, which hold exactly what is asked for; others may hold more.
    """
    libraries = {"diffusers": diffusers, "transformers": transformers}
    networks, tokenizers = {}, []
    for name, value in components.items():
        match value:
            case [("diffusers" | "transformers") as library, str(kind)]:
                found = getattr(libraries[library], kind, None)
                if isinstance(found, type) and issubclass(found, torch.nn.Module):
                    networks[name] = folders.read_model(found, folder / name, remedy, dtype, variant, strict=own)
                elif kind in ("CLIPTokenizer", "CLIPTokenizerFast"):
                    tokenizers.append(name)
                else:
                    folders.check_json(folder / name, remedy)
    # tokenizer_2 is read by text_encoder_2; without an encoder, the pipeline will refuse
    towers = {name: networks.get(name.replace("tokenizer", "text_encoder")) for name in tokenizers}
    read = {name: folders.read_tokenizer(folder / name, remedy, text.config) for name, text in towers.items() if text}
    return networks | read


def _is_clip(config: Path) -> bool:
    return config.is_file() and folders.read_json(config, folders.COPY).get("model_type") == "clip"


def _read_words(file: Path, remedy: str) -> list[str]:
    """The words of vocabulary.txt, none if there is no such file. Raises ValueError if it is not UTF-8."""
    try:
        return _words(file.read_text(encoding="utf-8")) if file.is_file() else []
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as UTF-8 text: {remedy}") from error


def _words(text: str) -> list[str]:
    """The words of a text in lower case, cut at everything that is no letter or digit."""
    return re.findall(r"[^\W_]+", text.lower())


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=6)  # who called `run`
