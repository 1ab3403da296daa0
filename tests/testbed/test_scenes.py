"""The scenes: every factor shows in the picture, and the picture is a function of the factors alone."""

import pytest
import torch
from torch.nn.functional import avg_pool2d

from lsvd.testbed.scenes.cats import CATS
from lsvd.testbed.scenes.churches import CHURCHES
from lsvd.testbed.scenes.portraits import PORTRAITS

SCENES = [PORTRAITS, CATS, CHURCHES]
# The sides at which the readers look.
SIZES = {"portraits": 128, "cats": 64, "churches": 64}
pytestmark = pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)


def draw_values(scene, n, seed=0, **fixed):
    return scene.sample(n, torch.Generator().manual_seed(seed), **fixed)


def choices(factor):
    """The levels of a factor, or five values across its range (three of the wrinkles': a fine line is a few pixels)."""
    count = 3 if factor.name == "wrinkles" else 5
    return list(range(len(factor.levels))) if factor.levels else torch.linspace(*factor.range, count).tolist()


def test_table(scene):
    names = [f.name for f in scene.factors]
    assert len(set(names)) == len(names)
    assert {f.scale for f in scene.factors} == {"coarse", "middle", "fine"}
    for f in scene.factors:
        assert bool(f.levels) != bool(f.range), f.name
        assert not f.p or (len(f.p) == len(f.levels) and sum(f.p) == pytest.approx(1)), f.name
        for other, levels in f.visible_if.items():
            assert set(levels) < set(scene.factor(other).levels), f.name


@pytest.mark.parametrize("size", [32, 64, 96])
def test_shape_and_range(scene, size):
    x = scene.render(draw_values(scene, 3), size)
    assert x.shape == (3, 3, size, size) and x.dtype == torch.float32
    assert x.min() >= 0 and x.max() <= 1
    assert x.flatten(1).std(1).min() > 0.05


def test_colours_stay_in_range_before_the_clamp(scene):
    x = scene.draw(draw_values(scene, 64), 32)
    assert torch.isfinite(x).all()
    # highlights of the portraits are painted by brightening, and cut where they are white
    slack = 0.15 if scene is PORTRAITS else 1e-4
    assert x.min() >= -1e-4 and x.max() <= 1 + slack


def test_same_values_same_picture(scene):
    values = draw_values(scene, 4)
    before = {k: v.clone() for k, v in values.items()}
    assert torch.equal(scene.render(values, 64), scene.render(values, 64))
    assert all(torch.equal(before[k], values[k]) for k in values)


def test_no_picture_depends_on_its_neighbours(scene):
    values = draw_values(scene, 7)
    together = scene.render(values, 64)
    backwards = scene.render({k: v.flip(0) for k, v in values.items()}, 64, batch=5).flip(0)
    alone = torch.cat([scene.render({k: v[i : i + 1] for k, v in values.items()}, 64) for i in range(7)])
    torch.testing.assert_close(backwards, together, atol=1e-4, rtol=0)
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=0)


def test_every_factor_shows(scene):
    """Any two levels of a factor, or neighbouring values of five, differ in sight wherever it is visible."""
    n = 6
    for f in scene.factors:
        fixed = {other: levels[0] for other, levels in f.visible_if.items()}
        pictures = []
        for value in choices(f):
            values = draw_values(scene, n, seed=1, **fixed)
            values[f.name] = torch.full_like(values[f.name], value)
            assert scene.visible(values)[f.name].all()
            pictures.append(scene.render(values, SIZES[scene.name]))
        for i in range(len(pictures)):
            for j in range(i):
                difference = (pictures[i] - pictures[j]).abs().amax(1)
                seen = (difference > (0.04 if scene is PORTRAITS else 0.08)).sum((1, 2))
                assert seen.min() >= 8, f"{f.name}: {choices(f)[j]} and {choices(f)[i]} differ in {seen.min()} pixels"


def test_hidden_factors_do_not_show(scene):
    for f in scene.factors:
        for other, levels in f.visible_if.items():
            if other == "style":
                continue  # a pencil sketch still has light and dark, but a colour can no longer be told from them
            for hidden in set(scene.factor(other).levels) - set(levels):
                values = draw_values(scene, 8, **{other: hidden})
                assert not scene.visible(values)[f.name].any()
                first, second = ({**values, f.name: torch.full_like(values[f.name], k)} for k in (0, 1))
                difference = (scene.render(first, 64) - scene.render(second, 64)).abs().amax((1, 2, 3))
                assert difference.max() < 0.05, f"{f.name} shows although {other} is {hidden}"


def test_the_picture_is_the_same_at_any_size(scene):
    values = draw_values(scene, 6)
    small, large = scene.render(values, 64), scene.render(values, 128)
    difference = (avg_pool2d(large, 2) - small).abs()
    assert difference.mean() < 0.01
    # the hatching of pencil sketches is as fine as a pixel
    assert (difference.amax(1) > 0.2).float().mean() < (0.02 if scene is PORTRAITS else 0.01)


def test_nothing_to_draw(scene):
    assert scene.render({k: v[:0] for k, v in draw_values(scene, 1).items()}, 32).shape == (0, 3, 32, 32)


def test_a_missing_factor_is_named(scene):
    values = draw_values(scene, 2)
    del values["size"]
    with pytest.raises(ValueError, match="size"):
        scene.render(values, 32)


def test_a_value_that_is_not_finite_is_named(scene):
    values = draw_values(scene, 2)
    values["x"][1] = float("nan")
    with pytest.raises(ValueError, match="factor x "):
        scene.render(values, 32)
