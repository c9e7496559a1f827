"""Fits a head on stored embeddings and chooses how far it moves away from the champion. No TensorFlow.

Whatever is chosen is chosen on images that the scores at hand were not fitted to: the validation images, or
with too few of those, out-of-fold scores. The judging sets never come here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from backtalk.heads import Head
from backtalk.learn.held_out import Folds, HeadData, HeldOut, Rows
from backtalk.learn.logistic import Floats, Parameters, Problem, Scaler, find_temperature, log_losses

L2S = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
STRENGTHS = (0.0, 0.25, 0.5, 1.0)  # of the stay-right term
ALPHAS = (0.25, 0.5, 0.75, 1.0)  # 0 is the champion, 1 the new head
WEIGHT_CAP = 5.0
FEWEST_UNSEEN = 20  # images that the champion was not fitted to; with fewer, nothing is interpolated
SEARCH_TOLERANCE, FINAL_TOLERANCE = 3e-4, 1e-5

Tell = Callable[[float], None]


def _tell_nobody(_fraction: float) -> None:
    return


@dataclass(frozen=True)
class Chosen:
    """What the held-out images chose."""

    l2: float
    strength: float
    alpha: float
    temperature: float


@dataclass(frozen=True, eq=False)
class Fitted:
    head: Head
    chosen: Chosen
    counts: dict[str, Any]
    validation: dict[str, float | None]


@dataclass(eq=False)
class _Choice:
    """One choice, from data to parameters."""

    data: HeadData
    classes: int
    champion: Head | None
    folds: Folds
    tell: Tell
    scaler: Scaler = field(init=False)
    held_out: HeldOut = field(init=False)
    steps: int = 0

    def __post_init__(self) -> None:
        self.scaler = Scaler.measure(self.data.train_x)
        self.held_out = HeldOut.gather(self.data, self.folds, self.scaler, self.champion)
        self._features = self.scaler.apply(self.data.train_x)
        self._weights = weigh_labels(self.data.train_y, self.data.train_weight)
        self._problems = [self._pose(self.folds.train != number) for number in range(self.folds.count)]

    @property
    def has_stay(self) -> bool:
        return self.champion is not None and len(self.data.stay_x) > 0

    def _pose(self, rows: Rows) -> Problem:
        """Labelled rows, whose weights sum to one, then the stay-right images at full strength."""
        weights = self._weights[rows]
        labelled = Problem(
            self._features if rows.all() else self._features[rows],
            np.eye(self.classes, dtype=np.float32)[self.data.train_y[rows]],
            weights / weights.sum(),
        )
        if self.champion is None or not self.has_stay:
            return labelled
        stay = self.data.stay_x
        # One of them weighs what a labelled image does, and all of them no more than those together.
        each = min(1 / len(stay), 1 / len(weights))
        full = np.full(len(stay), each, np.float32)
        return labelled.join(Problem(self.scaler.apply(stay), self.champion.scores(stay), full))

    def _fit(self, l2: float, strength: float, starts: list[Parameters] | None) -> list[Parameters]:
        """One fit for each fold, leaving that fold out."""
        found = []
        for number, problem in enumerate(self._problems):
            start = starts[number] if starts else None
            found.append(self._at(problem, strength).minimise(l2, start, tolerance=SEARCH_TOLERANCE))
            self.steps += 1
            self.tell(self.steps / (self.folds.count * (len(L2S) + len(STRENGTHS)) + 1))
        return found

    def _at(self, problem: Problem, strength: float) -> Problem:
        return problem.weaken(len(self.data.stay_x), strength) if self.has_stay else problem

    def choose_l2(self) -> tuple[float, list[Parameters]]:
        """From strong to weak, each fit beginning where the last one ended, until two in a row do worse."""
        tried: list[tuple[float, float, list[Parameters]]] = []
        for l2 in L2S:
            fits = self._fit(l2, 0.0, tried[-1][2] if tried else None)
            tried.append((float(self.held_out.costs(self.held_out.score(fits)).mean()), l2, fits))
            if len(tried) > 2 and min(tried[-1][0], tried[-2][0]) > tried[-3][0]:
                break
        _, l2, fits = min(tried, key=lambda entry: entry[0])  # of equals the first, that is the strongest
        return l2, fits

    def choose_strength(self, l2: float, fits: list[Parameters]) -> tuple[float, list[Parameters]]:
        """Of those within one standard error of the best, the strongest: it is nearest the champion."""
        if not self.has_stay:
            return 0.0, fits
        tried = {0.0: fits}
        for strength in STRENGTHS[1:]:
            tried[strength] = fits = self._fit(l2, strength, fits)
        costs = {s: self.held_out.costs(self.held_out.score(found)) for s, found in tried.items()}
        best = min(costs, key=lambda s: float(costs[s].mean()))
        strength = max(s for s in costs if _within_one_error(costs[s] - costs[best]))
        return strength, tried[strength]

    def choose_alpha(self, fits: list[Parameters]) -> tuple[float, float]:
        """Alpha and the temperature that goes with it. Of equals the nearest to the champion."""
        held_out = self.held_out
        scored, old, rows = held_out.score(fits), held_out.champion, held_out.unseen
        if old is None or rows.sum() < FEWEST_UNSEEN:
            return 1.0, find_temperature(scored, held_out.labels)
        mixed = {a: np.float32(1 - a) * old + np.float32(a) * scored for a in ALPHAS}
        alpha = min(ALPHAS, key=lambda a: float(held_out.costs(mixed[a], rows).mean()))
        rows = np.ones_like(rows) if alpha == 1.0 else rows
        return alpha, find_temperature(mixed[alpha][rows], held_out.labels[rows])

    def finish(self, chosen: Chosen, start: Parameters) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights (C, D) and bias (C,), fitted to all training images, before the temperature."""
        whole = self._problems[0] if self.folds.count == 1 else self._pose(self.folds.train > -2)
        found = self._at(whole, chosen.strength).minimise(chosen.l2, start, tolerance=FINAL_TOLERANCE)
        weights, bias = self.scaler.fold(found)
        if self.champion is None or chosen.alpha == 1.0:
            return weights, bias
        old = self.champion
        return (
            (1 - chosen.alpha) * old.weights.astype(np.float64) / old.temperature + chosen.alpha * weights,
            (1 - chosen.alpha) * old.bias.astype(np.float64) / old.temperature + chosen.alpha * bias,
        )


def fit_head(
    data: HeadData,
    labels: tuple[str, ...],
    backbone_digest: str,
    champion: Head | None,
    seed: int,
    tell: Tell = _tell_nobody,
) -> Fitted:
    """Fit a head: the same data, seed and kind of CPU give the same bits.

    Args:
        champion: is only heeded if it reads the same backbone and knows the same labels.
        tell: gets the fraction that is done, now and then.

    Raises:
        SnapshotUnusable: fewer than two labels have a training image, or a value makes no sense.
    """
    data.check(labels)
    if champion and (champion.labels, champion.backbone_digest) != (labels, backbone_digest):
        champion = None
    with threadpool_limits(1):  # faster than two at these sizes, and the order of sums stays the same
        choice = _Choice(data, len(labels), champion, Folds.deal(data, seed), tell)
        l2, fits = choice.choose_l2()
        strength, fits = choice.choose_strength(l2, fits)
        chosen = Chosen(l2, strength, *choice.choose_alpha(fits))
        weights, bias = choice.finish(chosen, fits[0])
    narrow = weights.astype(np.float32), bias.astype(np.float32)
    head = Head(*narrow, chosen.temperature, labels, backbone_digest)
    tell(1.0)
    return Fitted(head, chosen, _count(data, labels, choice.folds), _validate(data, head, champion))


def weigh_labels(labels: NDArray[np.int32], shares: Floats | None = None) -> Floats:
    """Square root of the inverse label frequency, (N,), times each image's own share (1 if none is given).

    An image of the rarest label weighs at most five times one of the commonest.
    """
    counts = np.bincount(labels, weights=shares)
    weights: Floats = np.minimum(WEIGHT_CAP, np.sqrt(counts.max() / counts[labels])).astype(np.float32)
    return weights if shares is None else weights * shares


def _within_one_error(differences: NDArray[np.float64]) -> bool:
    """Whether a mean of paired differences is no more than its standard error above zero."""
    error = float(differences.std(ddof=1)) / np.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return float(differences.mean()) <= error


def _count(data: HeadData, labels: tuple[str, ...], folds: Folds) -> dict[str, Any]:
    per_label = np.bincount(data.train_y, minlength=len(labels)).tolist()
    return {
        "train": len(data.train_y),
        "train_per_label": dict(zip(labels, per_label, strict=True)),
        "validation": len(data.validation_y),
        "stay_right": len(data.stay_x),
        "folds": folds.count if folds.count > 1 else 0,  # 0: the validation images sufficed
    }


def _validate(data: HeadData, head: Head, champion: Head | None) -> dict[str, float | None]:
    """How head and champion do on the validation images; None where there are none."""
    truth = data.validation_y
    if not len(truth):
        return {"champion_accuracy": None, "accuracy": None, "log_loss": None}
    values = head.logits(data.validation_x)
    old = champion.logits(data.validation_x).argmax(axis=1) if champion else None
    return {
        "champion_accuracy": float((old == truth).mean()) if old is not None else None,
        "accuracy": float((values.argmax(axis=1) == truth).mean()),
        "log_loss": float(log_losses(values, truth).mean()),
    }
