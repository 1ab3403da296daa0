"""Print measured numbers of outputs/tables as Markdown tables, between the marks that name them."""

import argparse
import sys


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from lsvd.studies.tables import NAMES

    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all if none is given")


def run(options: argparse.Namespace) -> None:
    """Print the tables; nothing if one of them cannot be had."""
    from lsvd.studies.tables import NAMES, text

    texts = [f"<!-- {name} -->\n\n{text(name)}\n\n<!-- /{name} -->\n" for name in options.names or NAMES]
    sys.stdout.write("\n".join(texts))
