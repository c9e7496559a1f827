"""The gate on known cases: what passes, what is refused, and what the data cannot tell."""

import json

import numpy as np
import pytest

from backtalk.gate import Answers, Evidence, forecast_images, judge
from backtalk.intervals import tango_lower, tango_upper
from backtalk.states import Verdict
from tests.judging import GOOD, LABELS, NONE, POLICY, judge_on, make_answers, row


# --- non-inferiority -------------------------------------------------------------------------------
def test_a_better_candidate_passes():
    judgement = judge_on(make_answers(fixed=40, broken=15, right=430, wrong=15))
    assert judgement.verdict is Verdict.PASSED
    assert judgement.reason.startswith("Passed, no veto struck. +5.0 points against the champion")
    accuracy = row(judgement, "accuracy-champion")
    assert (accuracy.n, accuracy.fixed, accuracy.broken, accuracy.passed) == (500, 40, 15, True)
    assert accuracy.value == pytest.approx(0.05)
    assert 0 < accuracy.bound < 0.05 < accuracy.detail["upper"]
    assert accuracy.detail["reference_accuracy"]["share"] == pytest.approx(0.89)


def test_a_frozen_candidate_gets_no_free_pass():
    assert judge_on(make_answers(right=70, wrong=10)).verdict is Verdict.INCONCLUSIVE
    assert judge_on(make_answers(right=71, wrong=10)).verdict is Verdict.PASSED


def test_a_holdout_without_images_never_passes():
    judgement = judge_on(NONE)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.reason == "Cannot tell: the holdout has no images. Answer audits, so that it fills."
    assert not judgement.better_than_anchor
    assert {check.passed for check in judgement.checks} == {None}
    assert row(judgement, "accuracy-champion").detail["more_images"] == 81


def test_a_handful_of_images_never_passes_however_good():
    assert judge_on(make_answers(right=5)).verdict is Verdict.INCONCLUSIVE
    assert judge_on(make_answers(right=20, fixed=1)).verdict is Verdict.INCONCLUSIVE


def test_more_broken_than_fixed_does_not_pass_even_within_the_margin():
    judgement = judge_on(make_answers(fixed=20, broken=21, right=1900, wrong=59))
    assert row(judgement, "accuracy-champion").passed is True
    assert row(judgement, "fixed-broken").passed is False
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "20 fixed, 21 broken: more broken than fixed." in judgement.reason
    assert "hardly decide" in judgement.reason


def test_a_run_that_aims_to_be_equal_may_break_more_than_it_fixes():
    holdout = make_answers(fixed=20, broken=30, right=1900, wrong=50)
    assert judge_on(holdout).verdict is not Verdict.PASSED
    judgement = judge_on(holdout, aim="equal")
    assert judgement.verdict is Verdict.PASSED
    assert row(judgement, "fixed-broken").detail["outcome"] == "shown"


def test_a_run_that_aims_to_be_equal_is_refused_beyond_the_margin():
    assert judge_on(make_answers(fixed=5, broken=60, right=900), aim="equal").verdict is Verdict.REJECTED


def test_a_surely_worse_candidate_is_rejected():
    judgement = judge_on(make_answers(fixed=5, broken=25, right=450, wrong=20))
    assert judgement.verdict is Verdict.REJECTED
    assert "surely worse" in judgement.reason
    assert row(judgement, "accuracy-champion").passed is False


def test_surely_worse_but_within_the_margin_is_rejected_too():
    judgement = judge_on(make_answers(fixed=0, broken=8, right=1900, wrong=92))
    assert row(judgement, "accuracy-champion").bound > -POLICY.margin
    assert judgement.verdict is Verdict.REJECTED


def test_the_order_of_the_images_changes_nothing():
    answers = make_answers(fixed=30, broken=22, right=400, wrong=40)
    order = np.random.default_rng(3).permutation(len(answers))
    shuffled = Answers(
        tuple(answers.image_ids[i] for i in order),
        answers.truth[order],
        answers.champion[order],
        answers.candidate[order],
    )
    one, other = judge_on(answers), judge_on(shuffled)
    for a, b in zip(one.checks, other.checks, strict=True):
        assert (a.check, a.n, a.fixed, a.broken, a.passed) == (b.check, b.n, b.fixed, b.broken, b.passed)
        assert a.value == pytest.approx(b.value)
        assert a.bound == pytest.approx(b.bound)
    assert one.verdict is other.verdict


# --- the anchor ------------------------------------------------------------------------------------
def test_small_losses_do_not_add_up_since_the_anchor_is_asked_too():
    # Nothing changes against the champion, but the anchor reads thirty images right that both read wrong.
    holdout = make_answers(right=900, wrong=100, anchor_right=np.repeat([True, True, False], [900, 30, 70]))
    judgement = judge_on(holdout)
    assert row(judgement, "accuracy-champion").passed is True
    assert row(judgement, "accuracy-anchor").passed is False
    assert judgement.verdict is Verdict.REJECTED
    assert "against the anchor" in judgement.reason


def test_doubt_about_the_anchor_is_inconclusive():
    holdout = make_answers(right=900, wrong=100, anchor_right=np.repeat([True, True, False], [900, 15, 85]))
    judgement = judge_on(holdout)
    assert row(judgement, "accuracy-anchor").passed is None
    assert judgement.verdict is Verdict.INCONCLUSIVE


def test_a_candidate_surely_better_than_the_anchor_becomes_the_next_anchor():
    assert judge_on(make_answers(fixed=40, broken=15, right=430)).better_than_anchor
    assert not judge_on(make_answers(fixed=16, broken=15, right=1430)).better_than_anchor
    better_than_champion_alone = make_answers(
        fixed=40, broken=0, right=400, wrong=60, anchor_right=np.repeat([True, False], [440, 60])
    )
    assert not judge_on(better_than_champion_alone).better_than_anchor


def test_where_the_champion_is_the_anchor_its_row_says_so():
    judgement = judge_on(make_answers(right=100))
    assert row(judgement, "accuracy-anchor").detail["reference_is_champion"] is True
    another = judge_on(make_answers(right=100, anchor_right=np.arange(100) > 0))
    assert row(another, "accuracy-anchor").detail["reference_is_champion"] is False


def test_a_reason_does_not_say_the_same_twice_where_the_champion_is_the_anchor():
    right = np.repeat([False, True, True, False], [5, 25, 450, 20])
    for anchor_right in (None, right):
        holdout = make_answers(fixed=5, broken=25, right=450, wrong=20, anchor_right=anchor_right)
        assert judge_on(holdout).reason.count("surely worse") == 1


# --- wear ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("served_before", "new_share", "asks"), [(20, 0.0, False), (21, 0.33, True), (21, 0.34, False)]
)
def test_a_worn_holdout_asks_for_audits_and_judges_nothing(served_before, new_share, asks):
    judgement = judge_on(GOOD, served_before=served_before, new_share=new_share)
    check = row(judgement, "holdout-wear")
    assert (check.value, check.passed, check.detail["asks_for_audits"]) == (served_before, None, asks)
    assert judgement.verdict is Verdict.PASSED
    assert row(judgement, "accuracy-champion").detail["served_before"] == served_before


# --- how many more images --------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(30))
def test_so_many_more_images_answered_alike_decide_and_one_less_does_not(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(50, 300))
    b, c = (int(x) for x in rng.integers(0, n // 4, size=2))
    if b == c:
        b += 1
    found = forecast_images("champion", (b, c, n), POLICY)
    assert found is not None
    for total, decided in ((found.total, True), (found.total - 1, False)):
        counts = b * total / n, c * total / n, total
        assert _decides(counts, found.towards) is decided


def _decides(counts: tuple[float, float, float], towards: Verdict) -> bool:
    if towards is Verdict.PASSED:
        return bool(tango_lower(*counts, POLICY.confidence) > -POLICY.margin)
    return bool(tango_upper(*counts, POLICY.confidence) < 0)


def test_an_inconclusive_verdict_says_how_many_more_images_it_would_take():
    judgement = judge_on(make_answers(fixed=12, broken=10, right=150, wrong=28))
    check = row(judgement, "accuracy-champion")
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert f"About {check.detail['more_images']} more holdout images would decide" in judgement.reason
    assert check.detail["more_images_towards"] == "passed"
    more = check.detail["more_images"]
    scale = (200 + more) / 200
    enough = make_answers(
        fixed=round(12 * scale), broken=round(10 * scale), right=round(150 * scale), wrong=round(28 * scale)
    )
    assert judge_on(enough).verdict is Verdict.PASSED


# --- bad evidence ----------------------------------------------------------------------------------
def test_scores_that_are_not_numbers_are_rejected():
    answers = make_answers(fixed=40, right=400)
    answers.candidate[3, 1] = np.nan
    judgement = judge_on(answers)
    assert judgement.verdict is Verdict.REJECTED
    assert "not numbers" in judgement.reason


def test_evidence_that_does_not_fit_together_is_an_error():
    good = make_answers(right=4)
    with pytest.raises(ValueError, match="one row of scores"):
        Answers(good.image_ids, good.truth[:3], good.champion, good.candidate)
    with pytest.raises(ValueError, match="one row of scores"):
        Answers(good.image_ids, good.truth, good.champion, good.candidate[:, :2])
    with pytest.raises(ValueError, match="champion is not a finite number"):
        Answers(good.image_ids, good.truth, good.champion * np.inf, good.candidate)
    with pytest.raises(ValueError, match="one column for each label"):
        judge(Evidence(("cat", "dog"), good, NONE, NONE), POLICY)
    unknown = Answers(good.image_ids, good.truth + 2, good.champion, good.candidate)
    with pytest.raises(ValueError, match="out of range"):
        judge(Evidence(LABELS, unknown, NONE, NONE), POLICY)


# --- rows ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("holdout", [NONE, make_answers(right=1), make_answers(right=19, broken=1), GOOD])
def test_every_row_can_be_stored_and_has_a_sentence(holdout):
    judgement = judge_on(holdout, kept=make_answers(right=1))
    assert len({check.check for check in judgement.checks}) == len(judgement.checks) == 10
    for check in judgement.checks:
        json.dumps([check.value, check.bound, check.n, check.fixed, check.broken], allow_nan=False)
        json.dumps(check.detail, allow_nan=False)
        assert check.detail["sentence"].endswith(".")
        assert check.detail["outcome"] in {"passed", "failed", "undecided", "too-few", "shown"}
        assert (check.passed is None) == (check.detail["outcome"] in {"undecided", "too-few", "shown"})


def test_a_row_keeps_two_hundred_ids_and_the_whole_count():
    check = row(judge_on(make_answers(fixed=300, broken=250, right=400)), "accuracy-champion")
    assert (check.fixed, check.broken) == (300, 250)
    assert len(check.detail["fixed_images"]) == len(check.detail["broken_images"]) == 200
