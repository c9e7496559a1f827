"""Samples and snapshots: what may be learned from, and the frozen list of what a run did learn from."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from backtalk.db import lock_model
from backtalk.draws import draw
from backtalk.groups import Candidate, Source, place_images
from backtalk.states import Origin, Side, Split
from backtalk.tables import Decision, Embedding, Image, Model, Sample, Snapshot

STAY_RIGHT_MOST = 2000  # images of the stay-right term
STAY_RIGHT_RECENT = 10_000  # predictions that they are drawn from
STAY_RIGHT_DAYS = 7  # only keys that gave feedback in so many days: silence of others says nothing


@dataclass(frozen=True)
class Labelled:
    """A label for an image, as a statement or a decision gave it."""

    image_id: UUID
    label: str
    origin: Origin
    by_person: bool
    audited: bool  # the prediction was drawn at random, before anybody knew whether it is right
    prediction_id: UUID | None = None
    decision_id: int | None = None
    key_id: str | None = None


def choose_split(side: Side, labelled: Labelled) -> Split:
    """Where a label may go: nothing on the eval or validation side is ever trained on."""
    if side is Side.TRAIN:
        return Split.TRAIN
    if side is Side.VALIDATION:
        return Split.VALIDATION
    if labelled.origin is Origin.BASE or (labelled.audited and labelled.by_person):
        return Split.HOLDOUT
    return Split.KEPT if labelled.origin is Origin.CONFIRMATION else Split.REGRESSION


def put_sample(session: Session, model: Model, side: Side, labelled: Labelled) -> Sample | None:
    """Make the image's one live sample say `labelled`; None where it may not.

    A person's label is stronger than an app's. An image of the holdout stays there, whatever is said of it
    later: its membership was drawn before anybody knew what a model makes of it.
    """
    present = find_live_sample(session, model.id, labelled.image_id, for_update=True)
    if present is not None and present.by_person and not labelled.by_person:
        return None
    split = choose_split(side, labelled)
    if present is not None and present.split == Split.HOLDOUT:
        split = Split.HOLDOUT
    if split in (Split.HOLDOUT, Split.REGRESSION) and not labelled.by_person:
        return None  # nobody has looked at it: it may not judge, and the eval side never teaches
    if present is not None:
        present.retracted_at = func.now()
        session.flush()
    sample = Sample(
        model_id=model.id,
        image_id=labelled.image_id,
        label=labelled.label,
        split=split,
        origin=labelled.origin,
        by_person=labelled.by_person,
        prediction_id=labelled.prediction_id,
        decision_id=labelled.decision_id,
        key_id=labelled.key_id,
    )
    session.add(sample)
    session.flush()
    return sample


def retract_samples(session: Session, model_id: int, image_id: UUID) -> None:
    """Nothing is learned from this image, or judged on it, until somebody labels it anew."""
    session.execute(
        update(Sample)
        .where(Sample.model_id == model_id, Sample.image_id == image_id, Sample.retracted_at.is_(None))
        .values(retracted_at=func.now())
    )


def find_live_sample(
    session: Session, model_id: int, image_id: UUID, *, for_update: bool = False
) -> Sample | None:
    statement = select(Sample).where(
        Sample.model_id == model_id, Sample.image_id == image_id, Sample.retracted_at.is_(None)
    )
    return session.scalar(statement.with_for_update() if for_update else statement)


def lock_decisions(session: Session, model_id: int) -> None:
    """Whoever decides, and whoever cuts a snapshot, holds this: no decision slips in below a cut."""
    lock_model(session, model_id, "decisions")


@dataclass(frozen=True)
class Frozen:
    """A snapshot with the cut that it consumed."""

    snapshot: Snapshot
    decision_cut: int


def take_snapshot(session: Session, model: Model, backbone_digest: str) -> Frozen:
    """Freeze what a head run learns from: live train and validation samples, and the stay-right images."""
    lock_decisions(session, model.id)
    cut = session.scalar(select(func.max(Decision.id)).where(Decision.model_id == model.id)) or 0
    rows = session.execute(
        select(Sample.id, Sample.label, Sample.split, Sample.origin, Image.pixels_sha256)
        .join(Image, Image.id == Sample.image_id)
        .where(
            Sample.model_id == model.id,
            Sample.retracted_at.is_(None),
            Sample.split.in_([Split.TRAIN, Split.VALIDATION]),
        )
        .order_by(Sample.id)
    ).all()
    stay = find_stay_right(session, model, backbone_digest)
    lines = [f"{r.pixels_sha256}\t{r.label}\t{r.split}\t{r.origin}" for r in rows]
    snapshot = keep_snapshot(
        session,
        model.id,
        digest=digest_lines([*lines, *(f"{image_id}\tstay-right" for image_id in stay)]),
        sample_ids=[r.id for r in rows],
        stay_right_ids=stay,
        counts=count_samples((r.split, r.origin, r.label) for r in rows) | {"stay_right": len(stay)},
    )
    return Frozen(snapshot, cut)


def digest_lines(lines: Iterable[str]) -> str:
    """sha256 over the sorted lines: the same content gives the same digest, whatever the ids are."""
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def count_samples(rows: Iterable[tuple[str, str, str]]) -> dict[str, Any]:
    """How many by split, by origin and by label of the train split."""
    splits: Counter[str] = Counter()
    origins: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    for split, origin, label in rows:
        splits[split] += 1
        origins[origin] += 1
        labels[label] += split == Split.TRAIN
    return {"splits": dict(splits), "origins": dict(origins), "train_labels": dict(labels)}


def keep_snapshot(
    session: Session,
    model_id: int,
    *,
    digest: str,
    sample_ids: list[int],
    stay_right_ids: list[UUID],
    counts: dict[str, Any],
) -> Snapshot:
    """The row for this content: the one that is there already, or a new one."""
    present = session.scalar(select(Snapshot).where(Snapshot.model_id == model_id, Snapshot.digest == digest))
    if present is not None:
        return present
    snapshot = Snapshot(
        model_id=model_id,
        digest=digest,
        sample_ids=sample_ids,
        stay_right_ids=stay_right_ids,
        counts=counts,
    )
    session.add(snapshot)
    session.flush()
    return snapshot


def find_stay_right(session: Session, model: Model, backbone_digest: str) -> list[UUID]:
    """Images on the train side that nobody complained about, drawn by keyed hash among the recent ones."""
    rows = session.execute(
        text(_RECENT_WITHOUT_FEEDBACK),
        {
            "model": model.id,
            "digest": backbone_digest,
            "recent": STAY_RIGHT_RECENT,
            "days": STAY_RIGHT_DAYS,
        },
    ).all()
    drawn = sorted(rows, key=lambda row: draw(model.salt, "stay-right", row.pixels_sha256))
    candidates = [
        Candidate(row.image_id, row.pixels_sha256, row.perceptual_hash)
        for row in drawn[: 2 * STAY_RIGHT_MOST]  # a third of them lies on other sides
    ]
    sides = place_images(session, model, candidates, Source.TRAFFIC)
    on_train = [c.image_id for c in candidates if sides[c.image_id] is Side.TRAIN]
    return sorted(on_train[:STAY_RIGHT_MOST])


_RECENT_WITHOUT_FEEDBACK = """
WITH speaking AS (
    SELECT key_id FROM corrections
    WHERE model_id = :model AND created_at > now() - make_interval(days => :days)
    UNION
    SELECT key_id FROM confirmations
    WHERE model_id = :model AND created_at > now() - make_interval(days => :days)
), recent AS (
    SELECT id, image_id, audit FROM predictions
    WHERE model_id = :model AND key_id IN (SELECT key_id FROM speaking)
    ORDER BY created_at DESC LIMIT :recent
)
SELECT r.image_id, i.pixels_sha256, i.perceptual_hash
FROM recent r
JOIN images i ON i.id = r.image_id AND i.deleted_at IS NULL AND i.perceptual_hash IS NOT NULL
JOIN embeddings e ON e.image_id = r.image_id AND e.backbone_digest = :digest
WHERE NOT EXISTS (
    SELECT FROM predictions p
    WHERE p.image_id = r.image_id AND p.model_id = :model AND (
        p.audit
        OR EXISTS (SELECT FROM corrections c WHERE c.prediction_id = p.id)
        OR EXISTS (SELECT FROM confirmations c WHERE c.prediction_id = p.id)
    )
) AND NOT EXISTS (
    SELECT FROM samples s WHERE s.image_id = r.image_id AND s.model_id = :model AND s.retracted_at IS NULL
)
GROUP BY r.image_id, i.pixels_sha256, i.perceptual_hash
"""


@dataclass(frozen=True)
class LabelledImages:
    """Images of some split, in the order of their samples."""

    image_ids: list[UUID]
    labels: list[str]
    predictions: list[UUID | None]


def list_split(
    session: Session, model_id: int, split: Split, backbone_digests: Iterable[str]
) -> LabelledImages:
    """Live samples of a judging split that every one of these backbones has seen."""
    digests = sorted(set(backbone_digests))
    seen = (
        select(func.count())
        .select_from(Embedding)
        .where(Embedding.image_id == Sample.image_id, Embedding.backbone_digest.in_(digests))
        .scalar_subquery()
    )
    rows = session.execute(
        select(Sample.image_id, Sample.label, Sample.prediction_id)
        .where(
            Sample.model_id == model_id,
            Sample.split == split,
            Sample.retracted_at.is_(None),
            seen == len(digests),
        )
        .order_by(Sample.id)
    ).all()
    return LabelledImages(
        [r.image_id for r in rows], [r.label for r in rows], [r.prediction_id for r in rows]
    )


_TAUGHT = """
WITH RECURSIVE line AS (
    SELECT parent, run_id FROM versions WHERE model_id = :model AND number = :version
    UNION ALL
    SELECT v.parent, v.run_id FROM versions v JOIN line ON v.model_id = :model AND v.number = line.parent
)
SELECT s.image_id FROM line
JOIN runs r ON r.id = line.run_id
JOIN snapshots f ON f.model_id = :model AND f.digest = r.snapshot_digest
JOIN samples s ON s.id = ANY (f.sample_ids)
UNION
SELECT image_id FROM samples WHERE model_id = :model AND origin = 'base'
"""


def find_taught(session: Session, model_id: int, version: int) -> set[UUID]:
    """Images that a version or one of those that it was made from had in its snapshot, and the base set.

    How the version does on them proves nothing: it may know them by heart.
    """
    return set(session.scalars(text(_TAUGHT), {"model": model_id, "version": version}))
