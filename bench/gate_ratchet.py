"""Many rounds of candidates that are each a little worse: what the anchor and a renewed holdout are for."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backtalk import intervals
from bench.gate_trials import ACCURACY, CRITICAL, POLICY

POPULATION = 20_000  # images of the world; the holdout is a window that slides over them
FIXES, BREAKS = 0.02, 0.03  # of each candidate: discordance 0.05, one point worse


@dataclass(frozen=True)
class Setting:
    n: int
    renewed: float  # share of the holdout that is new in each round
    anchored: bool


@dataclass(frozen=True)
class Outcome:
    accepted: float  # share of the candidates
    lost: NDArray[np.float64]  # true accuracy lost by the end, (lives,)


def live_through(setting: Setting, *, rounds: int, lives: int, rng: np.random.Generator) -> Outcome:
    """Judge one candidate after the other, each truly one point worse than the champion of its round.

    Vetoes are left out: they have no part in this.
    """
    champion = rng.random((lives, POPULATION), dtype=np.float32) < ACCURACY
    anchor, start = champion.copy(), champion.mean(axis=1)
    accepted = 0.0
    for step in range(rounds):
        candidate = _make_candidate(champion, rng)
        window = (np.arange(setting.n) + round(step * setting.n * setting.renewed)) % POPULATION
        passed, better = _judge(champion[:, window], anchor[:, window], candidate[:, window], setting)
        champion[passed] = candidate[passed]
        anchor[passed & better] = candidate[passed & better]
        accepted += passed.mean() / rounds
    return Outcome(float(accepted), start - champion.mean(axis=1))


def _make_candidate(champion: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    right = champion.mean(axis=1, keepdims=True)
    rates = np.where(champion, BREAKS / right, FIXES / (1 - right))
    return champion ^ (rng.random(champion.shape, dtype=np.float32) < rates)


def _judge(
    champion: NDArray[np.bool_], anchor: NDArray[np.bool_], candidate: NDArray[np.bool_], setting: Setting
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each life's candidate passes, and whether it becomes the anchor."""
    b, c = _count(champion, candidate)
    passed = (intervals.tango_z(b, c, setting.n, -POLICY.margin) > CRITICAL) & (b >= c)
    b, c = _count(anchor, candidate)
    if setting.anchored:
        passed &= intervals.tango_z(b, c, setting.n, -POLICY.margin) > CRITICAL
    return passed, intervals.tango_z(b, c, setting.n, 0.0) > CRITICAL


def _count(
    reference: NDArray[np.bool_], candidate: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return (candidate & ~reference).sum(axis=1), (reference & ~candidate).sum(axis=1)
