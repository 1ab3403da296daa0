"""How far two pictures differ as networks see them: LPIPS without learned weights.

Zhang et al. 2018 (arXiv 1801.03924): features of several layers are scaled to unit length at every position; the
distance is the mean over positions of their squared difference, and the mean over layers. Their weights of channels are
1 here, since those were fitted to networks that cannot be had without a hub.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from lsvd.backbones.clip import Clip
from lsvd.checks import check_pictures
from lsvd.studies import lite0

Layers = Callable[[Tensor], list[Tensor]]
"""Features of pictures (n, 3, H, W), a layer each: (n, C, positions)."""


def instruments(clip: Clip) -> Mapping[str, Layers]:
    """What measures distances here: the layers of a CLIP model, and ImageNet's where its package is installed."""
    found = {"lpips_clip": lambda pictures: clip_layers(clip, pictures)}
    network = lite0.load()
    if network is not None:
        found["lpips_imagenet"] = lambda pictures: [x.flatten(2) for x in network.layers(pictures.float().cpu())]
    return found


@torch.no_grad()
def distances(a: Tensor, b: Tensor, layers: Layers, batch: int = 32) -> Tensor:
    """The distance of each pair of pictures, (n, 3, H, W) in [0, 1]: shape (n,), from 0 for the same to 4.

    Raises ValueError for pictures that are not, or another number of them.
    """
    if len(check_pictures(a)) != len(check_pictures(b)):
        raise ValueError(f"{len(a)} and {len(b)} pictures make no pairs: give as many of each")
    parts = []
    for one, other in zip(a.split(batch), b.split(batch), strict=True):
        pairs = zip(layers(one), layers(other), strict=True)
        each = [(F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).mean(-1) for x, y in pairs]
        parts.append(torch.stack(each).mean(0).cpu())
    return torch.cat(parts)


def clip_layers(clip: Clip, pictures: Tensor) -> list[Tensor]:
    """The hidden states of a CLIP model's layers, of the patches of pictures: (n, C, patches) each."""
    images = list((pictures.float() * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy())
    pixels = clip.processor(images=images, return_tensors="pt").pixel_values
    model = clip.model
    states = model.vision_model(pixels.to(model.device, model.dtype), output_hidden_states=True).hidden_states
    return [state[:, 1:].mT for state in states[1:]]  # the first is the embedding, the first position the class
