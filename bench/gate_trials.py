"""Trials of the gate: candidates whose true difference and discordance are known, judged many at once.

The rules of `backtalk.gate` are evaluated here on arrays of counts; `check_against_judge` compares some
hundreds of trials with `judge` itself.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backtalk import intervals
from backtalk.gate import Answers, Evidence, judge
from backtalk.policy import Policy
from backtalk.states import Verdict

POLICY = Policy()
CRITICAL = intervals.critical_z(POLICY.confidence)

CLASSES = 10
ACCURACY = 0.9  # of the champion: turns a share of broken images into a share of those that it reads right
#: Where they differ, each gives its answer 0.5 and the other's 0.4; elsewhere their scores are the same.
MINE, OTHERS = 0.5, 0.4
BRIER_STEP = (MINE**2 + (1 - OTHERS) ** 2) - ((1 - MINE) ** 2 + OTHERS**2)


@dataclass(frozen=True)
class World:
    """What is true of a candidate, and what there is to judge it on."""

    n: int
    difference: float
    discordance: float
    kept: int = 100  # confirmed answers that the champion reads right
    regression: int = 50  # reported mistakes that it reads right by now

    @property
    def fixes(self) -> float:
        return (self.discordance + self.difference) / 2

    @property
    def breaks(self) -> float:
        return (self.discordance - self.difference) / 2

    @property
    def possible(self) -> bool:
        return abs(self.difference) <= self.discordance + 1e-12


@dataclass(frozen=True)
class Trials:
    """Counts of many trials: by class (T, K), and on the two biased sets (T,)."""

    world: World
    n: NDArray[np.int64]
    b: NDArray[np.int64]
    c: NDArray[np.int64]
    kept_broken: NDArray[np.int64]
    regression_broken: NDArray[np.int64]


def draw(world: World, trials: int, rng: np.random.Generator) -> Trials:
    """Classes are equally likely. Kept images break as holdout images do, reported mistakes twice as often.

    Both only matter where the champion is right, so a share of all images broken is one of those over its
    accuracy.
    """
    n = rng.multinomial(world.n, np.full(CLASSES, 1 / CLASSES), size=trials)
    shares = (world.fixes, world.breaks, 1 - world.discordance)
    counts = rng.multinomial(n, shares)
    rate = world.breaks / ACCURACY
    return Trials(
        world,
        n,
        counts[..., 0],
        counts[..., 1],
        rng.binomial(world.kept, rate, size=trials),
        rng.binomial(world.regression, min(2 * rate, 1), size=trials),
    )


# --- the rules, on arrays ------------------------------------------------------------------------
def strike(trials: Trials) -> dict[str, NDArray[np.bool_]]:
    """Which vetoes strike in which trial."""
    n, b, c = trials.world.n, trials.b.sum(axis=1), trials.c.sum(axis=1)
    mean = BRIER_STEP * (c - b) / n
    spread = np.sqrt(np.maximum(BRIER_STEP**2 * (b + c) / n - mean**2, 0) * n / (n - 1))
    brier = intervals.student_lower(mean, spread, n, POLICY.confidence)
    recall = intervals.tango_z(trials.b, trials.c, trials.n, -POLICY.max_recall_loss) < -CRITICAL
    return {
        "regression": _share(trials.regression_broken, trials.world.regression, POLICY.max_rebreak_rate),
        "kept": _share(trials.kept_broken, trials.world.kept, POLICY.max_flip_rate),
        "class-recall": (recall & (trials.n >= POLICY.min_veto_images)).any(axis=1),
        "brier": (brier > POLICY.max_brier_loss) & (n >= POLICY.min_veto_images),
    }


def _share(broken: NDArray[np.int64], right: int, limit: float) -> NDArray[np.bool_]:
    if right < POLICY.min_veto_images:
        return np.zeros(len(broken), dtype=np.bool_)
    bounds = intervals.clopper_pearson_lower(np.arange(right + 1), right, POLICY.confidence)
    return np.asarray(bounds[broken] > limit)


def conclude(trials: Trials) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Passed and rejected, by trial; the rest is inconclusive. The champion is the anchor."""
    n, b, c = trials.world.n, trials.b.sum(axis=1), trials.c.sum(axis=1)
    vetoed = np.any(list(strike(trials).values()), axis=0)
    rejected = vetoed | (intervals.tango_z(b, c, n, 0.0) < -CRITICAL)
    passed = (intervals.tango_z(b, c, n, -POLICY.margin) > CRITICAL) & (b >= c) & ~rejected
    return passed, rejected


# --- the same by the gate itself -----------------------------------------------------------------
def check_against_judge(rng: np.random.Generator, worlds: int = 150, each: int = 2) -> int:
    """Builds answers with the drawn counts and asks `judge`. Raises AssertionError where it disagrees."""
    compared = 0
    for _ in range(worlds):
        discordance = rng.uniform(0.02, 0.4)
        world = World(
            n=int(rng.integers(80, 800)),
            difference=float(rng.uniform(-0.6, 1.0) * discordance),
            discordance=discordance,
            kept=int(rng.integers(0, 60)),
            regression=int(rng.integers(0, 60)),
        )
        trials = draw(world, each, rng)
        passed, rejected = conclude(trials)
        for i in range(each):
            ours = Verdict.REJECTED if rejected[i] else Verdict.PASSED if passed[i] else Verdict.INCONCLUSIVE
            assert judge(_build_evidence(trials, i), POLICY).verdict is ours, (world, i)
            compared += 1
    return compared


def _build_evidence(trials: Trials, i: int) -> Evidence:
    parts = [
        _build_answers(k, int(trials.b[i, k]), int(trials.c[i, k]), int(trials.n[i, k]))
        for k in range(CLASSES)
    ]
    truth, champion, candidate = (np.concatenate([part[j] for part in parts]) for j in range(3))
    biased = []
    for broken, right in (
        (trials.regression_broken[i], trials.world.regression),
        (trials.kept_broken[i], trials.world.kept),
    ):
        part = _build_answers(0, 0, int(broken), right)
        biased.append(Answers(tuple(map(str, range(right))), *part))
    holdout = Answers(tuple(map(str, range(len(truth)))), truth, champion, candidate)
    return Evidence(tuple(map(str, range(CLASSES))), holdout, *biased)


def _build_answers(
    label: int, fixed: int, broken: int, n: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """`n` images of one label, so many of them fixed and broken; both are right on the rest."""
    other = (label + 1) % CLASSES
    says = np.full((n, CLASSES), (1 - MINE - OTHERS) / (CLASSES - 2), dtype=np.float32)
    says[:, label], says[:, other] = MINE, OTHERS
    wrong = says.copy()
    wrong[:, label], wrong[:, other] = OTHERS, MINE
    champion, candidate = says.copy(), says.copy()
    champion[:fixed] = wrong[:fixed]
    candidate[fixed : fixed + broken] = wrong[fixed : fixed + broken]
    return np.full(n, label), champion, candidate
