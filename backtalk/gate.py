"""The gate between candidate and champion: evidence in, verdict out. Pure.

`docs/gate.md` explains it, with the operating curve of the whole gate.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backtalk import intervals
from backtalk.answers import Answers as Answers  # noqa: PLC0414 - part of what this module offers
from backtalk.answers import Check as Check  # noqa: PLC0414
from backtalk.calibration import check_brier, show_ece
from backtalk.checks import (
    Aim,
    Reference,
    check_accuracy,
    check_broken_share,
    check_class_recall,
    check_class_recall_anchor,
    check_fixed_broken,
    show_wear,
    worse_below,
)
from backtalk.costs import Costs, check_latency, check_size
from backtalk.policy import Policy
from backtalk.states import Verdict

COSTS = ("size", "latency")
ACCURACY = ("accuracy-champion", "accuracy-anchor")
VETOES = ("scores-finite", "regression", "kept", "class-recall", "class-recall-anchor", "brier", *COSTS)
HOLDOUT_CHECKS = (*ACCURACY, "fixed-broken", "class-recall", "class-recall-anchor", "brier")
#: Beyond so many further images a forecast is no help any more.
MAX_FORECAST = 100_000


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a verdict rests on. `served_before`: verdicts that this holdout has served; `new_share`: the share
    of its images that came in since they began to count."""

    labels: tuple[str, ...]
    holdout: Answers
    regression: Answers
    kept: Answers
    served_before: int = 0
    new_share: float = 1.0
    aim: Aim = "better"
    costs: Costs | None = None  # where the backbone changes


@dataclass(frozen=True)
class Judgement:
    """`reason` is a sentence; `better_than_anchor` says that the promoted version becomes the next anchor."""

    verdict: Verdict
    reason: str
    checks: tuple[Check, ...]
    better_than_anchor: bool


@dataclass(frozen=True)
class Forecast:
    """How many holdout images would decide, were the new ones to be answered as the known ones are."""

    total: int
    towards: Verdict


def judge(evidence: Evidence, policy: Policy) -> Judgement:
    """Judge a candidate: `passed` where it is non-inferior to champion and anchor and no veto strikes,
    `rejected` where one strikes or it is surely worse, `inconclusive` where the data cannot tell.

    Raises:
        ValueError: the evidence does not fit together.
    """
    _check_shapes(evidence)
    checks = _make_checks(evidence, policy)
    rows = {check.check: check for check in checks}
    verdict = _conclude(rows)
    forecast = _forecast(evidence, rows, policy) if verdict is Verdict.INCONCLUSIVE else None
    if forecast is not None:
        rows["accuracy-champion"].detail["more_images"] = forecast.total - len(evidence.holdout)
        rows["accuracy-champion"].detail["more_images_towards"] = forecast.towards
    anchor = rows.get("accuracy-anchor")
    better = anchor is not None and anchor.bound is not None and anchor.bound > 0
    return Judgement(verdict, _explain(verdict, rows, forecast), checks, better)


def _check_shapes(evidence: Evidence) -> None:
    for split in (evidence.holdout, evidence.regression, evidence.kept):
        if len(split) and split.champion.shape[1:] != (len(evidence.labels),):
            raise ValueError("evidence: the scores must have one column for each label")
        if len(split) and not 0 <= split.truth.min() <= split.truth.max() < len(evidence.labels):
            raise ValueError("evidence: a label index is out of range")


def _make_checks(evidence: Evidence, policy: Policy) -> tuple[Check, ...]:
    splits = (evidence.holdout, evidence.regression, evidence.kept)
    if not all(np.isfinite(split.candidate).all() for split in splits):
        return (_refuse_scores(sum(map(len, splits))),)
    holdout = evidence.holdout
    checks = (
        check_accuracy("champion", holdout, policy, evidence.aim),
        check_accuracy("anchor", holdout, policy, evidence.aim),
        check_fixed_broken(holdout, evidence.aim),
        check_broken_share("regression", evidence.regression, policy),
        check_broken_share("kept", evidence.kept, policy),
        check_class_recall(holdout, evidence.labels, policy),
        check_class_recall_anchor(holdout, evidence.labels, policy),
        check_brier(holdout, policy),
        *_check_costs(evidence.costs, policy),
        show_ece(holdout),
        show_wear(len(holdout), evidence.served_before, evidence.new_share),
    )
    served: dict[str, Any] = {"served_before": evidence.served_before}
    return tuple(
        replace(check, detail=check.detail | served) if check.check in HOLDOUT_CHECKS else check
        for check in checks
    )


def _check_costs(costs: Costs | None, policy: Policy) -> tuple[Check, ...]:
    return () if costs is None else (check_size(costs, policy), check_latency(costs, policy))


def _refuse_scores(n: int) -> Check:
    said = "The candidate gives scores that are not numbers."
    return Check(
        "scores-finite", None, None, n, 0, 0, False, {"sentence": said, "outcome": "failed", "limit": None}
    )


def _conclude(rows: dict[str, Check]) -> Verdict:
    if _failed(rows, ACCURACY) or _failed(rows, VETOES):
        return Verdict.REJECTED
    if all(rows[name].passed for name in ACCURACY) and rows["fixed-broken"].passed is not False:
        return Verdict.PASSED
    return Verdict.INCONCLUSIVE


def _failed(rows: dict[str, Check], names: tuple[str, ...]) -> list[Check]:
    return [rows[name] for name in names if name in rows and rows[name].passed is False]


# --- in words --------------------------------------------------------------------------------------
def _explain(verdict: Verdict, rows: dict[str, Check], forecast: Forecast | None) -> str:
    if verdict is Verdict.REJECTED:
        worse, struck = _failed(rows, ACCURACY), _failed(rows, VETOES)
        how = "Rejected." if worse else "Rejected by a veto."
        said = [check.detail["sentence"] for check in worse + struck if not _repeats(check)]
        return " ".join([how, *said])
    champion, anchor = rows["accuracy-champion"], rows["accuracy-anchor"]
    if verdict is Verdict.PASSED:
        return f"Passed, no veto struck. {champion.detail['sentence']}"
    if not champion.n:
        return "Cannot tell: the holdout has no images. Answer audits, so that it fills."
    undecided = [check for check in (champion, anchor) if not check.passed]
    why = undecided[0] if undecided else rows["fixed-broken"]
    return f"Cannot tell. {why.detail['sentence']} {_say_forecast(champion.n, forecast)}"


def _repeats(check: Check) -> bool:
    """Where the champion is the anchor, the second comparison says what the first one said."""
    return check.check == "accuracy-anchor" and bool(check.detail["reference_is_champion"])


def _say_forecast(n: int, forecast: Forecast | None) -> str:
    if forecast is None or forecast.total - n > MAX_FORECAST:
        return "The two are so alike that more holdout images would hardly decide."
    more = forecast.total - n
    images = "image" if more == 1 else "images"
    return f"About {more} more holdout {images} would decide, if answered alike (then: {forecast.towards})."


# --- how many images would decide ------------------------------------------------------------------
def _forecast(evidence: Evidence, rows: dict[str, Check], policy: Policy) -> Forecast | None:
    """The first refusal decides; a pass needs champion and anchor both."""
    found = []
    references: tuple[Reference, ...] = ("champion", "anchor")
    for against in references:
        row = rows[f"accuracy-{against}"]
        found.append(forecast_images(against, (row.fixed, row.broken, row.n), policy, evidence.aim))
    refusals = [f for f in found if f is not None and f.towards is Verdict.REJECTED]
    if refusals:
        return min(refusals, key=lambda f: f.total)
    passes = [f for f in found if f is not None]
    return max(passes, key=lambda f: f.total) if len(passes) == len(found) else None


def forecast_images(
    against: Reference, counts: tuple[int, int, int], policy: Policy, aim: Aim = "better"
) -> Forecast | None:
    """The smallest holdout that would decide a comparison at the observed rates; `counts` are (b, c, n).

    Tango's statistic grows with the root of `n` at given rates, so the size follows from its value for one
    image. None where no size would do. Without images the rates are taken as zero.
    """
    b, c, n = counts
    share_b, share_c = (b / n, c / n) if n else (0.0, 0.0)
    critical = intervals.critical_z(policy.confidence)
    for_it = float(intervals.tango_z(share_b, share_c, 1, -policy.margin))
    against_it = -float(intervals.tango_z(share_b, share_c, 1, worse_below(against, policy)))
    if for_it > 0 and (b >= c or against == "anchor" or aim == "equal"):
        return Forecast(math.floor((critical / for_it) ** 2) + 1, Verdict.PASSED)
    if against_it > 0:
        return Forecast(math.floor((critical / against_it) ** 2) + 1, Verdict.REJECTED)
    return None
