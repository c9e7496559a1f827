"""How often each version was right on live traffic: from audits, which were drawn before anybody knew."""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from backtalk.intervals import wilson
from backtalk.tables import Model

CONFIDENCE = 0.95  # two-sided, of the interval that is shown


@dataclass(frozen=True)
class LiveAccuracy:
    """What the audits of one version say. `share`, `low` and `high` are None until one is answered.

    The estimate is unbiased once all that were drawn are answered. While many wait, it leans towards
    whichever kind the reviewers took first, so `waiting` stands beside it.
    """

    version: int
    drawn: int  # predictions drawn for review
    answered: int  # of them, those that a person gave a label
    right: int  # of the answered, those whose label is the predicted one
    unclear: int  # rejected: a person found no label in the picture; in no share
    waiting: int  # not answered yet, with the picture still there
    share: float | None  # right ÷ answered
    low: float | None  # Wilson's score interval at `CONFIDENCE`
    high: float | None


def find_live_accuracy(session: Session, model: Model) -> list[LiveAccuracy]:
    """By version, the newest first; versions without an audit are not in it."""
    rows = session.execute(text(_ANSWERED), {"model": model.id}).mappings()
    return [_estimate(**row) for row in rows]


def _estimate(*, answered: int, right: int, **counts: int) -> LiveAccuracy:
    share = low = high = None
    if answered:
        share = right / answered
        low, high = wilson(right, answered, CONFIDENCE)
    return LiveAccuracy(answered=answered, right=right, share=share, low=low, high=high, **counts)


# The last word of a person that stands: what the policy approves and what was undone says nothing.
_ANSWERED = """
WITH drawn AS MATERIALIZED (
    SELECT id, version, label, image_id FROM predictions WHERE model_id = :model AND audit
), said AS (
    SELECT DISTINCT ON (d.prediction_id) d.prediction_id, d.label
    FROM decisions d JOIN drawn ON drawn.id = d.prediction_id
    WHERE d.final AND d.actor <> 'policy' AND NOT EXISTS (SELECT FROM decisions u WHERE u.undoes = d.id)
    ORDER BY d.prediction_id, d.id DESC
)
SELECT drawn.version, count(*) AS drawn, count(said.label) AS answered,
    count(*) FILTER (WHERE said.label = drawn.label) AS right,
    count(*) FILTER (WHERE said.prediction_id IS NOT NULL AND said.label IS NULL) AS unclear,
    count(*) FILTER (WHERE said.prediction_id IS NULL AND EXISTS (
        SELECT FROM images i WHERE i.id = drawn.image_id AND i.deleted_at IS NULL
    )) AS waiting
FROM drawn LEFT JOIN said ON said.prediction_id = drawn.id
GROUP BY drawn.version ORDER BY drawn.version DESC
"""
