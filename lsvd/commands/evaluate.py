"""Measure readers and generators, and keep it in outputs/tables: reader.csv and backbones.csv, and sheets of samples.

Samples are kept in the cache: a stopped run goes on, and several processes of this command share the work.
"""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from lsvd.testbed.evaluate import FEWEST, KNOWN

    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(KNOWN)}; all if none is given")
    parser.add_argument(
        "--samples", type=int, default=2000, help=f"pictures drawn by each generator, at least {FEWEST} (%(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="where to compute, as torch names it (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Measure; 1 if, with no names given, the weights of some are missing."""
    from lsvd.backbones.devices import of_process
    from lsvd.testbed import evaluate

    return 1 if evaluate.measure(options.names, options.samples, of_process(options.device)) else 0
