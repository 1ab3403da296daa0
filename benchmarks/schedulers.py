"""What each scheduler of diffusers does with a code that is put in: python -m benchmarks.schedulers.

The model is exact: data are normal, so the best prediction of the noise (or the flow) is a multiple of the code. A code
of one trajectory is put into another at each whole step; what follows is held against the first one's end.
outputs/tables/schedulers.csv gets a row for each scheduler.
"""

import contextlib
import io
import warnings

import diffusers
import torch
from diffusers.utils import logging
from torch import Tensor

from lsvd.backbones.schedulers import Schedule, accepts, check_takes_codes, prepare, remembers, starting_at
from lsvd.paths import outputs
from lsvd.storage.files import write_csv

VARIANCE, STEPS = 0.3, 20
BASE = diffusers.DDIMScheduler(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
)
LEVELS = BASE.alphas_cumprod
# of other data than codes, of other loops than a pipeline's, or in need of packages that are not required
OTHERS = """Amused BlockRefinement CogVideoXDPM CosineDPMSolverMultistep DDPMWuerstchen DPMSolverSDE DiscreteDDIM
EntropyBound HeliosDMD Helios KarrasVe MiniMaxH3 Piflow RFD4Proteina RePaint SCM ScoreSdeVe UnCLIP VQDiffusion
CMStochasticIterative DPMSolverMultistepInverse DDIMInverse EDMDPMSolverMultistep EDMEuler""".split()
NAMES = sorted(
    name.removesuffix("Scheduler")
    for name in dir(diffusers)
    if name.endswith("Scheduler") and isinstance(getattr(diffusers, name), type) and not name.startswith("Flax")
)
NAMES = [name for name in NAMES if name not in OTHERS]


def scheduler(name: str, **config) -> diffusers.SchedulerMixin:
    """A scheduler by its class's name, on the noise levels of Stable Diffusion."""
    kind = getattr(diffusers, f"{name}Scheduler")
    return kind(**config) if "Flow" in name else kind.from_config(BASE.config, **config)


def predicted(x: Tensor, t: float | Tensor, flow: bool) -> Tensor:
    """The best prediction for data of VARIANCE: of the noise, or of the flow."""
    if flow:
        s = float(t) / 1000
        return (s - (1 - s) * VARIANCE) / ((1 - s) ** 2 * VARIANCE + s**2) * x
    low = int(min(max(float(t), 0), 999))
    high = min(low + 1, 999)
    level = LEVELS[low] + (LEVELS[high] - LEVELS[low]) * (float(t) - low)
    return (1 - level) ** 0.5 / (level * VARIANCE + 1 - level) * x


def go_on(sampler, x: Tensor, flow: bool, first: int = 0, callback=None, steps: int = STEPS) -> list[Tensor]:
    """The codes from x at step `first` to the end, as a pipeline's loop makes them."""
    later = starting_at(sampler, first)
    later.set_timesteps(steps)
    codes = [x]
    for i, t in enumerate(later.timesteps):
        noise = {"generator": torch.Generator().manual_seed(first + i)} if accepts(later.step, "generator") else {}
        x = later.step(predicted(later.scale_model_input(x, t), t, flow), t, x, **noise).prev_sample
        x = callback(later, first + i + 1, x) if callback else x
        codes.append(x)
    return codes


def pair(sampler) -> tuple[Schedule, list[Tensor]]:
    """The schedule of a scheduler, and two codes to start from."""
    schedule = Schedule.of(prepare(sampler, STEPS))
    g = torch.Generator().manual_seed(0)
    return schedule, [torch.randn(1, 4, 8, 8, generator=g) * schedule.sigma for _ in range(2)]


def row(name: str) -> dict[str, str]:
    """What a scheduler does: a line of the table. `off`: the end's distance from the other trajectory's, at worst, as a
    share of the distance of the two."""
    sampler, flow = scheduler(name), "Flow" in name
    prepared = prepare(sampler, STEPS)
    schedule, noises = pair(sampler)
    line = {
        "scheduler": f"{name}Scheduler",
        "timesteps": str(len(schedule)),
        "whole steps": str(int(schedule.whole.sum())),
    }
    line["remembers"] = "yes" if remembers(prepared) else "no"
    try:
        check_takes_codes(sampler)
    except ValueError:
        return line | {"takes codes": "refused", "off": ""}
    a, b = (go_on(sampler, noise, flow) for noise in noises)
    ends = [go_on(sampler, b[step], flow, step)[-1] for step in schedule.whole.nonzero().flatten().tolist()[1:]]
    off = max((end - b[-1]).norm() for end in ends) / (a[-1] - b[-1]).norm().clamp_min(1e-12)
    return line | {"takes codes": "at whole steps" if not schedule.whole.all() else "yes", "off": f"{off:.3f}"}


def main() -> int:
    """The command line; returns 0."""
    logging.set_verbosity_error()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        rows = [row(name) for name in NAMES]
    write_csv(outputs("tables", "schedulers.csv"), rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
