"""How far the reporters of open items can be trusted: what people found of what they said before."""

from sqlalchemy import text
from sqlalchemy.orm import Session

from backtalk.tables import Model

REPORTERS_MOST = 200  # whose trust is weighed
JUDGED_MOST = 100  # the newest decisions on a reporter's corrections that his trust is made of


def weigh_reporters(session: Session, model: Model) -> dict[str, float]:
    """By reporter of open items: how often people found him right, from a uniform prior (0.5: unknown)."""
    values = {"model": model.id, "most": REPORTERS_MOST, "judged": JUDGED_MOST}
    rows = session.execute(text(_TRUST), values)
    return {row.reporter: (1 + row.right) / (2 + row.judged) for row in rows}


_TRUST = """
WITH RECURSIVE named AS (  -- jumps from name to name in the index
    (SELECT reporter, 1 AS place FROM review_items
     WHERE model_id = :model AND closed_at IS NULL AND reporter IS NOT NULL ORDER BY reporter LIMIT 1)
    UNION ALL
    SELECT (
        SELECT i.reporter FROM review_items i
        WHERE i.model_id = :model AND i.closed_at IS NULL AND i.reporter > named.reporter
        ORDER BY i.reporter LIMIT 1
    ), named.place + 1 FROM named WHERE named.reporter IS NOT NULL AND named.place < :most
)
SELECT n.reporter, count(s.state) AS judged, count(s.state) FILTER (WHERE s.state = 'approved') AS right
FROM named n LEFT JOIN LATERAL (
    SELECT c.state FROM corrections c JOIN decisions d ON d.id = c.decision_id AND d.actor <> 'policy'
    WHERE c.model_id = :model AND c.reporter = n.reporter AND c.state IN ('approved', 'rejected')
    ORDER BY c.reviewed_at DESC LIMIT :judged
) s ON true WHERE n.reporter IS NOT NULL GROUP BY n.reporter
"""
