"""The checks that count fixed (b) and broken (c) images. Each takes answers and makes one row. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from backtalk import intervals
from backtalk.answers import Answers, Check, Flags, Pairs, name_outcome, points
from backtalk.policy import Policy

Aim = Literal["better", "equal"]
Reference = Literal["champion", "anchor"]

#: More verdicts than this wear a holdout out, unless at least this share of it is new.
WEAR_VERDICTS = 20
WEAR_NEW_SHARE = 1 / 3


# --- what speaks for a candidate -----------------------------------------------------------------
def check_accuracy(against: Reference, answers: Answers, policy: Policy, aim: Aim = "better") -> Check:
    """Not worse than the reference by more than the margin: Tango's lower bound is above `-margin`.

    Failed where the candidate is surely worse: its upper bound is below zero against the champion (not where
    it aims to be equal and is non-inferior), or below `-margin` against the anchor.
    """
    right = answers.champion_right if against == "champion" else answers.anchor_right
    pairs, n = Pairs.compare(right, answers.candidate_right), len(answers)
    lower = float(intervals.tango_lower(pairs.b, pairs.c, n, policy.confidence))
    upper = float(intervals.tango_upper(pairs.b, pairs.c, n, policy.confidence))
    surely_worse = upper < worse_below(against, policy)
    passed = None
    if lower > -policy.margin and (aim == "equal" or not surely_worse):
        passed = True
    elif surely_worse:
        passed = False
    detail = {
        "sentence": _say_accuracy(against, pairs, (lower, upper), passed, policy),
        "outcome": name_outcome(passed),
        "limit": -policy.margin,
        "upper": upper,
        "confidence": policy.confidence,
        "reference_is_champion": against == "champion" or answers.champion_is_anchor,
        "reference_accuracy": _show_accuracy(right),
        "candidate_accuracy": _show_accuracy(answers.candidate_right),
        **pairs.list_images(answers),
    }
    value = (pairs.b - pairs.c) / n if n else None
    return Check(f"accuracy-{against}", value, lower if n else None, n, pairs.b, pairs.c, passed, detail)


def worse_below(against: Reference, policy: Policy) -> float:
    """The difference below which a candidate counts as surely worse."""
    return 0.0 if against == "champion" else -policy.margin


def _say_accuracy(
    against: str, pairs: Pairs, bounds: tuple[float, float], passed: bool | None, policy: Policy
) -> str:
    n = len(pairs.fixed)
    if not n:
        return "The holdout has no images, so nothing can be told."
    found = (
        f"{points((pairs.b - pairs.c) / n)} against the {against} "
        f"({pairs.b} fixed, {pairs.c} broken of {n} holdout images)"
    )
    sure = f"with {policy.confidence:.0%} confidence"
    if passed is False:
        return f"{found}, at most {points(bounds[1])} {sure}: surely worse."
    if passed:
        return f"{found}, at least {points(bounds[0])} {sure}; {points(-policy.margin)} is the limit."
    return f"{found}, but only at least {points(bounds[0])} {sure}: not above {points(-policy.margin)}."


def _show_accuracy(right: Flags) -> dict[str, float | None]:
    """Share of right answers and its two-sided 95 % interval (Wilson)."""
    low, high = intervals.wilson(int(right.sum()), len(right))
    return {"share": float(right.mean()) if len(right) else None, "low": low, "high": high}


def check_fixed_broken(answers: Answers, aim: Aim = "better") -> Check:
    """At least as many fixed as broken against the champion; only shown where the aim is to be equal."""
    pairs, n = Pairs.compare(answers.champion_right, answers.candidate_right), len(answers)
    passed = pairs.b >= pairs.c if n and aim == "better" else None
    word = "more broken than fixed" if pairs.b < pairs.c else "at least as many fixed as broken"
    detail = {
        "sentence": f"{pairs.b} fixed, {pairs.c} broken: {word}." if n else "No images to compare on.",
        "outcome": name_outcome(passed, "shown" if n else "undecided"),
        "limit": 0,
    }
    difference = float(pairs.b - pairs.c)
    return Check("fixed-broken", difference, difference, n, pairs.b, pairs.c, passed, detail)


# --- vetoes ----------------------------------------------------------------------------------------
def check_broken_share(name: Literal["regression", "kept"], answers: Answers, policy: Policy) -> Check:
    """Of the images that the champion reads right, the share that the candidate breaks.

    These samples are biased, so they never speak *for* a candidate, and strike only where the lower
    Clopper-Pearson bound of the share lies beyond its limit.
    """
    limit = policy.max_rebreak_rate if name == "regression" else policy.max_flip_rate
    what = "reported mistakes" if name == "regression" else "confirmed answers"
    pairs = Pairs.compare(answers.champion_right, answers.candidate_right)
    right = int(answers.champion_right.sum())
    bound, passed = None, None
    said = f"{pairs.c} broken of {right} {what} that the champion reads right, {pairs.b} others fixed"
    if not len(answers):
        said = f"No {what} to ask about yet."
    elif right < policy.min_veto_images:
        said += f": too few to judge, it takes {policy.min_veto_images}."
    else:
        bound = float(intervals.clopper_pearson_lower(pairs.c, right, policy.confidence))
        passed = bound <= limit
        said += f": at least {bound:.1%} with {policy.confidence:.0%} confidence, {limit:.0%} may break."
    detail = {
        "sentence": said,
        "outcome": name_outcome(passed, "too-few"),
        "limit": limit,
        "confidence": policy.confidence,
        "champion_right": right,
        **pairs.list_images(answers),
    }
    share = pairs.c / right if right else None
    return Check(name, share, bound, len(answers), pairs.b, pairs.c, passed, detail)


@dataclass(frozen=True, eq=False)
class _Loss:
    """What the candidate does to one class, against one version, on the images in `rows` (N,)."""

    label: str
    against: int | None  # the anchor's version; None: the champion
    rows: Flags
    pairs: Pairs
    reference_recall: float
    bound: float

    @property
    def n(self) -> int:
        return int(self.rows.sum())

    @property
    def value(self) -> float:
        return (self.pairs.c - self.pairs.b) / self.n

    def show(self) -> dict[str, Any]:
        against = {} if self.against is None else {"against": self.against}
        counts = {"label": self.label, "n": self.n, "fixed": self.pairs.b, "broken": self.pairs.c}
        recall = {"reference_recall": self.reference_recall, "loss": self.value, "bound": self.bound}
        return counts | recall | against


def check_class_recall(answers: Answers, labels: Sequence[str], policy: Policy) -> Check:
    """The recall that any class with enough holdout images loses (Tango); the row shows the worst class.

    `detail["classes"]` has a line for each class that was judged, the worst first.
    """
    everything = np.ones(len(answers), dtype=np.bool_)
    champion = (None, everything, answers.champion_right)
    losses = _list_losses(answers, champion, labels, policy, policy.confidence)
    return _make_recall_row("class-recall", answers, losses, policy, policy.confidence)


def check_class_recall_anchor(answers: Answers, labels: Sequence[str], policy: Policy) -> Check:
    """The same against each anchor there has been: what is lost in small steps is lost, too.

    A class may lose no more in all than it may lose in one step, and against the anchor that read it best:
    an anchor moves on with each version that is surely better over all classes, and what one class won could
    then be traded away again. The doubt that `confidence` leaves is shared among the anchors (Bonferroni), so
    a class is not vetoed by mistake more often for having more of them.
    """
    confidence = 1 - (1 - policy.confidence) / max(1, len(answers.past))
    losses = [
        loss
        for past in answers.past
        for loss in _list_losses(answers, (past.version, past.seen, past.right), labels, policy, confidence)
    ]
    if answers.past:
        losses.sort(key=lambda loss: (-loss.bound, -loss.value))
        return _make_recall_row("class-recall-anchor", answers, losses, policy, confidence)
    said = "The champion is the only anchor: nothing else to compare with."
    detail = {"sentence": said, "outcome": "shown", "limit": policy.max_recall_loss, "classes": []}
    return Check("class-recall-anchor", None, None, 0, 0, 0, None, detail)


def _list_losses(
    answers: Answers,
    reference: tuple[int | None, Flags, Flags],
    labels: Sequence[str],
    policy: Policy,
    confidence: float,
) -> list[_Loss]:
    """One for each class with enough images, the worst first. `reference`: which version, the images that it
    has seen, and those that it reads right."""
    against, seen, right = reference
    found = []
    for index, label in enumerate(labels):
        rows = seen & (answers.truth == index)
        if rows.sum() >= policy.min_veto_images:
            found.append((label, rows, Pairs.compare(right & rows, answers.candidate_right & rows)))
    bounds = -intervals.tango_upper(
        np.array([pairs.b for _, _, pairs in found]),
        np.array([pairs.c for _, _, pairs in found]),
        np.array([rows.sum() for _, rows, _ in found]),
        confidence,
    )
    losses = [
        _Loss(label, against, rows, pairs, float(right[rows].mean()), float(bound))
        for (label, rows, pairs), bound in zip(found, bounds, strict=True)
    ]
    return sorted(losses, key=lambda loss: (-loss.bound, -loss.value))


def _make_recall_row(
    name: Literal["class-recall", "class-recall-anchor"],
    answers: Answers,
    losses: Sequence[_Loss],
    policy: Policy,
    confidence: float,
) -> Check:
    """`losses`: the worst first."""
    detail: dict[str, Any] = {
        "limit": policy.max_recall_loss,
        "confidence": confidence,
        "classes": [loss.show() for loss in losses],
    }
    if not losses:
        detail["sentence"] = f"No class has {policy.min_veto_images} holdout images: too few to judge."
        detail["outcome"] = "too-few"
        return Check(name, None, None, 0, 0, 0, None, detail)
    worst = losses[0]
    passed = worst.bound <= policy.max_recall_loss
    detail |= worst.pairs.list_images(answers)
    detail |= {"outcome": name_outcome(passed), "label": worst.label}
    detail["sentence"] = _say_recall(worst, len({loss.label for loss in losses}), policy, confidence)
    counts = worst.n, worst.pairs.b, worst.pairs.c
    return Check(name, worst.value, worst.bound, *counts, passed, detail)


def _say_recall(worst: _Loss, classes: int, policy: Policy, confidence: float) -> str:
    shown = "no loss is shown"
    if worst.bound > 0:
        shown = f"a loss of {100 * worst.bound:.1f} or more with {100 * confidence:.3g}% confidence"
    against = "" if worst.against is None else f" against version {worst.against}"
    return (
        f"Of {classes} classes {worst.label} comes off worst{against}: recall {points(-worst.value)} on "
        f"{worst.n} images, {shown}; {100 * policy.max_recall_loss:.0f} may be lost."
    )


# --- shown -----------------------------------------------------------------------------------------
def show_wear(n: int, served_before: int, new_share: float) -> Check:
    """How many verdicts this holdout has served. Re-use wears it out in the incumbent's favour."""
    worn = served_before > WEAR_VERDICTS and new_share < WEAR_NEW_SHARE
    said = f"This holdout has served {served_before} verdicts before; {new_share:.0%} of it is new."
    if worn:
        said += " It wears out: answer audits, or raise audit_share, so that new images come in."
    detail = {
        "sentence": said,
        "outcome": "shown",
        "limit": WEAR_VERDICTS,
        "new_share": new_share,
        "asks_for_audits": worn,
    }
    return Check("holdout-wear", float(served_before), None, n, 0, 0, None, detail)
