"""What the autoencoder learns."""

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from lsvd.backbones.checkpoints import read_model
from lsvd.storage.files import replace_folder
from lsvd.testbed.training import models
from lsvd.testbed.training.jobs import Job, half, normal, remedy


class Autoencoder(Job):
    """Reconstruction in L1, of colours and of their differences between neighbours, and in PSNR, and a small KL term.

    PSNR is the logarithm of a picture's squared error: a plain picture, already near its original, counts as much as a
    busy one. Most steps are on crops of half the side, four for a picture: more different pictures at the same cost.
    The last ones are on whole pictures, because group normalisation sees how large a picture is.
    """

    part_of = "mini-sd"
    learns_in_half = True
    crops = 0.85  # fraction of the steps on crops
    kl = 2e-4  # weight of the mean KL of a latent element
    psnr = 0.04  # weight of the mean logarithm of a picture's squared error

    def build(self) -> AutoencoderKL:
        model = models.autoencoder(size=self.recipe.size, **self.recipe.model)
        # A posterior that begins narrow: at unit width the decoder would see noise only, and learn to ignore it.
        nn.init.constant_(model.quant_conv.bias[model.config.latent_channels :], -6.0)
        return model

    def begin_with(self, weights: Mapping[str, Tensor]) -> None:
        """As Job.begin_with, also with weights of fewer layers a level: what these lack changes nothing at first.

        The last convolution of each residual block that is added is zero.
        """
        known = self.model.state_dict()
        added = {name: known[name] for name in known if name not in weights and ".resnets." in name}
        added = {name: torch.zeros_like(w) if ".conv2." in name else w for name, w in added.items()}
        self.model.load_state_dict({**added, **weights})

    def forward(self, pictures: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        learner = self.learner
        kind = next(learner.parameters()).dtype
        posterior = learner.encode(pictures.to(kind)).latent_dist
        return learner.decode(posterior.mean + posterior.std * noise.to(kind)).sample, posterior.mean, posterior.logvar

    def loss(self, step: int, g: torch.Generator) -> Tensor:
        r, side = self.recipe, self.recipe.size
        if step < self.crops * r.steps:
            whole, side = self.data[self.draw(g, 4 * self.batch)], side // 2
            corners = torch.randint(side + 1, (len(whole), 2), generator=g).tolist()
            x = torch.stack([p[:, i : i + side, j : j + side] for p, (i, j) in zip(whole, corners, strict=True)])
        else:
            x = self.data[self.draw(g)]
        shrink = 2 ** (len(self.model.config.block_out_channels) - 1)
        x = (x * 2 - 1).to(self.device)
        noise = normal((len(x), 4, side // shrink, side // shrink), g, self.device)
        with self.amp():
            y, mean, logvar = (o.float() for o in self.forward(x, noise))
        error = y - x
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        squared = error.square().mean((1, 2, 3)) + 1e-5  # beyond 56 dB nothing more is to be had
        return error.abs().mean() + 0.5 * edges + self.psnr * squared.log().mean() + self.kl * kl

    @property
    def ships(self) -> Path:
        return self.weights / "mini-sd" / "vae"

    def export(self) -> None:
        """Measure the latents' standard deviation over 1,000 pictures, and write the model with its scaling factor."""
        self.prepare()
        index = torch.arange(min(1000, len(self.data)))
        with torch.no_grad():
            batches = ((self.data[i] * 2 - 1).to(self.device) for i in index.split(20))
            means = [self.model.encode(x).latent_dist.mean for x in batches]
        self.model.register_to_config(scaling_factor=round(1 / torch.cat(means).std().item(), 5))
        with replace_folder(self.folder) as new:
            half(self.model).save_pretrained(new)

    def stored(self, folder: Path) -> AutoencoderKL:
        return read_model(AutoencoderKL, folder, remedy(self.name))
