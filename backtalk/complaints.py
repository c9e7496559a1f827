"""How many predictions were corrected, day by day: what the loop is there to bring down."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from sqlalchemy import func, literal, select, text, union_all
from sqlalchemy.orm import Session

from backtalk.tables import Model, Prediction

DAYS = 30
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


def list_days(session: Session, model: Model, *, now: datetime | None = None, days: int = DAYS) -> list[Day]:
    """The newest days, oldest first, those without a prediction too; today is not over yet.

    A correction belongs to the day of its prediction, whenever it came; several of one prediction are one.
    """
    today = (now or datetime.now(UTC)).astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    starts = [today - timedelta(days=back) for back in range(days - 1, -1, -1)]
    counted = _count_predictions(session, model, starts)
    values = {
        "model": model.id,
        "first": starts[0],
        "first_id": UUID(int=int(starts[0].timestamp() * 1000) << 80),
        "starts": starts,
        "ends": [last for _, last in counted],
    }
    corrected = {row.since: row.n for row in session.execute(text(_CORRECTED), values)}
    return [
        Day(start.date(), n, corrected.get(start, 0)) for start, (n, _) in zip(starts, counted, strict=True)
    ]


def _count_predictions(
    session: Session, model: Model, starts: list[datetime]
) -> list[tuple[int, datetime | None]]:
    """How many of each day are looked at, and when the last of them was made.

    One branch for each day, so that the planner knows each range and walks the index to the limit.
    """
    branches = []
    for place, start in enumerate(starts):
        first_ones = (
            select(Prediction.created_at)
            .where(Prediction.model_id == model.id, Prediction.created_at >= start)
            .where(Prediction.key_id.is_not(None))  # nobody asked for those behind gold items
            .where(Prediction.created_at < start + timedelta(days=1))
            .order_by(Prediction.created_at)
            .limit(MOST_A_DAY)
            .subquery()
        )
        branches.append(
            select(literal(place), func.count(), func.max(first_ones.c.created_at)).select_from(first_ones)
        )
    rows = session.execute(union_all(*branches)).all()
    return [(n, last) for _, n, last in sorted(rows, key=lambda row: row[0])]


# Corrections are found by their index: ids are UUIDs of version 7, so those since a moment are a range, and
# what was said of a prediction is younger than it.
_CORRECTED = """
WITH said AS MATERIALIZED (
    SELECT DISTINCT prediction_id FROM corrections
    WHERE model_id = :model AND state = ANY (ARRAY['pending', 'disputed', 'approved', 'rejected'])
    AND id >= CAST(:first_id AS uuid)
), corrected AS MATERIALIZED (
    SELECT date_trunc('day', p.created_at, 'UTC') AS since, p.created_at
    FROM said JOIN predictions p ON p.id = said.prediction_id
    WHERE p.created_at >= CAST(:first AS timestamptz)
)
SELECT d.since, count(*) AS n
FROM unnest(CAST(:starts AS timestamptz[]), CAST(:ends AS timestamptz[])) AS d (since, last)
JOIN corrected k ON k.since = d.since AND k.created_at <= d.last
GROUP BY d.since
"""
