"""Measure edits in many ways, study by study, and keep them in measurements/edits; or try the statistics.

editing tries all settings on seeds of their own (outputs/tables/sweep.csv), then measures each method's best within
budgets of side effects on other seeds; strength measures one setting at many strengths; ablation one setting without
one loss at a time. All together takes three hours of one core. What was measured is not measured again, and a stopped
run goes on. Several processes of the same command, on one machine or on machines that share its folder, share the work.

By name only: comparison holds low-rank guidance and AVI against other editors (measurements/comparison,
outputs/tables/comparison.csv), for any text-to-image backbone: without a reader by CLIP score, FID and LPIPS alone.
predictions measures what notebook 09 reads, of all embedded models (measurements/predictions).
coverage simulates how often intervals cover the truth (outputs/tables/coverage.csv), and exchanges how often verdicts
hold where labels were exchanged, so that nothing is true (outputs/tables/exchanges.csv).
"""

import argparse
import logging
from importlib import import_module

STUDIES = ("editing", "strength", "ablation")  # that are measured if none is named
COMPARISON = "comparison"
OTHERS = (COMPARISON, "predictions", "coverage", "exchanges")
log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    listed = ", ".join((*STUDIES, *OTHERS))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {listed}; the first three if none is given")
    parser.add_argument("--backbone", default="mini-sd", help="a text-to-image backbone (%(default)s)")
    add = parser.add_argument_group("comparison").add_argument
    add("--clip", metavar="FOLDER", help="a CLIP model to score with (mini-clip, which knows the portraits only)")
    add("--attribute", metavar="NAME", action="append", help="an attribute, again for several (the paper's four)")
    add("--method", metavar="NAME", action="append", help="a method, again for several (all)")
    add("--choosing", metavar="N", type=int, help="seeds that settings are chosen on (8)")
    add("--seeds", metavar="N", type=int, help="seeds that are reported (16)")
    add("--settings", metavar="N", type=int, default=3, help="settings that each method tries, 0 for all (%(default)s)")
    parser.add_argument("--device", default="cpu", help="where to compute, as torch names it (%(default)s)")


def run(options: argparse.Namespace) -> None:
    """Measure the studies."""
    from lsvd.backbones.devices import of_process
    from lsvd.checks import known
    from lsvd.studies.rig import load_rig

    names = [known(name, (*STUDIES, *OTHERS), "study") for name in options.names] or STUDIES
    options.device = of_process(options.device)
    try:
        rig = load_rig(options.backbone, options.device) if {*names} - {COMPARISON, "coverage"} else None
        for name in names:
            if name == COMPARISON:
                _compare(options)
            else:
                import_module(f"lsvd.studies.{name}").run(*([] if name == "coverage" else [rig]))
    except (ValueError, OSError) as error:
        error.add_note(options.backbone)
        raise
    log.info("%s: %s", options.backbone, ", ".join(names))


def _compare(options: argparse.Namespace) -> None:
    """Measure the comparison of editors."""
    from dataclasses import replace

    from lsvd.checks import whole
    from lsvd.studies import comparison
    from lsvd.studies.editors.measuring import load_bench

    given = {"attributes": options.attribute, "methods": options.method}
    given = {name: tuple(values) for name, values in given.items() if values}
    given |= {"tuned": None} if options.attribute else {}
    given |= {"settings": whole(options.settings, "the number of settings", 0) or None}
    plan = replace(comparison.SMALL, **given).of_seeds(options.choosing, options.seeds)
    comparison.run(load_bench(options.backbone, options.device, options.clip), plan)
