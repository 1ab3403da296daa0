"""One picture from a shell: python -m lsvd edit "a person" --to "an old person" --seed 7 --out x.png."""

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# What takes long to import is imported by the commands, so that --help does not wait for it.

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def edit(options: argparse.Namespace) -> None:
    """Draw the source prompt's pictures, edited, and write them. Raises ValueError or OSError for bad input."""
    _check_edit(options)

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
    if saved:
        walks = attribute.apply(backbone, saved, options.source, seeds, strengths, **drawing)
    else:
        placement = Placement(options.tx, options.dtau, options.branch)
        whole = options.compare or strengths != 1  # to show the source, or to take it up with another strength
        made = avi.edit_prompt(backbone, options.source, options.to, seeds, placement=placement, whole=whole, **drawing)
        learned = attribute.Attribute.of(made)
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


def _check_edit(options: argparse.Namespace) -> None:
    """Raise ValueError for options that do not go together, or files that cannot be written."""
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
    for path in filter(None, (options.out, options.save)):
        if path.is_dir():
            raise ValueError(f"{path} is a folder: name a file in it")


def _check_device(device: str) -> None:
    """Raise ValueError unless torch can compute on the device, which it says in all kinds of errors."""
    import torch

    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"there is no device {device!r} here: leave --device out, or name one as torch does"
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lsvd", description="Attribute edits of diffusion models' pictures."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    command = commands.add_parser(
        "edit",
        help="edit the picture of a prompt",
        description="Draw a picture of a prompt, edited at one timestep by Attribute Vector Integration. Defaults of "
        "the edit and of drawing are the backbone's, or those that a saved attribute was learned with.",
    )
    command.set_defaults(run=edit)
    command.add_argument("source", metavar="PROMPT", help="what to draw, such as 'a person'")
    way = command.add_mutually_exclusive_group(required=True)
    way.add_argument("--to", metavar="PROMPT", help="edit it towards this prompt")
    way.add_argument(
        "--attribute",
        metavar="FILE",
        type=Path,
        action="append",
        help="edit it by an attribute that --save has kept; may be given again, for several at once",
    )
    command.add_argument("--seed", type=int, action="append", help="which picture (0); may be given again, for several")
    command.add_argument(
        "--strength",
        type=float,
        action="append",
        help="0 for the source, 1 as learned, beyond to exaggerate (1); with several attributes, one for all or each",
    )
    command.add_argument("--out", metavar="FILE", type=Path, default=Path("edit.png"), help="PNG or JPEG (edit.png)")
    command.add_argument("--compare", action="store_true", help="source, picture of --to if given, and edit, in a row")
    command.add_argument(
        "--save", metavar="FILE", type=Path, help="keep what was learned for --attribute, as a safetensors file"
    )
    command.add_argument("--backbone", metavar="NAME", default="mini-sd", help="or a folder of diffusers (mini-sd)")
    command.add_argument("--tx", type=float, help="timestep of the edit, as a fraction of T")
    command.add_argument("--dtau", type=int, help="steps from there to the target's code; positive is noisier")
    command.add_argument(
        "--branch", type=float, help="fraction of T from which on the target's trajectory has its prompt; 1: throughout"
    )
    command.add_argument("--steps", type=int, help="of the sampler")
    command.add_argument("--guidance", type=float, help="strength of the prompts")
    command.add_argument("--device", default="cpu", help="where to compute, as torch names it (cpu)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0, or 1 after one sentence on stderr; argparse ends with 2."""
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _remark
            options.run(options)
    except (ValueError, OSError, MemoryError) as error:
        return _complain("; ".join(str(error).splitlines()) or "there is not enough memory: take fewer seeds")
    except RuntimeError as error:
        from lsvd.checks import out_of_memory

        if not out_of_memory(error):
            raise
        return _complain("there is not enough memory: take fewer seeds, or another device")
    except KeyboardInterrupt:
        return _complain("stopped", 130)
    return 0


def _complain(message: str, status: int = 1) -> int:
    sys.stderr.write(f"lsvd: {message}\n")
    return status


def _remark(message, category, *rest) -> None:
    """What to show of a warning: those for the user without the place in the code."""
    if issubclass(category, UserWarning):
        sys.stderr.write(f"lsvd: {message}\n")


if __name__ == "__main__":
    raise SystemExit(main())
