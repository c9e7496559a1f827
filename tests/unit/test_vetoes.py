"""The vetoes strike where the data prove harm, and there alone; they never speak for a candidate."""

from dataclasses import replace

import numpy as np
import pytest

from backtalk.answers import Past
from backtalk.calibration import measure_ece
from backtalk.gate import Answers
from backtalk.states import Verdict
from tests.judging import GOOD, NONE, POLICY, join, judge_on, make_answers, row, score, take


def test_breaking_too_many_corrected_mistakes_is_a_veto():
    judgement = judge_on(GOOD, regression=make_answers(fixed=60, broken=20, right=30, wrong=40))
    assert judgement.verdict is Verdict.REJECTED
    assert judgement.reason.startswith("Rejected by a veto. 20 broken of 50 reported mistakes")
    check = row(judgement, "regression")
    assert (check.n, check.fixed, check.broken) == (150, 60, 20)
    assert check.value == pytest.approx(0.4)
    assert check.bound > POLICY.max_rebreak_rate


def test_a_veto_needs_proof():
    # 14 of 50 is more than a fifth, but not provably so.
    assert judge_on(GOOD, regression=make_answers(broken=14, right=36)).verdict is Verdict.PASSED


def test_a_veto_needs_twenty_images_that_the_champion_reads_right():
    judgement = judge_on(GOOD, regression=make_answers(broken=19, wrong=200), kept=make_answers(broken=19))
    assert judgement.verdict is Verdict.PASSED
    assert row(judgement, "kept").detail["outcome"] == "too-few"
    assert judge_on(GOOD, kept=make_answers(broken=20)).verdict is Verdict.REJECTED


def test_flipping_confirmed_answers_is_a_veto_and_names_the_images():
    judgement = judge_on(GOOD, kept=make_answers(broken=12, right=88))
    assert judgement.verdict is Verdict.REJECTED
    assert row(judgement, "kept").detail["broken_images"] == [f"broken-{i}" for i in range(12)]


def test_regression_and_kept_never_speak_for_a_candidate():
    brilliant = make_answers(fixed=500)
    for holdout in (NONE, make_answers(right=40), make_answers(broken=30, right=400)):
        judgement = judge_on(holdout, regression=brilliant, kept=make_answers(right=500))
        assert judgement.verdict is not Verdict.PASSED


def test_losing_one_class_is_a_veto_however_good_the_rest():
    holdout = join(make_answers(fixed=60, broken=0, right=400), make_answers(broken=12, right=28, label=2))
    judgement = judge_on(holdout)
    assert row(judgement, "accuracy-champion").passed is True
    assert judgement.verdict is Verdict.PASSED  # owls are also among the first 460: 12 lost of 193
    only_cats_and_dogs = [i for i in range(460) if holdout.truth[i] != 2]
    holdout = take(holdout, only_cats_and_dogs + list(range(460, 500)))
    judgement = judge_on(holdout)
    assert judgement.verdict is Verdict.REJECTED
    check = row(judgement, "class-recall")
    assert (check.detail["label"], check.n, check.broken) == ("owl", 40, 12)
    assert check.bound > POLICY.max_recall_loss
    assert check.detail["classes"][0]["label"] == "owl"
    assert check.detail["classes"][0]["reference_recall"] == 1.0


def test_a_class_with_fewer_than_twenty_images_is_not_judged():
    holdout = join(make_answers(fixed=9, right=300, label=0), make_answers(broken=9, right=10, label=1))
    check = row(judge_on(holdout), "class-recall")
    assert [line["label"] for line in check.detail["classes"]] == ["cat"]
    assert check.passed is True


def hold_against(holdout: Answers, *rights: np.ndarray, seen: np.ndarray | None = None) -> Answers:
    """The same with anchors 1, 2, … that read so many images right."""
    seen = np.ones(len(holdout), np.bool_) if seen is None else seen
    past = tuple(Past(number, seen, right) for number, right in enumerate(rights, start=1))
    return replace(holdout, past=past)


def test_a_class_lost_in_small_steps_is_a_veto_however_much_the_others_won():
    # Dogs: champion and candidate read the same 28 of 40, the first version read 38. Cats: all won since.
    cats, dogs = make_answers(right=300, label=0), make_answers(right=28, wrong=12, label=1)
    first = np.repeat([False, True, True, False], [60, 240, 38, 2])
    judgement = judge_on(hold_against(join(cats, dogs), first))
    assert row(judgement, "class-recall").passed is True
    assert judgement.verdict is Verdict.REJECTED
    check = row(judgement, "class-recall-anchor")
    assert (check.detail["label"], check.n, check.fixed, check.broken) == ("dog", 40, 0, 10)
    assert check.detail["classes"][0]["against"] == 1
    assert "dog comes off worst against version 1: recall -25.0 points on 40 images" in judgement.reason
    assert check.bound > POLICY.max_recall_loss


def test_what_a_class_won_after_the_first_version_may_not_be_traded_away_either():
    dogs = make_answers(right=28, wrong=12, label=1)
    like_today, better = np.arange(40) < 28, np.arange(40) < 38
    assert judge_on(hold_against(dogs, like_today)).verdict is not Verdict.REJECTED
    judgement = judge_on(hold_against(dogs, like_today, better))
    assert judgement.verdict is Verdict.REJECTED
    assert row(judgement, "class-recall-anchor").detail["classes"][0]["against"] == 2


def test_more_anchors_do_not_make_a_false_veto_likelier():
    dogs = make_answers(right=32, wrong=8, label=1)
    better = np.arange(40) < 39
    alone = row(judge_on(hold_against(dogs, better)), "class-recall-anchor")
    like_today = np.arange(40) < 32
    among_five = row(judge_on(hold_against(dogs, *[like_today] * 4, better)), "class-recall-anchor")
    assert (alone.value, alone.passed, among_five.passed) == (among_five.value, False, True)
    assert among_five.detail["confidence"] == pytest.approx(0.98)


def test_an_anchor_is_heard_on_the_images_that_its_backbone_has_seen():
    dogs = make_answers(right=28, wrong=12, label=1)
    everything = np.ones(40, np.bool_)
    too_few = row(judge_on(hold_against(dogs, everything, seen=np.arange(40) < 19)), "class-recall-anchor")
    assert (too_few.detail["outcome"], too_few.passed) == ("too-few", None)
    enough = row(judge_on(hold_against(dogs, everything, seen=np.arange(40) >= 20)), "class-recall-anchor")
    assert (enough.n, enough.broken, enough.passed) == (20, 12, False)


def test_where_the_champion_is_the_only_anchor_its_classes_are_not_judged_twice():
    holdout = make_answers(right=28, broken=12, label=1)
    judgement = judge_on(holdout)
    assert row(judgement, "class-recall-anchor").detail["outcome"] == "shown"
    assert judgement.reason.count("comes off worst") == 1


def test_worse_scores_with_the_same_answers_are_a_veto():
    judgement = judge_on(make_answers(right=300, wrong=60, top=0.4))
    assert row(judgement, "accuracy-champion").passed is True
    assert judgement.verdict is Verdict.REJECTED
    check = row(judgement, "brier")
    assert check.bound > POLICY.max_brier_loss
    assert check.detail["worsened_images"][0].startswith("right-")


def test_slightly_worse_scores_are_no_veto():
    judgement = judge_on(make_answers(right=300, wrong=60, top=0.59))
    assert row(judgement, "brier").value > 0
    assert judgement.verdict is Verdict.PASSED


def test_the_brier_score_sums_over_classes_and_averages_over_images():
    check = row(judge_on(make_answers(right=100, top=0.9)), "brier")
    assert check.detail["champion"] == pytest.approx(0.4**2 + 2 * 0.2**2, abs=1e-6)
    assert check.detail["candidate"] == pytest.approx(0.1**2 + 2 * 0.05**2, abs=1e-6)


def test_calibration_error_is_shown_and_never_judged():
    check = row(judge_on(make_answers(right=100, top=0.4)), "ece")
    assert check.passed is None
    assert check.value == pytest.approx(0.6, abs=1e-6)
    perfect = score(np.zeros(10, dtype=int), top=0.7)
    assert measure_ece(perfect, np.arange(10) < 7) == pytest.approx(0, abs=1e-6)
