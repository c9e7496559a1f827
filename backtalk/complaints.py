"""How many predictions were corrected, day by day: what the loop is there to bring down."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from backtalk.tables import Model

DAYS = 30
#: Predictions of a day that are looked at, the first ones: busy models must not make the page slow.
MOST_A_DAY = 10_000


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
    today = (now or datetime.now(UTC)).astimezone(UTC).date()
    values = {"model": model.id, "first": today - timedelta(days=days - 1), "days": days, "most": MOST_A_DAY}
    return [Day(*row) for row in session.execute(text(_DAYS), values)]


# Corrections are found first, by their index: there are few. Ids are UUIDs of version 7, so those since a
# moment are a range, and what was said of a prediction is younger than it.
_DAYS = """
WITH days AS (
    SELECT CAST(:first AS date) + n AS day FROM generate_series(0, :days - 1) n
), counted AS (
    SELECT d.day, p.n, p.until FROM days d CROSS JOIN LATERAL (
        SELECT count(*) AS n, max(created_at) AS until FROM (
            SELECT created_at FROM predictions
            WHERE model_id = :model AND created_at >= d.day AT TIME ZONE 'UTC'
            AND created_at < (d.day + 1) AT TIME ZONE 'UTC'
            ORDER BY created_at LIMIT :most
        ) first_ones
    ) p
), said AS (
    SELECT DISTINCT prediction_id FROM corrections
    WHERE model_id = :model AND state = ANY (ARRAY['pending', 'disputed', 'approved', 'rejected'])
    AND id >= CAST(lpad(to_hex(CAST(
        extract(epoch FROM CAST(:first AS date) AT TIME ZONE 'UTC') * 1000 AS bigint)), 12, '0')
        || '00000000000000000000' AS uuid)
), corrected AS (
    SELECT CAST(p.created_at AT TIME ZONE 'UTC' AS date) AS day, p.created_at
    FROM said JOIN predictions p ON p.id = said.prediction_id
    WHERE p.created_at >= CAST(:first AS date) AT TIME ZONE 'UTC'
)
SELECT c.day, c.n, (SELECT count(*) FROM corrected k WHERE k.day = c.day AND k.created_at <= c.until)
FROM counted c ORDER BY c.day
"""
