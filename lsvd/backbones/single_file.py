"""Checkpoints as one .safetensors file, in the format that models were first published in."""

from pathlib import Path

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.single_file_utils import fetch_diffusers_config, load_single_file_checkpoint

from lsvd.backbones import checkpoints
from lsvd.backbones.families import family_of

COPY = "copy or download the file again"


def read(file: Path, dtype: torch.dtype) -> DiffusionPipeline:
    """The pipeline of a single file, by diffusers' own `from_single_file`.

    What kind of model it is, diffusers tells from its tensors; their configuration comes from the hub, or its cache.
    Raises ValueError, which says what to do, for other files, damaged ones, and where there is no configuration.
    """
    if file.suffix != ".safetensors":
        raise ValueError(f"{file} is a file: give a folder of diffusers, or a single .safetensors file")
    names = checkpoints.check_safetensors(file, COPY)
    if any("lora" in name for name in names):
        raise ValueError(f"{file} is an adapter: load its model, and `backbone.pipe.load_lora_weights` it")
    kind = "StableDiffusionPipeline"
    try:
        with checkpoints.silently():
            repository = fetch_diffusers_config(load_single_file_checkpoint(str(file)))["pretrained_model_name_or_path"]
            kind = DiffusionPipeline.load_config(repository)["_class_name"]
            loader = getattr(diffusers, kind)
            if family_of(loader) is None:
                raise ValueError(f"a {kind} is not supported")
            unused = {"safety_checker": None} if kind == "StableDiffusionPipeline" else {}
            pipe = loader.from_single_file(str(file), config=repository, dtype=dtype, **unused)
        networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
        if any(tensor.is_meta for part in networks for tensor in part.state_dict().values()):
            raise ValueError("it lacks tensors")
    except Exception as error:
        if checkpoints.out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0].rstrip(".")
        convert = f"{kind}.from_single_file({file.name!r}).save_pretrained(FOLDER)"
        raise ValueError(
            f"{file} is a single file, which could not be read here ({reason}): convert it with diffusers where there "
            f"is a network, `{convert}`, and give FOLDER as the backbone"
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return pipe
