"""Gate checks as lines of a table: value, bound, a bar, and the result in words."""

from collections.abc import Callable
from dataclasses import dataclass

from backtalk.tables import GateCheck
from services.review.language import translate as _
from services.review.words import Said, share

BAR_FROM, BAR_WIDTH = 2.0, 128.0  # pixels of the bar's track


@dataclass(frozen=True)
class Spec:
    """How one kind of check reads. `better`: on which side of the limit the bound must lie."""

    title: str
    unit: str  # points, share, number
    better: str  # above, below


SPECS = {
    "accuracy-champion": Spec("Accuracy against the champion", "points", "above"),
    "accuracy-anchor": Spec("Accuracy against the anchor", "points", "above"),
    "fixed-broken": Spec("Fixed against broken", "count", "above"),
    "regression": Spec("Reported mistakes broken again", "share", "below"),
    "kept": Spec("Confirmed answers broken", "share", "below"),
    "class-recall": Spec("Recall lost by the worst class", "points", "below"),
    "class-recall-anchor": Spec("Recall lost by a class against an anchor", "points", "below"),
    "brier": Spec("Brier score lost", "number", "below"),
    "size": Spec("Size of the backbone", "share", "below"),
    "latency": Spec("Time of one image", "share", "below"),
    "ece": Spec("Calibration error", "number", "below"),
    "holdout-wear": Spec("Verdicts by this holdout", "count", "below"),
    "scores-finite": Spec("Scores are numbers", "number", "below"),
    "artefact": Spec("SavedModel agrees with what serves", "tiny", "below"),
}

RESULTS = {
    "passed": Said("good", "approve", "passed"),
    "failed": Said("bad", "reject", "failed"),
    "undecided": Said("warn", "unsure", "cannot tell"),
    "too-few": Said("", "unsure", "too few"),
    "shown": Said("", "note", "shown only"),
}


@dataclass(frozen=True)
class Bar:
    """Pixel positions: the stretch that is allowed, the limit, and the interval's end and middle."""

    allowed_from: float
    allowed_width: float
    limit_at: float
    value_at: float
    bound_at: float
    tone: str


@dataclass(frozen=True)
class Line:
    title: str
    meaning: str
    result: Said
    value: str
    bound: str
    limit: str
    n: int
    fixed: int
    broken: int
    bar: Bar | None


def make_line(check: GateCheck) -> Line:
    """One row of `gate_checks`, ready to print."""
    spec = SPECS.get(check.check, Spec(check.check.replace("-", " ").capitalize(), "number", "below"))
    result = RESULTS[_find_outcome(check)]
    limit = check.detail.get("limit")
    bound = check.bound
    if check.check == "artefact":  # its bound is the limit itself
        limit, bound = check.bound, None
    if spec.unit == "count" and bound == check.value:  # a count has no interval
        bound = None
    shown_only = check.detail.get("outcome") == "shown"
    return Line(
        title=_(spec.title),
        meaning=str(check.detail.get("sentence", "")),
        result=result.translated(),
        value=_format(check.value, spec.unit),
        bound=_format(bound, spec.unit),
        limit="–" if shown_only else _say_limit(spec, limit),
        n=check.n,
        fixed=check.fixed,
        broken=check.broken,
        bar=None if shown_only else _draw(spec, check.value, bound, limit, result.tone),
    )


def _say_limit(spec: Spec, limit: float | None) -> str:
    if limit is None:
        return "–"
    sign = "≥" if spec.better == "above" else "≤"
    return f"{sign} {_format(limit, spec.unit).removeprefix('+')}"


def _find_outcome(check: GateCheck) -> str:
    given = check.detail.get("outcome")
    if given in RESULTS:
        return str(given)
    return {True: "passed", False: "failed", None: "shown"}[check.passed]


_FORMATS: dict[str, Callable[[float], str]] = {
    "points": lambda value: _("%(n)s pt", n=f"{100 * value:+.1f}"),
    "share": share,
    "tiny": lambda value: f"{value:.1e}",
    "count": lambda value: f"{value:.0f}",
    "number": lambda value: f"{value:.4f}",
}


def _format(value: float | None, unit: str) -> str:
    """As people read it: a true minus sign, a dash for nothing."""
    return "–" if value is None else _FORMATS[unit](value).replace("-", "−")


def _draw(spec: Spec, value: float | None, bound: float | None, limit: float | None, tone: str) -> Bar | None:
    """The scale holds limit, value and bound with a quarter to spare at each end."""
    known = [x for x in (value, bound) if x is not None]
    if not known or limit is None:
        return None
    low, high = min([limit, 0.0, *known]), max([limit, 0.0, *known])
    spare = (high - low) / 4 or 1.0
    low, high = low - spare, high + spare

    def place(x: float) -> float:
        return round(BAR_FROM + BAR_WIDTH * (x - low) / (high - low), 1)

    limit_at = place(limit)
    start, end = (limit_at, BAR_FROM + BAR_WIDTH) if spec.better == "above" else (BAR_FROM, limit_at)
    middle = value if value is not None else known[0]
    return Bar(
        allowed_from=round(start, 1),
        allowed_width=round(end - start, 1),
        limit_at=limit_at,
        value_at=place(middle),
        bound_at=place(bound if bound is not None else middle),
        tone=tone,
    )
