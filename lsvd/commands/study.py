"""Measure edits in many ways, stage by stage, and keep them in measurements/edits.

choosing tries all settings on seeds of their own (outputs/tables/sweep.csv); editing measures each method's best within
budgets of side effects, on other seeds; strength one setting at many strengths; ablation that setting without one loss
at a time. All together takes three hours of one core. What was measured is not measured again, and a stopped run
goes on.
"""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from lsvd.studies.stages import STAGES

    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(STAGES)}; all if none is given")
    parser.add_argument("--backbone", default="mini-sd", help="a text-to-image backbone (%(default)s)")
    parser.add_argument("--device", default="cpu", help="where to compute, as torch names it (%(default)s)")


def run(options: argparse.Namespace) -> None:
    """Measure the stages."""
    from lsvd.studies import stages

    stages.run(options.names, options.backbone, options.device)
