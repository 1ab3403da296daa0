"""What an edit costs at full size, without any download: python -m benchmarks.fullsize [NAME ...].

Models of the true configurations of the paper's, with random weights, are saved in the format of the hub's checkpoints
and loaded as those are. Then a picture is drawn by the plain diffusers pipeline, and one is edited, each in a process
of its own: seconds, and the peak of the process's memory from the loaded model on. On Linux, memory that is freed goes
back to the system at once: else the peak holds what the allocator keeps for later as well, which varies by some percent
from run to run. outputs/tables/fullsize.csv gets a row for each as soon as it is there. Measure on an idle machine with
12 GiB of memory and 4 GB of disk; with two cores it takes 15 minutes to half an hour.

On a GPU (--device cuda) models compute in float16, memory is what torch has allocated there, the times end when the
GPU is done, and Stable Diffusion is edited by low-rank guidance as well.
"""

import argparse
import gc
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lsvd import avi, backbones
from lsvd.avi.edit import draw_pair, edit_between
from lsvd.avi.placement import Placement
from lsvd.backbones.models import Backbone
from lsvd.backbones.registry import REGISTRY, Entry
from lsvd.guidance.settings import LowRank
from lsvd.paths import outputs
from lsvd.sampling import trajectory
from lsvd.storage.files import update_csv
from lsvd.testbed.training.train import check_device

log = logging.getLogger(__name__)
STEPS = 8
PROMPTS = "a person", "an old person"
WAYS = "plain", "edit", "one batch"
LOW_RANK = "low-rank"  # on a GPU, for models with prompts
KEYS = ["name", "device", "dtype", "way"]
# glibc's, in bytes: blocks from this size on are mapped one by one
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}


def sd21() -> StableDiffusionPipeline:
    """Stable Diffusion 2.1 for 768 pixels: UNet of 866 million parameters, OpenCLIP-H's text tower, random weights."""
    unet = UNet2DConditionModel(
        sample_size=96,
        attention_head_dim=(5, 10, 20, 20),
        cross_attention_dim=1024,
        use_linear_projection=True,
        upcast_attention=True,
    )
    vae = AutoencoderKL(
        sample_size=768,
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )
    words = tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        hidden_act="gelu",
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )
    parts = {"vae": vae, "text_encoder": CLIPTextModel(text), "tokenizer": words, "unet": unet, "scheduler": scheduler}
    nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**parts, **nothing)


def ddpm() -> DDPMPipeline:
    """The paper's DDPMs for 256 pixels, 114 million parameters, random weights."""
    unet = UNet2DModel(
        sample_size=256,
        block_out_channels=(128, 128, 256, 256, 512, 512),
        down_block_types=(*("DownBlock2D",) * 4, "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", *("UpBlock2D",) * 4),
        layers_per_block=2,
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
    )
    return DDPMPipeline(unet=unet, scheduler=DDPMScheduler())


# One line each: the registered name whose defaults are taken, and what builds its like.
MODELS: dict[str, Callable[[], DiffusionPipeline]] = {"sd21": sd21, "ddpm-celebahq": ddpm}


def tokenizer() -> CLIPTokenizer:
    """A CLIPTokenizer of as many tokens as CLIP's own, 49408: letters, pairs of them, and two marks."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(first, second) for first in letters for second in letters][: 49408 - 2 - 2 * len(letters)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(first + second for first, second in pairs)]
    vocabulary = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=77)


def save(pipe: DiffusionPipeline, folder: Path) -> None:
    """Save a pipeline as the checkpoints of its time are: in float16, attention in pixels under its old names.

    Raises OSError if the disk refuses.
    """
    for name in ("unet", "vae"):
        model = getattr(pipe, name, None)
        if model is not None:
            _rename(model)
    pipe.to(torch.float16)
    pipe.save_pretrained(folder)


def _rename(model: nn.Module) -> None:
    """Have a model save its attention blocks in pixels under the names from before diffusers 0.17."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    blocks = [name for name, part in model.named_modules() if getattr(part, "_from_deprecated_attn_block", False)]

    def renamed(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
        for block in blocks:
            for new, before in old.items():
                for kind in ("weight", "bias"):
                    state[f"{prefix}{block}.{before}.{kind}"] = state.pop(f"{prefix}{block}.{new}.{kind}")

    model.register_state_dict_post_hook(renamed)


@dataclass
class Spent:
    """Seconds in all, and seconds and number of the calls of the network that denoises."""

    seconds: float = 0.0
    denoising: float = 0.0
    calls: int = 0


@contextmanager
def spending(network: nn.Module, device: str = "cpu") -> Iterator[Spent]:
    """Time what is done within, and the network's part in it."""

    def now() -> float:
        if device != "cpu":
            torch.cuda.synchronize(device)  # whose work is only queued when a call returns
        return perf_counter()

    spent, start = Spent(), now()
    begun = []

    def after(*_: Any) -> None:
        spent.denoising += now() - begun.pop()
        spent.calls += 1

    handles = [
        network.register_forward_pre_hook(lambda *_: begun.append(now())),
        network.register_forward_hook(after),
    ]
    try:
        yield spent
    finally:
        spent.seconds = now() - start
        for handle in handles:
            handle.remove()


def measure(name: str, way: str, folder: Path, steps: int, device: str = "cpu") -> dict[str, float | int]:
    """Load the model in `folder`, and draw one picture in a way: what it took. On the CPU for a process of its own.

    peak: the most memory in bytes that the process has had since the model was loaded, on a GPU what torch has had
    there; held: what it had then. On a GPU all of it is done before, untimed, in few steps, which loads its kernels.
    """
    gc.collect()  # the model before, which would count as held
    entry, loading = REGISTRY[name], perf_counter()
    backbone = backbones.load(folder, device, precision(device)) if way != "plain" else None
    pipe = backbone.pipe if backbone else _plain(folder, device)
    loaded = perf_counter() - loading
    with torch.no_grad():
        if device != "cpu":
            _draw(pipe, entry, 2)
            if backbone:
                _edited(backbone, entry, STEPS, way)
        _forget_peak(device)
        held = _memory("VmRSS", device)
        with spending(pipe.unet, device) as spent:
            if backbone is None:
                _draw(pipe, entry, steps)
            else:
                picture = backbone.decode(_edited(backbone, entry, steps, way))
                if not picture.isfinite().all():
                    raise ValueError(f"{name}: the picture is not finite")
    costs = {"parameters": sum(p.numel() for p in pipe.unet.parameters()), "load_seconds": loaded}
    costs |= {"calls": spent.calls, "seconds": spent.seconds, "denoising": spent.denoising}
    # the system counts pages by the thread, and may not have counted the last few of a peak
    return costs | {"held": held, "peak": max(held, _memory("VmHWM", device))}


def precision(device: str) -> torch.dtype:
    """What a model computes in on a device: half precision on all but the CPU."""
    return torch.float32 if device == "cpu" else torch.float16


def _plain(folder: Path, device: str) -> DiffusionPipeline:
    """The pipeline as anybody would load it; the unconditional one samples by DDIM, as ours does."""
    kind = json.loads((folder / "model_index.json").read_text())["_class_name"]
    pipe = (DDIMPipeline if kind == "DDPMPipeline" else StableDiffusionPipeline).from_pretrained(
        folder, torch_dtype=precision(device)
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def _draw(pipe: DiffusionPipeline, entry: Entry, steps: int) -> None:
    """A picture by a pipeline as it is."""
    options = {"prompt": PROMPTS[0], "guidance_scale": entry.guidance} if entry.guidance else {}
    pipe(**options, num_inference_steps=steps, generator=torch.Generator().manual_seed(0))


def _edited(backbone: Backbone, entry: Entry, steps: int, way: str) -> Tensor:
    """The codes of an edited picture, shape (1, C, H, W): by another prompt, or without prompts by another seed."""
    together = way == "one batch"
    if backbone.kind == "text-to-image":
        request = {"steps": steps, "guidance": entry.guidance}
        if not together:
            method = LowRank() if way == LOW_RANK else None
            return avi.edit_prompt(backbone, *PROMPTS, method=method, **request).edited.final
        places = Placement().filled(entry).on(backbone.schedule(steps))
        settings = trajectory.Settings.of(backbone, PROMPTS[0], 0, **request)
        pair = draw_pair(backbone, settings, PROMPTS[1], places, (places.t, places.t_target), together=True)
        return edit_between(backbone, *pair, places).edited.final
    places = Placement(branch=1).filled(entry).on(backbone.schedule(steps))
    if together:
        both = trajectory.run(backbone, None, (0, 1), steps, until=min(places.t, places.t_target))
        source, target = both.rows(slice(1)), both.rows(slice(1, 2))
    else:
        source = trajectory.run(backbone, None, 0, steps, until=places.t)
        target = trajectory.run(backbone, None, 1, steps, until=places.t_target)
    return edit_between(backbone, source, target, places, avi.AVIConfig()).edited.final


def _forget_peak(device: str) -> None:
    """Begin the peak of memory again, where the system can."""
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        log.warning("this system cannot restart the peak of memory: it includes the loading of the model")


def _memory(field: str, device: str = "cpu") -> int:
    """VmRSS or VmHWM of the process in bytes, or where there is none, the peak since it began; a GPU's likewise."""
    if device != "cpu":
        return (torch.cuda.memory_allocated if field == "VmRSS" else torch.cuda.max_memory_allocated)(device)
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines[field].split()[0]) * 1024
    except (OSError, KeyError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def row(
    name: str,
    way: str,
    steps: int,
    costs: dict[str, float | int],
    plain: dict[str, float | int],
    device: str = "cpu",
) -> dict:
    """A row of the table: of two trajectories' time and of the plain pipeline's memory, the share that it took."""
    digits = 1 if device == "cpu" else 3
    gib = {key: f"{costs[key] / 2**30:.2f}" for key in ("held", "peak")}
    return {
        "name": name,
        "device": "cpu" if device == "cpu" else torch.cuda.get_device_name(device),
        "dtype": str(precision(device)).removeprefix("torch."),
        "way": way,
        "parameters": costs["parameters"],
        "steps": steps,
        "threads": torch.get_num_threads(),
        "calls": costs["calls"],
        "load_seconds": f"{costs['load_seconds']:.1f}",
        "seconds": f"{costs['seconds']:.{digits}f}",
        "denoising": f"{costs['denoising']:.{digits}f}",
        "of_two_trajectories": f"{costs['seconds'] / (2 * plain['seconds']):.3f}",
        "held_gib": gib["held"],
        "peak_gib": gib["peak"],
        "of_plain_memory": f"{costs['peak'] / plain['peak']:.3f}",
    }


def run(name: str, steps: int, folder: Path | None = None, device: str = "cpu") -> None:
    """Build, save and measure one model in every way, and write the table.

    folder: where the model is kept, and taken from if it is there; a temporary one if None. Raises ValueError if a
    measurement fails, and OSError if the disk refuses.
    """
    with tempfile.TemporaryDirectory() as temporary:
        home = (folder or Path(temporary)) / name
        if not (home / "model_index.json").is_file():
            log.info("%s: building and saving", name)
            torch.manual_seed(0)
            save(_built(name, device), home)
        costs = {}
        for way in ways(name, device):
            log.info("%s: %s, %d steps", name, way, steps)
            # torch restarts the count of a GPU's memory, which a process cannot do with its own everywhere
            taken = measure if device != "cpu" else _in_a_process
            costs[way] = taken(name, way, home, steps, device)
            line = row(name, way, steps, costs[way], costs["plain"], device)
            update_csv(outputs("tables", "fullsize.csv"), [line], KEYS, _place)
            log.info("%s", ", ".join(f"{key} {value}" for key, value in line.items() if key not in KEYS))


def _place(line: Mapping[str, str]) -> tuple:
    """Where a row stands in the table: the CPU's before others', in the order of the ways."""
    return [*MODELS].index(line["name"]), line["device"] != "cpu", line["device"], (*WAYS, LOW_RANK).index(line["way"])


def ways(name: str, device: str) -> tuple[str, ...]:
    """The ways that are measured of a model on a device."""
    return (*WAYS, LOW_RANK) if device != "cpu" and REGISTRY[name].guidance else WAYS


def _built(name: str, device: str) -> DiffusionPipeline:
    """A model with random weights, drawn on the device in the dtype that they are saved in, where that is faster."""
    if device == "cpu":
        return MODELS[name]()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device(device):
            return MODELS[name]()
    finally:
        torch.set_default_dtype(before)


def _in_a_process(name: str, way: str, folder: Path, steps: int, device: str) -> dict[str, float | int]:
    command = [sys.executable, "-m", "benchmarks.fullsize", name, "--way", way, "--folder", str(folder)]
    surroundings = os.environ | GIVE_BACK
    command += ["--steps", str(steps), "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it was stopped, perhaps for want of memory"])[-1]
        raise ValueError(f"{name}, {way}: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fullsize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)}; all if none is given")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each trajectory ({STEPS})")
    parser.add_argument("--device", default="cpu", help="cpu, or a GPU such as cuda (cpu)")
    parser.add_argument("--folder", type=Path, help="where to keep the models; by default they are removed afterwards")
    parser.add_argument("--way", choices=(*WAYS, LOW_RANK), help=argparse.SUPPRESS)  # one measurement, in this process
    options = parser.parse_args(arguments)
    strange = [name for name in options.names if name not in MODELS]
    if strange:
        parser.error(f"no model {', '.join(strange)}: choose from {', '.join(MODELS)}")
    if options.steps < 3:
        parser.error(f"{options.steps} steps leave no room for an edit: take at least 3")
    if options.device != "cpu" and torch.device(options.device).type != "cuda":
        parser.error(f"memory cannot be measured on {options.device}: choose cpu or cuda")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        check_device(options.device)
        if options.way:
            where = options.folder, options.steps, options.device
            measured = measure(options.names[0], options.way, *where)
            sys.stdout.write(json.dumps(measured) + "\n")
            return 0
        for name in dict.fromkeys(options.names or MODELS):
            run(name, options.steps, options.folder, options.device)
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from error
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
