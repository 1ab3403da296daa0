"""A real device beside the CPU: LSVD_DEVICE names it, such as cuda, or cpu to try the tests themselves."""

import os

import pytest
import torch

from lsvd import backbones

NAME = os.environ.get("LSVD_DEVICE", "")
MODELS = "mini-sd", "mini-cats"


def pytest_collection_modifyitems(items):
    here = os.path.dirname(__file__)
    for item in items:
        if not NAME and str(item.path).startswith(here):
            item.add_marker(pytest.mark.skip(reason="LSVD_DEVICE names no device"))


@pytest.fixture(scope="session")
def device():
    return torch.device(NAME)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """Results go elsewhere, and float32 is float32: no products of 10-bit mantissas (TF32)."""
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    products = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [each.allow_tf32 for each in products]
    for each in products:
        each.allow_tf32 = False
    yield
    for each, allowed in zip(products, before, strict=True):
        each.allow_tf32 = allowed


@pytest.fixture(scope="session")
def load():
    """Loads each model once for each device and dtype."""
    loaded = {}

    def of(name, device="cpu", dtype=torch.float32):
        key = name, str(device), dtype
        if key not in loaded:
            loaded[key] = backbones.load(name, device, dtype)
        return loaded[key]

    return of


@pytest.fixture(scope="session", params=MODELS)
def pair(request, load, device):
    """One model in float32 on the device and on the CPU."""
    return load(request.param, device), load(request.param)
