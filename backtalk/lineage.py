"""Which versions learned from what was withdrawn since, by themselves or through their parent."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session


@dataclass(frozen=True)
class Taint:
    """What a version learned from samples that were withdrawn since."""

    samples: int  # in its own snapshot
    through: int | None  # the version that it is made of in part, and that learned from some


def find_tainted(
    session: Session, model_id: int, retractions: Collection[int] | None = None
) -> dict[int, Taint]:
    """By version number; versions that learned from nothing withdrawn are not in it.

    A version inherits from the one it was made from, unless it took over nothing of it: `alpha` 1 is the new
    head alone, and `strength` 0 does without the champion's scores.

    Args:
        retractions: only what these took back; all of them if None.
    """
    if not session.scalar(text(_ANY), {"model": model_id}):
        return {}
    rows = session.execute(
        text(_LEARNED),
        {"model": model_id, "all": retractions is None, "retractions": list(retractions or ())},
    ).all()
    tainted: dict[int, Taint] = {}
    for row in rows:  # parents first: numbers are drawn in order
        chosen = (row.metrics or {}).get("chosen") or {}
        inherits = (chosen.get("alpha"), chosen.get("strength")) != (1.0, 0.0)
        through = row.parent if inherits and row.parent in tainted else None
        if row.samples or through is not None:
            tainted[row.number] = Taint(row.samples, through)
    return tainted


_ANY = "SELECT EXISTS (SELECT FROM samples WHERE model_id = :model AND retraction_id IS NOT NULL)"
_LEARNED = """
WITH gone AS MATERIALIZED (
    SELECT id FROM samples
    WHERE model_id = :model AND retraction_id IS NOT NULL
    AND (:all OR retraction_id = ANY (CAST(:retractions AS bigint[])))
), learned AS (
    SELECT f.digest, count(*) AS samples
    FROM snapshots f CROSS JOIN LATERAL unnest(f.sample_ids) AS taught (id) JOIN gone ON gone.id = taught.id
    WHERE f.model_id = :model AND EXISTS (SELECT FROM gone)
    GROUP BY f.digest
)
SELECT v.number, v.parent, v.metrics, coalesce(l.samples, 0) AS samples
FROM versions v
LEFT JOIN runs r ON r.id = v.run_id
LEFT JOIN learned l ON l.digest = r.snapshot_digest
WHERE v.model_id = :model
ORDER BY v.number
"""
