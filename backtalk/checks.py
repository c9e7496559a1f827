"""The checks that count fixed (b) and broken (c) images. Each takes answers and makes one row. Pure."""

from collections.abc import Sequence
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
        "confusion": {
            "champion": answers.count_confusion(answers.champion),
            "candidate": answers.count_confusion(answers.candidate),
        },
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


def check_class_recall(answers: Answers, labels: Sequence[str], policy: Policy) -> Check:
    """The recall that any class with enough holdout images loses (Tango); the row shows the worst class.

    `detail["classes"]` has a line for each class that was judged, the worst first.
    """
    pairs = Pairs.compare(answers.champion_right, answers.candidate_right)
    classes = _list_classes(answers, pairs, labels, policy)
    detail: dict[str, Any] = {
        "limit": policy.max_recall_loss,
        "confidence": policy.confidence,
        "classes": classes,
    }
    if not classes:
        detail["sentence"] = f"No class has {policy.min_veto_images} holdout images: too few to judge."
        detail["outcome"] = "too-few"
        return Check("class-recall", None, None, 0, 0, 0, None, detail)
    worst = classes[0]
    passed = worst["bound"] <= policy.max_recall_loss
    in_class = answers.truth == list(labels).index(worst["label"])
    detail |= Pairs(pairs.fixed & in_class, pairs.broken & in_class).list_images(answers)
    detail["outcome"] = name_outcome(passed)
    detail["label"] = worst["label"]
    shown = "no loss is shown"
    if worst["bound"] > 0:
        shown = f"a loss of {100 * worst['bound']:.1f} or more with {policy.confidence:.0%} confidence"
    detail["sentence"] = (
        f"Of {len(classes)} classes {worst['label']} comes off worst: recall {points(-worst['loss'])} on "
        f"{worst['n']} images, {shown}; {100 * policy.max_recall_loss:.0f} may be lost."
    )
    counts = worst["n"], worst["fixed"], worst["broken"]
    return Check("class-recall", worst["loss"], worst["bound"], *counts, passed, detail)


def _list_classes(
    answers: Answers, pairs: Pairs, labels: Sequence[str], policy: Policy
) -> list[dict[str, Any]]:
    def count(chosen: Flags) -> list[int]:
        found = np.bincount(answers.truth[chosen].astype(np.intp), minlength=len(labels))
        return [int(x) for x in found]

    everything = np.ones(len(answers), dtype=np.bool_)
    classes = []
    for label, n, right, b, c in zip(
        labels,
        count(everything),
        count(answers.champion_right),
        count(pairs.fixed),
        count(pairs.broken),
        strict=True,
    ):
        if n >= policy.min_veto_images:
            bound = -float(intervals.tango_upper(b, c, n, policy.confidence))
            line = {"label": label, "n": n, "fixed": b, "broken": c, "champion_recall": right / n}
            classes.append(line | {"loss": (c - b) / n, "bound": bound})
    return sorted(classes, key=lambda line: (-line["bound"], -line["loss"]))


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
