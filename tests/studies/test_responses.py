"""Scaled singular values and their null: sizes that are known, and readings that are known."""

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import KINDS, unconditional
from torch.testing import assert_close
from untrained import BANDS, SCENE, untrained

from lsvd.backbones.schedulers import Schedule
from lsvd.decomposition.svd import svd
from lsvd.sampling.trajectory import Settings, Trajectory, resume, run
from lsvd.storage import results
from lsvd.studies import responses
from lsvd.studies.responses import Responses
from lsvd.testbed.reader import Reading
from lsvd.testbed.scenes.scene import Factor

# diffusers 0.42 still calls NumPy in ways that NumPy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
PROMPT = {"text-to-image": "an old person", "unconditional": None}
seeds = st.integers(0, 2**32 - 1)


def draw(backbone, seeds=(1, 2, 3), steps=4, **kwargs):
    return run(backbone, PROMPT[backbone.kind], seeds, steps, **kwargs)


@pytest.fixture(params=list(KINDS))
def backbone(request):
    return KINDS[request.param]()


@pytest.fixture(scope="module")
def reader():
    return untrained()


@pytest.fixture(scope="module")
def walk():
    return draw(unconditional())


class Bright:
    """Reads three probabilities off the channels of a picture, and a number off its brightness."""

    scene = SCENE

    def read(self, pictures):
        hue, x = pictures.mean((2, 3)).softmax(-1), pictures.mean((1, 2, 3)) - 0.5
        return Reading({"hue": hue.argmax(-1), "ring": x.long()}, {"hue": hue, "ring": hue[:, :2]}, {"x": x})


def by_hand(codes, seeds=None):
    """A walk of one step through these codes, shape (B, C, H, W)."""
    B = len(codes)
    s = Settings("hand", "none", ("",) * B, tuple(range(B)) if seeds is None else seeds, 1, None, 0.0)
    t = torch.tensor([900])
    return Trajectory(s, Schedule(t, t > 0, t / 1000, 1000), torch.stack([codes, codes]))


def noise(shape, seed, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# the null


@settings(max_examples=20, deadline=None)
@given(seeds, st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True), st.floats(-3, 3), st.integers(5, 8))
def test_the_null_is_as_large_as_the_change(seed, band, factor, width):
    x = noise((2, 3, 6, width), seed)
    scaled, null = (codes[0] - x for codes in responses.scale_bands(by_hand(x, (seed, 5)), 900, [band], factor))
    sizes = abs(factor - 1) * svd(x).S[..., band]
    assert_close(scaled.flatten(2).norm(dim=-1), sizes.norm(dim=-1), rtol=1e-9, atol=1e-12)
    assert_close(null.flatten(2).norm(dim=-1), sizes.norm(dim=-1), rtol=1e-9, atol=1e-12)
    # one matrix of rank one for each triplet, as large as its own
    found = torch.linalg.svdvals(null)
    assert_close(found[..., : len(band)], sizes.sort(descending=True).values, rtol=1e-9, atol=1e-10)
    assert_close(found[..., len(band) :], torch.zeros_like(found[..., len(band) :]), rtol=0, atol=1e-10)


def test_the_null_points_anywhere_and_knows_only_seed_step_and_triplet():
    x = noise((200, 2, 6, 5), 0)
    walk = by_hand(x)
    null = responses.scale_bands(walk, 900, [0, 1], 2.0)[1] - x
    part = dataclasses.replace(walk, settings=by_hand(x[:2], (7, 3)).settings, codes=walk.codes[:, [7, 3]])
    other = responses.scale_bands(part, 900, [1, (0, 2)], 2.0)[1] - x[[7, 3]]
    assert_close(other[0], null[1, [7, 3]])
    # half the size is half the change, in the same direction
    assert_close(responses.scale_bands(walk, 900, [0], 1.5)[1][0] - x, null[0] / 2)
    directions = (null / null.flatten(3).norm(dim=-1)[..., None, None]).flatten(0, 2)
    assert directions.mean(0).abs().max() < 4 / (len(directions) * 30) ** 0.5
    assert_close(directions.square().mean(0), torch.full((6, 5), 1 / 30).double(), rtol=0.25, atol=0)
    # no two of them are the same, of pictures, bands or channels
    alike = (directions.flatten(1) @ directions.flatten(1).mT).abs()
    assert alike.fill_diagonal_(0).max() < 0.999


def test_steps_have_their_own_null(walk):
    still = dataclasses.replace(walk, codes=walk.codes[:1].expand_as(walk.codes))
    one, two = (responses.scale_bands(still, t, [0], 2.0)[1] for t in walk.timesteps[:2])
    assert not torch.allclose(one, two, atol=1e-2)


def test_the_null_is_not_the_noise_of_a_stochastic_sampler():
    x = noise((1, 1, 6, 5), 0)
    null = (responses.scale_bands(by_hand(x, (4,)), 900, [0], 2.0)[1] - x)[0, 0, 0]
    own = int(np.random.SeedSequence([4, 0]).generate_state(1)[0])
    left, right = torch.randn(11, generator=torch.Generator().manual_seed(own)).double().split([6, 5])
    assert torch.cosine_similarity(null.flatten(), torch.outer(left, right).flatten(), dim=0).abs() < 0.99


def test_one_band_scaled_by_several_factors(walk):
    t = walk.timesteps[1]
    codes = responses.scale_band(walk, t, (0, 2), (0.0, 1.0, 2.5))
    assert codes.shape == (3, *walk.final.shape)
    assert_close(codes[1], walk.at(t))
    assert_close(codes[2], responses.scale_bands(walk, t, [(0, 2)], 2.5)[0][0])
    left = svd(codes[0]).S
    assert_close(left[..., :-2], svd(walk.at(t)).S[..., [1, *range(3, 8)]], rtol=1e-4, atol=1e-5)
    assert left[..., -2:].max() < 1e-5
    with pytest.raises(ValueError, match="no triplet 8"):
        responses.scale_band(walk, t, 8, (2.0,))


def test_a_gallery_has_a_row_for_each_band_and_timestep(walk):
    times = walk.timesteps.tolist()[1:3]
    drawn = responses.gallery(unconditional(), walk, times, [0, (1, 2)], (1.0, 2.0, 0.5))
    assert drawn.shape == (4, 3, 3, *unconditional().decode(walk.final).shape[1:])
    codes = responses.scale_band(walk, times[1], (1, 2), (0.5,))
    expected = responses.pictures(unconditional(), walk, times[1], codes)[0]
    assert_close(drawn[3, :, 2], expected, rtol=0, atol=1e-4)


# responses


def test_scaling_by_one_changes_nothing(backbone, reader):
    walk = draw(backbone, eta=1.0)  # the noise on the way must be the same again, too
    found = responses.responses(backbone, walk, reader, walk.timesteps[1], BANDS, 1)
    for part in (found.moved, found.null):
        assert part.shape == (2, 3, 3) and part[..., :2].isfinite().all() and part.nan_to_num().max() < 1e-5
    more = responses.responses(backbone, walk, reader, walk.timesteps[1], BANDS, 3)
    assert more.moved[..., :2].min() > 1e-5 and more.null[..., :2].min() > 1e-5


def test_it_may_be_a_multistep_solver(reader):
    backbone = unconditional().with_scheduler(DPMSolverMultistepScheduler)
    walk = draw(backbone)
    found = responses.responses(backbone, walk, reader, walk.timesteps[2], BANDS, 1, batch=4)
    assert found.moved.nan_to_num().max() < 1e-5 and found.null.nan_to_num().max() < 1e-5


def test_the_batch_does_not_matter(backbone, reader):
    walk = draw(backbone)
    t = walk.timesteps[1]
    whole = responses.responses(backbone, walk, reader, t, BANDS, 2.0)
    found = responses.responses(backbone, walk, reader, t, BANDS, 2.0, batch=5)
    assert_close(found.tensors, whole.tensors, rtol=1e-3, atol=1e-5, equal_nan=True)
    alone = responses.responses(backbone, draw(backbone, (2,)), reader, t, BANDS[1:], 2.0)
    assert_close(alone.moved[0, 0], whole.moved[1, 1], rtol=1e-3, atol=1e-5, equal_nan=True)
    assert_close(alone.null[0, 0], whole.null[1, 1], rtol=1e-3, atol=1e-5, equal_nan=True)


def test_they_are_what_one_picture_at_a_time_gives(backbone):
    walk, reader = draw(backbone), Bright()
    t, before = walk.timesteps[2], Bright().read(backbone.decode(walk.final))
    found = responses.responses(backbone, walk, reader, t, BANDS, 2.5)
    codes = responses.scale_bands(walk, t, BANDS, 2.5)
    assert_close(codes[0][1], svd(walk.at(t)).scale((1, 3), 2.5).recompose())
    for part, own in zip((found.moved, found.null), codes, strict=True):
        shown = responses.pictures(backbone, walk, t, own, batch=2)
        for b in range(2):
            drawn = backbone.decode(resume(backbone, walk, t, own[b]).final)
            assert_close(shown[b], drawn, rtol=0, atol=1e-4)
            after = reader.read(drawn)
            assert_close(part[b, :, 0], (after.numbers["x"] - before.numbers["x"]).abs(), rtol=1e-3, atol=1e-5)
            total = (after.probabilities["hue"] - before.probabilities["hue"]).clamp_min(0).sum(-1)
            assert_close(part[b, :, 1], total, rtol=1e-3, atol=1e-5)
    assert (found.names, found.scales) == (("x", "hue", "ring"), ("coarse", "fine", "fine"))
    assert (found.t, found.bands, found.factor) == (float(t), ((0,), (1, 3)), 2.5)


def test_what_was_not_visible_has_not_moved(walk):
    class Blue(Bright):
        """Sees blue in the second picture alone, whatever is in it: rings are visible there."""

        def read(self, pictures):
            reading = super().read(pictures)
            if len(pictures) == 3:
                reading.levels["hue"][:] = torch.tensor([0, 1, 2])
            return reading

    found = responses.responses(unconditional(), walk, Blue(), walk.timesteps[1], BANDS, 2.0)
    for part in (found.moved, found.null):
        assert part.isnan().nonzero()[:, 1:].tolist() == [[0, 2], [2, 2]] * 2


def test_moves_of_known_readings():
    before = Reading({}, {"hue": torch.tensor([[1.0, 0, 0], [0.5, 0.3, 0.2]])}, {"x": torch.tensor([-0.5, 0.1])})
    after = Reading({}, {"hue": torch.tensor([[0.0, 0, 1], [0.4, 0.2, 0.4]])}, {"x": torch.tensor([0.5, 0.35])})
    found = responses.moves(before, after, [*SCENE.factors[:2], Factor("x", "fine", range=(-2.0, 3.0))])
    assert_close(found, torch.tensor([[1.0, 1.0, 0.2], [0.25, 0.2, 0.05]]))


def test_kept_and_restored(walk, reader, tmp_path):
    t, label = walk.timesteps[1], {"bands": BANDS, "factor": 2}
    for _ in range(2):
        kept = results.remember(
            "responses",
            label,
            lambda: responses.responses(unconditional(), walk, reader, t, BANDS, 2).tensors,
            folder=tmp_path,
        )
    found, fresh = (
        Responses.of(kept, SCENE, t, BANDS, 2),
        responses.responses(unconditional(), walk, reader, t, BANDS, 2),
    )
    for field in dataclasses.fields(Responses):
        a, b = getattr(found, field.name), getattr(fresh, field.name)
        assert torch.allclose(a, b, equal_nan=True) if isinstance(a, torch.Tensor) else a == b


# bad input


BAD = {
    "triplet": ({"bands": [0, 8]}, "no triplet 8: choose from 0 to 7"),
    "twice": ({"bands": [(1, 1)]}, "named twice"),
    "no bands": ({"bands": []}, "name one triplet or more"),
    "an empty band": ({"bands": [0, ()]}, "name one triplet or more"),
    "timestep": ({"t": 1.5}, "nearest"),
    "factor": ({"factor": float("nan")}, "finite factor"),
    "infinite": ({"factor": float("inf")}, "finite factor"),
    "batch": ({"batch": 0}, "from 1"),
}


@pytest.mark.parametrize(("change", "said"), BAD.values(), ids=BAD)
def test_bad_arguments_are_explained(walk, reader, change, said):
    given = {"t": walk.timesteps[1], "bands": [0], "factor": 2.0} | change
    with pytest.raises(ValueError, match=said):
        responses.responses(unconditional(), walk, reader, **given)


def test_bad_walks_are_explained(walk, reader):
    none = dataclasses.replace(walk.settings, seeds=(), prompts=())
    for bad, said in (
        (dataclasses.replace(walk, codes=walk.codes * torch.nan), "NaN"),
        (dataclasses.replace(walk, codes=walk.codes[:, :0], settings=none), "no seeds"),
        (draw(KINDS["text-to-image"]()), "made with tiny-sd"),
    ):
        with pytest.raises(ValueError, match=said):
            codes, _ = responses.scale_bands(bad, bad.timesteps[1], [0], 2.0)
            responses.pictures(unconditional(), bad, bad.timesteps[1], codes)
    with pytest.raises(ValueError, match="those of `scale_bands`"):
        responses.pictures(unconditional(), walk, walk.timesteps[1], walk.final)
