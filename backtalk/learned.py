"""Who has learned from a sample: what is withdrawn or relabelled later is not unlearned by that."""

from dataclasses import dataclass

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from backtalk.states import ACTIVE_RUN_STATES, JUDGING_SPLITS
from backtalk.tables import Decision, GateCheck, Model, Run, Sample


@dataclass(frozen=True)
class Learned:
    """Who has used a sample."""

    training: bool = False  # a run that is going on has it in its snapshot
    versions: tuple[int, ...] = ()  # that have learned from it, ascending
    live: bool = False  # the live version is one of them, or was made from one
    judged: int = 0  # runs that were judged while it was part of the judging sets


_USERS = """
WITH RECURSIVE line AS (
    SELECT number, parent FROM versions WHERE model_id = :model AND number = :live
    UNION ALL
    SELECT v.number, v.parent FROM versions v JOIN line ON v.model_id = :model AND v.number = line.parent
)
SELECT r.state, r.version, r.version IN (SELECT number FROM line) AS live
FROM runs r
JOIN snapshots f ON f.model_id = r.model_id AND f.digest = r.snapshot_digest
WHERE r.model_id = :model AND :sample = ANY (f.sample_ids)
"""


def find_learned(session: Session, model: Model, decision: Decision) -> Learned:
    """Runs and versions whose snapshot holds the decision's sample, and verdicts that it had a part in."""
    made = select(Sample).where(Sample.decision_id == decision.id).order_by(Sample.id).limit(1)
    sample = session.scalar(made)
    return Learned() if sample is None else find_users(session, model, sample)


def find_users(session: Session, model: Model, sample: Sample) -> Learned:
    """Runs and versions whose snapshot holds the sample, and verdicts that it had a part in."""
    values = {"model": model.id, "live": model.live_version, "sample": sample.id}
    rows = session.execute(text(_USERS), values).all()
    active = [row for row in rows if row.state in ACTIVE_RUN_STATES]
    ended = [row for row in rows if row.state not in ACTIVE_RUN_STATES and row.version is not None]
    judged = None
    if sample.split in JUDGING_SPLITS:
        judged = session.scalar(
            select(func.count(func.distinct(Run.id)))
            .join(GateCheck, GateCheck.run_id == Run.id)
            .where(Run.model_id == model.id, GateCheck.created_at > sample.created_at)
        )
    return Learned(
        training=bool(active),
        versions=tuple(sorted({row.version for row in ended})),
        live=any(row.live for row in ended),
        judged=judged or 0,
    )
