"""How reviewers answer: measured by gold items, and by what became of their answers. For admins alone."""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from backtalk.intervals import wilson
from backtalk.tables import Model


@dataclass(frozen=True)
class ReviewerRecord:
    """One reviewer on one model. Shares and their bounds (Wilson, 95 %) are None without an answer."""

    actor: str
    rulings: int  # approvals, relabels and rejections that stand, gold items not among them
    gold: int  # gold items answered
    gold_right: int  # of them, those answered with the known label
    gold_share: float | None
    gold_low: float | None
    gold_high: float | None
    shared: int  # rulings on items that were settled and that another reviewer ruled on, too
    agreed: int  # of them, those with the label that was final


def measure_reviewers(session: Session, model: Model) -> list[ReviewerRecord]:
    """By name. The policy's own decisions are no reviewer's."""
    rows = session.execute(text(_RECORDS), {"model": model.id}).mappings()
    return [_record(**row) for row in rows]


def _record(*, actor: str, gold: int, gold_right: int, **counts: int) -> ReviewerRecord:
    share = low = high = None
    if gold:
        share = gold_right / gold
        low, high = wilson(gold_right, gold)
    known = {"gold": gold, "gold_right": gold_right} | counts
    return ReviewerRecord(actor=actor, gold_share=share, gold_low=low, gold_high=high, **known)


# A known label that was itself replaced since measures nobody.
_RECORDS = """
WITH ruled AS (
    SELECT d.actor, d.label, i.kind = 'gold' AS gold, s.label AS known,
        i.kind = 'gold' AND s.retracted_at IS NULL AS measures,
        count(*) OVER item AS said, max(d.id) FILTER (WHERE d.final) OVER item AS last
    FROM decisions d
    JOIN review_items i ON i.id = d.item_id
    LEFT JOIN samples s ON s.id = i.sample_id
    WHERE d.model_id = :model AND d.actor <> 'policy' AND d.action IN ('approve', 'relabel', 'reject')
    AND NOT EXISTS (SELECT FROM decisions u WHERE u.undoes = d.id)
    WINDOW item AS (PARTITION BY d.item_id)
)
SELECT r.actor, count(*) FILTER (WHERE NOT r.gold) AS rulings,
    count(*) FILTER (WHERE r.measures) AS gold,
    count(*) FILTER (WHERE r.measures AND r.label = r.known) AS gold_right,
    count(*) FILTER (WHERE r.said > 1 AND f.id IS NOT NULL) AS shared,
    count(*) FILTER (WHERE r.said > 1 AND f.id IS NOT NULL AND f.label IS NOT DISTINCT FROM r.label) AS agreed
FROM ruled r LEFT JOIN decisions f ON f.id = r.last
GROUP BY r.actor ORDER BY r.actor
"""
