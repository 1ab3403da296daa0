"""What is read from the disk is what was computed, bit for bit; what was computed otherwise is not read."""

import dataclasses
import errno
import json
import logging
import os

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from diffusers.models.attention_processor import AttnProcessor
from safetensors import safe_open
from tiny import KINDS, WORDS, text_to_image, tiny_pipeline, unconditional

from lsvd import paths
from lsvd.backbones.configs import config_text, scheduler_text
from lsvd.backbones.loading import from_pipeline, load
from lsvd.backbones.registry import EMBEDDED, Entry
from lsvd.sampling import identity
from lsvd.sampling import kept as trajectories_kept
from lsvd.sampling.kept import split, trajectories
from lsvd.sampling.trajectory import resume, run
from lsvd.storage import files as files_on_disk
from lsvd.storage import results

# diffusers 0.42 still calls NumPy in ways that NumPy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
PROMPT = {"text-to-image": "an old person", "unconditional": None}


@pytest.fixture(params=list(KINDS))
def backbone(request):
    return KINDS[request.param]()


@pytest.fixture
def pixels():
    """One backbone, the quick one, for what is the same for both."""
    return unconditional()


@pytest.fixture
def calls(request):
    """A list that grows with each call of the network."""
    backbone = request.getfixturevalue("backbone" if "backbone" in request.fixturenames else "pixels")
    seen = []
    hook = backbone.pipe.unet.register_forward_hook(lambda *_: seen.append(1))
    yield seen
    hook.remove()


def draw(backbone, folder, seeds=range(5), steps=2, batch=2, **kwargs):
    return trajectories(backbone, PROMPT[backbone.kind], seeds, steps=steps, batch=batch, folder=folder, **kwargs)


def files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


def equal(a, b):
    return a.settings == b.settings and a.T == b.T and same(a.codes, b.codes) and same(a.timesteps, b.timesteps)


def same(a, b):
    return a.dtype == b.dtype and torch.equal(a, b)


def test_the_second_call_reads(backbone, calls, tmp_path):
    first = draw(backbone, tmp_path)
    assert len(calls) == 6 and len(files(tmp_path)) == 3
    second = draw(backbone, tmp_path)
    assert len(calls) == 6 and equal(first, second)


def test_it_is_run_chunk_by_chunk(backbone, tmp_path):
    for walk in (draw(backbone, tmp_path, eta=0.5), draw(backbone, tmp_path, eta=0.5)):
        parts = split(walk, 2)
        assert [part.settings.seeds for part in parts] == [(0, 1), (2, 3), (4,)]
        for part in parts:
            fresh = run(backbone, PROMPT[backbone.kind], part.settings.seeds, 2, eta=0.5)
            assert equal(part, fresh)
    whole = run(backbone, PROMPT[backbone.kind], range(5), 2, eta=0.5)
    assert walk.settings == whole.settings and torch.allclose(walk.codes, whole.codes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_read_one_resumes_bit_for_bit(backbone, tmp_path, eta):
    fresh = draw(backbone, tmp_path, range(3), eta=eta, steps=4)
    read = draw(backbone, tmp_path, range(3), eta=eta, steps=4)
    for new, old in zip(split(fresh, 2), split(read, 2), strict=True):
        for i in (0, 2):
            assert torch.equal(resume(backbone, old, old.timesteps[i]).codes, new.codes[i:])
        t = new.timesteps[3]
        changed = [resume(backbone, w, t, w.at(t) * 1.1).final for w in (new, old)]
        assert torch.equal(*changed)


def test_a_read_one_resumes_with_a_multistep_solver(backbone, tmp_path):
    multistep = backbone.with_scheduler(DPMSolverMultistepScheduler)
    fresh = draw(backbone, tmp_path, range(2), 3, scheduler=DPMSolverMultistepScheduler)
    read = draw(multistep, tmp_path, range(2), 3)
    assert equal(fresh, read) and len(files(tmp_path)) == 1
    assert torch.equal(resume(multistep, read, read.timesteps[2]).final, fresh.final)


def test_a_read_one_resumes_with_its_own_scheduler_only(backbone, tmp_path):
    config = DDIMScheduler.from_config(backbone.scheduler.config, beta_end=0.5)
    for scheduler, other in ((None, config), (config, backbone.scheduler)):
        for _ in range(2):
            walk = draw(backbone, tmp_path, [0], scheduler=scheduler)
            t = walk.timesteps[1]
            own = backbone if scheduler is None else backbone.with_scheduler(scheduler)
            assert torch.equal(resume(own, walk, t).final, walk.final)
            with pytest.raises(ValueError, match="made with DDIMScheduler.*beta_end"):
                resume(backbone.with_scheduler(other), walk, t)
    assert len(files(tmp_path)) == 2


def test_a_file_of_another_format_is_made_anew(pixels, calls, tmp_path, monkeypatch):
    walk = draw(pixels, tmp_path, [0])
    with monkeypatch.context() as patched:
        patched.setattr(trajectories_kept, "FORMAT", trajectories_kept.FORMAT + 1)
        assert equal(draw(pixels, tmp_path, [0]), walk) and len(calls) == 4
    assert len(files(tmp_path)) == 2


def test_more_seeds_reuse_the_chunks_of_fewer(pixels, calls, tmp_path):
    few = draw(pixels, tmp_path, range(4))
    assert len(calls) == 4
    more = draw(pixels, tmp_path, range(8))
    assert len(calls) == 8 and torch.equal(more.codes[:, :4], few.codes)
    draw(pixels, tmp_path, [2, 3])
    assert len(calls) == 8
    draw(pixels, tmp_path, [3, 2])
    assert len(calls) == 10


def test_stopped_in_the_middle_it_goes_on(pixels, calls, tmp_path, monkeypatch):
    step = DDIMScheduler.step

    def stop(self, *args, **kwargs):
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(DDIMScheduler, "step", stop)
        draw(pixels, tmp_path)
    assert len(calls) == 4 and len(files(tmp_path)) == 1
    walk = draw(pixels, tmp_path)
    assert len(calls) == 4 + 4 and len(files(tmp_path)) == 3
    assert equal(walk, draw(pixels, tmp_path / "other"))


def test_defaults_and_the_same_said_outright(backbone, calls, tmp_path):
    draw(backbone, tmp_path, [0], steps=None)
    before = len(calls)
    draw(backbone, tmp_path, 0, steps=backbone.entry.steps, guidance=backbone.entry.guidance, eta=0)
    assert len(calls) == before == 8


def test_another_name_has_its_own_folder(tmp_path):
    pipe, entry = tiny_pipeline(), Entry("a", "text-to-image", "", steps=2, guidance=3.0)
    walk = draw(from_pipeline(pipe, entry), tmp_path / "cache", [0])
    other = draw(from_pipeline(pipe, dataclasses.replace(entry, name="../b c")), tmp_path / "cache", [0])
    assert torch.equal(walk.codes, other.codes) and other.settings.backbone == "../b c"
    assert {p.parent.name for p in files(tmp_path / "cache")} == {"a", "_b_c"}
    assert files(tmp_path) == files(tmp_path / "cache")


OTHER = {
    "prompts": {"prompts": "a young person"},
    "one of the prompts": {"prompts": ["an old person", "a person"]},
    "seeds": {"seeds": (0, 2)},
    "steps": {"steps": 3},
    "guidance": {"guidance": 3.5},
    "eta": {"eta": 0.25},
    "batch": {"batch": 1},
    "scheduler": {"scheduler": EulerDiscreteScheduler},
    "config": {"scheduler": DDIMScheduler(beta_end=0.013)},
}


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_another_setting_is_another_trajectory(change, tmp_path):
    backbone = text_to_image()
    settings = {"prompts": "an old person", "seeds": (0, 1), "steps": 2, "batch": 2, "folder": tmp_path}
    trajectories(backbone, **settings)
    kept = files(tmp_path)
    for _ in range(2):
        trajectories(backbone, **settings | change)
        assert len(files(tmp_path)) == len(kept) + (2 if "batch" in change else 1)


def own_backbone():
    return from_pipeline(tiny_pipeline(), Entry("own", "text-to-image", "", steps=3, guidance=3.0), WORDS)


def nudge(backbone):
    with torch.no_grad():
        next(backbone.pipe.unet.parameters())[0] += 1e-3


def nudge_text(backbone):
    weights = {k: v * 1.01 for k, v in backbone.pipe.text_encoder.state_dict().items()}
    backbone.pipe.text_encoder.load_state_dict(weights)


def cast(backbone):
    backbone.pipe.to(torch.bfloat16)


def nudge_data(backbone):
    next(backbone.pipe.unet.parameters()).data.mul_(1.01)


def another_parameter(backbone):
    conv = backbone.pipe.unet.conv_in
    conv.weight = torch.nn.Parameter(conv.weight.flip(0).detach())


def configure(backbone):
    backbone.pipe.unet.register_to_config(norm_eps=1e-4)


def configure_by_attribute(backbone):
    backbone.pipe.vae.config.scaling_factor = 0.5


def shorten(backbone):
    backbone.pipe.tokenizer.model_max_length = 7


def freeu(backbone):
    backbone.pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.4, b2=1.6)


class Deaf(AttnProcessor):
    """Attention that hears `share` of the prompt."""

    share = 0.0

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        if encoder_hidden_states is not None:
            encoder_hidden_states = encoder_hidden_states * self.share
        return super().__call__(attn, hidden_states, encoder_hidden_states, *args, **kwargs)


def processors(backbone):
    backbone.pipe.unet.set_attn_processor(Deaf())


def seamless(backbone):
    for part in backbone.pipe.unet.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.padding_mode = "circular"


def strength(backbone):
    """As adapters keep it."""
    backbone.pipe.unet.mid_block.attentions[0].scaling = {"style": 0.2}


def forward(backbone):
    block = backbone.pipe.unet.mid_block
    inner = block.forward
    block.forward = lambda *args, **kwargs: inner(*args, **kwargs) * 1.1


def fewer_layers(backbone):
    backbone.pipe.text_encoder.encoder.layers = backbone.pipe.text_encoder.encoder.layers[:0]


def dropout(backbone):
    for part in backbone.pipe.unet.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.5
            part.train()


CHANGES = [nudge, nudge_data, another_parameter, nudge_text, cast, configure, configure_by_attribute, shorten]
CHANGES += [freeu, processors, seamless, strength, forward, fewer_layers, dropout]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_another_model_has_another_identity(change):
    backbone = own_backbone()
    before = identity.identity(backbone)
    assert before == identity.identity(own_backbone())
    change(backbone)
    after = identity.identity(backbone)
    assert after["weights"] != before["weights"]
    assert {key for key in before if before[key] != after[key]} <= {"weights", "dtype"}
    # it is that of the model, not of the object
    assert identity.identity(from_pipeline(tiny_like(backbone), backbone.entry)) == after


def test_what_is_taken_back_counts_no_more():
    backbone = own_backbone()
    before, unet = identity.weights(backbone), backbone.pipe.unet
    freeu(backbone)
    backbone.pipe.disable_freeu()  # leaves four attributes of None
    off = identity.weights(backbone)
    old = unet.attn_processors
    processors(backbone)
    changed = identity.weights(backbone)
    unet.set_attn_processor(old)
    assert identity.weights(backbone) == off != changed
    hook = unet.register_forward_hook(lambda *_: None)
    assert identity.weights(backbone) == off and identity.identity(backbone)["hooks"]
    hook.remove()
    assert not identity.identity(backbone)["hooks"] and before


def test_processors_count_by_what_they_do():
    """A class of the same name, with other code or other attributes, is another."""
    seen = set()
    for factor in ("0.5", "0.25"):
        scope = {"AttnProcessor": AttnProcessor, "__name__": "notebook"}
        exec(f"class Own(AttnProcessor):\n    def __call__(self, attn, x, *a, **k): return x * {factor}", scope)
        for strength in (1.0, 2.0):
            backbone = own_backbone()
            processor = scope["Own"]()
            processor.strength = strength
            backbone.pipe.unet.set_attn_processor(processor)
            seen.add(identity.weights(backbone))
            assert identity.weights(backbone) in seen
    assert len(seen) == 4


def test_adapters_count_by_their_strength():
    peft = pytest.importorskip("peft")
    backbone = own_backbone()
    seen = [identity.weights(backbone)]
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "to_v"], init_lora_weights=False)
    backbone.pipe.unet.add_adapter(config, "style")
    for strength in (1.0, 0.2):
        backbone.pipe.set_adapters(["style"], [strength])
        seen.append(identity.weights(backbone))
    backbone.pipe.unet.disable_adapters()
    seen.append(identity.weights(backbone))
    assert len(set(seen)) == 4
    backbone.pipe.unet.enable_adapters()
    assert identity.weights(backbone) == seen[2]


def tiny_like(backbone):
    parts = {name: part for name, part in backbone.pipe.components.items() if name != "image_encoder"}
    return type(backbone.pipe)(**parts, requires_safety_checker=False)


def test_pipelines_that_use_the_same_networks_otherwise_are_others():
    class Own(StableDiffusionPipeline):
        pass

    pipe = tiny_pipeline()
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    guided = StableDiffusionPAGPipeline(**parts, requires_safety_checker=False)
    own = Own(**parts, requires_safety_checker=False)
    layers = StableDiffusionPAGPipeline(**parts, requires_safety_checker=False, pag_applied_layers=["up"])
    assert len({identity.fingerprint(each) for each in (pipe, guided, own, layers)}) == 4


SCHEDULERS = {
    "nothing": lambda scheduler: None,
    "attribute of the configuration": lambda scheduler: setattr(scheduler.config, "prediction_type", "epsilon"),
    "table": lambda scheduler: setattr(scheduler, "alphas_cumprod", scheduler.alphas_cumprod**2),
    "table in place": lambda scheduler: scheduler.alphas_cumprod.mul_(0.9),
    "last entry": lambda scheduler: setattr(scheduler, "final_alpha_cumprod", torch.tensor(1.0)),
    "method": lambda scheduler: setattr(scheduler, "step", lambda *args, **kwargs: None),
}


@pytest.mark.parametrize(
    "kind", [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler]
)
def test_what_is_changed_on_a_scheduler_counts(kind):
    config = text_to_image().scheduler.config
    fresh = scheduler_text(kind.from_config(config))
    assert fresh == config_text(kind.from_config(config).config)
    for name, change in SCHEDULERS.items():
        scheduler = kind.from_config(config)
        if name == "last entry" and not hasattr(scheduler, "final_alpha_cumprod"):
            continue
        change(scheduler)
        assert (scheduler_text(scheduler) == fresh) == (name == "nothing"), name
    # what a run leaves behind does not count
    scheduler = kind.from_config(config)
    scheduler.set_timesteps(7)
    x = torch.randn(1, 4, 8, 8)
    for t in scheduler.timesteps[:4]:
        x = scheduler.step(scheduler.scale_model_input(x, t), t, x).prev_sample
    assert scheduler_text(scheduler) == fresh


@pytest.mark.parametrize("name", ["torch", "diffusers", "transformers"])
def test_another_version_is_another_trajectory(name, monkeypatch):
    before = identity.identity(unconditional())
    monkeypatch.setattr(getattr(identity, name), "__version__", "0.0.1")
    after = identity.identity(unconditional())
    assert after["versions"][name] == "0.0.1" and {k for k in before if before[k] != after[k]} == {"versions"}


def test_other_code_and_other_threads_are_other_trajectories(monkeypatch):
    before = identity.identity(unconditional())
    monkeypatch.setattr(identity, "_code", lambda *modules: "other")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    after = identity.identity(unconditional())
    assert {k for k in before if before[k] != after[k]} == {"code", "machine"}


def test_code_without_its_comments(tmp_path, monkeypatch):
    def digest(source):
        monkeypatch.setattr(identity.inspect, "getsource", lambda _: source)
        return identity._code.__wrapped__("storage.results")

    assert digest("a = 1  # one\n") == digest("a   =   1\n") != digest("a = 2\n")


def test_identity_is_that_of_the_same_weights_read_again(tmp_path):
    pipe = tiny_pipeline()
    for name in ("here", "there"):
        pipe.save_pretrained(tmp_path / name)
    here, there = load(tmp_path / "here"), load(tmp_path / "there")
    run(here, "a person", 0, 2)  # leaves its traces in the tokenizer
    assert identity.identity(here) == identity.identity(there)
    draw(here, tmp_path / "cache", range(2))
    draw(here.with_scheduler(DDIMScheduler), tmp_path / "cache", range(2))
    assert len(files(tmp_path / "cache")) == 1


def test_saving_a_model_does_not_change_its_identity(tmp_path):
    backbone = own_backbone()
    before = identity.identity(backbone)
    backbone.pipe.save_pretrained(tmp_path)  # fills in the text tower's configuration
    assert identity.identity(from_pipeline(tiny_like(backbone), backbone.entry)) == before
    assert identity.weights(load(tmp_path)) == before["weights"]


def test_weights_are_digested_once(monkeypatch):
    backbone = own_backbone()
    seen = []
    digest = results.checksum
    monkeypatch.setattr(identity, "checksum", lambda tensors: seen.append(1) or digest(tensors))
    first = identity.weights(backbone)
    assert identity.weights(backbone.with_scheduler(EulerDiscreteScheduler)) == identity.weights(backbone) == first
    assert len(seen) == 1
    nudge(backbone)
    assert identity.weights(backbone) != first and len(seen) == 2


def truncate(data):
    return data[: len(data) // 2]


def empty(data):
    return b""


def flip(data):
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


def rubbish(data):
    return b"rubbish" * 100


@pytest.mark.parametrize("spoil", [truncate, empty, flip, rubbish], ids=lambda f: f.__name__)
def test_a_damaged_file_is_made_anew(spoil, pixels, calls, tmp_path, caplog):
    walk = draw(pixels, tmp_path)
    file = files(tmp_path)[1]
    file.write_bytes(spoil(file.read_bytes()))
    again = draw(pixels, tmp_path)
    assert equal(walk, again) and len(calls) == 6 + 2
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert str(file) in caplog.text and "damaged" in caplog.text
    caplog.clear()
    draw(pixels, tmp_path)
    assert not caplog.records


def test_a_file_under_another_name_is_not_trusted(pixels, calls, tmp_path, caplog):
    draw(pixels, tmp_path, [0, 1])
    [one] = files(tmp_path)
    other = draw(pixels, tmp_path, [2, 3])
    [two] = [f for f in files(tmp_path) if f != one]
    two.write_bytes(one.read_bytes())
    assert equal(draw(pixels, tmp_path, [2, 3]), other) and len(calls) == 6 and "damaged" in caplog.text


def test_a_full_disk_costs_a_warning(pixels, tmp_path, monkeypatch, caplog):
    walk = draw(pixels, tmp_path / "good")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        unkept = draw(pixels, tmp_path / "full")
    assert equal(walk, unkept) and not files(tmp_path / "full")
    assert len(caplog.records) == 1 and "the disk is full" in caplog.text and "not kept" in caplog.text
    assert equal(walk, draw(pixels, tmp_path / "full")) and len(files(tmp_path / "full")) == 3


def test_a_file_in_the_way_of_the_folder_costs_a_warning(pixels, tmp_path, caplog):
    (tmp_path / "cache").write_bytes(b"")
    assert draw(pixels, tmp_path / "cache").codes.shape[1] == 5
    assert len(caplog.records) == 1 and "file stands where a folder is needed" in caplog.text


def test_a_file_that_cannot_be_read(pixels, tmp_path, monkeypatch, caplog):
    walk = draw(pixels, tmp_path, [0])

    def deny(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files_on_disk.Path, "read_bytes", deny)
    assert equal(draw(pixels, tmp_path, [0]), walk) and "permission denied" in caplog.text
    assert "damaged" not in caplog.text


def test_files_say_what_they_hold(tmp_path):
    draw(text_to_image(), tmp_path, [7])
    with safe_open(files(tmp_path)[0], framework="pt") as opened:
        noted, codes = opened.metadata(), opened.get_tensor("codes")
    for word in ('"an old person"', '"seeds": [7]', '"steps": 2', "DDIMScheduler", "beta_end", torch.__version__):
        assert word in noted["settings"].replace('\\"', '"')
    assert codes.shape == (3, 1, 4, 8, 8) and codes.dtype == torch.float32


def test_half_precision_is_kept_as_it_is(tmp_path):
    backbone = own_backbone()
    cast(backbone)
    fresh, read = draw(backbone, tmp_path, [0]), draw(backbone, tmp_path, [0])
    assert read.codes.dtype == torch.bfloat16 and equal(fresh, read)


def test_the_default_folder(pixels, tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    draw(pixels, None)
    assert {f.parent for f in files(tmp_path)} == {tmp_path / "build" / "cache" / "trajectories" / pixels.name}


def test_silent_unless_asked(pixels, tmp_path, capsys, bars):
    draw(pixels, tmp_path)
    assert capsys.readouterr() == ("", "")
    draw(pixels, tmp_path, progress=True)
    assert pixels.name in capsys.readouterr().err


def test_odd_prompts_are_warned_of_once_each_time(tmp_path):
    for _ in range(2):
        with pytest.warns(UserWarning, match="never shown the words ears") as caught:
            trajectories(text_to_image(), "a person ears", [0, 1], steps=2, batch=1, folder=tmp_path)
        assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch": 0}, "at a time"),
        ({"batch": 1.5}, "at a time"),
        ({"batch": True}, "at a time"),
        ({"steps": 0}, "steps"),
        ({"eta": 2}, "eta"),
        ({"seeds": []}, "no seeds"),
        ({"seeds": [-1]}, "seed"),
        ({"prompts": ["a", "an"]}, "2 prompts for 3 seeds"),
        ({"prompts": None}, "takes prompts"),
        ({"guidance": float("nan")}, "guidance"),
    ],
)
def test_bad_arguments(kwargs, message, tmp_path):
    good = {"prompts": "a person", "seeds": (0, 1, 2), "steps": 2, "folder": tmp_path}
    with pytest.raises(ValueError, match=message):
        trajectories(text_to_image(), **good | kwargs)
    assert not files(tmp_path)


def test_split(backbone, tmp_path):
    walk = draw(backbone, tmp_path)
    assert [p.settings.seeds for p in split(walk, 3)] == [(0, 1, 2), (3, 4)]
    [whole] = split(walk)
    assert equal(whole, walk)
    t = walk.timesteps[1]
    rest = [resume(backbone, part, t) for part in split(walk, 2)]
    assert torch.equal(torch.cat([part.final for part in rest], 0), walk.final)
    with pytest.raises(ValueError, match="at a time"):
        split(walk, 0)


# remember


def test_remember(tmp_path, caplog):
    made = []

    def make():
        made.append(1)
        x = torch.arange(12.0).view(3, 4)
        kinds = {"half": x.half(), "bool": x > 3, "long": x.long(), "double": x.double(), "one": torch.tensor(2.5)}
        return kinds | {"whole": x, "view": x.T, "row": x[1], "none": x[:0], "grown": x.clone().requires_grad_()}

    settings = {"seeds": list(range(3)), "t": 501, "factor": 1.5, "names": {"b": None, "a": True}}
    first = results.remember("responses", settings, make, folder=tmp_path)
    second = results.remember("responses", dict(reversed(settings.items())), make, folder=tmp_path)
    assert len(made) == 1 and first.keys() == second.keys() == make().keys() and not caplog.records
    for name, value in make().items():
        for found in (first[name], second[name]):
            assert same(found, value.detach()) and found.is_contiguous() and not found.requires_grad
    assert [f.parent.name for f in files(tmp_path)] == ["responses"]


def test_remember_what_differs(tmp_path):
    def value(n, name="x", **settings):
        return results.remember(name, settings, lambda: {"n": torch.tensor(n)}, folder=tmp_path)["n"].item()

    assert value(1, a=1, b=[1, 2]) == 1
    assert value(2, a=1, b=[2, 1]) == 2
    assert value(3, a=2, b=[1, 2]) == 3
    assert value(4, "y", a=1, b=[1, 2]) == 4
    assert value(5, a=1, b=(1, 2)) == 1
    backbone = unconditional()
    assert value(6, backbone=identity.identity(backbone)) == 6
    assert value(7, backbone=identity.identity(backbone.with_scheduler(EulerDiscreteScheduler))) == 7
    assert value(8, backbone=identity.identity(backbone)) == 6


def test_remember_survives_failures(tmp_path, caplog):
    def fail():
        raise RuntimeError("stop")

    def one():
        return {"x": torch.ones(2)}

    with pytest.raises(RuntimeError, match="stop"):
        results.remember("x", {}, fail, folder=tmp_path)
    assert not files(tmp_path)
    results.remember("x", {}, one, folder=tmp_path)
    files(tmp_path)[0].write_bytes(b"")
    assert results.remember("x", {}, one, folder=tmp_path)["x"].tolist() == [1, 1] and "damaged" in caplog.text
    caplog.clear()
    assert results.remember("x", {}, fail, folder=tmp_path)["x"].tolist() == [1, 1]
    (tmp_path / "y").write_bytes(b"")
    assert results.remember("y", {}, one, folder=tmp_path)["x"].tolist() == [1, 1]
    assert [r.levelno for r in caplog.records] == [logging.WARNING]


def test_remember_refuses(tmp_path):
    for settings in ({"x": torch.ones(1)}, {"x": float("nan")}, {"x": {1, 2}}, {(1, 2): 3}):
        with pytest.raises(ValueError, match="JSON"):
            results.remember("x", settings, dict, folder=tmp_path)
    for made in (None, torch.ones(1), {"x": [1]}, {1: torch.ones(1)}):
        with pytest.raises(ValueError, match="dict of tensors"):
            results.remember("x", {}, lambda made=made: made, folder=tmp_path)
    assert not files(tmp_path)
    assert results.remember("x", {}, dict, folder=tmp_path) == results.remember("x", {}, dict, folder=tmp_path) == {}


@pytest.mark.parametrize("name", EMBEDDED)
def test_what_is_kept_with_the_project_is_of_the_shipped_models(name, monkeypatch):
    """The names of files of measurements hold these digests: if one changes, hours of computing are lost."""
    monkeypatch.delenv("LSVD_MEASUREMENTS", raising=False)
    kept = sorted(paths.measurements().glob(f"*/{name}/*.safetensors"))
    assert len(kept) == {"mini-sd": 56}.get(name, 6)
    model = load(name)
    wanted = identity.weights(model), f"DDIMScheduler {scheduler_text(model.scheduler)}"
    for file in kept:
        with safe_open(file, framework="pt") as opened:
            label = opened.metadata()["settings"]
        settings = json.loads(label)
        scheduler = settings["scheduler"].split(".")[-1] if "config" in settings else settings["scheduler"]
        scheduler = f"{scheduler} {settings['config']}" if "config" in settings else scheduler
        assert (settings["weights"], scheduler) == wanted
        assert results.file_of(file.parent, results.label_of(settings)) == file
