"""Measure edits in many ways, study by study, and keep them in measurements/edits; or try the statistics.

editing tries all settings on seeds of their own (outputs/tables/sweep.csv), then measures each method's best within
budgets of side effects on other seeds; strength measures one setting at many strengths; ablation one setting without
one loss at a time. All together takes three hours of one core. What was measured is not measured again, and a stopped
run goes on.

By name only: coverage simulates how often intervals cover the truth (outputs/tables/coverage.csv), and exchanges how
often verdicts hold where labels were exchanged, so that nothing is true (outputs/tables/exchanges.csv).
"""

import argparse
import logging
from importlib import import_module

STUDIES = ("editing", "strength", "ablation")
SIMULATIONS = ("coverage", "exchanges")
log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join((*STUDIES, *SIMULATIONS))}; the first three if none is given",
    )
    parser.add_argument("--backbone", default="mini-sd", help="a text-to-image backbone (%(default)s)")
    parser.add_argument("--device", default="cpu", help="where to compute, as torch names it (%(default)s)")


def run(options: argparse.Namespace) -> None:
    """Measure the studies."""
    from lsvd.checks import known
    from lsvd.studies.rig import load_rig

    names = [known(name, (*STUDIES, *SIMULATIONS), "study") for name in options.names] or STUDIES
    try:
        rig = load_rig(options.backbone, options.device) if {*names} - {"coverage"} else None
        for name in names:
            import_module(f"lsvd.studies.{name}").run(*([] if name == "coverage" else [rig]))
    except (ValueError, OSError) as error:
        error.add_note(options.backbone)
        raise
    log.info("%s: %s", options.backbone, ", ".join(names))
