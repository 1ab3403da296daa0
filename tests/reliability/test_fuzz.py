"""Requests, pictures and networks drawn at random: each ends in a finite result or in one clear sentence.

LSVD_FUZZ sets how many of each kind are drawn; the seed of a case is its number, so that it can be drawn again.
"""

import os
import random
import warnings

import diffusers
import numpy as np
import pytest
import torch
from faults import sentence
from PIL import Image
from tiny import text_to_image, tiny_pipeline, unconditional

from benchmarks.schedulers import NAMES
from lsvd import avi, backbones
from lsvd.avi import attribute
from lsvd.avi.placement import Placement
from lsvd.guidance.settings import LowRank
from lsvd.sampling import trajectory
from lsvd.sampling.inversion import invert

CASES = int(os.environ.get("LSVD_FUZZ", 12))
PROMPTS = ["a person", "an old person", "", "a person with red hair", "🙂", "a\0b", " ", "a" * 99]
ODD = [None, True, -1, 0, 1, 3, 2.5, 1e9, np.nan, np.inf, "3", "", [], [1], {}, b"x", object(), np.int64(2), 1j]
ODD += [torch.tensor(2), torch.tensor([1.0, 2.0]), torch.zeros(1, 4, 8, 8), torch.full((1, 4, 8, 8), torch.nan)]


def settled(call):
    """Make the call, with its result's codes finite, or its refusal one sentence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = call()
        except ValueError as error:
            sentence(error)
            return
    for walk in result if isinstance(result, list) else [result]:
        assert walk.isfinite().all()


def model(g):
    own = g.choice([text_to_image, text_to_image, unconditional])()
    if g.random() < 0.6:
        kind = getattr(diffusers, f"{g.choice(NAMES)}Scheduler")
        options = {
            "timestep_spacing": g.choice(["leading", "trailing", "linspace"]),
            "prediction_type": g.choice(["epsilon", "v_prediction", "sample"]),
            "use_karras_sigmas": g.random() < 0.3,
            "solver_order": g.choice([1, 2, 3]),
            "rescale_betas_zero_snr": g.random() < 0.2,
            "num_train_timesteps": g.choice([1000, 1000, 10]),
        }
        own = own.with_scheduler(kind.from_config(own.scheduler.config, **options))
    return own


def request(g, own):
    values = {"seeds": g.choice([0, [1], [1, 2], 7]), "steps": g.choice([1, 2, 3, 5])}
    if own.kind == "text-to-image":
        values |= {"prompts": g.choice(PROMPTS), "guidance": g.choice([None, 0, 1, 3, 7.5])}
        values |= {"negative_prompt": g.choice([None, None, *PROMPTS])}
    odd = g.sample([*values, "eta", "until", "codes", "max_memory", "clip_skip", "guidance_rescale"], k=g.randint(0, 2))
    return values | {name: g.choice(ODD) for name in odd}


@pytest.mark.parametrize("case", range(CASES))
def test_any_request_is_drawn_or_refused(case):
    g = random.Random(case)

    def call():
        own = model(g)
        walk = trajectory.run(own, **request(g, own))
        t = g.choice([*walk.timesteps.tolist(), g.choice(ODD)])
        later = trajectory.resume(own, walk, t, g.choice([None, walk.codes[0], *ODD]))
        return [walk.codes, later.codes]

    settled(call)


@pytest.mark.parametrize("case", range(CASES))
def test_any_edit_is_drawn_or_refused(case):
    g = random.Random(1000 + case)

    def call():
        own = model(g)
        values = request(g, own)
        source = values.pop("prompts", "a person")
        target = g.choice([*PROMPTS, {"an old person": 1.0, "a person with red hair": -0.5}, g.choice(ODD)])
        numbers = {"tx": [0.2, 0.5, 1.0], "dtau": [0, 1, -2], "branch": [0.7, 1.0, 0.1]}
        values["placement"] = Placement(
            **{name: g.choice([None, *choices, g.choice(ODD)]) for name, choices in numbers.items() if g.random() < 0.5}
        )
        ranks = [g.choice([None, 0, 3, 6, 99, g.choice(ODD)]) for _ in range(2)]
        methods = [lambda: None, lambda: "low-rank", lambda: avi.AVIConfig(*ranks), lambda: g.choice(ODD)]
        methods += [lambda: LowRank(rank=g.choice([1, 2, None, *ODD]), start=g.choice([0.9, 0.6, *ODD]))]
        values["method"] = g.choice(methods)()
        edit = avi.edit_prompt(own, source, target, **values)
        return [edit.edited.codes, own.decode(edit.edited.final)]

    settled(call)


@pytest.mark.parametrize("case", range(CASES))
def test_any_attribute_is_learned_and_applied_or_refused(case, tmp_path):
    g = random.Random(2000 + case)

    def call():
        own = model(g)
        values = request(g, own)
        learned = attribute.learn(own, values.pop("prompts", "a person"), g.choice(PROMPTS), **values)
        again = attribute.load(learned.save(tmp_path / "a.safetensors"))
        given = [again] * g.randint(0, 3)
        strengths = g.choice([1.0, [0.5] * len(given), -2, 0, *ODD])
        return attribute.apply(own, given, g.choice(PROMPTS), [1, 5], strengths)[1].codes

    settled(call)


@pytest.mark.parametrize("case", range(CASES))
def test_any_inversion_is_found_or_refused(case):
    g = random.Random(3000 + case)

    def call():
        own = model(g)
        values = request(g, own)
        values = {name: value for name, value in values.items() if name not in ("seeds", "codes", "until", "eta")}
        codes = g.choice([own.noise([1]), own.noise([1, 2]) * g.choice([0, 1, 30, 1e6]), g.choice(ODD)])
        found = invert(own, codes, iterations=g.choice([0, 1, 2, g.choice(ODD)]), **values)
        return [found.trajectory.codes, found.distance]

    settled(call)


def picture(g):
    height, width = g.choice([(16, 16), (1, 1), (1, 300), (40, 7), (8, 16)])
    values = np.random.default_rng(g.randrange(99)).integers(0, 256, (height, width, 4), dtype=np.uint8)
    image = Image.fromarray(values).convert(
        g.choice(["RGB", "RGBA", "L", "LA", "1", "P", "CMYK", "YCbCr", "I", "F", "HSV"])
    )
    if g.random() < 0.4:
        return image
    array = np.asarray(image)
    kinds = [np.uint8, np.uint16, np.int32, np.float16, np.float32, np.float64, bool, complex, object]
    array = array.astype(g.choice(kinds))
    if g.random() < 0.5:
        array = np.expand_dims(array, g.choice([0, array.ndim]))
    if g.random() < 0.3 and array.dtype.kind == "f":
        array = array / 255
    try:
        return torch.from_numpy(array) if g.random() < 0.4 else array
    except TypeError:
        return array


@pytest.mark.parametrize("case", range(3 * CASES))
def test_any_picture_is_encoded_or_refused(case):
    g = random.Random(4000 + case)
    one = [picture(g) for _ in range(g.randint(0, 3))]
    given = g.choice([one, tuple(one), one[0] if one else None, g.choice(ODD)])
    settled(lambda: g.choice([text_to_image, unconditional])().encode(given))


@pytest.mark.parametrize("case", range(CASES))
def test_any_network_is_drawn_or_refused(case):
    g = random.Random(5000 + case)
    options = {
        "sample_size": [8, (8, 16), 7, 0, None],
        "in_channels": [4, 3, 9, 1],
        "out_channels": [4, 8, 3],
        "cross_attention_dim": [16, 8, (16, 16)],
        "attention_head_dim": [4, 8, 3],
        "act_fn": ["silu", "gelu", "mish"],
        "time_embedding_type": ["positional", "fourier"],
        "class_embed_type": [None, "timestep"],
        "num_class_embeds": [None, 3],
        "addition_embed_type": [None, "text", "text_time"],
        "time_cond_proj_dim": [None, 8],
        "encoder_hid_dim": [None, 16],
        "center_input_sample": [False, True],
        "dual_cross_attention": [False, True],
        "use_linear_projection": [False, True],
        "only_cross_attention": [False, True],
        "conv_in_kernel": [3, 1],
    }
    chosen = {name: g.choice(options[name]) for name in g.sample(sorted(options), k=g.randint(1, 4))}
    pipe = tiny_pipeline()
    torch.manual_seed(case)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = {k: v for k, v in pipe.unet.config.items() if not k.startswith("_")}
            pipe.unet = diffusers.UNet2DConditionModel(**config | chosen).eval()
            pipe.unet.register_to_config(**chosen)
    except Exception:
        return  # diffusers refuses it itself

    def call():
        own = backbones.from_pipeline(pipe)
        walk = trajectory.run(own, "a person", 1, 2, 3.0)
        found = invert(own, walk.final, "a person", 2, iterations=1)
        edit = avi.edit_prompt(own, "a person", "an old person", seeds=1, steps=2, method=g.choice([None, "low-rank"]))
        return [walk.codes, found.distance, own.decode(edit.edited.final)]

    settled(call)


@pytest.mark.parametrize("case", range(CASES))
def test_any_folder_is_loaded_or_refused(case, tmp_path):
    g = random.Random(6000 + case)
    folder = tmp_path / g.choice(["model", "mo del", "módél", "-x", "$(touch x)", "a'b", "x" * 200])
    text_to_image().pipe.save_pretrained(folder)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    for _ in range(g.randint(1, 3)):
        file = g.choice(files)
        if not file.exists():
            continue
        match g.choice(["gone", "empty", "text", "list", "cut", "link", "folder", "swapped"]):
            case "gone":
                file.unlink()
            case "empty":
                file.write_bytes(b"")
            case "text":
                file.write_text("not what it was")
            case "list":
                file.write_text('[1, {"a": null}]')
            case "cut":
                file.write_bytes(file.read_bytes()[: g.randrange(1 + file.stat().st_size)])
            case "link":
                file.unlink()
                file.symlink_to(file.name)
            case "folder":
                file.unlink()
                file.mkdir()
            case "swapped":
                file.write_bytes(g.choice([other for other in files if other.is_file()]).read_bytes())

    def call():
        own = backbones.load(folder)
        walk = trajectory.run(own, "a person", 1, 2, 3.0)
        return [walk.codes, own.decode(walk.final)]

    try:
        settled(call)
    except OSError as error:
        sentence(error)
