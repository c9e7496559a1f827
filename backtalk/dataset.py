"""Samples: what may be learned from, and what is judged on."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, any_, func, literal, select, text, update
from sqlalchemy.orm import Session

from backtalk.admission import Offered, limit_judges
from backtalk.db import lock_model
from backtalk.states import Origin, Side, Split
from backtalk.tables import Embedding, Model, Sample


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


def list_offered(session: Session, model_id: int, splits: Iterable[Split]) -> list[Offered]:
    """Live samples of these splits, by id."""
    rows = session.execute(text(_OFFERED), {"model": model_id, "splits": [str(split) for split in splits]})
    return [Offered(**row) for row in rows.mappings()]


# An app is all keys of one name. Undecided are disputed statements about the image, whatever was decided of
# others: until a person has spoken, the sample rests on one word against another.
_OFFERED = """
SELECT s.id AS sample_id, s.label, s.split, s.origin, s.by_person, i.pixels_sha256, m.group_id AS "group",
    CASE WHEN s.origin <> 'base' THEN coalesce(k.name, s.key_id) END AS app,
    NOT s.by_person AND EXISTS (
        SELECT FROM predictions p WHERE p.model_id = s.model_id AND p.image_id = s.image_id AND (
            EXISTS (SELECT FROM corrections c WHERE c.prediction_id = p.id AND c.state = 'disputed')
            OR EXISTS (SELECT FROM confirmations c WHERE c.prediction_id = p.id AND c.state = 'disputed')
        )
    ) AS disputed
FROM samples s
JOIN images i ON i.id = s.image_id
LEFT JOIN group_members m ON m.model_id = s.model_id AND m.image_id = s.image_id
LEFT JOIN api_keys k ON k.id = s.key_id
WHERE s.model_id = :model AND s.split = ANY (:splits) AND s.retracted_at IS NULL
ORDER BY s.id
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
    """Live samples of a judging split that every one of these backbones has seen, near-duplicates once."""
    salt = session.get_one(Model, model_id).salt
    offered = list_offered(session, model_id, [split])
    judges = [s.sample_id for s in limit_judges(offered, salt, kept=split is Split.KEPT)]
    # One parameter, not one for each: thousands of them take longer to send than to look up.
    asked = select(Sample.image_id, Sample.label, Sample.prediction_id).where(
        Sample.id == any_(literal(judges, ARRAY(BigInteger)))
    )
    if digests := sorted(set(backbone_digests)):
        seen = (
            select(func.count())
            .select_from(Embedding)
            .where(Embedding.image_id == Sample.image_id, Embedding.backbone_digest.in_(digests))
            .scalar_subquery()
        )
        asked = asked.where(seen == len(digests))
    rows = session.execute(asked.order_by(Sample.id)).all()
    return LabelledImages(
        [r.image_id for r in rows], [r.label for r in rows], [r.prediction_id for r in rows]
    )
