"""The study of inverted pictures: made-up results, and a tiny model from end to end."""

import warnings

import pytest
import torch
from tiny import text_to_image
from torch.testing import assert_close

from lsvd.statistics.intervals import Interval
from lsvd.statistics.verdicts import HOLDS, NOT, UNDECIDED
from lsvd.studies import inversion
from lsvd.studies.inversion import ITERATED, LIMIT, AttributeEdit, Result
from lsvd.testbed import reader as readers
from lsvd.testbed.effects import tally

N = 12


def edit(hits: int, lacking: int = 10) -> AttributeEdit:
    had = torch.arange(N) >= lacking
    effects = tally(had, had | (torch.arange(N) < hits), torch.full((N,), 0.02))
    return AttributeEdit(torch.zeros(N, 3, 8, 8), effects, tally(had, had, torch.full((N,), 0.01)))


def result(errors: list[float], **edits: AttributeEdit) -> Result:
    """A study whose DDIM is off by errors in each picture, from a limit that is off by 0.1 everywhere."""
    pictures = torch.full((N, 3, 8, 8), 0.5)
    back = {LIMIT: pictures + 0.1, "DDIM": pictures + 0.1 + torch.tensor(errors).view(N, 1, 1, 1)}
    return Result("mini-sd", pictures, back, dict.fromkeys(back, Interval(0.02, 0.01, 0.03)), edits)


@pytest.mark.parametrize(
    ("errors", "word"),
    [
        ([1e-3 + i * 1e-5 for i in range(N)], HOLDS),
        ([0.0] * N, HOLDS),
        ([0.1, 0.1, 0.1, 0.1] + [1e-3] * (N - 4), UNDECIDED),
        ([0.1 + 0.01 * i for i in range(N)], NOT),
    ],
)
def test_a_way_leads_back_if_pictures_are_near_the_limit(errors, word):
    (claim,) = inversion.verdicts(result(errors))
    assert (claim.study, claim.claim, claim.verdict) == ("inversion", "leads back to the picture: DDIM", word)
    assert claim.null == inversion.NEAR and claim.effect.low <= claim.effect.value <= claim.effect.high


@pytest.mark.parametrize(("hits", "word"), [(10, HOLDS), (5, UNDECIDED), (8, UNDECIDED), (1, NOT), (0, NOT)])
def test_an_edit_brings_the_attribute_into_the_pictures_that_lack_it(hits, word):
    claim = inversion.verdicts(result([0.0] * N, old=edit(hits)))[-1]
    assert (claim.claim, claim.verdict) == ("an edit mostly brings in: old", word)
    assert claim.effect.value == pytest.approx(hits / 10) and claim.null == 0.5


def test_an_attribute_that_no_picture_lacks_is_not_judged():
    own = result([0.0] * N, old=edit(0, lacking=0))
    assert [claim.claim for claim in inversion.verdicts(own)] == ["leads back to the picture: DDIM"]
    (row,) = inversion.edit_rows(own)
    assert (row["lacking"], row["success"], row["side_effects"], row["null"]) == (0, "", "0.0200", "0.0100")


def test_rows_give_the_distance_from_the_picture():
    limit, ddim = inversion.rows(result([0.0] * (N // 4) + [0.1] * (N - N // 4)))
    assert (limit["way"], limit["psnr"], limit["least"]) == (LIMIT, "20.0000", "20.0000")
    assert ddim["least"] == "13.9794" and float(ddim["psnr"]) == pytest.approx((20 + 3 * 13.9794) / 4, abs=1e-3)
    assert (ddim["factors_moved"], ddim["factors_moved_low"]) == ("0.0200", "0.0100")


def test_the_study_of_a_tiny_model():
    model, reader = text_to_image(), readers.load("portraits")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*do not lead back", UserWarning)
        own = inversion.measure(model, reader, 2, attributes=("old",))
    assert list(own.back) == list(own.moved) == [LIMIT, "DDIM", "DPM-Solver", ITERATED] and list(own.edits) == ["old"]
    assert {drawn.shape for drawn in own.back.values()} == {own.pictures.shape, own.edits["old"].pictures.shape}
    assert_close(own.back[LIMIT], model.decode(model.encode(own.pictures)))
    assert (own.from_limit(ITERATED) >= own.from_limit("DDIM")).all()
    assert own.edits["old"].null.side.value >= 0 and len(inversion.rows(own)) == 4
    with pytest.raises(KeyError, match="wings"):
        inversion.measure(model, reader, 2, attributes=("wings",))
