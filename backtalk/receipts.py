"""What became of a correction: its receipt."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ARRAY, BigInteger, any_, func, literal, select
from sqlalchemy.orm import Session

from backtalk.db import parse_id
from backtalk.embeddings import load_embeddings
from backtalk.errors import ArtefactInvalid, CorrectionNotFound
from backtalk.heads import Head
from backtalk.states import CorrectionState, Side, Split
from backtalk.store import VersionStore
from backtalk.tables import (
    Correction,
    Decision,
    GroupMember,
    ImageGroup,
    LedgerEntry,
    Model,
    Prediction,
    Run,
    Sample,
    Snapshot,
    Version,
)


@dataclass(frozen=True)
class Receipt:
    """`trained_in`: the first version that learned from it; `live_in`: the first such that went live."""

    id: str
    state: str
    image: str
    label: str
    reviewed_at: datetime | None
    split: str | None
    trained_in: int | None
    live_in: int | None
    fixed_now: bool | None  # whether the live version answers with the right label; None where unknown


def get_receipt(session: Session, versions: VersionStore, correction_id: str) -> Receipt:
    """Follow one correction.

    `split` says what its image may be used for: on the eval side nothing is trained, so `trained_in` stays
    empty and the answer is in `fixed_now`. `straddles`: its image lies near groups of different sides.

    Raises:
        CorrectionNotFound
    """
    correction = _get_correction(session, correction_id)
    prediction = session.get_one(Prediction, correction.prediction_id)
    decision = session.get(Decision, correction.decision_id) if correction.decision_id else None
    label = decision.label if decision and decision.label else correction.label
    split = trained_in = live_in = fixed_now = None
    if correction.state == CorrectionState.APPROVED:
        sample = _find_sample(session, prediction)
        split = sample.split if sample else _why_no_sample(session, prediction)
        if sample and sample.split in (Split.TRAIN, Split.VALIDATION):
            trained_in, live_in = _find_versions(session, sample)
        fixed_now = _is_fixed(session, versions, prediction, label)
    return Receipt(
        id=str(correction.id),
        state=correction.state,
        image=str(prediction.image_id),
        label=label,
        reviewed_at=correction.reviewed_at,
        split=split,
        trained_in=trained_in,
        live_in=live_in,
        fixed_now=fixed_now,
    )


def _get_correction(session: Session, correction_id: str) -> Correction:
    key = parse_id(correction_id)
    correction = session.get(Correction, key) if key else None
    if correction is None:
        raise CorrectionNotFound(f"There is no correction {correction_id!r}.")
    return correction


def _find_sample(session: Session, prediction: Prediction) -> Sample | None:
    return session.scalar(
        select(Sample).where(
            Sample.model_id == prediction.model_id,
            Sample.image_id == prediction.image_id,
            Sample.retracted_at.is_(None),
        )
    )


def _why_no_sample(session: Session, prediction: Prediction) -> str | None:
    """`straddles`, or `eval`: approved by policy alone, it may neither teach nor judge."""
    row = session.execute(
        select(GroupMember.group_id, ImageGroup.side)
        .outerjoin(ImageGroup, ImageGroup.id == GroupMember.group_id)
        .where(GroupMember.model_id == prediction.model_id, GroupMember.image_id == prediction.image_id)
    ).one_or_none()
    if row is None:
        return None
    if row.group_id is None:
        return "straddles"
    return "eval" if row.side == Side.EVAL else None


def _find_versions(session: Session, sample: Sample) -> tuple[int | None, int | None]:
    """The first version that learned from the sample, and the first of those that went live."""
    holds = literal(sample.id) == any_(Snapshot.sample_ids)
    learned = (
        select(Version.number)
        .join(Run, Run.id == Version.run_id)
        .join(
            Snapshot,
            (Snapshot.model_id == Run.model_id) & (Snapshot.digest == Run.snapshot_digest),
        )
        .where(Version.model_id == sample.model_id, holds)
    )
    numbers = sorted(session.scalars(learned))
    went_live = session.scalar(
        select(func.min(LedgerEntry.version)).where(
            LedgerEntry.model_id == sample.model_id,
            LedgerEntry.version == any_(literal(numbers, ARRAY(BigInteger))),
        )
    )
    return (numbers[0] if numbers else None), went_live


def _is_fixed(session: Session, versions: VersionStore, prediction: Prediction, label: str) -> bool | None:
    """Ask the live head about the stored embedding: the same bits that the API would answer with."""
    model = session.get_one(Model, prediction.model_id)
    live = session.scalar(
        select(Version).where(Version.model_id == model.id, Version.number == model.live_version)
    )
    if live is None:
        return None
    try:
        head = Head.load(versions.resolve(live.path) / "head.npz")
        embeddings = load_embeddings(
            session, live.backbone_digest, [prediction.image_id], head.weights.shape[1]
        )
    except (ArtefactInvalid, KeyError):
        return None
    scores = head.scores(embeddings)
    return head.labels[int(scores[0].argmax())] == label
