"""Who is named for what stands out, and who is not. `docs/poisoning.md` has how often on real images."""

import numpy as np
import pytest
from scipy import stats

from backtalk.doubts import Claim, compare_ranks, find_doubts

LABELS = tuple("abcdef")


def report_honestly(rng: np.random.Generator, *apps: str, each: int = 60) -> list[Claim]:
    """Mistakes of all kinds, where the champion mostly hesitated."""
    claims = []
    for app in apps:
        for odds in rng.normal(1.2, 1.3, each):
            predicted, reported = rng.choice(LABELS, 2, replace=False)
            claims.append(Claim(app, app, str(predicted), str(reported), float(odds)))
    return claims


def lie(rng: np.random.Generator, app: str, count: int, key: str | None = None) -> list[Claim]:
    """Right answers \'a\' called \'b\', where the champion was sure."""
    return [Claim(app, key or app, "a", "b", float(odds)) for odds in rng.normal(5, 1.5, count)]


def test_one_liar_among_honest_apps_is_named_with_what_it_said():
    rng = np.random.default_rng(1)
    (doubt,) = find_doubts(report_honestly(rng, "ann", "bea", "mal") + lie(rng, "mal", 8))
    assert (doubt.app, doubt.keys, doubt.predicted, doubt.reported) == ("mal", {"mal"}, "a", "b")
    assert doubt.times > 30
    assert doubt.usual < 10
    assert doubt.sentence.endswith(" times. Look at a few.")


def test_liars_in_the_majority_do_not_hide_behind_each_other():
    rng = np.random.default_rng(2)
    claims = report_honestly(rng, "ann", "mal", "tru", "eve")
    for app in ("mal", "tru", "eve"):
        claims += lie(rng, app, 12)
    assert {doubt.app for doubt in find_doubts(claims)} == {"mal", "tru", "eve"}


def test_of_an_app_with_several_keys_those_that_lied_are_named():
    rng = np.random.default_rng(3)
    claims = report_honestly(rng, "ann", "bea") + lie(rng, "mal", 4, "old") + lie(rng, "mal", 4, "new")
    assert [doubt.keys for doubt in find_doubts(claims)] == [{"old", "new"}]


def test_honest_apps_are_hardly_ever_named():
    rng = np.random.default_rng(4)
    named = sum(bool(find_doubts(report_honestly(rng, *"wxyz", each=120))) for _ in range(40))
    assert named <= 2


@pytest.mark.parametrize("odds", [1.0, 2.2])
def test_what_stands_out_by_rank_alone_names_nobody(odds):
    claims = [Claim("ann", "ann", "b", "c", -1.0 if odds < 2 else 1.9)] * 100
    claims += [Claim("mal", "mal", "a", "b", odds)] * 20  # less than ten times as likely, or usual here
    assert find_doubts(claims) == []


def test_a_kind_that_people_upheld_is_cleared_until_they_contradict_one():
    rng = np.random.default_rng(5)
    claims = report_honestly(rng, "ann", "mal") + lie(rng, "mal", 8)
    upheld = [Claim("mal", "mal", "a", "b", 5.0, upheld=True)] * 5
    assert find_doubts(claims + upheld[:4])
    assert not find_doubts(claims + upheld)
    assert find_doubts([*claims, *upheld, Claim("mal", "mal", "a", "b", 5.0, upheld=False)])


def test_without_anything_to_compare_with_nobody_is_named():
    assert find_doubts(lie(np.random.default_rng(6), "mal", 50)) == []
    assert find_doubts([]) == []


def test_the_rank_test_is_that_of_the_books():
    rng = np.random.default_rng(7)
    for n, m in ((5, 40), (12, 200), (30, 8)):
        ours, others = rng.normal(0.4, 1, n).round(1), rng.normal(0, 1, m).round(1)  # with ties
        expected = stats.mannwhitneyu(ours, others, alternative="greater", method="asymptotic").pvalue
        assert compare_ranks(list(ours), list(others)) == pytest.approx(expected, rel=1e-9)
    assert compare_ranks([1.0] * 5, [1.0] * 5) == 1.0
