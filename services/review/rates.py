"""Corrections per 1,000 predictions, day by day, as the geometry of a chart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date

from backtalk.complaints import Day
from backtalk.tables import LedgerEntry
from services.review import evidence_words as say
from services.review import words

LEFT, TOP, WIDTH, HEIGHT = 44.0, 26.0, 676.0, 150.0  # pixels of the plot in its frame
TICKS = 4
LABEL_EVERY = 7  # days


@dataclass(frozen=True)
class Column:
    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Mark:
    """The versions that went live on one day."""

    x: float
    text: str


@dataclass(frozen=True)
class Note:
    """A text at an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Row:
    """One day, for the table."""

    day: str
    predictions: str
    corrected: str
    rate: str
    went_live: str


@dataclass(frozen=True)
class RateChart:
    columns: list[Column]
    marks: list[Mark]
    levels: list[Note]
    days: list[Note]
    rows: list[Row]


def make_rate_chart(days: Sequence[Day], changes: Sequence[LedgerEntry]) -> RateChart | None:
    """None where no day has a prediction."""
    rates = [day.per_thousand for day in days]
    known = [rate for rate in rates if rate is not None]
    if not known:
        return None
    top = _round_up(max(known))
    step = WIDTH / len(days)
    columns = [
        Column(
            x=round(LEFT + step * i + step * 0.15, 1),
            y=round(TOP + HEIGHT * (1 - rate / top), 1),
            width=round(step * 0.7, 1),
            height=round(max(HEIGHT * rate / top, 1.0), 1),
            title=say.day_of_corrections(day),
        )
        for i, (day, rate) in enumerate(zip(days, rates, strict=True))
        if rate is not None
    ]
    levels = [
        Note(round(TOP + HEIGHT * (1 - i / TICKS), 1), say.short_number(top * i / TICKS))
        for i in range(TICKS + 1)
    ]
    dates = [
        Note(round(LEFT + step * (i + 0.5), 1), say.day(day.day))
        for i, day in enumerate(days)
        if (len(days) - 1 - i) % LABEL_EVERY == 0
    ]
    live = _find_live(changes)
    return RateChart(columns, _place_marks(days, live, step), levels, dates, _list_rows(days, live))


def _round_up(highest: float) -> float:
    """The next of 1, 2, 5 times a power of ten; never zero."""
    if highest <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(highest))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= highest * (1 - 1e-9))


def _find_live(changes: Sequence[LedgerEntry]) -> dict[date, list[str]]:
    """By day, which versions went live, in their order."""
    live: dict[date, list[str]] = {}
    for change in sorted(changes, key=lambda one: one.seq):
        live.setdefault(change.created_at.astimezone(UTC).date(), []).append(str(change.version))
    return live


def _place_marks(days: Sequence[Day], live: dict[date, list[str]], step: float) -> list[Mark]:
    return [
        Mark(round(LEFT + step * (i + 0.5), 1), _shorten(live[day.day]))
        for i, day in enumerate(days)
        if day.day in live
    ]


def _shorten(versions: list[str]) -> str:
    """`v5`, `v4, 5`, `v2 … 5`: there is little room."""
    return f"v{versions[0]} … {versions[-1]}" if len(versions) > 2 else f"v{', '.join(versions)}"


def _list_rows(days: Sequence[Day], live: dict[date, list[str]]) -> list[Row]:
    """Newest first."""
    return [
        Row(
            day=say.day(day.day),
            predictions=words.thousands(day.predictions),
            corrected=words.thousands(day.corrected),
            rate="–" if day.per_thousand is None else say.short_number(day.per_thousand),
            went_live=", ".join(live.get(day.day, [])) or "–",
        )
        for day in reversed(days)
    ]
