"""Models of full size are those of the checkpoints, number for number; what is measured is measured, on tiny ones."""

import csv
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_ddpm, tiny_pipeline
from torch.testing import assert_close

from benchmarks import fullsize
from lsvd import backbones
from lsvd.paths import outputs

TINY = {"sd21": tiny_pipeline, "ddpm-celebahq": tiny_ddpm}
FOUND = {"parameters": 1, "calls": 4, "load_seconds": 1.0, "seconds": 10.0, "denoising": 9.0, "held": 2**30}


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_full_size_is_that_of_the_checkpoints():
    with torch.device("meta"):
        sd, ddpm = fullsize.sd21(), fullsize.ddpm()
    sizes = {name: count(getattr(sd, name)) for name in ("unet", "text_encoder", "vae")}
    assert sizes == {"unet": 865_910_724, "text_encoder": 340_387_840, "vae": 83_653_863}
    assert count(ddpm.unet) == 113_673_219 and len(sd.tokenizer) == 49408
    assert len(sd.tokenizer("an old person").input_ids) <= 77


@pytest.fixture(params=TINY)
def saved(request, tmp_path):
    pipe = TINY[request.param]()
    expected = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    fullsize.save(pipe, tmp_path / request.param)
    return request.param, tmp_path / request.param, expected


def test_old_names_in_half_precision_are_read(saved):
    name, folder, expected = saved
    part = "unet" if name == "ddpm-celebahq" else "vae"
    stored = load_file(folder / part / "diffusion_pytorch_model.safetensors")
    assert any(key.endswith("attentions.0.query.weight") for key in stored)
    assert not any("to_q" in key for key in stored if part == "vae")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    backbone = backbones.load(folder)
    assert backbone.dtype == torch.float32
    assert_close(backbone.pipe.unet.state_dict(), expected, rtol=1e-3, atol=1e-3)


def test_what_a_picture_takes(saved):
    name, folder, _ = saved
    found = {way: fullsize.measure(name, way, folder, 8) for way in fullsize.WAYS}
    # tx 0.6 is the start of the third step, and z one step noisier; both go to x where they are one batch
    assert [found[way]["calls"] for way in fullsize.WAYS] == [8, 2 + 1 + 6, 2 + 6]
    for each in found.values():
        assert 0 < each["denoising"] < each["seconds"] and 0 < each["held"] <= each["peak"]


def test_a_model_is_built_elsewhere_in_half_precision(monkeypatch, tmp_path):
    monkeypatch.setattr(fullsize, "MODELS", TINY)
    for name in TINY:
        pipe = fullsize._built(name, "cpu:0")
        assert pipe.unet.dtype == torch.float16 and torch.get_default_dtype() == torch.float32
        fullsize.save(pipe, tmp_path / name)
        backbone = backbones.load(tmp_path / name)
        fullsize._draw(backbone.pipe, fullsize.REGISTRY[name], 2)


def test_low_rank_guidance_is_measured_on_devices(tmp_path):
    assert fullsize.ways("sd21", "cuda") == (*fullsize.WAYS, fullsize.LOW_RANK)
    assert fullsize.ways("sd21", "cpu") == fullsize.ways("ddpm-celebahq", "cuda") == fullsize.WAYS
    fullsize.save(tiny_pipeline(), tmp_path)
    # each step in its window takes the target's prediction along
    assert fullsize.measure("sd21", fullsize.LOW_RANK, tmp_path, 8)["calls"] == 8


def test_a_row():
    plain = FOUND | {"peak": 2**31}
    line = fullsize.row("sd21", "edit", 4, FOUND | {"seconds": 15.0, "peak": 2**31 + 2**30}, plain)
    assert line["of_two_trajectories"] == "0.750" and line["of_plain_memory"] == "1.500"
    assert line["peak_gib"] == "3.00" and line["held_gib"] == "1.00"


def test_the_table(monkeypatch, tmp_path):
    monkeypatch.setattr(fullsize, "MODELS", {"ddpm-celebahq": tiny_ddpm})
    monkeypatch.setattr(fullsize, "WAYS", ("plain",))
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    assert fullsize.main(["ddpm-celebahq", "--steps", "3"]) == 0
    with (outputs() / "tables" / "fullsize.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert line["calls"] == line["steps"] == "3" and line["of_plain_memory"] == "1.000"


def test_bad_arguments(monkeypatch, capsys, tmp_path):
    for arguments, said in (
        (["sd3"], "no model sd3"),
        (["--steps", "2"], "no room for an edit"),
        (["--device", "mps"], "cpu or cuda"),
    ):
        with pytest.raises(SystemExit):
            fullsize.main(arguments)
        assert said in capsys.readouterr().err
    monkeypatch.setattr(fullsize, "MODELS", {"sd21": tiny_pipeline})
    (tmp_path / "sd21").mkdir()
    (tmp_path / "sd21" / "model_index.json").write_text("{}")
    with pytest.raises(SystemExit, match="sd21, plain: "):
        fullsize.main(["--folder", str(tmp_path)])


def test_the_table_keeps_the_limits():
    root = Path(__file__).resolve().parents[2]
    with (root / "outputs" / "tables" / "fullsize.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["device"] == "cpu"]
    assert [(row["name"], row["way"]) for row in rows] == [(n, way) for n in fullsize.MODELS for way in fullsize.WAYS]
    for row in rows:
        # what an edit may cost: two trajectories and 2%, and 5% more memory, but for the small DDPM's as one batch
        assert float(row["of_two_trajectories"]) <= 1.02
        assert (row["name"], row["way"]) == ("ddpm-celebahq", "one batch") or float(row["of_plain_memory"]) <= 1.05
