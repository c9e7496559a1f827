"""How often the veto of a class against its anchors strikes, where nothing was lost and where it was."""

import numpy as np
from numpy.typing import NDArray

from backtalk import intervals
from bench.gate_trials import CLASSES, POLICY

SIZES = (200, 500, 1000, 2000)
DISCORDANCES = (0.1, 0.2, 0.3)
ANCHORS = (1, 3, 5)
CLASS_SIZES = (20, 30, 50, 100, 200)
LOSSES = (0.05, 0.1, 0.15, 0.2, 0.3)


def strike(
    n: NDArray[np.int64], loss: float, discordance: float, anchors: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Whether the veto strikes, by class (…): `n` images of each, the same loss against one of the anchors
    and none against the others, whose answers are drawn apart (answers alike would strike together)."""
    counts = []
    for lost in [loss] + [0.0] * (anchors - 1):
        shares = ((discordance - lost) / 2, (discordance + lost) / 2, 1 - discordance)
        counts.append(rng.multinomial(n, shares)[..., :2])
    b, c = np.moveaxis(np.array(counts), -1, 0)
    return is_struck(b, c, n)


def is_struck(b: NDArray[np.int64], c: NDArray[np.int64], n: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The rule of `backtalk.checks` on arrays: fixed and broken (anchors, …), images (…)."""
    critical = intervals.critical_z(1 - (1 - POLICY.confidence) / len(b))
    z = intervals.tango_z(b, c, n, -POLICY.max_recall_loss)
    return np.asarray((z < -critical).any(axis=0) & (n >= POLICY.min_veto_images))


def strike_wrongly(n: int, discordance: float, anchors: int, trials: int, rng: np.random.Generator) -> float:
    """Share of candidates vetoed that lost nothing in any of ten equally common classes."""
    sizes = rng.multinomial(n, np.full(CLASSES, 1 / CLASSES), size=trials)
    return float(strike(sizes, 0.0, discordance, anchors, rng).any(axis=1).mean())


def strike_rightly(
    n: int, loss: float, discordance: float, anchors: int, trials: int, rng: np.random.Generator
) -> float:
    """Share of candidates vetoed that lost so much of the recall of one class with `n` images."""
    return float(strike(np.full(trials, n), loss, discordance, anchors, rng).mean())
