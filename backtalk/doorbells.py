"""Statements and audits whose message got lost: their doorbell is rung again."""

from sqlalchemy import text
from sqlalchemy.orm import Session

from backtalk.events import AuditDrawn, ConfirmationReceived, CorrectionReceived, Event
from backtalk.outbox import emit

RING_AGAIN_S = 10  # a statement that nobody prepared for so long gets its doorbell rung again


def ring_unprepared(session: Session) -> int:
    """Ring again for statements and audits whose doorbell was lost; how many."""
    events: list[Event] = []
    for event, query in (
        (CorrectionReceived, _UNPREPARED_CORRECTIONS),
        (ConfirmationReceived, _UNPREPARED_CONFIRMATIONS),
        (AuditDrawn, _UNOFFERED_AUDITS),
    ):
        rows = session.execute(text(query), {"seconds": RING_AGAIN_S})
        events += [event(model_id=r.model_id, prediction_id=str(r.prediction_id)) for r in rows]
    emit(session, *events)
    return len(events)


_UNPREPARED = """
SELECT DISTINCT model_id, prediction_id FROM {table} s
WHERE prepared_at IS NULL AND created_at < now() - make_interval(secs => :seconds)
AND NOT EXISTS (
    SELECT FROM outbox o WHERE o.payload->>'prediction_id' = s.prediction_id::text
    AND o.created_at > now() - make_interval(secs => :seconds)
) LIMIT 500
"""
_UNPREPARED_CORRECTIONS = _UNPREPARED.format(table="corrections")
_UNPREPARED_CONFIRMATIONS = _UNPREPARED.format(table="confirmations")
_UNOFFERED_AUDITS = """
SELECT p.model_id, p.id AS prediction_id FROM predictions p
JOIN images m ON m.id = p.image_id AND m.deleted_at IS NULL
WHERE p.audit AND p.created_at < now() - make_interval(secs => :seconds)
AND NOT EXISTS (SELECT FROM review_items i WHERE i.prediction_id = p.id)
AND NOT EXISTS (
    SELECT FROM outbox o WHERE o.payload->>'prediction_id' = p.id::text
    AND o.created_at > now() - make_interval(secs => :seconds)
) LIMIT 500
"""
