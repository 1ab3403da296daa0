"""Draw a picture of a prompt, edited at one timestep by Attribute Vector Integration.

Defaults of the edit and of drawing are the backbone's, or those that a saved attribute was learned with.
"""

import argparse
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
SIGNATURES = (b"\x89PNG\r\n", b"\xff\xd8\xff")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("source", metavar="PROMPT", help="what to draw, such as 'a person'")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--to", metavar="PROMPT", help="edit it towards this prompt")
    way.add_argument(
        "--attribute",
        metavar="FILE",
        type=Path,
        action="append",
        help="edit it by an attribute that --save has kept; may be given again, for several at once",
    )
    add("--seed", type=int, action="append", help="which picture (0); may be given again, for several")
    add(
        "--strength",
        type=float,
        action="append",
        help="0 for the source, 1 as learned, beyond to exaggerate (1); with several attributes, one for all or each",
    )
    add("--out", metavar="FILE", type=Path, default=Path("edit.png"), help="PNG or JPEG (edit.png)")
    add("--compare", action="store_true", help="source, picture of --to if given, and edit, in a row")
    add("--save", metavar="FILE", type=Path, help="keep what was learned for --attribute, as a safetensors file")
    add("--force", action="store_true", help="let --out and --save replace any file, even one that is read")
    add("--backbone", metavar="NAME", default="mini-sd", help="or a folder of diffusers (mini-sd)")
    add("--tx", type=float, help="timestep of the edit, as a fraction of T, from 0 to 1")
    add("--dtau", type=int, help="sampler steps from there to the target's code; positive is noisier")
    add(
        "--branch", type=float, help="fraction of T from which on the target's trajectory has its prompt; 1: throughout"
    )
    add("--negative", metavar="PROMPT", help="what not to draw: the negative prompt of source and target")
    add("--steps", type=int, help="number of steps of the sampler")
    add("--guidance", type=float, help="strength of the prompts (classifier-free guidance scale)")
    add("--device", default="cpu", help="where to compute, as torch names it (cpu)")


def run(options: argparse.Namespace) -> None:
    """Draw the source prompt's pictures, edited, and write them. Raises ValueError or OSError for bad input."""
    _check(options)

    import torch

    from lsvd import avi, backbones
    from lsvd.avi import attribute
    from lsvd.avi.placement import Placement
    from lsvd.sampling import trajectory
    from lsvd.storage import files

    for path in filter(None, (options.out, options.save)):
        files.check_writable(path)
    saved = [attribute.load(path) for path in options.attribute or ()]
    _check_device(options.device)
    backbone = backbones.load(options.backbone, options.device)
    seeds, strengths = options.seed or [0], options.strength or [1.0]
    strengths = strengths if len(strengths) > 1 else strengths[0]
    # an explicit switch would overrule the variable
    progress = sys.stderr.isatty() and os.environ.get("TQDM_DISABLE", "0") in ("", "0")
    drawing = {"steps": options.steps, "guidance": options.guidance, "progress": progress}
    drawing |= {"negative_prompt": options.negative} if options.negative is not None else {}
    if saved:
        walks = attribute.apply(backbone, saved, options.source, seeds, strengths, **drawing)
    else:
        placement = Placement(options.tx, options.dtau, options.branch)
        whole = options.compare or strengths != 1  # to show the source, or to take it up with another strength
        made = avi.edit_prompt(backbone, options.source, options.to, seeds, placement=placement, whole=whole, **drawing)
        learned = attribute.Attribute.of(made, backbone)
        if options.save:
            learned.save(options.save)
        edited = made.edited
        if strengths != 1:
            edited = attribute.apply_to(backbone, made.source, learned, strengths, progress=progress)
        target = made.target
        if options.compare and made.places.t_branch is not None:
            target = trajectory.run(backbone, options.to, seeds, **drawing)
        walks = (made.source, target, edited)
    columns = [backbone.decode(walk.final) for walk in (walks if options.compare else walks[-1:])]
    # a row for each seed
    whole = torch.cat([torch.cat(list(row), dim=-1) for row in zip(*columns, strict=True)], dim=-2)
    files.write_bytes(options.out, encoded(whole, SUFFIXES[options.out.suffix.lower()]))


def encoded(picture: "Tensor", kind: str) -> bytes:
    """A picture, shape (3, height, width) in [0, 1], as the bytes of a PNG or JPEG file."""
    from PIL import Image

    data = io.BytesIO()
    pixels = picture.mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    Image.fromarray(pixels).save(data, format=kind, quality=95)
    return data.getvalue()


def _check(options: argparse.Namespace) -> None:
    """Raise ValueError for options that do not go together, or files that cannot be written."""
    from lsvd.checks import check_text
    from lsvd.storage.files import check_replaceable

    for prompt in filter(None, (options.source, options.to, options.negative)):
        check_text(prompt, "the prompt")
    unused = [name for name in ("tx", "dtau", "branch", "save") if getattr(options, name) is not None]
    if options.attribute and unused:
        raise ValueError(
            f"--{unused[0]} is for learning an attribute, and --attribute takes a learned one: drop either"
        )
    count = len(options.attribute or [options.to])
    if options.strength and len(options.strength) not in (1, count):
        raise ValueError(f"{len(options.strength)} strengths for {count} attributes: give one for all, or each")
    if options.out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"cannot tell the format of {options.out}: end its name in {', '.join(SUFFIXES)}")
    if options.save and options.save.resolve() == options.out.resolve():
        raise ValueError(f"picture and attribute cannot both go to {options.out}: choose another file for one")
    reads = options.attribute or ()
    check_replaceable(options.out, "a picture", lambda data: data.startswith(SIGNATURES), reads, options.force)
    if options.save:
        check_replaceable(options.save, "an attribute", _is_attribute, reads, options.force)


def _is_attribute(data: bytes) -> bool:
    """Whether a file has the header of an attribute, of any version."""
    return b'"lsvd attribute' in data[: 8 + int.from_bytes(data[:8], "little")]


def _check_device(device: str) -> None:
    """Raise ValueError unless torch can compute on the device, which it says in all kinds of errors."""
    import torch

    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"there is no device {device!r} here: leave --device out, or name one as torch does"
        ) from error
