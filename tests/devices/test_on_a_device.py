"""What the CPU computes, a real device computes as well: within the rounding of its dtype, stated for each quantity."""

import math
import warnings

import pytest
import torch
from torch.testing import assert_close

from lsvd import avi
from lsvd.avi import network
from lsvd.avi.exact import AVIConfig
from lsvd.decomposition import geodesic
from lsvd.decomposition.svd import svd
from lsvd.guidance.settings import LowRank
from lsvd.guidance.triplets import leading
from lsvd.sampling import trajectory
from lsvd.sampling.inversion import invert

PROMPTS = "a person", "an old person"
SEEDS = (0, 1)
STEPS = 10
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
HALVES = DTYPES[1:]
SHAPES = [(64, 4, 32, 32), (16, 3, 96, 96)]

# Bounds, one a line with its reason. Distances are relative, ||a - b|| / ||b||, unless said otherwise.
SHORT = 1e-3  # codes after ten steps in float32: a CPU is 1e-5 off from float64, and other kernels may be more so
PIXEL = 5e-3  # the largest difference of a pixel in [0, 1]: about one level of 255
VALUES = 1e-4  # singular values in float32, relative to the largest: 96 roundings of 1.2e-7 are 1.2e-5, and a margin
REBUILT = {
    torch.float32: 1e-4,  # as its bases are orthonormal
    torch.float16: 1e-3,  # the code that comes back is rounded to 11 bits: 2^-11
    torch.bfloat16: 8e-3,  # and here to 8 bits: 2^-8
}
ORTHONORMAL = 1e-4  # the largest entry of U^T U - 1 in float32: 1.8e-5 by cuda's SVD on an H200, 1e-6 by LAPACK
ANGLES = 1e-7  # distances in radians, in float64: `pairwise` says that it rounds by so much
SOLVED = 1e-5  # y in float64 of the same codes, rounded to float32
TRAINED = 1e-3  # the loss that a network comes to in float64: Adam multiplies what the first steps round
POWER = 1e-3  # power iteration against the SVD, whose ratios of singular values bound what 16 rounds leave
PSNR = {
    torch.float16: 45.0,  # decibels of an edited picture against float32's: 66 on a CPU, and the same to the eye
    torch.bfloat16: 30.0,  # 39 to 44 on a CPU: its 8 bits are off by 4e-3 at each of ten guided steps
}
INVERTED = {
    0: 1e-3,  # x_T against the CPU's after so many iterations a step: by none it is a trajectory, in reverse
    2: 1e-2,  # and each iteration multiplies what the one before rounded
}


def off(a, b):
    """Their distance as a share of b's size."""
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    assert a.isfinite().all() and b.isfinite().all()
    return ((a - b).norm() / b.norm()).item()


def decibels(a, b):
    """The peak signal-to-noise ratio of pictures in [0, 1]."""
    return -10 * math.log10((a.cpu().double() - b.cpu().double()).square().mean().clamp_min(1e-12))


def draw(backbone, steps=STEPS, **settings):
    prompt = PROMPTS[0] if backbone.kind == "text-to-image" else None
    return trajectory.run(backbone, prompt, SEEDS, steps, **settings)


def codes(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_noise_trajectories_and_pictures(pair, device):
    far, near = pair
    assert far.device.type == device.type
    assert torch.equal(far.noise(SEEDS).cpu(), near.noise(SEEDS))
    there, here = draw(far), draw(near)
    assert there.codes.device.type == device.type
    worst = max(off(a, b) for a, b in zip(there.codes, here.codes, strict=True))
    pixels = (far.decode(there.final).cpu() - near.decode(here.final)).abs().max().item()
    print(f"\n{near.name}: codes {worst:.1e}, pixels {pixels:.1e}")
    assert worst < SHORT and pixels < PIXEL


def test_resuming(pair):
    far, _ = pair
    walk = draw(far)
    t = walk.timesteps[STEPS // 2]
    assert off(trajectory.resume(far, walk, t).final, walk.final) < SHORT


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_singular_values(shape, dtype, device):
    x = codes(shape).to(dtype)
    found, expected = svd(x.to(device)), torch.linalg.svdvals(x.double())
    assert found.U.device.type == device.type and found.S.dtype == torch.float32
    assert (found.S.diff(dim=-1) <= 0).all()
    assert ((found.S.cpu() - expected).abs() / expected[..., :1]).max() < VALUES
    eye = torch.eye(shape[-1], device=device)
    assert max((basis.mT @ basis - eye).abs().max() for basis in (found.U, found.Vh.mT)) < ORTHONORMAL
    again = found.recompose()
    assert again.dtype == dtype and off(again, x) < REBUILT[dtype]


def test_singular_values_of_hard_channels(device):
    """Of rank 1, of zeros, of equal singular values, and of sizes apart by a million."""
    size = 32
    line = torch.ones(size, 1) @ torch.linspace(-1, 1, size)[None]
    x = torch.stack([line, torch.zeros(size, size), torch.eye(size), 1e6 * codes((size, size))])[None]
    found = svd(x.to(device))
    expected = torch.linalg.svdvals(x.double())
    assert ((found.S.cpu() - expected).abs() <= VALUES * expected[..., :1]).all()
    for channel, given in zip(found.recompose()[0].cpu(), x[0], strict=True):
        assert (channel - given).norm() <= REBUILT[torch.float32] * given.norm()


def test_geodesic_distances(device):
    f = svd(codes((6, 2, 4, 32, 32)))
    for A in (f.truncate(4).U, f.truncate(20).Vh.mT):
        here = geodesic.pairwise(A)
        there = geodesic.pairwise(A.to(device))
        assert there.device.type == device.type
        assert_close(there.cpu(), here, rtol=0, atol=ANGLES)
        assert_close(geodesic.distance(A[1:].to(device), A[:-1].to(device)).cpu(), here.diagonal(1).movedim(-1, 0))
    assert torch.equal(geodesic.gap(f.S.to(device), 4).cpu(), geodesic.gap(f.S, 4))


@pytest.mark.parametrize("basis", ["both", "complement"])
def test_the_exact_solution(basis, device):
    x, z, config = codes((4, 4, 32, 32)), codes((4, 4, 32, 32), 1), AVIConfig(basis=basis)
    here, there = avi.solve(x, z, config), avi.solve(x.to(device), z.to(device), config)
    assert there.y.device.type == device.type and there.y.dtype == x.dtype
    assert off(there.y, here.y) < SOLVED and off(there.a, here.a) < SOLVED


@pytest.mark.parametrize("norm", ["squared", "absolute"])
def test_the_network(norm, device):
    x, z, config = codes((2, 4, 32, 32)), codes((2, 4, 32, 32), 1), AVIConfig(norm=norm)
    training = network.FitConfig(steps=60)
    here, there = network.fit(x, z, config, training), network.fit(x.to(device), z.to(device), config, training)
    assert there.solution.y.device.type == device.type
    assert off(there.curve[0], here.curve[0]) < SOLVED
    assert off(there.curve.amin(0), here.curve.amin(0)) < TRAINED


METHODS = {"avi": None, "low-rank": LowRank(), "low-rank 2, together": LowRank(rank=2, channels="together")}


@pytest.fixture(scope="module")
def edited(load):
    """The code and the picture of an edit, each made once."""
    made = {}

    def of(method, device, dtype=torch.float32):
        key = method, str(device), dtype
        if key not in made:
            backbone = load("mini-sd", device, dtype)
            edit = avi.edit_prompt(backbone, *PROMPTS, seeds=SEEDS, steps=STEPS, method=METHODS[method])
            made[key] = edit.edited.final, backbone.decode(edit.edited.final)
        return made[key]

    return of


@pytest.mark.parametrize("method", METHODS)
def test_edits(method, edited, device):
    (there, far), (here, near) = edited(method, device), edited(method, "cpu")
    print(f"\n{method}: codes {off(there, here):.1e}, pixels {(far.cpu() - near).abs().max().item():.1e}")
    assert off(there, here) < SHORT
    assert (far.cpu() - near).abs().max() < PIXEL


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_edits_in_half_precision(method, dtype, edited, device):
    (there, far), (_, near) = edited(method, device, dtype), edited(method, device)
    assert there.dtype == dtype and far.isfinite().all()
    found = decibels(far.float(), near)
    print(f"\n{method} in {dtype}: {found:.1f} dB")
    assert found > PSNR[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("k", [1, 2])
def test_power_iteration(k, dtype, device):
    # singular values that fall by a third each, as those of a difference of predictions do or faster
    f = svd(codes((8, 4, 32, 32)))
    falling = (2 / 3) ** torch.arange(32.0)
    d = ((f.U * falling) @ f.Vh).to(device, dtype)
    part, start = leading(d, k)
    assert part.device.type == device.type and part.dtype == dtype
    expected = svd(d).truncate(k).recompose()
    assert off(part, expected) < max(POWER, REBUILT[dtype])
    assert off(leading(d, k, start)[0], expected) < max(POWER, REBUILT[dtype])


@pytest.mark.parametrize("iterations", INVERTED)
def test_inversion(iterations, load, device):
    """Few iterations: what many lead to depends on the rounding where they do not settle."""
    final, found = draw(load("mini-sd"), guidance=1.0).final[:1], []
    for place in (device, "cpu"):
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that it does not lead back yet
            found.append(
                invert(load("mini-sd", place), final.to(place), PROMPTS[0], STEPS, iterations=iterations, tolerance=0)
            )
    there, here = found
    apart = off(there.trajectory.codes[0], here.trajectory.codes[0])
    print(f"\n{iterations} iterations: x_T {apart:.1e} apart, drawn again {there.distance.max():.3f}")
    assert there.trajectory.codes.device.type == device.type and torch.equal(there.trajectory.final.cpu(), final)
    assert apart < INVERTED[iterations]
    assert there.distance == pytest.approx(here.distance, rel=10 * INVERTED[iterations])
