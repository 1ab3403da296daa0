"""The diffusion models: a registry of names, and one interface for text-to-image and unconditional ones.

Codes are what the diffusion runs on, shape (B, C, H, W): an autoencoder's latents, or for pixel models the picture
itself in [-1, 1]. Pictures are float32 in [0, 1], shape (B, 3, height, width).
"""

import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import diffusers
import numpy as np
import torch
import transformers
from diffusers import DDIMScheduler, DDPMPipeline, DiffusionPipeline, SchedulerMixin, StableDiffusionPipeline
from torch import Tensor

from lsvd import folders
from lsvd.schedulers import accepts
from lsvd.svd import check_code

Kind = Literal["text-to-image", "unconditional"]
OnStep = Callable[[int, Tensor, Tensor], Tensor]
WEIGHTS = Path(__file__).resolve().parent / "weights"


@dataclass(frozen=True)
class Entry:
    """What the registry knows of a backbone, and the defaults it is used with.

    `size` is the side of a picture in pixels. `tx` is the timestep Tx of an edit as a fraction of T, `dtau` where the
    target code is taken, in steps of the schedule (positive is noisier), `k` the number of triplets kept of each code:
    our choices, since the paper's summary leaves them open. `branch` is the fraction of T from which on the target's
    trajectory has the target prompt, and before it the source's; 1, as in the paper, for the target prompt throughout.
    `basis` and `keep_rest` are those of lsvd.avi.AVIConfig.
    """

    name: str
    kind: Kind
    folder: str
    stands_for: str = ""
    size: int = 0
    steps: int = 50
    guidance: float | None = None
    tx: float = 0.6
    dtau: int = 1
    k: int = 6
    branch: float = 1.0
    basis: str = "both"
    keep_rest: bool = True


# mini-sd's tx and all after it are what a reader's success and side effects favour, for eight attributes on seeds
# 100 to 115: see notebook 04 and outputs/tables/sweep.csv, by `make edits`.
REGISTRY: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "mini-sd",
            "text-to-image",
            "mini-sd",
            "Stable Diffusion 2.1",
            128,
            25,
            guidance=6.0,
            tx=0.2,
            dtau=0,
            k=8,
            branch=0.6,
            basis="complement",
            keep_rest=False,
        ),
        Entry("mini-portraits", "unconditional", "mini-portraits", "google/ddpm-ema-celebahq-256", 64, 25),
        Entry("mini-cats", "unconditional", "mini-cats", "google/ddpm-ema-cat-256", 64, 25),
        Entry("mini-churches", "unconditional", "mini-churches", "google/ddpm-ema-church-256", 64, 25),
    )
}


class Backbone(ABC):
    """A diffusion model with its scheduler. Make one with `load`, or from a pipeline of your own.

    `pipe` is the diffusers pipeline, untouched; `scheduler` the one that sampling uses; `entry` the defaults.
    """

    kind: Kind

    def __init__(self, pipe: DiffusionPipeline, entry: Entry, scheduler: SchedulerMixin, words: Iterable[str] = ()):
        self.pipe, self.entry, self.scheduler, self.words = pipe, entry, scheduler, frozenset(words)

    @property
    def name(self) -> str:
        """The name it is registered under, or its folder's."""
        return self.entry.name

    @property
    def device(self) -> torch.device:
        """The device that codes are expected on."""
        return self.pipe.unet.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model and of its codes."""
        return self.pipe.unet.dtype

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of one code."""
        size = self.pipe.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.pipe.unet.config.in_channels, height, width

    @property
    def T(self) -> int:
        """The number of timesteps of training; a schedule runs from about T down to 0."""
        return self.scheduler.config.num_train_timesteps

    def with_scheduler(self, scheduler: SchedulerMixin | type[SchedulerMixin]) -> "Backbone":
        """The same model, sharing its weights, with another scheduler; a class takes over the present one's config."""
        if isinstance(scheduler, type):
            scheduler = scheduler.from_config(self.scheduler.config)
        return type(self)(self.pipe, self.entry, scheduler, self.words)

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
    """A latent model that prompts steer: an untouched StableDiffusionPipeline."""

    kind = "text-to-image"

    def _encode(self, pictures: Tensor) -> Tensor:
        vae = self.pipe.vae
        return vae.encode(pictures).latent_dist.mode() * vae.config.scaling_factor

    def _decode(self, codes: Tensor) -> Tensor:
        vae = self.pipe.vae
        return vae.decode(codes / vae.config.scaling_factor).sample

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Warn (UserWarning) of words outside the model's vocabulary, and of what an overlong prompt loses."""
        tokenizer = self.pipe.tokenizer
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

        def callback(pipe, step, t, tensors):
            return {"latents": on_step(step, t, tensors["latents"])}

        with _lend(self.pipe, scheduler):
            self.pipe(
                prompt=list(prompts),
                num_inference_steps=steps,
                guidance_scale=guidance,
                eta=eta,
                generator=generators,
                latents=code,
                output_type="latent",
                callback_on_step_end=callback,
            )


class Unconditional(Backbone):
    """A pixel model without prompts: a loop over `unet` and scheduler, since DDPMPipeline takes no callback."""

    kind = "unconditional"

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


PIPELINES = {
    "StableDiffusionPipeline": (TextToImage, StableDiffusionPipeline),
    "DDPMPipeline": (Unconditional, DDPMPipeline),
    "DDIMPipeline": (Unconditional, DDPMPipeline),
}


def load(name: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Backbone:
    """The backbone of a registered name, or of a folder on disk in diffusers' format (its kind from model_index.json).

    Weights are read from safetensors files only, in float32 unless `dtype` says otherwise. Unconditional models get a
    DDIM scheduler with the settings of the folder's own. Raises ValueError for a name that is neither, or a pipeline
    class that is not supported; FileNotFoundError for missing files; ValueError for damaged ones, or files that do not
    fit together.
    """
    entry = REGISTRY.get(str(name))
    folder = WEIGHTS / entry.folder if entry else Path(name).expanduser()
    remedy = folders.restore(entry.folder) if entry else folders.COPY
    index = folder / "model_index.json"
    if not entry:
        if str(name) == "mini-clip" or (not index.is_file() and _is_clip(folder / "config.json")):
            raise ValueError(f"{name} is a CLIP model, which compares pictures with texts: load it with lsvd.clip.load")
        if not folder.is_dir():
            known = ", ".join(REGISTRY)
            raise ValueError(f"there is no backbone {str(name)!r}, nor a folder of that name: choose from {known}")
    if not index.is_file():
        raise FileNotFoundError(f"there are no weights in {folder} (no model_index.json): {remedy}")
    components = folders.read_json(index, remedy)
    if "_class_name" not in components:
        raise ValueError(f"{index} is damaged: {remedy}")
    pipeline = components["_class_name"]
    if pipeline not in PIPELINES:
        raise ValueError(f"{folder} holds a {pipeline}, which is not supported: choose from {', '.join(PIPELINES)}")
    backbone, loader = PIPELINES[pipeline]
    words = _read_words(folder / "vocabulary.txt", remedy)
    parts = _read_parts(folder, components, remedy, dtype)
    extra = {"requires_safety_checker": False} if backbone is TextToImage else {}
    extra |= {"dtype": dtype or torch.float32, "use_safetensors": True, "local_files_only": True}
    with folders.explained(folder, remedy), folders.silently():
        pipe = loader.from_pretrained(folder, **parts, **extra)
    pipe.set_progress_bar_config(disable=True)  # lsvd.trajectory shows one bar for both kinds
    entry = entry or Entry(folder.name, backbone.kind, str(folder), guidance=7.5 if backbone is TextToImage else None)
    return from_pipeline(pipe.to(device), entry, words)


def from_pipeline(pipe: DiffusionPipeline, entry: Entry | None = None, words: Iterable[str] = ()) -> Backbone:
    """A backbone around a diffusers pipeline in memory; `words` are those it knows, none to check none.

    Raises ValueError for a pipeline class that is not supported.
    """
    name = type(pipe).__name__
    if name not in PIPELINES:
        raise ValueError(f"a {name} is not supported: choose from {', '.join(PIPELINES)}")
    backbone = PIPELINES[name][0]
    if backbone is TextToImage:
        entry = entry or Entry(name, backbone.kind, "", guidance=7.5)
        return backbone(pipe, entry, pipe.scheduler, words)
    return backbone(pipe, entry or Entry(name, backbone.kind, ""), DDIMScheduler.from_config(pipe.scheduler.config))


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


def _read_parts(folder: Path, components: Mapping[str, Any], remedy: str, dtype: torch.dtype | None) -> dict[str, Any]:
    """The networks and the tokenizer of a pipeline, checked; of its other parts, only that they can be read."""
    libraries = {"diffusers": diffusers, "transformers": transformers}
    networks, tokenizers = {}, []
    for name, value in components.items():
        match value:
            case [("diffusers" | "transformers") as library, str(kind)]:
                found = getattr(libraries[library], kind, None)
                if isinstance(found, type) and issubclass(found, torch.nn.Module):
                    networks[name] = folders.read_model(found, folder / name, remedy, dtype)
                elif kind in ("CLIPTokenizer", "CLIPTokenizerFast"):
                    tokenizers.append(name)
                else:
                    folders.check_json(folder / name, remedy)
    text = networks.get("text_encoder")  # without one, the pipeline will refuse
    read = {name: folders.read_tokenizer(folder / name, remedy, text.config) for name in tokenizers if text}
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
