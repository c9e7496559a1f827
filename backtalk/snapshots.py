"""Snapshots: the frozen list of what a run learns from, and what versions have learned so far."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, Row, any_, func, literal, select, text
from sqlalchemy.orm import Session

from backtalk.admission import admit
from backtalk.dataset import list_offered, lock_decisions
from backtalk.digests import digest_content
from backtalk.draws import draw
from backtalk.groups import Candidate, Source, place_images
from backtalk.states import Side, Split
from backtalk.tables import Decision, GroupMember, Image, Model, Sample, Snapshot

STAY_RIGHT_MOST = 2000  # images of the stay-right term
STAY_RIGHT_RECENT = 10_000  # predictions that they are drawn from
STAY_RIGHT_DAYS = 7  # only keys that gave feedback in so many days: silence of others says nothing


#: Of a sample: image_id, label, split, origin, store_key, orientation, group_id.
Taught = Row[UUID, str, str, str, str | None, int, int | None]


@dataclass(frozen=True)
class Frozen:
    """A snapshot with the cut that it consumed."""

    snapshot: Snapshot
    decision_cut: int


def take_snapshot(session: Session, model: Model, backbone_digest: str) -> Frozen:
    """Freeze what a head run learns from: live train and validation samples, and the stay-right images.

    What no person approved is bounded as `admission` says; what was left out stands in the counts.
    """
    lock_decisions(session, model.id)
    cut = session.scalar(select(func.max(Decision.id)).where(Decision.model_id == model.id)) or 0
    admitted = admit(list_offered(session, model.id, [Split.TRAIN, Split.VALIDATION]), model.salt)
    rows = admitted.samples
    stay = find_stay_right(session, model, backbone_digest)
    labelled = [(r.pixels_sha256, r.label, r.split, r.origin) for r in rows]
    counts = count_samples((r.split, r.origin, r.label) for r in rows)
    snapshot = keep_snapshot(
        session,
        model.id,
        digest=digest_content(labelled, stay.values(), admitted.counts()),
        sample_ids=[r.sample_id for r in rows],
        stay_right_ids=sorted(stay),
        counts=counts | admitted.counts() | {"stay_right": len(stay)},
    )
    return Frozen(snapshot, cut)


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


def get_snapshot(session: Session, model_id: int, digest: str | None) -> Snapshot:
    """The one that a run named by its digest."""
    return session.scalars(
        select(Snapshot).where(Snapshot.model_id == model_id, Snapshot.digest == digest)
    ).one()


def list_taught(session: Session, snapshot: Snapshot) -> Sequence[Taught]:
    """Its samples (`image_id`, `label`, `split`, `origin`) with their images (`store_key`, `orientation`) and
    groups (`group_id`, or None), in an order that depends on their content alone."""
    return session.execute(
        select(
            Sample.image_id,
            Sample.label,
            Sample.split,
            Sample.origin,
            Image.store_key,
            Image.orientation,
            GroupMember.group_id,
        )
        .join(Image, Image.id == Sample.image_id)
        .outerjoin(
            GroupMember,
            (GroupMember.model_id == Sample.model_id) & (GroupMember.image_id == Sample.image_id),
        )
        .where(Sample.id == any_(literal(snapshot.sample_ids, ARRAY(BigInteger))))
        .order_by(Image.pixels_sha256)
    ).all()


def find_stay_right(session: Session, model: Model, backbone_digest: str) -> dict[UUID, str]:
    """Images on the train side that nobody complained about, drawn by keyed hash among the recent ones.

    The SHA-256 of each one's pixels, by its id.
    """
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
    on_train = [c for c in candidates if sides[c.image_id] is Side.TRAIN]
    return {c.image_id: c.pixels_sha256 for c in on_train[:STAY_RIGHT_MOST]}


_RECENT_WITHOUT_FEEDBACK = """
WITH speaking AS (
    SELECT key_id FROM corrections
    WHERE model_id = :model AND state <> 'retracted' AND created_at > now() - make_interval(days => :days)
    UNION
    SELECT key_id FROM confirmations
    WHERE model_id = :model AND state <> 'retracted' AND created_at > now() - make_interval(days => :days)
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
