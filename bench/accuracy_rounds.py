"""One course of labelling: rounds of labels are spent, a head is fitted after each, a quarter is asked.

No server and no database: `fit_head` is what a head run calls, on embeddings by the frozen backbone. Traffic
is the part to learn from, in a drawn order; validation is the same for everybody, and nothing is fitted to
the test quarter or chosen by it.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from backtalk.heads import Head
from backtalk.learn.head import fit_head
from backtalk.learn.held_out import HeadData
from backtalk.policy import Policy
from bench.accuracy_split import Places, Split
from demo.cells import LABELS

BASE = 200  # cells of the base folder
ROUND = 50  # labels between two fits: `min_approved` of the default policy
ROUNDS = 8
MOST_SILENT = 2_000  # recorded images that nobody complained about, at most, as in a snapshot


@dataclass(frozen=True)
class Strategy:
    """Where labels come from and how they are learned from."""

    name: str
    corrections: bool = False  # of what the live version gets wrong, in the order of traffic
    audits: bool = False  # drawn from traffic at random, by the policy's share
    uncertain: float = 0.0  # share of each round that a reviewer takes from the closest margins
    backtalk: bool = True  # fitted from the champion, with silent images; else a plain fit


RANDOM = "random labels, plain fit"
STRATEGIES = (
    Strategy("Backtalk: corrections and audits", corrections=True, audits=True),
    Strategy("Backtalk, half from the uncertain queue", corrections=True, audits=True, uncertain=0.5),
    Strategy("uncertain alone, plain fit", uncertain=1.0, backtalk=False),
    Strategy(RANDOM, backtalk=False),
    Strategy("misclassified only, plain fit", corrections=True, backtalk=False),
)


@dataclass(frozen=True, eq=False)
class World:
    """Everything that there is to know of the cells."""

    embeddings: NDArray[np.float16]  # (N, D)
    labels: NDArray[np.int32]  # (N,)
    split: Split
    seed: int


@dataclass(eq=False)
class Course:
    """One strategy on one world."""

    world: World
    strategy: Strategy
    spent: int = 0
    learned: list[int] = field(default_factory=list)
    silent: list[int] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._draw = np.random.default_rng([self.world.seed, 7])
        order: list[int] = self._draw.permutation(self.world.split.train).tolist()
        self.learned, self._traffic = order[:BASE], order[BASE:]
        self._audit_share = Policy().audit_share if self.strategy.audits else 0.0
        self.head = self._fit(None)

    def play(self) -> list[tuple[int, float]]:
        """(labels spent, accuracy) after the base folder and after each round; shorter where traffic ends."""
        points = [(0, self.measure())]
        for _ in range(ROUNDS):
            new = self._spend()
            if len(new) < ROUND:
                break
            self.learned += new
            self.spent += len(new)
            self.head = self._fit(self.head)
            points.append((self.spent, self.measure()))
        return points

    def measure(self) -> float:
        test = self.world.split.test
        return float((self._answer(test) == self.world.labels[test]).mean())

    def _answer(self, places: Places | list[int]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self.head.logits(self.world.embeddings[places]).argmax(axis=1)
        return found

    # --- labels -----------------------------------------------------------------------------------
    def _spend(self) -> list[int]:
        strategy = self.strategy
        asked = round(strategy.uncertain * ROUND)
        if not strategy.corrections and not strategy.audits:
            return self._take_closest(self._traffic, ROUND) if asked else self._take(ROUND)
        told = self._listen(ROUND - asked)
        return told + self._take_closest(self.silent, asked)

    def _take(self, count: int) -> list[int]:
        taken, self._traffic = self._traffic[:count], self._traffic[count:]
        return taken

    def _listen(self, count: int) -> list[int]:
        """Traffic passes until so many labels came of it: mistakes that users correct, and audits."""
        told: list[int] = []
        answers = dict(zip(self._traffic, self._answer(self._traffic).tolist(), strict=True))
        while len(told) < count and self._traffic:
            place = self._traffic.pop(0)
            wrong = answers[place] != self.world.labels[place]
            spoken = (wrong and self.strategy.corrections) or self._draw.random() < self._audit_share
            (told if spoken else self.silent).append(place)
        return told

    def _take_closest(self, pool: list[int], count: int) -> list[int]:
        """The smallest margins between the two likeliest labels; they leave the pool."""
        scores = np.sort(self.head.scores(self.world.embeddings[pool]), axis=1)
        closest = np.argsort(scores[:, -1] - scores[:, -2], kind="stable")[:count]
        taken = [pool[i] for i in closest.tolist()]
        left = set(taken)
        pool[:] = [place for place in pool if place not in left]
        return taken

    # --- heads ------------------------------------------------------------------------------------
    def _fit(self, champion: Head | None) -> Head:
        world, backtalk = self.world, self.strategy.backtalk
        silent = self.silent[-MOST_SILENT:] if backtalk and champion else []
        data = HeadData(
            train_x=world.embeddings[self.learned],
            train_y=world.labels[self.learned],
            validation_x=world.embeddings[world.split.validation],
            validation_y=world.labels[world.split.validation],
            stay_x=world.embeddings[np.array(silent, np.int64)],
            train_seen=np.array([backtalk and place in self.seen for place in self.learned], np.bool_),
            train_weight=np.ones(len(self.learned), np.float32),
        )
        self.seen |= set(self.learned)
        return fit_head(data, LABELS, "0" * 64, champion if backtalk else None, world.seed).head
