"""Confidence bounds for the gate, each by a published method. Pure.

`confidence` is one-sided (0.90 leaves one chance in ten beyond the bound) unless a docstring says otherwise.
The functions take numbers or NumPy arrays, which broadcast, and answer arrays of float64.
"""

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]

#: Halvings of an interval of width two: beyond the resolution of a float64.
_HALVINGS = 55


def critical_z(confidence: float) -> float:
    """The standard normal quantile."""
    return NormalDist().inv_cdf(confidence)


def tango_z(b: ArrayLike, c: ArrayLike, n: ArrayLike, difference: ArrayLike) -> Numbers:
    """Tango's score statistic for "the true difference of two paired proportions is `difference`".

    `b` pairs went one way, `c` the other way, of `n`; the estimate is (b - c) / n. Large values speak for a
    larger difference, and without a hypothesis to miss (no pairs, say) it is 0. With `difference` 0 it is
    McNemar's statistic (b - c) / sqrt(b + c). For given shares b/n and c/n it grows with the root of `n`.

    Source: T. Tango, Statistics in Medicine 17 (1998) 891-908, equations for the efficient score and for the
    restricted maximum likelihood estimate of the smaller cell.
    """
    b, c, n, delta = (np.asarray(x, dtype=np.float64) for x in (b, c, n, difference))
    linear = -b - c + (2 * n - b + c) * delta
    constant = -c * delta * (1 - delta)
    root = np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        smaller = np.where(n > 0, (root - linear) / (4 * n), 0)  # estimate of P(c) where the difference holds
        variance = np.maximum(n * (2 * smaller + delta * (1 - delta)), 0)
        gap = b - c - n * delta
        return np.where(gap == 0, 0.0, gap / np.sqrt(variance))


def tango_lower(b: ArrayLike, c: ArrayLike, n: ArrayLike, confidence: float) -> Numbers:
    """Lower bound of the paired difference (b - c) / n, in [-1, 1]; -1 where `n` is 0.

    Found by halving, since the statistic falls strictly as the difference rises. It needs no discordant
    pair: with b = c = 0 and n = 81 it is just above -0.02 at 0.90, where the plain (Wald) interval has no
    width at all.

    Source: Tango (1998), see `tango_z`.
    """
    b, c, n = (np.asarray(x, dtype=np.float64) for x in (b, c, n))
    critical = critical_z(confidence)
    with np.errstate(divide="ignore", invalid="ignore"):
        high = np.where(n > 0, (b - c) / n, -1.0)
    low = np.full(high.shape, -1.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = tango_z(b, c, n, middle) > critical
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return high


def tango_upper(b: ArrayLike, c: ArrayLike, n: ArrayLike, confidence: float) -> Numbers:
    """Upper bound of the paired difference (b - c) / n, in [-1, 1]; 1 where `n` is 0. See `tango_lower`."""
    return -tango_lower(c, b, n, confidence)


def clopper_pearson_lower(count: ArrayLike, n: ArrayLike, confidence: float) -> Numbers:
    """Lower bound of a proportion by tail areas of the binomial; 0 where `count` is 0.

    Source: C. J. Clopper, E. S. Pearson, Biometrika 26 (1934) 404-413, in its form as a beta quantile.
    """
    from scipy import special  # 20 MB that an API process, which judges nothing, need not hold

    count, n = np.asarray(count, dtype=np.float64), np.asarray(n, dtype=np.float64)
    bound = special.betaincinv(count, n - count + 1, 1 - confidence)
    return np.where(count > 0, bound, 0.0)


def clopper_pearson_upper(count: ArrayLike, n: ArrayLike, confidence: float) -> Numbers:
    """Upper bound of a proportion; 1 where `count` is `n`. See `clopper_pearson_lower`."""
    count, n = np.asarray(count, dtype=np.float64), np.asarray(n, dtype=np.float64)
    return 1 - clopper_pearson_lower(n - count, n, confidence)


def wilson(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of one proportion, *two-sided*, for accuracies that are shown; (0, 1) where `n` is 0.

    Source: E. B. Wilson, Journal of the American Statistical Association 22 (1927) 209-212.
    """
    if n == 0:
        return 0.0, 1.0
    z = critical_z((1 + confidence) / 2)
    share = count / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # At the ends the bound is the end itself, which rounding would miss.
    low = 0.0 if count == 0 else float(max(centre - half, 0.0))
    return low, 1.0 if count == n else float(min(centre + half, 1.0))


def student_lower(mean: ArrayLike, deviation: ArrayLike, n: ArrayLike, confidence: float) -> Numbers:
    """Lower bound of the mean of `n` paired differences with this mean and standard deviation (n - 1 below).

    Minus infinity where `n` is less than 2: one difference says nothing of its spread.

    Source: "Student" (W. S. Gosset), Biometrika 6 (1908) 1-25.
    """
    from scipy import special

    mean, deviation, n = (np.asarray(x, dtype=np.float64) for x in (mean, deviation, n))
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = mean - special.stdtrit(n - 1, confidence) * deviation / np.sqrt(n)
    return np.where(n > 1, bound, -np.inf)
