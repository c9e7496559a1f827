"""How many predictions were corrected, day by day: what the loop is there to bring down.

To count a day of a busy model takes thousands of rows, a month of them too long for a page. So past days are
counted in the background and kept (`keep_days`); the last two, and days that nobody has counted yet, when
somebody looks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backtalk.tables import FeedbackDay, Model

DAYS = 30
FRESH_DAYS = 2  # today and yesterday: most corrections come at once
#: Predictions of a day that are looked at, the first ones: busy models must not make the page slow.
MOST_A_DAY = 2_000


@dataclass(frozen=True)
class Day:
    """Of `predictions` made that day (UTC), the first `MOST_A_DAY` at most, so many were `corrected`."""

    day: date
    predictions: int
    corrected: int

    @property
    def per_thousand(self) -> float | None:
        return 1000 * self.corrected / self.predictions if self.predictions else None


def list_days(session: Session, model: Model, *, now: datetime | None = None) -> list[Day]:
    """The newest `DAYS`, oldest first, those without a prediction too; today is not over yet.

    A correction belongs to the day of its prediction, whenever it came; several of one prediction are one.
    """
    days = _name_days(now)
    kept = {
        row.day: Day(row.day, row.predictions, row.corrected)
        for row in session.scalars(
            select(FeedbackDay).where(
                FeedbackDay.model_id == model.id, FeedbackDay.day.in_(days[:-FRESH_DAYS])
            )
        )
    }
    fresh = {day.day: day for day in _count(session, model, [day for day in days if day not in kept])}
    return [kept.get(day) or fresh[day] for day in days]


def keep_days(session: Session, model: Model, *, now: datetime | None = None) -> None:
    """Count the past days anew: a correction may come weeks after its prediction."""
    days = _name_days(now)
    rows = [vars(day) | {"model_id": model.id} for day in _count(session, model, days[:-FRESH_DAYS])]
    values = insert(FeedbackDay).values(rows)
    counted = {name: values.excluded[name] for name in ("predictions", "corrected")}
    session.execute(
        values.on_conflict_do_update(
            index_elements=["model_id", "day"], set_=counted | {"counted_at": func.now()}
        )
    )
    old = text("DELETE FROM feedback_days WHERE model_id = :model AND day < :first")
    session.execute(old, {"model": model.id, "first": days[0]})


def _name_days(now: datetime | None) -> list[date]:
    today = (now or datetime.now(UTC)).astimezone(UTC).date()
    return [today - timedelta(days=back) for back in range(DAYS - 1, -1, -1)]


def _count(session: Session, model: Model, days: Sequence[date]) -> list[Day]:
    starts = {datetime.combine(day, time(), UTC): day for day in days}
    values = {"model": model.id, "starts": list(starts), "most": MOST_A_DAY}
    rows = session.execute(text(_FIRST_ONES), values)
    return [Day(starts[row.since], row.predictions, row.corrected) for row in rows]


# Without a key a prediction was made for reviewers (behind gold items): no app asked for it.
_FIRST_ONES = """
SELECT d.since, n.predictions, n.corrected
FROM unnest(CAST(:starts AS timestamptz[])) AS d (since) CROSS JOIN LATERAL (
    SELECT count(*) AS predictions, count(*) FILTER (WHERE EXISTS (
        SELECT FROM corrections c WHERE c.prediction_id = p.id
        AND c.state = ANY (ARRAY['pending', 'disputed', 'approved', 'rejected'])
    )) AS corrected
    FROM (
        SELECT id FROM predictions WHERE model_id = :model AND key_id IS NOT NULL
        AND created_at >= d.since AND created_at < d.since + interval '24 hours'
        ORDER BY created_at LIMIT :most
    ) p
) n
"""
