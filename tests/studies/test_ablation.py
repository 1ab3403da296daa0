"""The failures without a loss, on made-up outcomes."""

import numpy as np
import pytest
from outcomes import outcome
from tiny import text_to_image
from torch.testing import assert_close

from lsvd.avi.edit import codes_between
from lsvd.avi.exact import AVIConfig
from lsvd.sampling.trajectory import run
from lsvd.statistics import fidelity
from lsvd.statistics.intervals import Interval, mean
from lsvd.statistics.verdicts import HOLDS, IN_PART, UNDECIDED
from lsvd.studies import ablation, edits
from lsvd.studies.ablation import FULL, LOSSES
from lsvd.studies.merit import change, level
from lsvd.studies.ways import integration

WHOLE, LESS = integration(0.5, 4), integration(0.5, 5)
MEASURED = {
    name: {WHOLE: outcome(0.75, 0.1, 0.0, 0.0), LESS: outcome(0.25, 0.3, 0.05, 1.0)} for name in ("old", "young")
}
REFERENCE = np.random.default_rng(1).normal(size=(200, 4))


def test_changes_are_against_the_full_loss():
    assert level(MEASURED, WHOLE, "has").value == pytest.approx(0.75)
    assert change(MEASURED, LESS, WHOLE, "has").value == pytest.approx(-0.5)
    assert change(MEASURED, LESS, WHOLE, "side").value == pytest.approx(0.2)
    assert change(MEASURED, LESS, WHOLE, "chroma").value == pytest.approx(0.05)
    assert change(MEASURED, WHOLE, WHOLE, "side") == Interval(0, 0, 0)


def test_distances_grow_with_the_shift_of_features():
    full, less = (ablation.distances(MEASURED, way, REFERENCE) for way in (WHOLE, LESS))
    pictures = np.concatenate([each[LESS].features.double().numpy() for each in MEASURED.values()])
    assert less[0] == pytest.approx(fidelity.frechet(pictures, REFERENCE))
    near, far = ablation.distance(full), ablation.distance(less)
    assert near.value < 1 < far.low < far.value < far.high and near.low >= 0
    gap = ablation.farther(less, full)
    assert gap.value == pytest.approx(far.value - near.value) and 0 < gap.low < gap.value < gap.high
    assert ablation.farther(full, full) == Interval(0, 0, 0)


def test_each_loss_has_its_own_failure_and_direction():
    up, down, none = (mean(np.linspace(-1, 1, 16) + shift) for shift in (2, -2, 0))
    assert list(ablation.EXPECTED) == list(LOSSES)
    for loss, (name, sign) in ablation.EXPECTED.items():
        others = dict.fromkeys((*ablation.MEASURES, "frechet"), none)
        for shown, gap in ((sign > 0, up), (sign < 0, down), (False, none)):
            changes = {("both", loss): {**others, name: gap}}
            own = ablation.Result("mini-sd", changes, changes, 9, 0.0)
            assert ablation.bases_with(own, loss) == [shown]


def test_each_loss_is_left_out_once_in_each_basis():
    way = integration(0.5, 2)
    ways = ablation.without(way)
    assert len(ways) == 20 and ways["both, rest kept", FULL] == way
    assert len({repr(each) for each in ways.values()}) == 20
    for (basis, loss), each in ways.items():
        weights = each.config.lambdas
        assert each.config.basis == basis.split(",")[0] and each.config.keep_rest == basis.endswith("kept")
        for name in LOSSES:
            assert getattr(weights, name) == (0 if name == loss else getattr(AVIConfig().lambdas, name))
    assert [ablation.label(loss) for loss in (FULL, LOSSES[0], LOSSES[3])] == ["full loss", "without L1", "without L4"]


# what the paper says happens without each loss: success, side effects, chroma and features
FAILED = {
    "target": (0.25, 0.1, 0.0, 0.0),
    "source": (0.75, 0.3, 0.0, 0.0),
    "target_spectrum": (0.75, 0.1, 0.05, 0.0),
    "source_spectrum": (0.75, 0.1, 0.0, 1.0),
}
FINE = (0.75, 0.1, 0.0, 0.0)


def result(failing: int) -> ablation.Result:
    """The study where failures show in the first bases, `failing` of the four."""
    ways = ablation.without(integration(0.5, 2))
    bases = list(dict.fromkeys(basis for basis, _ in ways))[:failing]
    each = {way: outcome(*(FAILED.get(loss, FINE) if basis in bases else FINE)) for (basis, loss), way in ways.items()}
    return ablation.from_outcomes("mini-sd", {"old": each, "drawing": each}, ways, REFERENCE)


@pytest.mark.parametrize(("failing", "word"), [(4, HOLDS), (1, IN_PART), (3, IN_PART), (0, UNDECIDED)])
def test_a_failure_is_judged_over_the_four_bases(failing, word):
    own = result(failing)
    claims = ablation.verdicts(own)
    assert [(claim.study, claim.verdict) for claim in claims] == [("ablation", word)] * 4
    assert claims[1].claim == "without L2: identity lost" and len(own.bases) == 4
    if failing:
        assert [claim.effect.value for claim in claims[:3]] == pytest.approx([-0.5, 0.2, 0.05])
    assert all(sum(ablation.bases_with(own, loss)) == failing for loss in LOSSES)


def test_photographs_alone_count_for_the_distance():
    own = result(4)
    assert own.pictures == 40  # of one attribute of the two
    assert own.floor == pytest.approx(fidelity.frechet(REFERENCE[:40], REFERENCE[40:]))


def test_rows_have_each_loss_basis_and_measure():
    rows = ablation.rows(result(1))
    assert len(rows) == 20 * 4 and list(rows[0]) == [
        "loss", "basis", "measure", "value", "value_low", "value_high", "change", "change_low", "change_high"
    ]  # fmt: skip
    cells = {(row["loss"], row["basis"], row["measure"]): (row["value"], row["change"]) for row in rows}
    assert cells["full", "both, rest kept", "success"] == ("0.7500", "0.0000")
    assert cells["without source", "both, rest kept", "side effects"] == ("0.3000", "0.2000")
    assert cells["without source", "complement, rest kept", "side effects"] == ("0.1000", "0.0000")


def test_code_changes_are_shares_of_the_way_that_the_full_loss_goes(tmp_path, monkeypatch):
    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    monkeypatch.setattr(ablation, "ATTRIBUTES", {"old": {"age": "old"}})
    model, ways = text_to_image(), ablation.without(integration(0.5, 2))
    source = run(model, "a person", (0, 1))
    changes = ablation.code_changes(model, source, ways)
    assert changes.keys() == ways.keys()
    for basis, loss in ways:
        assert (changes[basis, loss].value == 0) == (loss == FULL)
    full, way = ways["both, rest kept", FULL], ways["both, rest kept", "target"]
    target = edits.target_walk(model, source, "an old person", full)
    x, z = (code.double() for code in codes_between(model, source, target, full.placement.on(source.schedule)))
    gap, whole = way.code(x, z) - full.code(x, z), full.code(x, z) - x
    share = (gap.flatten(1).norm(dim=1) / whole.flatten(1).norm(dim=1)).mean()
    assert_close(changes["both, rest kept", "target"].value, share.item())
