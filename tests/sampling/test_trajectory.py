"""Trajectories agree with the plain pipelines, and taken up again end in the same picture, bit for bit."""

import dataclasses
from dataclasses import replace

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    TCDScheduler,
)
from tiny import KINDS, text_to_image, tiny_ddpm, tiny_pipeline, unconditional
from torch.testing import assert_close

from lsvd import avi
from lsvd.backbones.schedulers import remembers
from lsvd.sampling import trajectory
from lsvd.sampling.trajectory import Settings, resume, run, sample

# diffusers 0.42 still calls NumPy in ways that NumPy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
PROMPT = {"text-to-image": "an old person", "unconditional": None}
SCHEDULERS = sorted({*DDIMScheduler().compatibles, LCMScheduler, TCDScheduler}, key=lambda s: s.__name__)
# torchsde, which it wants, is not among this project's requirements
SCHEDULERS = [s for s in SCHEDULERS if s.__name__ != "DPMSolverSDEScheduler"]


@pytest.fixture(params=list(KINDS))
def backbone(request):
    return KINDS[request.param]()


def draw(backbone, seeds=(1, 2, 3), steps=6, **kwargs):
    return run(backbone, PROMPT[backbone.kind], seeds, steps, **kwargs)


def starts(walk):
    """The whole steps: schedulers of second order list the middles of theirs as well."""
    return walk.schedule.whole.nonzero().flatten().tolist()


def count_calls(backbone, work):
    calls = []
    hook = backbone.pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    try:
        work()
    finally:
        hook.remove()
    return len(calls)


def test_shapes_and_settings(backbone):
    walk = draw(backbone, (5, 6))
    assert walk.codes.shape == (7, 2, *backbone.latent_shape) and walk.timesteps.shape == (6,)
    assert (walk.timesteps.diff() < 0).all() and walk.T == 1000
    assert torch.equal(walk.codes[0], backbone.noise((5, 6)))
    assert torch.equal(walk.at(walk.timesteps[2]), walk.codes[2]) and torch.equal(walk.final, walk.codes[-1])
    assert walk.settings.seeds == (5, 6) and walk.settings.steps == 6 and walk.settings.eta == 0
    assert not walk.codes.requires_grad and walk.codes.isfinite().all()
    assert (walk.codes.diff(dim=0).flatten(1).abs().amax(1) > 0).all()
    assert hash(walk.settings) == hash(draw(backbone, (5, 6)).settings)


def test_defaults_come_from_the_entry(backbone):
    walk = run(backbone, PROMPT[backbone.kind])
    assert len(walk.timesteps) == backbone.entry.steps and walk.settings.guidance == backbone.entry.guidance


def test_text_to_image_is_the_plain_pipeline():
    prompts = ["an old person", "a young person", ""]
    generators = [torch.Generator().manual_seed(s) for s in (4, 5, 6)]
    plain = tiny_pipeline()(prompts, num_inference_steps=6, guidance_scale=3.0, generator=generators, output_type="pt")
    backbone = text_to_image()
    walk = run(backbone, prompts, (4, 5, 6), 6)
    assert torch.equal(backbone.decode(walk.final), plain.images)


def test_unconditional_is_the_plain_pipeline():
    from diffusers import DDIMPipeline

    pipe = tiny_ddpm()
    pipe = DDIMPipeline(unet=pipe.unet, scheduler=DDIMScheduler.from_config(pipe.scheduler.config))
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(s) for s in (4, 5)]
    plain = pipe(batch_size=2, generator=generators, num_inference_steps=6, output_type="np").images
    walk = run(unconditional(), None, (4, 5), 6)
    ours = unconditional().decode(walk.final).permute(0, 2, 3, 1).numpy()
    assert_close(torch.from_numpy(ours), torch.from_numpy(plain), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda s: s.__name__)
def test_every_scheduler_resumes_bit_for_bit(backbone, scheduler):
    backbone = backbone.with_scheduler(scheduler)
    walk = draw(backbone, (1, 2), 5)
    steps = starts(walk)
    for i in {steps[1], steps[len(steps) // 2], steps[-1]}:
        rest = resume(backbone, walk, walk.timesteps[i])
        assert torch.equal(rest.codes, walk.codes[i:]) and torch.equal(rest.timesteps, walk.timesteps[i:])


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_every_deterministic_scheduler_is_the_plain_pipeline(scheduler):
    backbone = text_to_image().with_scheduler(scheduler)
    pipe = tiny_pipeline()
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    generators = [torch.Generator().manual_seed(s) for s in (1, 2, 3)]
    plain = pipe(
        ["an old person"] * 3, num_inference_steps=6, guidance_scale=3.0, generator=generators, output_type="latent"
    )
    assert torch.equal(draw(backbone).final, plain.images)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_stops_and_goes_on_bit_for_bit(backbone, scheduler):
    backbone = backbone.with_scheduler(scheduler)
    walk = draw(backbone)
    for end in starts(walk):
        t = walk.timesteps[end]
        part = draw(backbone, until=t)
        assert torch.equal(part.codes, walk.codes[: end + 1]) and torch.equal(part.timesteps, walk.timesteps[: end + 1])
        assert torch.equal(resume(backbone, part, t).final, walk.final)
        with pytest.raises(ValueError, match="was stopped at timestep"):
            _ = part.final
    first, t = starts(walk)[1], walk.timesteps[starts(walk)[-1]]
    middle = resume(backbone, walk, walk.timesteps[first], until=t)
    assert torch.equal(middle.codes, walk.codes[first : starts(walk)[-1] + 1])
    assert torch.equal(trajectory.joined(walk, middle).codes, walk.codes[: starts(walk)[-1] + 1])


def test_stopping_pays_for_the_beginning_only(backbone):
    walk = draw(backbone)
    for end, t in enumerate(walk.timesteps):
        assert count_calls(backbone, lambda t=t: draw(backbone, until=t)) == end
    with pytest.raises(ValueError, match="comes before .*: stop at a later one"):
        resume(backbone, walk, walk.timesteps[2], until=walk.timesteps[1])
    with pytest.raises(ValueError, match="not on the schedule"):
        draw(backbone, until=walk.timesteps[1] + 1)


def test_some_pictures_of_a_trajectory(backbone):
    walk = draw(backbone)
    assert torch.equal(walk.rows(slice(1, 3)).codes, walk.codes[:, 1:3]) and walk.rows(slice(1)).settings.seeds == (1,)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_stochastic_sampling_resumes_bit_for_bit(backbone, eta):
    walk = draw(backbone, eta=eta)
    assert not torch.equal(walk.final, draw(backbone).final)
    assert torch.equal(walk.final, draw(backbone, eta=eta).final)
    for i in starts(walk):
        assert torch.equal(resume(backbone, walk, walk.timesteps[i]).codes, walk.codes[i:])
    # each step has noise of its own, for each picture
    same = draw(backbone, (4, 4), eta=eta).final
    assert torch.equal(same[0], same[1])


def test_noise_of_the_steps_differs(backbone):
    """With the model's part taken away, what is left of a DDPM-like walk is the noise: no two steps share it."""
    quiet = draw(backbone, (1,), eta=0.0, steps=4)
    loud = dataclasses.replace(quiet.settings, eta=1.0)
    noise = []
    for i, t in enumerate(quiet.timesteps[:-1]):
        noise.append((resume(backbone, loud, t, quiet.at(t)).codes[1] - quiet.codes[i + 1]).flatten())
    angles = torch.corrcoef(torch.stack(noise))
    assert angles.triu(1).abs().max() < 0.9


def test_resume_pays_for_the_rest_only(backbone):
    walk = draw(backbone)
    t = walk.timesteps[4]
    assert count_calls(backbone, lambda: resume(backbone, walk, t)) == 2
    multistep = backbone.with_scheduler(DPMSolverMultistepScheduler)
    walk = draw(multistep)
    assert count_calls(multistep, lambda: resume(multistep, walk, walk.timesteps[4])) == 6


def test_a_replay_runs_through_the_kept_codes():
    backbone = text_to_image().with_scheduler(DPMSolverMultistepScheduler)
    walk = run(backbone, "an old person", (1, 2), 5)
    t, code = walk.timesteps[3], walk.codes[3] * 1.1
    seen = []
    hook = backbone.pipe.unet.register_forward_pre_hook(lambda module, args: seen.append(args[0].chunk(2)[0].clone()))
    try:
        rest = resume(backbone, walk, t, code, prompts="a young person")
    finally:
        hook.remove()
    # the source's steps had another code and another prompt: none of them is remembered
    assert torch.equal(torch.stack(seen), rest.codes[:2]) and torch.equal(rest.codes[0], code)
    seen.clear()
    hook = backbone.pipe.unet.register_forward_pre_hook(lambda module, args: seen.append(args[0].chunk(2)[0].clone()))
    try:
        rest = resume(backbone, walk, t)
    finally:
        hook.remove()
    assert torch.equal(torch.stack(seen), walk.codes[:5]) and torch.equal(rest.codes, walk.codes[3:])


@pytest.mark.parametrize("scheduler", [DDIMScheduler, DPMSolverMultistepScheduler])
def test_another_code_goes_another_way(backbone, scheduler):
    backbone = backbone.with_scheduler(scheduler)
    walk = draw(backbone)
    t = walk.timesteps[3]
    code = walk.at(t).clone()
    code[1] *= 1.5
    rest = resume(backbone, walk, t, code)
    assert torch.equal(rest.codes[0], code)
    if scheduler is DDIMScheduler:  # the other solver begins again, for the batch as a whole
        assert torch.equal(rest.final[[0, 2]], walk.final[[0, 2]])
    assert not torch.equal(rest.final[1], walk.final[1])
    again = resume(backbone, walk, t, code)
    assert torch.equal(again.codes, rest.codes)


def test_other_prompts_from_a_step_on():
    backbone = text_to_image()
    walk = run(backbone, "an old person", (1, 2), 6)
    t = walk.timesteps[2]
    rest = resume(backbone, walk, t, prompts="a young person")
    assert rest.settings.prompts == ("a young person",) * 2
    assert torch.equal(rest.codes[0], walk.at(t)) and not torch.equal(rest.final, walk.final)
    assert torch.equal(resume(backbone, walk, t, prompts="an old person").final, walk.final)


def test_resume_a_resumed_one_and_from_settings(backbone):
    walk = draw(backbone, eta=1.0)
    rest = resume(backbone, walk, walk.timesteps[2])
    assert torch.equal(resume(backbone, rest, walk.timesteps[4]).final, walk.final)
    t = walk.timesteps[4]
    assert torch.equal(resume(backbone, walk.settings, t, walk.at(t)).final, walk.final)


def test_memory_is_found_out():
    base = text_to_image()
    expected = {DDIMScheduler: False, DDPMScheduler: False, EulerDiscreteScheduler: False}
    expected |= {EulerAncestralDiscreteScheduler: False, DPMSolverMultistepScheduler: True}
    for scheduler, memory in expected.items():
        assert remembers(base.with_scheduler(scheduler).prepared(6)) is memory


def test_a_picture_alone_and_in_a_batch(backbone):
    """Noise is the same bit for bit; the network's sums may be ordered otherwise in a batch."""
    for eta in (0.0, 1.0):
        whole = draw(backbone, range(8), eta=eta)
        for i in (0, 7):
            alone = draw(backbone, (i,), eta=eta)
            assert torch.equal(alone.codes[0, 0], whole.codes[0, i])
            assert_close(alone.final[0], whole.final[i], rtol=1e-4, atol=1e-5)


def test_strides_and_storage_do_not_matter(backbone):
    walk = draw(backbone)
    t = walk.timesteps[2]
    padded = torch.zeros(walk.at(t).numel() + 1)[1:].view(walk.at(t).shape).copy_(walk.at(t))
    for code in (padded, walk.at(t).contiguous(memory_format=torch.channels_last)):
        assert torch.equal(resume(backbone, walk, t, code).final, walk.final)


def test_given_start_codes(backbone):
    noise = backbone.noise((1, 2))
    given = draw(backbone, (8, 9), codes=noise)
    assert torch.equal(given.final, draw(backbone, (1, 2)).final)


def test_sample_is_run_in_batches(backbone):
    pictures = sample(backbone, PROMPT[backbone.kind], range(5), steps=3, batch=2)
    assert pictures.shape[:2] == (5, 3)
    assert_close(pictures, backbone.decode(draw(backbone, range(5), 3).final), rtol=0, atol=1e-5)
    if backbone.kind == "text-to-image":
        prompts = ["an old person", "a young person", ""]
        mixed = sample(backbone, prompts, (1, 2, 3), steps=3, batch=2)
        assert_close(mixed, backbone.decode(run(backbone, prompts, (1, 2, 3), 3).final), rtol=0, atol=1e-5)


def test_the_pipeline_is_left_as_it_was():
    backbone = text_to_image()
    before, config = backbone.pipe.scheduler, dict(backbone.pipe.config)
    walk = draw(backbone)
    with pytest.raises(RuntimeError, match="stop"):
        ddpm = backbone.with_scheduler(DDPMScheduler).scheduler
        backbone.denoise(walk.codes[0], ddpm, walk.settings, None, stop)
    assert backbone.pipe.scheduler is before and dict(backbone.pipe.config) == config
    assert torch.equal(before.timesteps, DDIMScheduler.from_config(before.config).timesteps)


def stop(*_):
    raise RuntimeError("stop")


@pytest.mark.parametrize("variable", [None, "", "0", "1"])
def test_silent_unless_asked(backbone, capsys, monkeypatch, variable):
    draw(backbone, steps=2)
    assert capsys.readouterr() == ("", "")
    monkeypatch.delenv("TQDM_DISABLE") if variable is None else monkeypatch.setenv("TQDM_DISABLE", variable)
    draw(backbone, steps=2, progress=True)
    assert (backbone.name in capsys.readouterr().err) == (variable != "1")


def test_timesteps_off_the_schedule(backbone):
    walk = draw(backbone)
    shown = f"{walk.timesteps[0]:g}"
    for t in (3, 1001, -1, 500.5, float("inf")):
        with pytest.raises(ValueError, match=f"not on the schedule {shown}, .*nearest"):
            resume(backbone, walk, t)
        with pytest.raises(ValueError, match="not on the schedule"):
            walk.at(t)
    with pytest.raises(ValueError, match="NaN is not a timestep"):
        walk.index(float("nan"))


def test_nearest():
    walk = draw(text_to_image(), steps=8)
    assert walk.nearest(1.0) == walk.timesteps[0] and walk.nearest(0) == walk.timesteps[-1]
    assert walk.nearest(0.5) == 501 and isinstance(walk.nearest(0.5), int)
    with pytest.raises(ValueError, match="fraction"):
        walk.nearest(501)


def test_bad_codes(backbone):
    walk = draw(backbone)
    t = walk.timesteps[2]
    nan = walk.at(t).clone()
    nan[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinity"):
        resume(backbone, walk, t, nan)
    for code in (walk.at(t)[:2], walk.at(t)[..., :4], walk.at(t)[0]):
        with pytest.raises(ValueError, match="takes codes of shape"):
            resume(backbone, walk, t, code)
    with pytest.raises(ValueError, match="give the code"):
        resume(backbone, walk.settings, t)


def test_another_backbone_or_scheduler(backbone):
    walk = draw(backbone)
    made = "made with DDIMScheduler, not DPMSolverMultistepScheduler: resume it with the same"
    with pytest.raises(ValueError, match=made):
        resume(backbone.with_scheduler(DPMSolverMultistepScheduler), walk, walk.timesteps[0])
    other = unconditional() if backbone.kind == "text-to-image" else text_to_image()
    with pytest.raises(ValueError, match=f"was made with {backbone.name}, not {other.name}"):
        resume(other, walk, walk.timesteps[0])


def test_another_config_of_the_scheduler(backbone):
    walk = draw(backbone)
    t, config = walk.timesteps[2], backbone.scheduler.config
    other = backbone.with_scheduler(DDIMScheduler.from_config(config, beta_end=0.5, trained_betas=[0.1] * 1000))
    told = r"made with DDIMScheduler\(beta_end=[\d.]+, trained_betas=None\), "
    told += r"not DDIMScheduler\(beta_end=0.5, trained_betas=\[0.1, .*\.\.\.\]\): resume it with the same"
    for source, code in ((walk, None), (walk.settings, walk.at(t))):
        with pytest.raises(ValueError, match=told) as caught:
            resume(other, source, t, code)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 250
    # what a long list shows of itself need not be what differs
    betas = [torch.linspace(1e-4, end, 1000).tolist() for end in (0.02, 0.021)]
    one, two = (backbone.with_scheduler(DDIMScheduler.from_config(config, trained_betas=b)) for b in betas)
    with pytest.raises(ValueError, match="trained_betas"):
        resume(two, draw(one), t)
    # a setting that only another class lists, but that some schedulers read
    one, two = (backbone.with_scheduler(DPMSolverMultistepScheduler) for _ in range(2))
    two.scheduler.register_to_config(sigma_min=0.5)
    with pytest.raises(ValueError, match="sigma_min=0.5"):
        resume(two, draw(one), t)


def test_the_same_config_said_otherwise(backbone, tmp_path):
    """Saved and read, passed through another class, or of another version, it is the same."""
    walk = draw(backbone)
    t, scheduler = walk.timesteps[2], backbone.scheduler
    scheduler.save_pretrained(tmp_path)
    older = DDIMScheduler.from_config(scheduler.config)
    older.register_to_config(_diffusers_version="0.0.1", _name_or_path="elsewhere")
    there = backbone.with_scheduler(EulerDiscreteScheduler)
    for same in (DDIMScheduler, DDIMScheduler.from_pretrained(tmp_path), older):
        for way in (backbone, there):
            assert torch.equal(resume(way.with_scheduler(same), walk, t).final, walk.final)


def test_a_multistep_solver_needs_its_past(backbone):
    backbone = backbone.with_scheduler(DPMSolverMultistepScheduler)
    walk = draw(backbone)
    rest = resume(backbone, walk, walk.timesteps[2])
    with pytest.raises(ValueError, match="remembers earlier steps: resume from the whole"):
        resume(backbone, rest, walk.timesteps[3])
    # from settings alone it begins again, as with any code that is put in
    again = resume(backbone, walk.settings, walk.timesteps[3], walk.codes[3])
    assert again.restarts == (0,) and not torch.equal(again.final, walk.final)
    part = resume(backbone, again, walk.timesteps[4])
    assert torch.equal(part.codes, again.codes[1:])


@pytest.mark.parametrize(
    ("kwargs", "word"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 1001}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"eta": -0.1}, "eta"),
        ({"eta": float("nan")}, "eta"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [0.5]}, "seed"),
    ],
)
def test_bad_arguments(backbone, kwargs, word):
    with pytest.raises(ValueError, match=word):
        run(backbone, PROMPT[backbone.kind], **kwargs)


def test_bad_prompts():
    backbone = text_to_image()
    with pytest.raises(ValueError, match="2 prompts for 3 seeds"):
        run(backbone, ["a", "an"], (1, 2, 3))
    with pytest.raises(ValueError, match="takes prompts"):
        run(backbone, None, 0)
    with pytest.raises(ValueError, match="prompts are text"):
        run(backbone, [1], [0])
    with pytest.raises(ValueError, match="guidance"):
        run(backbone, "a", 0, guidance=float("nan"))
    with pytest.raises(ValueError, match="takes no prompts"):
        run(unconditional(), "a cat", 0)
    with pytest.raises(ValueError, match="takes no guidance"):
        run(unconditional(), None, 0, guidance=3.0)
    with pytest.raises(ValueError, match="EulerDiscreteScheduler takes no eta"):
        run(backbone.with_scheduler(EulerDiscreteScheduler), "a", 0, eta=1.0)
    with pytest.warns(UserWarning, match="never shown the words ears") as caught:
        run(backbone, "a person ears", 0, 1)
    assert caught[0].filename == __file__


def test_schedule_is_what_the_scheduler_says():
    schedule = text_to_image().schedule(5)
    assert schedule.timesteps.tolist() == [801, 601, 401, 201, 1] and schedule.sigma == 1
    assert schedule.whole.all() and schedule.T == 1000 and len(schedule) == 5
    assert text_to_image().with_scheduler(EulerDiscreteScheduler).schedule(5).sigma > 5


def test_a_branch_takes_its_prompts_from_a_timestep_on():
    backbone = text_to_image()
    source = run(backbone, "a person", (1, 2), 6)
    t = source.timesteps[2]
    found = trajectory.branch(backbone, source, t, ["old", "young"])
    assert torch.equal(found.codes[:3], source.codes[:3]) and found.codes.shape == source.codes.shape
    assert torch.equal(found.codes[2:], resume(backbone, source, t, prompts=["old", "young"]).codes)
    assert found.settings.prompts == ("old", "young") and torch.equal(found.timesteps, source.timesteps)
    with pytest.raises(ValueError, match="only a part"):
        trajectory.branch(backbone, resume(backbone, source, t), source.timesteps[4], "old")


def test_settings_with_embeddings_are_compared():
    backbone = text_to_image()
    embeds = torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(0))

    def settings(prompt_embeds, **more):
        return Settings.of(backbone, "a person", [1, 2], 4, prompt_embeds=prompt_embeds, **more)

    one = settings(embeds)
    assert one == settings(embeds.clone()) and hash(one) == hash(settings(embeds.clone()))
    others = [
        settings(embeds + 1e-3),
        settings(embeds.double()),
        settings(embeds, guidance_rescale=0.5),
        replace(one, eta=1.0),
    ]
    others += [settings(embeds.expand(2, -1, -1) * torch.tensor([1.0, 2.0])[:, None, None]), settings(None), 3]
    for other in others:
        assert one != other and other != one
    assert one == one.rows([0, 1]) and one.rows([0]) != one
    assert {one, settings(embeds.clone())} == {one}
    given = {"cross_attention_kwargs": {"scale": 0.5}}
    assert hash(settings(embeds, **given)) == hash(settings(embeds, **given))


def test_a_trajectory_of_embeddings_is_resumed_and_edited():
    backbone = text_to_image()
    embeds = torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(0))
    walk = run(backbone, "a person", [1, 2], 6, 3.0, prompt_embeds=embeds, negative_prompt="old")
    again = Settings.of(backbone, "a person", [1, 2], 6, 3.0, prompt_embeds=embeds.clone(), negative_prompt="old")
    for t in walk.timesteps[1:4]:
        assert torch.equal(resume(backbone, replace(walk, settings=again), t).final, walk.final)
    same = {"prompt_embeds": embeds.clone(), "negative_prompt": "old", "guidance": 3.0, "seeds": range(1, 3)}
    assert avi.edit_prompt(backbone, walk, "an old person", **same).edited.codes.isfinite().all()
    for other in ({"prompt_embeds": embeds + 1}, {"negative_prompt": "young"}, {"guidance": 2.0}, {"seeds": 1}):
        with pytest.raises(ValueError, match=f"the trajectory has its own {min(other)}") as caught:
            avi.edit_prompt(backbone, walk, "an old person", **other)
        assert "tensor(" not in str(caught.value)
