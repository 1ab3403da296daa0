"""The cell of plain Python that draws what is on the screen, and the recipe read back from a cell or a picture."""

import io
from collections.abc import Sequence

from PIL import Image, PngImagePlugin

from lsvd.backbones.models import Backbone
from lsvd.explorer import recipe as recipes
from lsvd.explorer.methods import METHODS
from lsvd.explorer.recipe import Recipe, Triplets

MARK = "# explorer: "
"""How the last line of a cell begins; the rest of it is the recipe."""
NOTE, CODE = "lsvd recipe", "lsvd code"  # texts in a PNG file


def cell(recipe: Recipe, backbone: Backbone) -> str:
    """The code of a recipe: run alone, it leaves the picture on the screen in `picture`, (1, 3, height, width)."""
    lines = _source(recipe, backbone)
    if recipe.shown == "edit":
        lines = _joined(lines, METHODS[recipe.edit.method].code(recipe.edit))
    elif not recipe.triplets.idle:
        lines += _scaled(recipe.triplets, recipe.t, backbone.latent_shape[0])
    if "edited" in lines[-1]:
        lines += ["picture = model.decode(edited.final)"]
    elif recipe.request.until is not None and recipe.upload is None:
        lines = _joined(lines, ["from lsvd.sampling import estimates", ""])
        lines += ["picture = model.decode(estimates.clean(model, walk)[-1])"]
    else:
        lines += ["picture = model.decode(walk.final)"]
    return "\n".join([*lines, MARK + recipe.text()]) + "\n"


def _source(recipe: Recipe, backbone: Backbone) -> list[str]:
    request, upload = recipe.request, recipe.upload
    place = backbone.entry.folder if "/" in backbone.entry.folder else backbone.name
    lines = ["import lsvd", "", f"model = lsvd.load({place!r})"]
    if str(backbone.device) != "cpu":
        lines[-1] = f"model = lsvd.load({place!r}, {str(backbone.device)!r})"
    if request.scheduler != type(backbone.scheduler).__name__:
        lines[1:1] = [f"from diffusers import {request.scheduler}"]
        lines.append(f"model = model.with_scheduler({request.scheduler})")
    prompt = [repr(request.prompt)] if backbone.kind == "text-to-image" else []
    options = [f"steps={request.steps}"]
    options += [f"guidance={request.guidance!r}"] if request.guidance is not None else []
    options += [f"negative_prompt={request.negative!r}"] if request.negative else []
    if upload is not None:
        lines[1:1] = ["from PIL import Image"]
        options.append(f"iterations={upload.iterations}")
        lines.append(f"codes = model.encode(Image.open({upload.name!r}))  # the file, wherever it lies")
        lines.append(f"walk = lsvd.invert(model, {', '.join(['codes', *prompt, *options])}).trajectory")
        return lines
    seed = [str(request.seed)] if prompt else [f"seeds={request.seed}"]
    options += [f"until={request.until:g}"] if request.until is not None else []
    return [*lines, f"walk = lsvd.run({', '.join(['model', *prompt, *seed, *options])})"]


def _scaled(triplets: Triplets, t: float, channels: int) -> list[str]:
    """The lines that scale triplets of x_t and go on."""
    lines = [f"t = walk.nearest({t!r})", "parts = lsvd.svd(walk.at(t))"]
    where = "" if triplets.channel is None else f", channels={triplets.channel}"
    for indices, factor in scalings(triplets):
        rows = f"range({indices.start}, parts.rank)" if isinstance(indices, range) else list(indices)
        lines.append(f"parts = parts.scale({rows}, {factor!r}{where})")
    return [*lines, "edited = lsvd.resume(model, walk, t, parts.recompose())"]


def scalings(triplets: Triplets) -> list[tuple[Sequence[int], float]]:
    """The calls of ChannelSVD.scale for a recipe: indices and factor. range(8, 8) stands for the rest."""
    indices_of: dict[float, list[int]] = {}
    for i, factor in enumerate(triplets.factors):
        if factor != 1:
            indices_of.setdefault(factor, []).append(i)
    calls: list[tuple[Sequence[int], float]] = [(indices, factor) for factor, indices in indices_of.items()]
    if triplets.rest != 1:
        calls.append((range(recipes.SLIDERS, recipes.SLIDERS), triplets.rest))
    return calls


def _joined(lines: list[str], more: list[str]) -> list[str]:
    """Two pieces of code as one, all imports at the top."""
    imports = [line for line in more if line.startswith(("import ", "from "))]
    plain = [line for line in imports if line.startswith("import ")]
    end = lines.index("")
    head = [*sorted({*lines[:end], *imports} - {"import lsvd", *plain}), "import lsvd", *plain]
    body = [line for line in more if line and line not in imports]
    return [*sorted(head, key=_order), "", *lines[end + 1 :], *body]


def _order(line: str) -> tuple[bool, bool, str]:
    """The order of isort: other packages before this one, plain imports before the others."""
    package = line.split()[1]
    return package.split(".")[0] == "lsvd", line.startswith("from "), package


def png(image: Image.Image, recipe: Recipe, backbone: Backbone) -> bytes:
    """A picture as a PNG file that notes its recipe and its code."""
    notes = PngImagePlugin.PngInfo()
    notes.add_itxt(NOTE, recipe.text())
    notes.add_itxt(CODE, cell(recipe, backbone))
    image.save(data := io.BytesIO(), format="png", pnginfo=notes)
    return data.getvalue()


def restored(source: str | bytes, backbone: Backbone) -> tuple[Recipe, bool]:
    """The recipe of a cell, or of a PNG file, and whether the cell is unchanged.

    Raises ValueError, in one sentence, if there is none, or if it is for another model.
    """
    if isinstance(source, bytes):
        if not source.startswith(b"\x89PNG"):
            try:
                source = source.decode()
            except UnicodeDecodeError as error:
                raise ValueError(
                    "this file is neither a PNG picture nor a cell: open one that was saved here"
                ) from error
        else:
            try:
                with Image.open(io.BytesIO(source)) as image:
                    image.load()
                    note = image.info.get(NOTE)
            except (OSError, ValueError, SyntaxError) as error:
                raise ValueError("this PNG file is damaged: open another copy") from error
            if not isinstance(note, str):
                raise ValueError("this picture notes no recipe: open one that was saved here, or upload it as your own")
            return recipes.read(note, backbone), True
    marked = [line.strip() for line in source.splitlines() if line.strip().startswith(MARK)]
    if not marked:
        raise ValueError(f"there is no line that begins with {MARK.strip()!r}: paste the whole cell")
    recipe = recipes.read(marked[-1].removeprefix(MARK), backbone)
    return recipe, " ".join(source.split()) == " ".join(cell(recipe, backbone).split())
