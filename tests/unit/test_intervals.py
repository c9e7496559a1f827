"""The gate's intervals against published values, and against an inversion that shares no code with them."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import optimize, stats

from backtalk import intervals


# --- Tango -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("counts", "two_sided", "bounds", "decimals"),
    [
        # Airway hyper-responsiveness before and after stem cell transplantation (Bentur et al., 2009), as
        # worked in Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014) 2850-2875.
        ((1, 7, 21), 0.95, (-0.517, -0.026), 3),
        # R package PropCIs 0.3, scoreci.mp(25, 28, 618, 0.90).
        ((28, 25, 618), 0.90, (-0.0148, 0.0247), 4),
    ],
)
def test_tangos_interval_agrees_with_published_values(counts, two_sided, bounds, decimals):
    confidence = (1 + two_sided) / 2
    assert round(float(intervals.tango_lower(*counts, confidence)), decimals) == bounds[0]
    assert round(float(intervals.tango_upper(*counts, confidence)), decimals) == bounds[1]


def _score_by_likelihood(b: int, c: int, n: int, difference: float) -> float:
    """The score statistic with the nuisance parameter found by maximising the trinomial likelihood."""
    low, high = max(0.0, -difference), (1 - difference) / 2

    def minus_log_likelihood(q: float) -> float:
        cells = ((b, q + difference), (c, q), (n - b - c, 1 - 2 * q - difference))
        return -sum(count * math.log(max(share, 1e-300)) for count, share in cells if count)

    found = optimize.minimize_scalar(
        minus_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-13}
    )
    variance = n * (2 * found.x + difference - difference**2)
    return (b - c - n * difference) / math.sqrt(variance)


@pytest.mark.parametrize("seed", range(12))
def test_tangos_interval_agrees_with_an_inversion_of_the_score_test(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(10, 800))
    b, c, _ = (int(x) for x in rng.multinomial(n, rng.dirichlet((1, 1, 6))))
    confidence = float(rng.choice([0.8, 0.9, 0.975]))
    critical = stats.norm.ppf(confidence)
    estimate = (b - c) / n
    low = optimize.brentq(lambda d: _score_by_likelihood(b, c, n, d) - critical, -1 + 1e-9, estimate - 1e-9)
    high = optimize.brentq(lambda d: _score_by_likelihood(b, c, n, d) + critical, estimate + 1e-9, 1 - 1e-9)
    assert_allclose(intervals.tango_lower(b, c, n, confidence), low, atol=2e-6)
    assert_allclose(intervals.tango_upper(b, c, n, confidence), high, atol=2e-6)


def test_without_a_discordant_pair_a_margin_of_two_points_needs_81_images():
    assert intervals.tango_lower(0, 0, 80, 0.90) <= -0.02
    assert intervals.tango_lower(0, 0, 81, 0.90) > -0.02


def test_a_difference_of_zero_gives_mcnemars_statistic():
    for b, c, n in ((13, 4, 100), (0, 9, 40), (50, 50, 100)):
        assert_allclose(intervals.tango_z(b, c, n, 0.0), (b - c) / math.sqrt(b + c), atol=1e-12)


def test_the_statistic_grows_with_the_root_of_the_number_of_pairs():
    one = intervals.tango_z(0.06, 0.04, 1, -0.02)
    assert_allclose(intervals.tango_z(60, 40, 1000, -0.02), one * math.sqrt(1000), rtol=1e-12)


def test_the_bounds_mirror_each_other_and_stay_between_minus_one_and_one():
    for b, c, n in ((5, 0, 5), (0, 5, 5), (0, 0, 1), (3, 8, 11), (1, 0, 1000)):
        low, high = intervals.tango_lower(b, c, n, 0.9), intervals.tango_upper(b, c, n, 0.9)
        assert -1 <= low <= (b - c) / n <= high <= 1
        assert_allclose(intervals.tango_lower(c, b, n, 0.9), -high)


def test_no_pairs_tell_nothing():
    assert intervals.tango_lower(0, 0, 0, 0.9) == -1
    assert intervals.tango_upper(0, 0, 0, 0.9) == 1


def test_arrays_give_what_their_elements_give():
    b, c = np.array([3, 0, 17]), np.array([1, 0, 20])
    together = intervals.tango_lower(b, c, 200, 0.9)
    for i in range(3):
        assert_allclose(together[i], intervals.tango_lower(b[i], c[i], 200, 0.9))


def test_the_bound_covers_the_true_difference_about_as_often_as_it_says():
    rng = np.random.default_rng(20)
    counts = rng.multinomial(400, (0.04, 0.06, 0.90), size=20_000)
    covered = intervals.tango_lower(counts[:, 0], counts[:, 1], 400, 0.90) <= -0.02
    assert 0.885 < covered.mean() < 0.915


# --- one proportion --------------------------------------------------------------------------------
# R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872, Table I: methods 3 (score) and 5 (tail areas).
NEWCOMBE = [
    (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
    (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
    (0, 20, (0.0000, 0.1611), (0.0000, 0.1684)),
    (1, 29, (0.0061, 0.1718), (0.0009, 0.1776)),
]


@pytest.mark.parametrize(("count", "n", "score", "tails"), NEWCOMBE)
def test_wilson_and_clopper_pearson_agree_with_newcombes_table(count, n, score, tails):
    assert_allclose(intervals.wilson(count, n), score, atol=5.1e-5)
    assert_allclose(intervals.clopper_pearson_lower(count, n, 0.975), tails[0], atol=5.1e-5)
    assert_allclose(intervals.clopper_pearson_upper(count, n, 0.975), tails[1], atol=5.1e-5)


def test_clopper_pearson_is_where_the_binomial_tail_has_the_rest_of_the_probability():
    bound = float(intervals.clopper_pearson_lower(7, 60, 0.9))
    assert_allclose(stats.binom.sf(6, 60, bound), 0.1)


def test_the_ends_of_a_proportion_are_reached_only_by_none_and_all():
    assert intervals.clopper_pearson_lower(0, 40, 0.9) == 0
    assert intervals.clopper_pearson_upper(40, 40, 0.9) == 1
    assert intervals.wilson(0, 0) == (0.0, 1.0)
    assert intervals.wilson(40, 40)[1] == 1


# --- a mean ----------------------------------------------------------------------------------------
def test_students_bound_agrees_with_his_own_sleep_data():
    # Additional hours of sleep, second drug against first, ten patients: 0.7001 to 2.4599 (95 %, two-sided).
    gained = np.array([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
    assert_allclose(gained.mean(), 1.58)
    low = intervals.student_lower(gained.mean(), gained.std(ddof=1), 10, 0.975)
    high = -intervals.student_lower(-gained.mean(), gained.std(ddof=1), 10, 0.975)
    assert_allclose((low, high), (0.7001142, 2.4598858), atol=1e-6)


def test_one_difference_says_nothing_of_a_mean():
    assert intervals.student_lower(0.5, 0.0, 1, 0.9) == -math.inf
