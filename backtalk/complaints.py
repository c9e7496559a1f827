"""How many predictions were corrected, day by day: what the loop is there to bring down."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from backtalk.tables import Model

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
    first = today - timedelta(days=days - 1)
    first_id = UUID(int=int(first.timestamp() * 1000) << 80)
    values = {"model": model.id, "first": first, "first_id": first_id, "days": days, "most": MOST_A_DAY}
    rows = session.execute(text(_DAYS), values)
    return [Day(since.astimezone(UTC).date(), n, corrected) for since, n, corrected in rows]


# Ids are UUIDs of version 7, so the corrections since a moment are a range; what was said of a prediction is
# younger than it. `IN` within the count makes a hash table of them, however few the planner expects.
_DAYS = """
WITH days AS (
    SELECT CAST(:first AS timestamptz) + make_interval(days => n) AS since,
        CAST(:first AS timestamptz) + make_interval(days => n + 1) AS until
    FROM generate_series(0, :days - 1) n
), said AS MATERIALIZED (
    SELECT prediction_id FROM corrections
    WHERE model_id = :model AND state = ANY (ARRAY['pending', 'disputed', 'approved', 'rejected'])
    AND id >= CAST(:first_id AS uuid)
)
SELECT d.since, p.n, p.corrected FROM days d CROSS JOIN LATERAL (
    SELECT count(*) AS n, count(*) FILTER (WHERE id IN (SELECT prediction_id FROM said)) AS corrected
    FROM (
        SELECT id FROM predictions
        WHERE model_id = :model AND created_at >= d.since AND created_at < d.until
        ORDER BY created_at LIMIT :most
    ) first_ones
) p ORDER BY d.since
"""
