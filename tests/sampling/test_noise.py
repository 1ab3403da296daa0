"""Noise comes from the seeds alone: neither torch's global generator nor its default dtype has part in it."""

import ast
from contextlib import contextmanager
from pathlib import Path

import diffusers
import pytest
import torch
from tiny import KINDS, text_to_image, unconditional
from tiny_families import build

import lsvd
from benchmarks.schedulers import NAMES
from lsvd.avi import attribute
from lsvd.backbones.loading import from_pipeline
from lsvd.decomposition import geodesic, mobility
from lsvd.sampling.inversion import invert
from lsvd.sampling.trajectory import branch, resume, run
from lsvd.studies import neighbourhood, responses
from lsvd.testbed import reader

pytestmark = pytest.mark.filterwarnings("ignore")
PROMPT = {"text-to-image": "a person", "unconditional": None}
SOURCE = Path(lsvd.__file__).parent
DATA = (SOURCE / "testbed" / "training", SOURCE / "testbed" / "scenes")
"""What makes the data and trains on them, a program of its own whose default dtype nobody sets."""


@contextmanager
def by_default(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def draws():
    """The calls in lsvd that draw real numbers, with the file of each."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not {*DATA} & {*path.parents} and isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if ast.unparse(node.func) in ("torch.randn", "torch.rand", "torch.normal"):
                    yield path.relative_to(SOURCE).as_posix(), {keyword.arg for keyword in node.keywords}


def test_every_draw_names_its_generator_and_its_dtype():
    found = list(draws())
    assert len(found) >= 8
    for file, named in found:
        assert {"generator", "dtype"} <= named, file


def gaussian(seed=0):
    return torch.Generator().manual_seed(seed)


PLACES = {
    "noise of latents": lambda: text_to_image().noise([1, 2]),
    "noise of pixels": lambda: unconditional().noise([1, 2]),
    "random subspaces": lambda: geodesic.random_subspaces((3,), 6, 2, gaussian()),
    "chance of paths": lambda: torch.tensor(mobility.chance(6, 6, draws=5), dtype=torch.float64),
    "random directions": lambda: torch.cat([each.flatten() for each in responses._frames([1], 3, [0, 1], (2, 4, 6))]),
    "degraded pictures": lambda: reader.degrade(torch.full((4, 3, 16, 16), 0.5, dtype=torch.float32), gaussian()),
}


@pytest.mark.parametrize("draw", PLACES.values(), ids=PLACES)
def test_noise_is_that_of_any_default_dtype(draw):
    wanted = draw()
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        with by_default(dtype):
            found = draw()
        assert found.dtype == wanted.dtype and torch.equal(found, wanted)


NOISY = "DDPM EulerAncestralDiscrete KDPM2AncestralDiscrete LCM TCD SASolver DDIM".split()


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("kind", KINDS)
def test_the_noise_of_each_step_is_that_of_any_default_dtype(name, kind):
    backbone = KINDS[kind]().with_scheduler(getattr(diffusers, f"{name}Scheduler"))
    request = {"prompts": PROMPT[kind], "seeds": [1], "steps": 4, "eta": float(name == "DDIM")}
    wanted = run(backbone, **request)
    with by_default(torch.float64):
        found = run(backbone, **request)
        again = resume(backbone, wanted, wanted.timesteps[wanted.schedule.whole][2]).final
        fresh = neighbourhood.add_noise(backbone, wanted, fresh=True)
    # tables of noise levels may be rounded otherwise
    assert found.codes.dtype == torch.float32 and torch.allclose(found.codes, wanted.codes, rtol=1e-3, atol=1e-3)
    assert torch.allclose(again, wanted.final, rtol=1e-3, atol=1e-3)
    assert torch.allclose(fresh, neighbourhood.add_noise(backbone, wanted, fresh=True), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in NAMES if "Flow" not in name and "LTX" not in name])
@pytest.mark.parametrize("kind", KINDS)
def test_the_global_generator_is_left_alone(name, kind):
    backbone = KINDS[kind]().with_scheduler(getattr(diffusers, f"{name}Scheduler"))
    torch.manual_seed(7)
    before = torch.get_rng_state()

    def untouched(what):
        assert torch.equal(torch.get_rng_state(), before), what

    for eta in (0.0, 1.0) if name in ("DDIM", "TCD") else (0.0,):
        walk = run(backbone, PROMPT[kind], [1, 2], 4, eta=eta)
        untouched("run")
        places = walk.timesteps[walk.schedule.whole].tolist()
        resume(backbone, walk, places[2])
        untouched("resume")
        if name != "SASolver":
            resume(backbone, walk, places[1], walk.at(places[1]) * 1.1)
            untouched("resume with another code")
        if kind == "text-to-image" and name != "SASolver":
            branch(backbone, walk, places[1], "an old person")
            untouched("branch")
        try:
            invert(backbone, walk.final, PROMPT[kind], 4, iterations=2)
        except ValueError as error:
            assert "adds noise" in str(error)
        untouched("invert")


def test_learning_and_applying_leave_the_global_generator_alone(tmp_path):
    before = torch.get_rng_state()
    backbone = text_to_image()
    learned = attribute.learn(backbone, "a person", "an old person", [1], steps=4)
    attribute.apply(backbone, attribute.load(learned.save(tmp_path / "x.safetensors")), "a person", [2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", [diffusers.FlowMatchEulerDiscreteScheduler, diffusers.FlowMatchLCMScheduler])
@pytest.mark.parametrize("name", ["StableDiffusion3Pipeline", "FluxPipeline", "ZImagePipeline"])
def test_the_noise_of_flow_matching_comes_from_the_seeds(name, kind):
    """These pipelines hand their scheduler no generator."""
    backbone = from_pipeline(build(name), size=16)
    noisy = {"stochastic_sampling": True} if "Euler" in kind.__name__ else {}
    backbone = backbone.with_scheduler(kind.from_config(backbone.scheduler.config, **noisy))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    walk = run(backbone, "a person", [1, 2], 4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    assert torch.equal(run(backbone, "a person", [1, 2], 4).codes, walk.codes)
    for i, t in enumerate(walk.timesteps):
        assert torch.equal(resume(backbone, walk, t).codes, walk.codes[i:])
    assert not torch.equal(run(backbone, "a person", [3, 4], 4, codes=walk.codes[0]).final, walk.final)
    with pytest.raises(ValueError, match="adds noise on the way"):
        invert(backbone, walk.final, "a person", 4)
