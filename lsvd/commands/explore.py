"""Explore a model's latent space in the browser: draw, move singular values, edit, keep what was found.

Nothing but this machine reaches it: it is served on the loopback address, with a token.
"""

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lsvd.explorer import Explorer


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("--backbone", metavar="NAME", default="mini-sd", help="or a folder of diffusers (mini-sd)")
    add("--device", default="cpu", help="where to compute, as torch names it (cpu)")
    add("--port", type=int, default=0, help="any that is free if left out")
    add("--steps", type=int, help="number of steps of the first picture")
    add("--theme", choices=("light", "dark"), default="light", help="the colours of the page (light)")
    add("--no-browser", action="store_true", help="only say the address")


def run(options: argparse.Namespace) -> None:
    """Serve the explorer until Ctrl-C. Raises ValueError for bad input."""
    from lsvd.checks import check_device
    from lsvd.explorer import app

    check_device(options.device)
    first = {} if options.steps is None else {"steps": options.steps}
    call = f"shown({options.backbone!r}, {options.device!r}, **{first})"
    source = f"from lsvd.commands.explore import shown\n{call}"

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    app.serve(source, port=options.port, theme=options.theme, browser=not options.no_browser, say=say)


def explorer(name: str = "mini-sd", device: str = "cpu", **request: Any) -> "Explorer":
    """The explorer of a backbone, with the reader of its pictures where one knows them. request: what to draw first."""
    from lsvd import backbones
    from lsvd.explorer import Explorer
    from lsvd.testbed import reader
    from lsvd.testbed.evaluate import GENERATORS

    model = backbones.load(name, device)
    known = GENERATORS.get(model.name)
    return Explorer(model, reader.load(known[0], device) if known else None, **request)


def shown(name: str, device: str, **request: Any) -> "Explorer | None":
    """As `explorer`, for the app's page: what is wrong is printed there in one sentence, and None returned."""
    from lsvd.explorer.work import sentence

    try:
        return explorer(name, device, **request)
    except Exception as error:
        sys.stdout.write(f"lsvd: {sentence(error)}\n")
        return None
