"""On a device, what is drawn, edited and measured is what it is on the CPU, bit for bit.

The device is emulated (see accelerator.py), and rounds as the CPU does. It is there in two kinds: as cuda is; and
`limited`, without float64 and SVD, as mps is.
"""

import functools
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerator import DEVICE, NAME, DeviceTensor, without_float64
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler
from PIL import Image
from placing import place
from tiny import KINDS, tiny_ddpm, tiny_pipeline
from tiny_families import build
from torch.testing import assert_close
from untrained import BANDS, untrained

from lsvd import avi, backbones
from lsvd.avi import attribute, baselines, network
from lsvd.avi import edit as editing_avi
from lsvd.avi.callback import AddAttributes
from lsvd.backbones import clip, devices
from lsvd.backbones.schedulers import remembers
from lsvd.commands.edit import encoded, sheet
from lsvd.decomposition import geodesic, mobility
from lsvd.decomposition import svd as decomposition
from lsvd.decomposition.svd import svd
from lsvd.figures.framework import framework, shown
from lsvd.figures.style import to_array
from lsvd.sampling import identity, trajectory
from lsvd.sampling.inversion import invert
from lsvd.sampling.kept import trajectories
from lsvd.statistics import fidelity, intervals
from lsvd.storage import results
from lsvd.studies import edits, neighbourhood, responses
from lsvd.studies.rig import Rig
from lsvd.studies.ways import Way, integration
from lsvd.testbed.effects import effects

# diffusers 0.42 still calls NumPy in ways that NumPy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
PIPES = {"text-to-image": tiny_pipeline, "unconditional": tiny_ddpm}
PROMPT = {"text-to-image": "an old person", "unconditional": None}
SEEDS, STEPS = (1, 2), 4
EDIT = {"steps": STEPS, "tx": 0.6, "dtau": 0, "branch": 1.0, "config": avi.AVIConfig(2, 2)}


@pytest.fixture(params=[False, True], ids=["whole", "limited"])
def limited(request, monkeypatch):
    """Whether the device is without float64."""
    if not request.param:
        yield False
        return
    monkeypatch.setattr(decomposition, "LIMITED", (NAME,))
    with without_float64():
        yield True


@functools.cache
def there(kind="text-to-image"):
    """A tiny backbone of tiny.KINDS on the device."""
    return backbones.from_pipeline(PIPES[kind]().to(DEVICE), KINDS[kind]().entry)


def both(kind="text-to-image"):
    """The same backbone on the device and on the CPU."""
    return there(kind), KINDS[kind]()


@pytest.fixture(params=list(KINDS))
def pair(request):
    return both(request.param)


def draw(backbone, steps=STEPS, **settings):
    return trajectory.run(backbone, PROMPT[backbone.kind], SEEDS, steps, **settings)


def same(far, near):
    """Of the same numbers, on the device and on the CPU."""
    assert far.device == DEVICE and near.device.type == "cpu" and torch.equal(far.cpu(), near)


def refuses(work):
    with pytest.raises((RuntimeError, TypeError)) as caught:
        work()
    return str(caught.value)


def test_the_device_refuses_what_devices_refuse():
    x, near = torch.arange(6.0, device=DEVICE), torch.arange(6.0)
    for work in (
        lambda: x + near,
        lambda: near.add_(x),
        lambda: torch.cat([x, near]),
        lambda: torch.nn.functional.linear(x, near[None]),
        lambda: x.gather(0, near.long()),
        lambda: near[x.long()],
        lambda: x.index_put_((near.long(),), near),
        lambda: near[0].add_(x[0]),
    ):
        assert "same device" in refuses(work)
    assert "generator" in refuses(lambda: torch.randn(2, device=DEVICE, generator=torch.Generator()))
    assert "numpy" in refuses(x.numpy) and "numpy" in refuses(lambda: np.asarray(x))
    with without_float64():
        for work in (x.double, lambda: x.to("cpu", torch.float64), lambda: near.double().to(DEVICE)):
            assert "float64" in refuses(work)
        refuses(lambda: torch.linalg.svd(x.view(2, 3)))
        same(near.double().to(DEVICE, torch.float32), near)
    # single numbers, and places, may be on the CPU
    same(x * near[2], near * 2)
    same(x[near.long()], near)
    assert not torch.accelerator.is_available()


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_trajectories(pair, eta):
    far, near = (draw(backbone, eta=eta) for backbone in pair)
    same(far.codes, near.codes)
    assert torch.equal(far.timesteps, near.timesteps)
    t, own = far.timesteps[2], pair[0]
    part = draw(own, eta=eta, until=t)
    same(part.codes, near.codes[:3])
    same(trajectory.resume(own, part, t).codes, near.codes[2:])
    same(trajectory.resume(own, far, t, near.at(t)).final, near.final)  # from wherever it is
    assert torch.equal(*(trajectory.sample(backbone, PROMPT[backbone.kind], SEEDS, steps=2) for backbone in pair))


@pytest.mark.parametrize("scheduler", [EulerAncestralDiscreteScheduler, DPMSolverMultistepScheduler])
def test_schedulers(scheduler):
    far, near = (backbone.with_scheduler(scheduler) for backbone in both("unconditional"))
    assert remembers(far.prepared(STEPS)) is remembers(near.prepared(STEPS))
    walk = draw(far)
    same(walk.codes, draw(near).codes)
    assert torch.equal(trajectory.resume(far, walk, walk.timesteps[2]).codes, walk.codes[2:])


def test_a_pipeline_that_hands_the_schedule_to_its_scheduler():
    """The schedule is on the device then; it remembers no more than on the CPU."""
    far, near = (
        backbones.from_pipeline(build("StableDiffusion3Pipeline").to(place), size=16) for place in (DEVICE, "cpu")
    )
    walk = draw(far)
    same(walk.codes, draw(near).codes)
    t = walk.timesteps[2]
    same(trajectory.resume(far, walk.settings, t, walk.at(t)).final, walk.final.cpu())
    back = [invert(each, walk.final, PROMPT[each.kind], 2, iterations=2) for each in (far, near)]
    same(back[0].trajectory.codes, back[1].trajectory.codes)
    assert torch.equal(back[0].residual, back[1].residual)


def test_pictures(pair):
    far, near = pair
    code = draw(near).final
    pictures = near.decode(code)
    same(far.decode(code), pictures)
    same(far.encode(pictures), near.encode(pictures))
    same(fidelity.psnr(far.decode(code), pictures / 2), fidelity.psnr(pictures, pictures / 2))
    data = encoded(sheet(far, [draw(far)]), "PNG")
    assert Image.open(io.BytesIO(data)).size == (far.size[1], len(code) * far.size[0])
    assert (to_array(far.decode(code)) == to_array(pictures)).all()


def test_a_pipeline_that_moves_its_models():
    pipe = tiny_pipeline()
    pipe.enable_model_cpu_offload(device=DEVICE)
    backbone, near = backbones.from_pipeline(pipe, there().entry), KINDS["text-to-image"]()
    assert backbone.device == DEVICE
    walk = draw(backbone)
    same(walk.codes, draw(near).codes)
    pictures = backbone.decode(walk.final)
    same(pictures, near.decode(walk.final.cpu()))
    same(backbone.encode(pictures), near.encode(pictures.cpu()))


def test_decomposition(limited):
    near = draw(KINDS["text-to-image"]()).codes
    far = near.to(DEVICE)
    same(svd(far).recompose(), svd(near).recompose())
    ours, theirs = (svd(x).truncate(3).scale([0, 2], torch.tensor(1.5), channels=1) for x in (far, near))
    same(ours.recompose(), theirs.recompose())
    for mix in (functools.partial(baselines.slerp, weight=0.3), functools.partial(baselines.swap, k=2)):
        same(mix(far[0], near[1]), mix(near[0], near[1]))


@pytest.mark.parametrize("more", [{}, {"branch": 0.9}, {"same_level": True, "dtau": 1}], ids=["", "branch", "level"])
@pytest.mark.parametrize("together", [False, True])
def test_prompt_edits(monkeypatch, together, more):
    monkeypatch.setattr(editing_avi, "_gains", lambda device: together)
    far, near = (
        avi.edit_prompt(backbone, "a person", "an old person", seeds=SEEDS, **place(**EDIT | more))
        for backbone in both()
    )
    same(far.edited.codes, near.edited.codes)
    same(far.solution.a, near.solution.a)


def trained(norm):
    config = avi.AVIConfig(2, 2, norm=norm)
    return {"method": network.Trained(config, network.FitConfig(steps=5))}


@pytest.mark.parametrize("more", [{}, trained("squared"), trained("absolute")], ids=["exact", "squared", "absolute"])
def test_codes_are_integrated(limited, more):
    far, near = (
        avi.edit_prompt(backbone, "a person", "an old person", seeds=SEEDS, **place(**EDIT | {"steps": 2} | more))
        for backbone in both()
    )
    # one batch on a device, two on the CPU, which on the CPU round otherwise
    assert_close(far.edited.final.cpu(), near.edited.final, rtol=1e-4, atol=1e-4)
    assert far.solution.a.dtype == torch.float64 and far.solution.a.device.type == ("cpu" if limited else NAME)
    x, z = (walk.at(far.t).cpu() for walk in (far.source, far.target))
    solve = more.get("method", lambda x, z: avi.solve(x, z, far.config))
    same(far.solution.y, solve(x, z).y)
    assert torch.equal(avi.bound(x.to(DEVICE), z).cpu(), avi.bound(x, z))


def test_attributes(limited, tmp_path):
    learned = [
        attribute.learn(backbone, "a person", "an old person", SEEDS, **place(**EDIT | {"steps": 3, "tx": 0.3}))
        for backbone in both()
    ]
    assert torch.equal(learned[0].left, learned[1].left) and torch.equal(learned[0].right, learned[1].right)
    kept = attribute.load(learned[0].save(tmp_path / "old.safetensors"))
    applied = [attribute.apply(backbone, kept, "a person", (1, 7), 0.5)[1] for backbone in both()]
    same(applied[0].codes, applied[1].codes)
    # the same as a callback of the pipeline alone
    pipe = there().pipe
    latents = pipe(
        ["a person"] * 2,
        num_inference_steps=3,
        guidance_scale=there().entry.guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in (1, 7)],
        output_type="latent",
        callback_on_step_end=AddAttributes(kept, 0.5, seeds=(1, 7)),
    ).images
    same(latents, applied[1].final)


def test_inversion(limited, pair):
    codes = draw(pair[1], guidance=1.0 if pair[1].kind == "text-to-image" else None).final
    unclipped = DDIMScheduler.from_config(pair[1].scheduler.config, clip_sample=False)
    far, near = (
        invert(backbone.with_scheduler(unclipped), codes, PROMPT[backbone.kind], 2, iterations=3) for backbone in pair
    )
    same(far.trajectory.codes, near.trajectory.codes)
    assert torch.equal(far.residual, near.residual) and far.residual.isfinite().all()


def test_cache(pair, tmp_path):
    far, near = pair
    assert identity.weights(far) == identity.weights(near) and identity.identity(far) != identity.identity(near)
    for _ in range(2):
        walk = trajectories(far, PROMPT[far.kind], SEEDS, steps=STEPS, folder=tmp_path)
        same(walk.codes, draw(near).codes)
    t = walk.timesteps[1]
    assert torch.equal(trajectory.resume(far, walk, t).codes, walk.codes[1:])
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    (found,) = results.remember("codes", {}, lambda: {"codes": walk.codes}, folder=tmp_path).values()
    assert torch.equal(found, walk.codes.cpu()) and found.device.type == "cpu"


def test_subspaces(limited):
    (walk, noisy), (near, stochastic) = (
        [draw(backbone, 3, eta=eta) for eta in (0.0, 1.0)] for backbone in both("unconditional")
    )
    far = there("unconditional")
    U, S = svd(walk.codes).truncate(3).U, svd(walk.codes).S
    for distance in (geodesic.pairwise, lambda A: geodesic.distance(A[1:], A[:-1])):
        assert_close(distance(U).cpu(), distance(U.cpu()), rtol=0, atol=1e-7)
    assert torch.equal(geodesic.gap(S, 3).cpu(), geodesic.gap(S.cpu(), 3))
    found = neighbourhood.against_nulls(far, walk, noisy, 3)
    wanted = neighbourhood.against_nulls(KINDS["unconditional"](), near, stochastic, 3)
    for ours, theirs in ((found.means(), wanted.means()), (found.excess(), wanted.excess())):
        for name in theirs:
            for end in ("value", "low", "high"):
                assert getattr(ours[name], end) == pytest.approx(getattr(theirs[name], end), abs=1e-7)
    assert not remembers(far.prepared(2))  # adding noise has left the scheduler as it was


def test_orders(limited):
    walk = draw(there("unconditional"))
    paths = [mobility.follow(codes[:-1], 3) for codes in (walk.codes, walk.codes.cpu())]
    assert all(torch.equal(*(getattr(each, name) for each in paths)) for name in ("ranks", "similarity"))
    far, near = (mobility.movement(each, walk.timesteps, 0.1) for each in paths)
    assert torch.equal(far.dt, near.dt) and torch.equal(far.pairs, near.pairs)
    assert_close(far.change, near.change, rtol=0, atol=0, equal_nan=True)
    assert intervals.mean(svd(walk.codes).S.mean((0, 2, 3))).value > 0


def test_responses(limited):
    far, near = (
        responses.responses(backbone, draw(backbone), reader, 500, BANDS, 1.5)
        for backbone, reader in zip(both("unconditional"), (untrained().to(DEVICE), untrained()), strict=True)
    )
    assert_close((far.moved, far.null), (near.moved, near.null), rtol=0, atol=0, equal_nan=True)
    # wherever the pictures and the reader are
    pictures = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    reader = untrained().to(DEVICE)
    one, other = reader.read(pictures), untrained().read(pictures)
    assert all(torch.equal(one.values[name], other.values[name]) for name in other.values)
    assert effects(one, one, reader.scene, {"hue": "red"}) == effects(other, other, reader.scene, {"hue": "red"})


def test_edits_are_measured(tmp_path, monkeypatch):
    ways = [Way("lerp", 0.3, weight=0.5), replace(integration(0.3, 2, dtau=0), method="transfer")]
    monkeypatch.setattr(edits, "LEARNED", SEEDS)
    found = []
    for backbone in both():
        backbone = backbones.from_pipeline(backbone.pipe, replace(backbone.entry, steps=3))
        monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path / backbone.device.type))
        rig = Rig(backbone, untrained().to(backbone.device), clip.load(device=backbone.device))
        found.append(edits.outcomes(rig, {"hue": "red"}, ways, SEEDS))
    for way in ways:
        for ours, theirs in zip(vars(found[0][way]).values(), vars(found[1][way]).values(), strict=True):
            assert_close(ours, theirs, rtol=0, atol=1e-6, equal_nan=True)
        assert found[0][way].effects.side.value >= 0


def test_framework():
    edit = avi.edit_prompt(there(), "a person", "an old person", seeds=1, **place(whole=True, **EDIT))
    decode = there().decode
    assert framework(edit, {name: decode(codes) for name, codes in shown(edit).items()})


def test_models_are_loaded_there(tmp_path):
    KINDS["text-to-image"]().pipe.save_pretrained(tmp_path / "tiny")
    backbone = backbones.load(tmp_path / "tiny", DEVICE)
    assert isinstance(next(backbone.pipe.unet.parameters()), DeviceTensor) and backbone.device == DEVICE
    texts = clip.load(device=DEVICE).texts(["an old person"])
    same(texts, clip.load().texts(["an old person"]))
    pictures = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    same(clip.load(device=DEVICE).pictures(pictures), clip.load().pictures(pictures))


def test_processes_of_a_machine_take_turns_at_its_devices(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.of_process("cuda") == "cuda"
    for rank, device in (("0", "cuda:0"), ("1", "cuda:1"), ("4", "cuda:0"), ("x", "cuda")):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert devices.of_process("cuda") == device
        assert devices.of_process("cuda:1") == "cuda:1" and devices.of_process("cpu") == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert devices.of_process("cuda") == "cuda"
