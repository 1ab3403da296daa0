"""What the two kinds of diffusion model learn: mini-sd on latents with captions, the others on pictures alone."""

import hashlib
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDPMPipeline,
    SchedulerMixin,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from lsvd.backbones.checkpoints import read_model, read_tokenizer
from lsvd.storage.files import replace_folder
from lsvd.testbed import renderings
from lsvd.testbed.scenes import captions
from lsvd.testbed.training import models
from lsvd.testbed.training.clip import token_ids
from lsvd.testbed.training.jobs import Job, forget_origin, half, newest, normal, remedy, save_transformer

GAMMA = 5.0
"""Where min-SNR weights are cut, the value of Hang et al. 2023 (arXiv 2303.09556)."""

CAPTIONS = 8
"""How many captions each picture of mini-sd's has: enough that it is hardly ever seen twice with the same one."""

OFFSET = 0.1
"""Standard deviation of the shift of whole channels in mini-sd's noise in training.

Stable Diffusion's schedule ends before the signal is gone: a latent's mean shows through the noise at t = T, so that a
model trained on plain noise takes the mean of the noise it starts from for the picture's, whatever the prompt says (Lin
et al. 2023, arXiv 2305.08891). Noise that hides the mean as well is Guttenberg's remedy (2023, "Diffusion with offset
noise").
"""

PIXEL_GAMMA = 20.0
"""GAMMA of the pixel models: with 5 the last steps of sampling leave grain."""

SIZE_SPREAD = 0.05
"""Standard deviation of the logarithm of the noise's size, in training of the pixel models.

Group normalisation takes out the size of what it is given, and a model that only ever saw noise of one size answers
with that size. A deterministic sampler carries one noise through all its steps: of noise a little larger, what is left
over grows from step to step, and is there in the picture.
"""

SIZE_WEIGHT = 64.0
"""Weight of an error in the noise's size (see size_loss): it is one number among 12,288, but it adds up over steps."""


def signal_to_noise(schedule: SchedulerMixin, t: Tensor) -> Tensor:
    """Ratio of signal to noise in energy at timesteps t, shape (b,)."""
    kept = schedule.alphas_cumprod.to(t.device)[t]
    return kept / (1 - kept)


def offset_noise(shape: Sequence[int], g: torch.Generator, device: str | torch.device = "cpu") -> Tensor:
    """Standard normal noise, shape (b, c, h, w), each channel shifted by a normal number of deviation OFFSET."""
    return normal(shape, g, device) + OFFSET * normal((*shape[:2], 1, 1), g, device)


def denoising_loss(error: Tensor, snr: Tensor, gamma: float) -> Tensor:
    """Squared error in the noise, (b, c, s, s), at all scales s, s/2, s/4, ..., with min-SNR weights, a scalar.

    The plain mean over s^2 pixels hardly sees an error in the mean colour, though at high noise that is all there is
    to get right. Weights over scales are those of Hoogeboom et al. 2023 (arXiv 2301.11093). Averaging k x k pixels
    multiplies the signal-to-noise ratio `snr`, shape (b,), by k^2; each scale has the weight of its own ratio.
    """
    total, k = torch.zeros((), device=error.device), 1
    while True:
        weight = k * (gamma / (k * k * snr)).clamp_max(1)
        total = total + (weight * error.square().mean((1, 2, 3))).mean()
        if error.shape[-1] % 2:
            return total
        error, k = F.avg_pool2d(error, 2), 2 * k


def size_loss(predicted: Tensor, error: Tensor, snr: Tensor, gamma: float) -> Tensor:
    """Squared relative error in the size of predicted noise, (b, c, h, w), with min-SNR weights, a scalar.

    That is the part of `error` along the prediction. The best prediction, the mean of what is possible, has an error
    at right angles to itself on average, so that the term moves no optimum; no gradient goes through the direction.
    """
    direction = predicted.detach()
    along = (error * direction).mean((1, 2, 3)) / direction.square().mean((1, 2, 3))
    return ((gamma / snr).clamp_max(1) * along.square()).mean()


class TextDenoiser(Job):
    """v-prediction (Salimans and Ho 2022, arXiv 2202.00512) with min-SNR weights (Hang et al. 2023, arXiv 2303.09556).

    Latents are computed once, by the autoencoder that is shipped, and CAPTIONS captions of each picture drawn once.
    """

    learns_from_pictures = False
    learns_in_half = True

    def build(self) -> UNet2DConditionModel:
        self.schedule = models.text_schedule()
        return models.denoiser(**self.recipe.model)

    @cached_property
    def folders(self) -> tuple[Path, Path]:
        """Where the autoencoder and mini-clip lie: the same throughout the run, whatever is trained meanwhile."""
        vae = newest(self.runs, "autoencoder", self.weights / "mini-sd" / "vae")
        return vae, newest(self.runs, "mini-clip-captions", self.weights / "mini-clip")

    def describe(self) -> dict[str, Any]:
        vae, clip = self.folders
        files = {
            "autoencoder": vae / "diffusion_pytorch_model.safetensors",
            "mini-clip-captions": clip / "model.safetensors",
        }
        missing = [name for name, file in files.items() if not file.is_file()]
        if missing:
            raise FileNotFoundError(f"{files[missing[0]]} is missing: {remedy(missing[0])}")
        parts = {name: hashlib.sha256(file.read_bytes()).hexdigest()[:8] for name, file in files.items()}
        return {**super().describe(), "parts": parts}

    def parts(self) -> tuple[AutoencoderKL, CLIPTextModel, CLIPTokenizer]:
        """The autoencoder, text tower and tokenizer that were trained last in `runs`, or else those that ship.

        Raises FileNotFoundError if one is missing, ValueError if one is damaged.
        """
        vae, clip = self.folders
        autoencoder = read_model(AutoencoderKL, vae, remedy("autoencoder"))
        towers = read_model(CLIPModel, clip, remedy("mini-clip-captions"))
        tokens = read_tokenizer(clip, remedy("mini-clip-captions"), towers.config.text_config)
        return autoencoder, models.text_tower(towers).eval(), tokens

    @torch.no_grad()
    def prepare(self, seed: int | None = None, n: int | None = None) -> None:
        super().prepare(seed, n)
        vae, text, self.tokens = self.parts()
        vae, self.text = vae.to(self.device).eval(), text.to(self.device).requires_grad_(False)
        weights = (self.folders[0] / "diffusion_pytorch_model.safetensors").read_bytes()
        key = hashlib.sha256(weights + self.data.key.encode()).hexdigest()[:8]
        batch = 32 if torch.device(self.device).type == "cpu" else 256

        def encode(number: int):
            rows = torch.arange(number * renderings.CHUNK, min((number + 1) * renderings.CHUNK, len(self.data)))
            means = [vae.encode((self.data[i] * 2 - 1).to(self.device)).latent_dist.mean for i in rows.split(batch)]
            return (torch.cat(means) * vae.config.scaling_factor).half().cpu().numpy()

        home = self.runs / "data" / f"latents-{self.scene.name}-{len(self.data)}-{key}"
        files = renderings.fill(home, -(-len(self.data) // renderings.CHUNK), encode, "encoding", progress=True)
        side = self.recipe.size // 2 ** (len(vae.config.block_out_channels) - 1)
        latents = renderings.Chunks(files, renderings.CHUNK, len(self.data), (vae.config.latent_channels, side, side))
        self.latents, self.captions = latents.to(self.device), self.describe_pictures().to(self.device)

    def describe_pictures(self) -> renderings.Chunks:
        """Token numbers of CAPTIONS captions of each picture, (n, CAPTIONS, TOKENS), int16, kept on the disk."""

        def describe(number: int):
            rows = torch.arange(number * renderings.CHUNK, min((number + 1) * renderings.CHUNK, len(self.data)))
            values = self.data.values_at(rows)
            g = renderings.generator(self.recipe.seed, CAPTIONS, number)
            drawn = [token_ids(self.tokens, captions.balanced(values, g)) for _ in range(CAPTIONS)]
            return torch.stack(drawn, 1).short().numpy()

        words = sorted(self.tokens.get_vocab().items())  # which come in another order each time
        about = (self.data.key, self.recipe.seed, CAPTIONS, words, renderings.digest(captions))
        key = hashlib.sha256(repr(about).encode()).hexdigest()[:8]
        home = self.runs / "data" / f"captions-{self.scene.name}-{len(self.data)}-{key}"
        files = renderings.fill(home, -(-len(self.data) // renderings.CHUNK), describe, "captions", progress=True)
        return renderings.Chunks(files, renderings.CHUNK, len(self.data), (CAPTIONS, models.TOKENS))

    def loss(self, step: int, g: torch.Generator) -> Tensor:
        index = self.draw(g)
        t = torch.randint(1000, (len(index),), generator=g).to(self.device)
        which = torch.randint(CAPTIONS, (len(index),), generator=g)
        x = self.latents[index].float().to(self.device)
        noise = offset_noise(x.shape, g, self.device)
        ids = self.captions[index][torch.arange(len(index)), which].long().to(self.device)
        with torch.no_grad():
            states = self.text(ids).last_hidden_state
        with self.amp():
            v = self.forward(self.schedule.add_noise(x, noise, t), t, states).float()
        snr = signal_to_noise(self.schedule, t)
        error = v - self.schedule.get_velocity(x, noise, t)
        return denoising_loss(error * (snr / (snr + 1)).sqrt()[:, None, None, None], snr, GAMMA)

    def export(self) -> None:
        vae, text, tokens = self.parts()
        pipeline = StableDiffusionPipeline(
            vae=half(vae),
            text_encoder=half(text),
            tokenizer=tokens,
            unet=half(self.model),
            scheduler=self.schedule,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        with replace_folder(self.folder) as new:
            pipeline.save_pretrained(new)
            forget_origin(new / "vae")
            shutil.rmtree(new / "text_encoder")
            save_transformer(text, new / "text_encoder")
            (new / "vocabulary.txt").write_text("\n".join(sorted(set(captions.words()))) + "\n")

    def stored(self, folder: Path) -> UNet2DConditionModel:
        return read_model(UNet2DConditionModel, folder / "unet", remedy(self.name))


class PixelDenoiser(Job):
    """Prediction of the noise (Ho et al. 2020, arXiv 2006.11239), with min-SNR weights as above.

    The noise varies in size by some percent, which the model has to follow.
    """

    learns_in_half = True

    def build(self) -> UNet2DModel:
        self.schedule = models.pixel_schedule(self.recipe.clip)
        return models.pixel_denoiser(size=self.recipe.size, **self.recipe.model)

    def loss(self, step: int, g: torch.Generator) -> Tensor:
        x = (self.data[self.draw(g)] * 2 - 1).to(self.device)
        t = torch.randint(1000, (len(x),), generator=g).to(self.device)
        noise = normal(x.shape, g, self.device)
        noise = noise * (SIZE_SPREAD * normal((len(x), 1, 1, 1), g, self.device)).exp()
        with self.amp():
            predicted = self.forward(self.schedule.add_noise(x, noise, t), t).float()
        snr, error = signal_to_noise(self.schedule, t), predicted - noise
        size = size_loss(predicted, error, snr, PIXEL_GAMMA)
        return denoising_loss(error, snr, PIXEL_GAMMA) + SIZE_WEIGHT * size

    @torch.no_grad()
    def calibrate(self, pictures: int = 2048) -> Tensor:
        """Take the mean error of the prediction off the last layer's bias; returns it, one for each channel.

        Of training pictures, at the timesteps that decide what colours a picture will have, from 0.3 T on; below, the
        mean of the noise is hard to tell, and errors are large. Training leaves some thousandths of the noise's
        deviation: nothing to the loss, but a fifth of the deviation of the mean of 64 x 64 pixels of noise.
        """
        g, errors = torch.Generator().manual_seed(0), []
        for rows in torch.arange(min(pictures, len(self.data))).split(32):
            x = self.data[rows] * 2 - 1
            t, noise = torch.randint(300, 1000, (len(x),), generator=g), torch.randn(x.shape, generator=g)
            x, t, noise = x.to(self.device), t.to(self.device), noise.to(self.device)
            errors.append((self.forward(self.schedule.add_noise(x, noise, t), t) - noise).mean((2, 3)))
        error = torch.cat(errors).mean(0)
        self.model.conv_out.bias -= error
        return error

    def export(self) -> None:
        if not hasattr(self, "data"):
            self.prepare()
        self.calibrate()
        with replace_folder(self.folder) as new:
            DDPMPipeline(unet=half(self.model), scheduler=self.schedule).save_pretrained(new)

    def stored(self, folder: Path) -> UNet2DModel:
        return read_model(UNet2DModel, folder / "unet", remedy(self.name))
