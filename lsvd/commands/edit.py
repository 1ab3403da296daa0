"""Draw a picture of a prompt, edited by Attribute Vector Integration at one timestep, or by low-rank guidance.

Defaults of the edit and of drawing are the backbone's, or those that a saved attribute was learned with.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from lsvd.backbones.models import Backbone
    from lsvd.sampling.trajectory import Trajectory

LONGEST = 65500  # pixels of a side that a JPEG file can have
SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
AVI, GUIDED = ("tx", "dtau", "branch"), ("rank", "start", "end")  # options of one method alone
SIGNATURES = (b"\x89PNG\r\n", b"\xff\xd8\xff")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("source", metavar="PROMPT", help="what to draw, such as 'a person'")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument(
        "--to",
        metavar="PROMPT",
        action="append",
        help="edit it towards this prompt; with low-rank guidance may be given again, for several at once",
    )
    way.add_argument(
        "--attribute",
        metavar="FILE",
        type=Path,
        action="append",
        help="edit it by an attribute that --save has kept; may be given again, for several at once",
    )
    add("--method", choices=("avi", "low-rank"), help="how --to edits (avi)")
    add("--seed", type=int, action="append", help="which picture (0); may be given again, for several")
    add(
        "--strength",
        type=float,
        action="append",
        help="0 for the source, 1 as learned, beyond to exaggerate, below 0 away from it (1); with several attributes "
        "or prompts, one for all or each",
    )
    add("--out", metavar="FILE", type=Path, default=Path("edit.png"), help="PNG or JPEG (edit.png)")
    add("--compare", action="store_true", help="source, picture of --to if given, and edit, in a row")
    add("--save", metavar="FILE", type=Path, help="keep the edit for --attribute (safetensors; JSON if low-rank)")
    add("--force", action="store_true", help="let --out and --save replace any file, even one that is read")
    add("--backbone", metavar="NAME", default="mini-sd", help="or a folder of diffusers (mini-sd)")
    add("--tx", type=float, help="timestep of the edit, as a fraction of T, from 0 to 1")
    add("--dtau", type=int, help="sampler steps from there to the target's code; positive is noisier")
    add(
        "--branch", type=float, help="fraction of T from which on the target's trajectory has its prompt; 1: throughout"
    )
    add("--rank", type=int, help="low-rank guidance: number of singular triplets of the difference that are added (1)")
    add("--start", type=float, help="low-rank guidance: where its window begins, as a fraction of T (0.6)")
    add("--end", type=float, help="low-rank guidance: where its window ends (0.3)")
    add("--negative", metavar="PROMPT", help="what not to draw: the negative prompt of source and target")
    add("--steps", type=int, help="number of steps of the sampler")
    add("--guidance", type=float, help="strength of the prompts (classifier-free guidance scale)")
    add("--device", default="cpu", help="where to compute, as torch names it (cpu)")
    add("--max-memory", metavar="GB", type=float, help="what drawing may take; many seeds are drawn in parts (8)")


def run(options: argparse.Namespace) -> None:
    """Draw the source prompt's pictures, edited, and write them. Raises ValueError or OSError for bad input."""
    _check(options)

    from lsvd import avi, backbones
    from lsvd.avi import attribute
    from lsvd.avi.placement import Placement
    from lsvd.checks import check_device
    from lsvd.commands.guided import direction_of, guided
    from lsvd.sampling import trajectory
    from lsvd.storage import files

    for path in filter(None, (options.out, options.save)):
        files.check_writable(path)
    direction = direction_of(options)
    saved = [attribute.load(path) for path in options.attribute or ()] if direction is None else []
    check_device(options.device)
    backbone = backbones.load(options.backbone, options.device)
    seeds, strengths = options.seed or [0], options.strength or [1.0]
    strengths = strengths if len(strengths) > 1 else strengths[0]
    size = (len(seeds) * backbone.size[0], (3 if options.compare else 1) * backbone.size[1])
    if SUFFIXES[options.out.suffix.lower()] == "JPEG" and max(size) > LONGEST:
        raise ValueError(f"a JPEG file has sides of at most {LONGEST} pixels, not {size}: write a PNG, or fewer seeds")
    shared = {"progress": sys.stderr.isatty()}
    if options.max_memory is not None:
        shared["max_memory"] = options.max_memory
    drawing = {"steps": options.steps, "guidance": options.guidance, **shared}
    drawing |= {"negative_prompt": options.negative} if options.negative is not None else {}
    if direction is not None:
        walks = guided(backbone, options.source, direction, seeds, options.compare, **drawing)
        if options.save:
            direction.save(options.save)
    elif saved:
        walks = attribute.apply(backbone, saved, options.source, seeds, strengths, **drawing)
    else:
        placement = Placement(options.tx, options.dtau, options.branch)
        whole = options.compare or strengths != 1  # to show the source, or to take it up with another strength
        to = options.to[0]
        result = avi.edit_prompt(backbone, options.source, to, seeds=seeds, placement=placement, whole=whole, **drawing)
        learned = attribute.Attribute.of(result, backbone)
        if options.save:
            learned.save(options.save)
        edited = result.edited
        if strengths != 1:
            edited = attribute.apply_to(backbone, result.source, learned, strengths, **shared)
        target = result.target
        if options.compare and result.places.t_branch is not None:
            target = trajectory.run(backbone, to, seeds, **drawing)
        walks = (result.source, target, edited)
    pixels = sheet(backbone, walks if options.compare else walks[-1:])
    files.write_bytes(options.out, encoded(pixels, SUFFIXES[options.out.suffix.lower()]))


def sheet(backbone: "Backbone", walks: "Sequence[Trajectory]") -> "Tensor":
    """The pictures of trajectories, a column each, with a row for each seed: shape (height, width, 3), bytes."""
    import torch

    (height, width), rows = backbone.size, len(walks[0].settings.seeds)
    pixels = torch.empty(rows, height, len(walks), width, 3, dtype=torch.uint8, device="cpu")
    for column, walk in enumerate(walks):
        row = 0
        for codes in walk.final.split(16):  # as bytes at once, a fourth of what is decoded
            pictures = backbone.decode(codes).mul(255).round().byte()
            pixels[row : row + len(codes), :, column] = pictures.permute(0, 2, 3, 1).cpu()
            row += len(codes)
    return pixels.view(rows * height, len(walks) * width, 3)


def encoded(pixels: "Tensor", kind: str) -> bytes:
    """A picture, shape (height, width, 3), bytes, as those of a PNG or JPEG file."""
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(data, format=kind, quality=95)
    return data.getvalue()


def _check(options: argparse.Namespace) -> None:
    """Raise ValueError for options that do not go together, or files that cannot be written."""
    from lsvd.checks import check_text
    from lsvd.storage.files import check_replaceable

    for prompt in filter(None, (options.source, *(options.to or ()), options.negative)):
        check_text(prompt, "the prompt")
    given = [name for name in (*AVI, *GUIDED, "method", "save") if getattr(options, name) is not None]
    if options.attribute and given:
        raise ValueError(f"--{given[0]} is for learning an attribute, and --attribute takes a learned one: drop either")
    others = AVI if options.method == "low-rank" else GUIDED
    if set(others) & set(given):
        name = next(each for each in given if each in others)
        raise ValueError(f"--{name} is not for --method {options.method or 'avi'}: drop it, or take the other method")
    if options.method != "low-rank" and len(options.to or ()) > 1:
        raise ValueError("several --to at once are for --method low-rank: give one prompt")
    count = len(options.attribute or options.to)
    if options.strength and len(options.strength) not in (1, count):
        raise ValueError(f"{len(options.strength)} strengths for {count} attributes: give one for all, or each")
    if options.out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"cannot tell the format of {options.out}: end its name in {', '.join(SUFFIXES)}")
    if options.save and options.save.resolve() == options.out.resolve():
        raise ValueError(f"picture and attribute cannot both go to {options.out}: choose another file for one")
    reads = options.attribute or ()
    check_replaceable(options.out, "a picture", lambda data: data.startswith(SIGNATURES), reads, options.force)
    if options.save:
        check_replaceable(options.save, "an attribute", _is_kept, reads, options.force)


def _is_kept(data: bytes) -> bool:
    """Whether a file has the header of what --save writes, of any version."""
    from lsvd.guidance.direction import is_direction

    return is_direction(data) or b'"lsvd attribute' in data[: 8 + int.from_bytes(data[:8], "little")]
