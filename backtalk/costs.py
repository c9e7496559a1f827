"""What a version costs to run, beside the champion: judged only where the backbone changes. Pure."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from backtalk.answers import Check, name_outcome
from backtalk.policy import Policy


@dataclass(frozen=True, eq=False)
class Costs:
    """Two backbones on one machine, at one time, image by image in turn."""

    champion_bytes: int
    candidate_bytes: int
    champion_ms: NDArray[np.float64]  # (K,): milliseconds for one image on one thread
    candidate_ms: NDArray[np.float64]  # (K,), of the same image right after or before it
    size_limit: float | None = None  # of the run's recipe, as a share of the champion's; None: the policy's
    latency_limit: float | None = None


def check_size(costs: Costs, policy: Policy) -> Check:
    """Bytes of the backbone as a share of the champion's."""
    limit = policy.max_size_ratio if costs.size_limit is None else costs.size_limit
    ratio = costs.candidate_bytes / costs.champion_bytes
    said = (
        f"The backbone has {costs.candidate_bytes / 2**20:.1f} MB against {costs.champion_bytes / 2**20:.1f} "
        f"MB of the champion's: {ratio:.0%}, and {limit:.0%} is allowed."
    )
    return _make("size", ratio, ratio, 1, ratio <= limit, limit, said)


def check_latency(costs: Costs, policy: Policy) -> Check:
    """Time of one image as a share of the champion's, by the median over pairs.

    It fails only where the lower bound of the median (by order statistics; Conover, 1999, section 3.2) is
    beyond the limit: a busy machine is no fault of the candidate's.
    """
    limit = policy.max_latency_ratio if costs.latency_limit is None else costs.latency_limit
    ratios = np.sort(costs.candidate_ms / costs.champion_ms)
    n, median = len(ratios), float(np.median(ratios))
    rank = int(stats.binom.ppf(1 - policy.confidence, n, 0.5))  # so many ratios may lie below the bound
    bound = float(ratios[max(0, rank - 1)])
    said = (
        f"One image takes {np.median(costs.candidate_ms):.1f} ms on one thread, {median:.0%} of the "
        f"champion's {np.median(costs.champion_ms):.1f} ms (at least {bound:.0%} with "
        f"{policy.confidence:.0%} confidence); {limit:.0%} is allowed."
    )
    return _make("latency", median, bound, n, bound <= limit, limit, said)


def _make(
    name: Literal["size", "latency"],
    value: float,
    bound: float,
    n: int,
    passed: bool,
    limit: float,
    said: str,
) -> Check:
    detail = {"sentence": said, "outcome": name_outcome(passed), "limit": limit}
    return Check(name, value, bound, n, 0, 0, passed, detail)
