"""Many pictures are drawn in chunks that fit into the memory given, and results that would not fit are refused."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import KINDS, text_to_image

from lsvd import avi
from lsvd.avi import attribute
from lsvd.sampling import memory, trajectory
from lsvd.sampling.memory import GB, Limit

PROMPTS = {"text-to-image": "a person", "unconditional": None}


@pytest.fixture(params=KINDS)
def backbone(request):
    return KINDS[request.param]()


def enough_for(backbone, pictures):
    """A max_memory with which so many are drawn together."""
    return 2.01 * pictures * memory._work(backbone) / GB


@pytest.fixture
def batches(backbone):
    """How many pictures the network of a backbone has been given at a time, one entry for each run of equal ones."""
    seen = []
    twice = 2 if backbone.kind == "text-to-image" else 1

    def note(module, args, kwargs):
        count = (args[0] if args else kwargs["sample"]).shape[0] // twice
        if not seen or seen[-1] != count:
            seen.append(count)

    hook = backbone.pipe.unet.register_forward_pre_hook(note, with_kwargs=True)
    yield seen
    hook.remove()


def test_a_chunk_is_what_it_would_be_alone(backbone, batches):
    prompt, limit = PROMPTS[backbone.kind], enough_for(backbone, 3)
    whole = trajectory.run(backbone, prompt, range(8), steps=3, max_memory=limit)
    assert batches == [3, 2]
    for start in (0, 3, 6):
        seeds = range(start, min(start + 3, 8))
        alone = trajectory.run(backbone, prompt, seeds, steps=3)
        assert torch.equal(whole.codes[:, seeds.start : seeds.stop], alone.codes)
    again = trajectory.run(backbone, prompt, range(8), steps=3, max_memory=limit)
    assert torch.equal(whole.codes, again.codes)
    t = whole.timesteps[1]
    later = trajectory.resume(backbone, whole, t, max_memory=limit)
    assert torch.equal(later.codes, whole.codes[1:])


def test_what_fits_is_one_batch_as_ever(backbone, batches):
    prompt = PROMPTS[backbone.kind]
    walk = trajectory.run(backbone, prompt, range(70), steps=1)
    assert batches == [70]
    same = trajectory.run(backbone, prompt, range(70), steps=1, max_memory=100)
    assert torch.equal(walk.codes, same.codes)


def test_settings_of_each_picture_go_with_it():
    """Prompts, negative prompts and start codes that differ from picture to picture."""
    backbone = text_to_image()
    prompts, negative = ["a person", "an old person", "red hair"] * 2, ["old", "young"] * 3
    codes = backbone.noise(range(6)).flip(0)
    request = {"negative_prompt": negative, "codes": codes, "steps": 3}
    whole = trajectory.run(backbone, prompts, range(6), max_memory=enough_for(backbone, 4), **request)
    request = {"negative_prompt": negative[4:], "codes": codes[4:], "steps": 3}
    last = trajectory.run(backbone, prompts[4:], [4, 5], **request)
    assert torch.equal(whole.codes[:, 4:], last.codes)


def test_solvers_with_a_memory_are_replayed_chunk_by_chunk():
    from diffusers import UniPCMultistepScheduler

    backbone = text_to_image().with_scheduler(UniPCMultistepScheduler)
    limit = enough_for(backbone, 2)
    whole = trajectory.run(backbone, "a person", range(5), steps=5, max_memory=limit)
    later = trajectory.resume(backbone, whole, whole.timesteps[3], max_memory=limit)
    assert torch.equal(later.codes, whole.codes[3:])


def test_edits_and_attributes_hold_to_it():
    backbone = text_to_image()
    limit = enough_for(backbone, 2)
    edit = avi.edit_prompt(backbone, "a person", "an old person", seeds=range(5), steps=4, max_memory=limit)
    alone = avi.edit_prompt(backbone, "a person", "an old person", seeds=[2, 3], steps=4)
    assert torch.equal(edit.edited.codes[:, 2:4], alone.edited.codes)
    learned = attribute.Attribute.of(edit)
    source, edited = attribute.apply(backbone, learned, "a person", range(5), max_memory=limit)
    own_source, own = attribute.apply(backbone, learned, "a person", [2, 3])
    assert torch.equal(source.codes[:, 2:4], own_source.codes) and torch.equal(edited.codes[:, 2:4], own.codes)


def test_results_that_would_not_fit_are_refused_with_what_does(backbone, batches):
    prompt, size = PROMPTS[backbone.kind], Limit.of(backbone).code
    limit = 2 * 10 * 4 * size / GB  # the codes of ten pictures, three steps each
    with pytest.raises(ValueError, match=r"11 pictures of 4 codes each take .* draw 10 at a time, or raise max_memory"):
        trajectory.run(backbone, prompt, range(11), steps=3, max_memory=limit)
    with pytest.raises(ValueError, match="take fewer steps, or raise max_memory"):
        trajectory.run(backbone, prompt, 0, steps=3, max_memory=size / GB)
    assert batches == []
    assert trajectory.run(backbone, prompt, range(10), steps=3, max_memory=limit).codes.shape[:2] == (4, 10)


def test_edits_that_would_not_fit_are_refused_before_anything_is_drawn(monkeypatch):
    backbone = text_to_image()
    limit = 2 * 10 * 4 * Limit.of(backbone).code / GB
    monkeypatch.setattr(type(backbone), "denoise", None)
    with pytest.raises(ValueError, match="10 pictures of .* draw .* at a time"):
        avi.edit_prompt(backbone, "a person", "an old person", seeds=range(10), steps=4, max_memory=limit)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "8", True, None])
def test_a_limit_that_will_not_do_is_one_sentence(value):
    with pytest.raises(ValueError, match="max_memory cannot be .*: give a number of GB above 0, such as 8"):
        trajectory.run(text_to_image(), "a person", max_memory=value)


@pytest.mark.parametrize(
    ("config", "layout", "features"),
    [
        ({"block_out_channels": [320, 640], "attention_head_dim": [5, 10]}, "grid", 320),
        ({"num_attention_heads": 24, "attention_head_dim": 128, "patch_size": 1}, "patches", 768),
        ({"num_attention_heads": 16, "attention_head_dim": 72, "patch_size": 2}, "grid", 288),
        ({"num_attention_heads": 4, "attention_head_dim": 8, "patch_size": [1, 2, 2]}, "grid", 8),
        ({}, "grid", 48),
    ],
)
def test_the_width_of_a_denoiser(config, layout, features):
    network = SimpleNamespace(config=config, modules=lambda: [torch.nn.Linear(48, 3), torch.nn.Linear(5, 99)])
    pipe = SimpleNamespace(unet=None, transformer=network)
    assert memory._features(SimpleNamespace(pipe=pipe, family=SimpleNamespace(layout=layout))) == features


TEN_THOUSAND = """
import resource, sys
from tiny import KINDS
from lsvd.sampling import trajectory
backbone = KINDS[sys.argv[1]]()
draw = lambda n, limit: trajectory.run(backbone, sys.argv[2] or None, range(n), steps=2, max_memory=limit)
draw(8, 8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert draw(10_000, float(sys.argv[3])).codes.shape[1] == 10_000
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.skipif(not os.environ.get("LSVD_TRIALS"), reason="takes a while: make trials runs it")
def test_ten_thousand_seeds_stay_within_the_limit():
    """As one batch, the network's evaluation alone takes some ten times as much."""
    root, limit = Path(__file__).resolve().parents[2], 0.1
    command = [sys.executable, "-c", f"import sys; sys.path += [{str(root)!r}, {str(root / 'tests/support')!r}]\n"]
    command[-1] += TEN_THOUSAND
    done = subprocess.run([*command, "unconditional", "", str(limit)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < limit * GB
    assert 10_000 * memory._work(KINDS["unconditional"]()) > 4 * limit * GB
