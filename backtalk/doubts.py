"""Which reports stand out: those of one kind, by one app, against what the champion was sure of. Pure.

Whoever corrects honestly corrects what the model got wrong, and there it mostly hesitated. Whoever calls
right answers wrong meets it where it was sure. So each correction is weighed by what the champion's own
scores said when it answered, before anybody spoke; and an app's corrections of one kind (it answered X, they
say Y) are held against all corrections of other kinds. The same kind by other apps is left out of that: they
might collude. `docs/poisoning.md` has what this finds and whom it accuses.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

import numpy as np

#: Chance that a report names anybody though all corrections are alike; shared among the kinds looked at.
ERROR = 0.05
FEWEST = 5  # corrections of one kind by one app; and so many that people upheld clear it
#: In the middle one, the champion must have held its answer so many times as likely as the label reported, …
TIMES = 10.0
#: … and so many times what it is in the middle one of the others: to stand out by rank alone is no suspicion.
TIMES_USUAL = 3.0


@dataclass(frozen=True)
class Claim:
    """One correction. `odds`: natural logarithm of the champion's score for its own answer over its score for
    the label reported. `upheld`: whether a person agreed; None where nobody has looked."""

    app: str
    key: str
    predicted: str
    reported: str
    odds: float
    upheld: bool | None = None


@dataclass(frozen=True)
class Doubt:
    """Corrections of one kind, by one app, that stand out and that no person has answered."""

    app: str
    keys: frozenset[str]  # that made them
    predicted: str
    reported: str
    count: int
    times: float  # as likely as the label reported the champion held its answer, in the middle one of them
    usual: float  # the same of corrections of other kinds

    @property
    def sentence(self) -> str:
        return (
            f"{self.count} corrections of {self.predicted!r} to {self.reported!r} stand out: the champion "
            f"held its answer {_round(self.times)} times as likely as that label, in other corrections "
            f"{_round(self.usual)} times. Look at a few."
        )


def find_doubts(claims: Iterable[Claim]) -> list[Doubt]:
    """The kinds of corrections that stand out, the surest first.

    A one-sided rank test of each against the corrections of other kinds, whoever made them, except those that
    people contradicted; Bonferroni over the kinds that are looked at. A kind of which people upheld some of
    this app's, and contradicted none, is cleared.
    """
    known = list(claims)
    kinds: defaultdict[tuple[str, str, str], list[Claim]] = defaultdict(list)
    for claim in known:
        kinds[claim.app, claim.predicted, claim.reported].append(claim)
    tested = {}
    for kind, said in kinds.items():
        unanswered = [c for c in said if c.upheld is None]
        if len(unanswered) >= FEWEST and not _is_cleared(said):
            tested[kind] = unanswered
    found = []
    for (app, predicted, reported), said in tested.items():
        pair = predicted, reported
        rest = [c.odds for c in known if (c.predicted, c.reported) != pair and c.upheld is not False]
        odds = [c.odds for c in said]
        chance = compare_ranks(odds, rest)
        if chance > ERROR / len(tested):
            continue
        times, usual = math.exp(median(odds)), math.exp(median(rest))
        if times >= max(TIMES, TIMES_USUAL * usual):
            keys = frozenset(c.key for c in said)
            found.append((chance, Doubt(app, keys, predicted, reported, len(said), times, usual)))
    return [doubt for _, doubt in sorted(found, key=lambda pair: (pair[0], pair[1].app))]


def _is_cleared(said: Sequence[Claim]) -> bool:
    answers = [c.upheld for c in said if c.upheld is not None]
    return len(answers) >= FEWEST and all(answers)


def compare_ranks(ours: Sequence[float], others: Sequence[float]) -> float:
    """Chance that `ours` rank so high among `others` if both come from the same source; 1 without either.

    Rank sum with mid-ranks for ties, by its normal approximation with continuity correction.

    Source: H. B. Mann, D. R. Whitney, Annals of Mathematical Statistics 18 (1947) 50-60.
    """
    n, m = len(ours), len(others)
    if not n or not m:
        return 1.0
    _, places, sizes = np.unique(np.array([*ours, *others]), return_inverse=True, return_counts=True)
    if len(sizes) == 1:
        return 1.0
    middle = np.cumsum(sizes) - (sizes - 1) / 2
    beyond = float(middle[places[:n]].sum()) - n * (n + 1) / 2 - n * m / 2
    ties = float((sizes**3 - sizes).sum()) / ((n + m) * (n + m - 1))
    spread = math.sqrt(n * m / 12 * (n + m + 1 - ties))
    return 1 - NormalDist().cdf((beyond - 0.5) / spread)


def _round(times: float) -> str:
    return f"{times:.1f}" if times < 10 else f"{times:,.0f}"
