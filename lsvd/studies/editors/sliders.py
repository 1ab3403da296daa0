"""Concept Sliders (Gandikota et al. 2024, arXiv 2311.12092): a LoRA of rank 4, trained on a pair of prompts by PEFT.

For the source prompt, the adapted network learns to predict e(source) + eta (e(target) - e(source)), with e the
original network. It is trained on codes of the source's own trajectories, of seeds that are not edited, and used from a
timestep on.
"""

import copy
import importlib.util
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from lsvd.backbones.models import TextToImage
from lsvd.sampling import identity
from lsvd.sampling.kept import trajectories
from lsvd.sampling.trajectory import Settings, resume
from lsvd.storage import results
from lsvd.storage.sharing import collect, remembered
from lsvd.studies.editors.editor import Job
from lsvd.studies.editors.shipped import Shipped

RANK, RATE, ETA, BATCH = 4, 2e-3, 2.0, 4
LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]
SEEDS = range(200, 216)
"""Of the trajectories that sliders are trained on."""
NAME = "slider"


@dataclass(frozen=True)
class ConceptSlider(Shipped):
    """A slider at a scale, switched on from `start` T on; iterations: of its training."""

    method: ClassVar[str] = "Concept Sliders"
    scale: float = 1.0
    start: float = 0.8
    iterations: int = 120

    def fits(self, backbone: TextToImage) -> bool:
        """See Editor. PEFT is an extra of the package."""
        return super().fits(backbone) and importlib.util.find_spec("peft") is not None

    def prepare(self, job: Job) -> None:
        """See Editor."""
        self.weights(job)

    def edit(self, job: Job) -> Tensor:
        """See Editor."""
        backbone = job.backbone
        network = _adapted(backbone)
        _load(network, self.weights(job))
        network.set_adapters([NAME], [self.scale])
        pipe = copy.copy(backbone.pipe)
        pipe.unet = network
        adapted = TextToImage(pipe, backbone.entry, backbone.scheduler, backbone.words, backbone.size)
        return backbone.decode(resume(backbone, job.source, job.source.nearest(self.start), by=adapted).final)

    def weights(self, job: Job) -> results.Tensors:
        """The trained adapter of a pair of prompts, kept on disk."""
        settings = job.source.settings
        made_by = {"weights": identity.weights(job.backbone), "source": job.prompt, "target": job.target}
        made_by |= {"steps": settings.steps, "guidance": settings.guidance, "iterations": self.iterations}
        made_by |= {"training": [RANK, RATE, ETA, BATCH, list(SEEDS)], "scheduler": settings.config}
        name = f"{job.backbone.name}-sliders"
        training = partial(train, job.backbone, settings, job.target, self.iterations)
        # of processes that need it at once, one trains it
        return collect([remembered(name, made_by, training)], title=name)[0]


def train(backbone: TextToImage, settings: Settings, target: str, iterations: int) -> results.Tensors:
    """The adapter that takes the source prompt of a request to a target prompt."""
    pipe, prompt, generator = backbone.pipe, settings.prompts[0], torch.Generator().manual_seed(0)
    walk = trajectories(backbone, prompt, SEEDS, steps=settings.steps, guidance=settings.guidance)
    codes = walk.codes.to(backbone.device)
    schedule, scheduler = backbone.schedule(settings.steps), backbone.prepared(settings.steps)
    with torch.no_grad():
        texts = [pipe.encode_prompt(text, backbone.device, BATCH, False)[0] for text in (prompt, target)]
    network = _adapted(backbone)
    weights = _adapter(network)
    torch.manual_seed(0)  # for dropout alone, which these networks do not have
    for value in weights.values():
        value.requires_grad_(True)
    optimiser = torch.optim.Adam(weights.values(), RATE)
    for _ in range(iterations):
        step = int(torch.randint(len(schedule), (), generator=generator))
        rows = torch.randint(len(SEEDS), (BATCH,), generator=generator)
        t = scheduler.timesteps[step].to(backbone.device)
        x = scheduler.scale_model_input(codes[step][rows], t)
        with torch.no_grad():
            s, g = (pipe.unet(x, t, encoder_hidden_states=text).sample for text in texts)
        prediction = network(x, t, encoder_hidden_states=texts[0]).sample
        loss = (prediction - (s + ETA * (g - s))).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: value.detach() for name, value in weights.items()}


def _adapted(backbone: TextToImage) -> Any:
    """A copy of the network with an untrained adapter, which changes nothing."""
    from peft import LoraConfig

    network = copy.deepcopy(backbone.pipe.unet).requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LAYERS), adapter_name=NAME)
    return network


def _adapter(network: Any) -> dict[str, Tensor]:
    """The adapter's matrices by name."""
    return {name: value for name, value in network.named_parameters() if "lora_" in name}


def _load(network: Any, weights: results.Tensors) -> None:
    with torch.no_grad():
        for name, value in _adapter(network).items():
            value.copy_(weights[name])
