"""The rows of a retraction: statements, samples, and the runs that rested on them."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from backtalk.events import CandidateTrained, RunEnded
from backtalk.lineage import Taint
from backtalk.outbox import emit
from backtalk.states import JUDGING_SPLITS, RunState, VersionState, Withdrawn
from backtalk.tables import Run, Sample, Snapshot, Version


@dataclass(frozen=True)
class Target:
    """What is withdrawn. `name` is what the retraction's row calls it."""

    what: Withdrawn
    subject: str
    model_id: int | None  # of a reporter, where he is withdrawn from one model alone
    name: str

    def parameters(self) -> dict[str, Any]:
        return {"subject": self.subject, "model": self.model_id}

    @property
    def corrections(self) -> str:
        """SQL condition on corrections."""
        return {
            Withdrawn.CORRECTION: "id = CAST(:subject AS uuid)",
            Withdrawn.REPORTER: _REPORTED,
            Withdrawn.KEY: "key_id = :subject",
        }[self.what]

    @property
    def confirmations(self) -> str:
        """SQL condition on confirmations."""
        return {
            Withdrawn.CORRECTION: "false",
            Withdrawn.REPORTER: _REPORTED,
            Withdrawn.KEY: "key_id = :subject",
        }[self.what]


_REPORTED = "reporter = :subject AND (CAST(:model AS bigint) IS NULL OR model_id = :model)"


@dataclass(frozen=True)
class Taken:
    """What was taken back."""

    corrections: int
    confirmations: int
    samples: int
    judged: set[int]  # models whose judging sets lost samples
    predictions: list[UUID]  # whose statements changed

    @property
    def nothing(self) -> bool:
        return not (self.corrections or self.confirmations or self.samples)

    def counts(self) -> dict[str, int]:
        return {
            "corrections": self.corrections,
            "confirmations": self.confirmations,
            "samples": self.samples,
        }


def find_predictions(session: Session, target: Target) -> set[UUID]:
    """Predictions that it speaks of, and for a key those that it was issued and that became samples."""
    query = _SPOKEN.format(corrections=target.corrections, confirmations=target.confirmations)
    if target.what is Withdrawn.KEY:
        query += _ISSUED.format(of_key=_OF_KEY)
    return set(session.scalars(text(query), target.parameters()))


def take_back(session: Session, target: Target, retraction_id: int) -> Taken:
    """Withdraw statements and what came of them. The caller holds the predictions' locks."""
    parameters = target.parameters() | {"retraction": retraction_id}
    corrected = _withdraw(session, "corrections", target.corrections, parameters)
    confirmed = _withdraw(session, "confirmations", target.confirmations, parameters)
    spoken = sorted({*corrected, *confirmed})
    condition = _OF_KEY if target.what is Withdrawn.KEY else _UNSUPPORTED
    rows = session.execute(
        text(_TAKE_SAMPLES.format(condition=condition)), parameters | {"spoken": spoken}
    ).all()
    session.execute(text(_RESTORE), parameters)
    session.expire_all()
    return Taken(
        corrections=len(corrected),
        confirmations=len(confirmed),
        samples=len(rows),
        judged={row.model_id for row in rows if row.split in JUDGING_SPLITS},
        predictions=spoken,
    )


def _withdraw(session: Session, table: str, condition: str, parameters: dict[str, Any]) -> list[UUID]:
    query = (
        f"UPDATE {table} SET state = 'retracted', prepared_at = now() "  # noqa: S608  # constants
        f"WHERE {condition} AND state <> 'retracted' RETURNING prediction_id"
    )
    return list(session.scalars(text(query), parameters))


# Withdrawing a key takes its pictures along, whoever labelled them: a picture may be made to mislead.
_OF_KEY = """
(s.key_id = :subject OR EXISTS (
    SELECT FROM predictions p WHERE p.id = s.prediction_id AND p.key_id = :subject
))
"""

_SPOKEN = """
SELECT prediction_id FROM corrections WHERE {corrections}
UNION SELECT prediction_id FROM confirmations WHERE {confirmations}
"""
_ISSUED = """
UNION SELECT s.prediction_id FROM samples s WHERE s.prediction_id IS NOT NULL AND {of_key}
"""

# A sample stays where somebody else's statement, or a random audit that a person answered, supports it.
_UNSUPPORTED = """
s.prediction_id = ANY (CAST(:spoken AS uuid[]))
AND NOT (s.by_person AND EXISTS (SELECT FROM predictions p WHERE p.id = s.prediction_id AND p.audit))
AND NOT EXISTS (
    SELECT FROM corrections c WHERE c.prediction_id = s.prediction_id AND c.state = 'approved'
    AND (c.label = s.label OR c.decision_id = s.decision_id)
)
AND NOT EXISTS (
    SELECT FROM confirmations c JOIN predictions p ON p.id = c.prediction_id
    WHERE c.prediction_id = s.prediction_id AND c.state = 'active' AND p.label = s.label
)
"""

# Also samples that were replaced long ago: versions have learned from them.
_TAKE_SAMPLES = """
UPDATE samples s SET retraction_id = :retraction, retracted_at = coalesce(s.retracted_at, now())
WHERE s.retraction_id IS NULL AND s.origin <> 'base' AND {condition}
RETURNING s.model_id, s.split
"""

# What a withdrawn sample had replaced, in the transaction that made it, is there again as a row like it: the
# base folder's label of a picture, for one. Not where it was gone already: its image may have been deleted.
_RESTORE = """
INSERT INTO samples (model_id, image_id, label, split, origin, by_person, prediction_id, decision_id, key_id)
SELECT model_id, image_id, label, split, origin, by_person, prediction_id, decision_id, key_id
FROM samples o
WHERE o.id IN (
    SELECT DISTINCT ON (n.model_id, n.image_id) p.id
    FROM samples n
    JOIN samples p ON p.model_id = n.model_id AND p.image_id = n.image_id
        AND p.id < n.id AND p.retracted_at = n.created_at AND p.retraction_id IS NULL
    WHERE n.retraction_id = :retraction AND EXISTS (
        SELECT FROM samples w WHERE w.model_id = n.model_id AND w.image_id = n.image_id
        AND w.retraction_id = :retraction AND w.retracted_at = now()
    )
    ORDER BY n.model_id, n.image_id, p.id DESC
) AND NOT EXISTS (
    SELECT FROM samples l
    WHERE l.model_id = o.model_id AND l.image_id = o.image_id AND l.retracted_at IS NULL
)
"""


def end_runs(session: Session, model_id: int, tainted: dict[int, Taint], *, judged: set[int]) -> list[str]:
    """End active runs that rest on what was withdrawn; whoever works on one finds it gone.

    A run that waits has seen nothing yet. One that is being judged on sets that changed is judged anew.
    """
    active = (RunState.TRAINING, RunState.JUDGING, RunState.PROMOTING)
    rows = select(Run).where(Run.model_id == model_id, Run.state.in_(active)).with_for_update()
    ended = []
    for run in session.scalars(rows.execution_options(populate_existing=True)):
        if run.base_version in tainted or _has_withdrawn(session, run):
            _supersede(session, run)
            ended.append(str(run.id))
        elif model_id in judged and run.state != RunState.TRAINING:
            run.state, run.lease_until = RunState.JUDGING, None
            run.fence += 1
            emit(session, CandidateTrained(model_id=model_id, run_id=str(run.id)))
    session.flush()
    return ended


def _has_withdrawn(session: Session, run: Run) -> bool:
    found = (
        select(Sample.id)
        .join(Snapshot, Sample.id == func.any(Snapshot.sample_ids))
        .where(
            Snapshot.model_id == run.model_id,
            Snapshot.digest == run.snapshot_digest,
            Sample.model_id == run.model_id,
            Sample.retraction_id.is_not(None),
        )
        .limit(1)
    )
    return session.scalar(found) is not None


def _supersede(session: Session, run: Run) -> None:
    run.state = RunState.SUPERSEDED
    run.reason = "Something that it had learned from was withdrawn."
    run.fence += 1
    run.lease_until, run.ended_at = None, func.now()
    if run.version is not None:
        candidate = session.scalar(
            select(Version).where(Version.model_id == run.model_id, Version.number == run.version)
        )
        if candidate is not None:
            candidate.state = VersionState.REJECTED
    emit(session, RunEnded(model_id=run.model_id, run_id=str(run.id)))
