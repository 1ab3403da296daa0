"""Attribute Vector Integration trained: a small network predicts S (Wang et al. 2025, arXiv 2502.02225).

The paper's network reads (sigma_x, sigma_z) and predicts S = (a, b), for one pair of codes only: there is no data but
that pair. Its layout, its optimiser and its end are our choices, since the paper's summary leaves them open. Each pair
of a batch has networks of its own; they start alike, are trained side by side, and end in what they would alone.

With squared norms the loss is a quadratic in S, so that a step costs k^2 and not H W; with absolute norms y is made at
each step. What training can reach at best with squared norms is `lsvd.avi.exact.solve`.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import astuple, dataclass, field, replace
from itertools import pairwise
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from lsvd.avi import losses
from lsvd.avi.exact import AVIConfig, Parts, Solution, assemble, choose, integrate, quadratic
from lsvd.avi.losses import Lambdas
from lsvd.checks import integer, number
from lsvd.progress import bar

Layout = Literal["per channel", "joint"]
NOTHING = 1e-9
"""The share of its first loss below which a network's loss counts as 0."""


@dataclass(frozen=True)
class FitConfig:
    """The network and its training.

    layout: a network for each channel, or one that reads and predicts all channels of a code. hidden, layers: the width
    and number of hidden layers. lr: Adam's learning rate. steps: at most so many. window, tolerance: a network has
    converged when the last `window` steps lowered its least loss by no more than this share, or by next to nothing.
    seed: of the first weights.

    Raises ValueError for numbers that make no sense.
    """

    layout: Layout = "per channel"
    hidden: int = 64
    layers: int = 2
    lr: float = 0.01
    steps: int = 2000
    window: int = 50
    tolerance: float = 1e-4
    seed: int = 0

    def __post_init__(self):
        if self.layout not in get_args(Layout):
            raise ValueError(f"there is no layout {self.layout!r}: choose from {', '.join(get_args(Layout))}")
        for name, least in (("hidden", 1), ("layers", 0), ("steps", 1), ("window", 1), ("seed", 0)):
            value = getattr(self, name)
            if integer(value) is None or value < least:
                raise ValueError(f"cannot train with {name} = {value}: give a whole number from {least} on")
        lr, tolerance = number(self.lr), number(self.tolerance)
        if lr is None or tolerance is None or not 0 < lr < float("inf") or not 0 <= tolerance < 1:
            rates = f"lr = {self.lr} and tolerance = {self.tolerance}"
            raise ValueError(f"cannot train with {rates}: give an lr above 0, a tolerance from 0 to below 1")


@dataclass(frozen=True, eq=False)
class Fit:
    """What training came to.

    solution: for the S of least loss on the way. curve: shape (steps + 1, ...), the loss of each code before the first
    step and after each; once a network has converged, it counts with its least. converged: shape (...), whether all
    networks of a code did so within the steps.
    """

    solution: Solution
    curve: Tensor
    converged: Tensor


def fit(
    x: Tensor,
    z: Tensor,
    config: AVIConfig | None = None,
    training: FitConfig | None = None,
    *,
    progress: bool = False,
) -> Fit:
    """Train networks to predict S for codes x and z of one shape (..., C, H, W), in float64.

    progress: a bar over the steps. Raises ValueError if the codes differ in shape, are not finite, or k_x or k_z is
    out of range.
    """
    config = config or AVIConfig()
    parts = choose(x, z, config)
    S, curve, converged = train(parts, config, training, progress=progress)
    return Fit(assemble(S, parts, x), curve, converged)


def train(
    parts: Parts, config: AVIConfig, training: FitConfig | None = None, *, progress: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """S, shape (..., C, k_x + k_z), with the curve and whether it converged, as in Fit."""
    # tensors of inference mode cannot be trained with; those that are computed here from them can
    with torch.inference_mode(False), torch.enable_grad():
        scale = parts.sigma.amax(-1, keepdim=True)
        scale = torch.where(scale > 0, scale, 1.0)
        weight = max(astuple(config.lambdas))
        lambdas = Lambdas(*(value / weight for value in astuple(config.lambdas)))
        loss = _loss(_divided(parts, scale), replace(config, lambdas=lambdas))
        S, curve, converged = _trained(loss, parts.sigma / scale, training or FitConfig(), progress)
        unit = weight * scale[..., 0] ** (2 if config.norm == "squared" else 1)
        return scale * S, (unit * curve).sum(-1), converged


def _divided(parts: Parts, scale: Tensor) -> Parts:
    """The parts of codes that are 1 / scale as large, shape (..., C, 1)."""
    t, size = parts.triplets, scale.unsqueeze(-1)
    codes = {name: getattr(parts, name) / size for name in ("source", "target", "rest", "start")}
    return replace(parts, triplets=replace(t, U=t.U.clone(), S=t.S / scale, Vh=t.Vh.clone()), **codes)


def _trained(
    loss: Callable[[Tensor], Tensor], sigma: Tensor, training: FitConfig, progress: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """S, (..., C, k), the curve of each channel, (steps + 1, ..., C), and whether the codes converged, (...).

    loss: shape (..., C), of S. sigma: (..., C, k). All are of the order of 1.
    """
    joint = training.layout == "joint"
    rows = sigma.flatten(-2) if joint else sigma  # one network for each
    inputs = rows.reshape(-1, 1, rows.shape[-1])
    widths = [rows.shape[-1], *[training.hidden] * training.layers, rows.shape[-1]]
    layers = [layer.to(sigma.device).requires_grad_() for layer in _layers(widths, len(inputs), training.seed)]
    adam = torch.optim.Adam(layers, lr=training.lr)

    # the least is kept for each channel, whose loss depends on its own S alone
    best, least = sigma, torch.full(sigma.shape[:-1], torch.inf, dtype=sigma.dtype, device=sigma.device)
    done = torch.zeros_like(least, dtype=torch.bool)
    curve, marks = [], deque(maxlen=training.window + 1)
    with bar(total=training.steps, desc="training", progress=progress) as shown:
        for step in range(training.steps + 1):
            prediction = _predict(layers, inputs).view_as(sigma)
            value = loss(prediction)
            now = value.detach()
            better = ~done & (now < least)
            best = torch.where(better[..., None], prediction.detach(), best)
            least = torch.where(better, now, least)
            marks.append(least)
            if step >= training.window:
                still = marks[0] - least <= training.tolerance * torch.maximum(least, NOTHING * curve[0])
                done = done | (still.all(-1, keepdim=True) if joint else still)
            curve.append(torch.where(done, least, now))
            if done.all() or step == training.steps:
                break
            adam.zero_grad()
            value.sum().backward()
            adam.step()
            shown.update()
    return best, torch.stack(curve), done.all(-1)


def _loss(parts: Parts, config: AVIConfig) -> Callable[[Tensor], Tensor]:
    """The loss in each channel, shape (..., C), of S, shape (..., C, k)."""
    if config.norm == "squared":
        system, right, offset = quadratic(parts, config.lambdas)
        return lambda S: (((system @ S.unsqueeze(-1)).squeeze(-1) - 2 * right) * S).sum(-1) + offset
    # each channel is handed over as a code of one channel, since the losses are sums over channels
    x, z = parts.x, parts.z

    def absolute(S: Tensor) -> Tensor:
        a, b = S.split([x.rank, z.rank], -1)
        y = integrate(a, b, x, z, parts.rest)
        codes = (code.unsqueeze(-3) for code in (y, parts.source, parts.target))
        spectra = (values.unsqueeze(-2) for values in (a, b, x.S, z.S))
        return losses.total(*codes, *spectra, config.lambdas, config.norm)

    return absolute


def _layers(widths: list[int], count: int, seed: int) -> list[Tensor]:
    """The first weights of `count` equal networks, (count, inputs + 1, outputs) for each layer; the last row is added.

    Uniform within 1 / sqrt(inputs), as torch.nn.Linear has it, from a generator of their own.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for inputs, outputs in pairwise(widths):
        draw = torch.rand(inputs + 1, outputs, generator=generator, dtype=torch.float64, device="cpu")
        layers.append(((2 * draw - 1) * inputs**-0.5).repeat(count, 1, 1))
    return layers


def _predict(layers: list[Tensor], h: Tensor) -> Tensor:
    """The networks' outputs, (count, 1, outputs), for inputs (count, 1, inputs): each its own."""
    for depth, layer in enumerate(layers):
        h = torch.baddbmm(layer[:, -1:], F.silu(h) if depth else h, layer[:, :-1])
    return h


@dataclass(frozen=True)
class Trained:
    """The paper's way to integrate two codes, as a method of lsvd.avi.edit.edit_prompt: a network trained on them."""

    config: AVIConfig = field(default_factory=AVIConfig)
    training: FitConfig = field(default_factory=FitConfig)

    def __call__(self, x: Tensor, z: Tensor) -> Solution:
        """The solution for codes x and z of one shape (..., C, H, W). Raises ValueError as `fit`."""
        return fit(x, z, self.config, self.training).solution
