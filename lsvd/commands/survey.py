"""Measure how pictures respond when bands of their singular values are scaled, and keep it in measurements/responses.

64 seeds of all four models take some 40 minutes on two cores. What was measured is not measured again, and a stopped
run goes on. Several processes of this command share the work.
"""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from lsvd.studies.survey import SAMPLES
    from lsvd.testbed.evaluate import GENERATORS

    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(GENERATORS)}; all if none is given")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="number of seeds, at least 2 (%(default)s)")
    parser.add_argument("--device", default="cpu", help="where to compute, as torch names it (%(default)s)")


def run(options: argparse.Namespace) -> None:
    """Survey the models."""
    from lsvd.backbones.devices import of_process
    from lsvd.studies import survey

    survey.survey_models(options.names, options.samples, of_process(options.device))
