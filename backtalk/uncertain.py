"""Recent predictions that the model was not sure of and nobody spoke of: drawn when a reviewer asks for them.

They are chosen by what the model makes of them, so they would bias a judging set: images of the eval side are
not offered here at all.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, text, update
from sqlalchemy.orm import Session

from backtalk import items
from backtalk.groups import Candidate, Source, place_images
from backtalk.states import ItemKind, Queue, Side
from backtalk.tables import Image, Model, Prediction, ReviewItem

RECENT_DAYS = 7
LOOKED_AT = 5_000  # predictions, the newest, whose margins are compared
SCORES_READ = 100_000  # over all of those: with many labels fewer predictions are looked at


def draw_uncertain(session: Session, model: Model, wanted: int) -> int:
    """See that `wanted` uncertain predictions can be leased, if there are so many; how many were drawn.

    The smallest margins first, one prediction an image. What was drawn under an earlier version, and nobody
    is looking at, goes: the version that is live may be sure of it.
    """
    _drop_outdated(session, model)
    ready = len(session.scalars(select(ReviewItem.id).where(_free_here(model)).limit(wanted)).all())
    if ready >= wanted:
        return 0
    parameters = {
        "model": model.id,
        "live": model.live_version,
        "days": RECENT_DAYS,
        "most": min(LOOKED_AT, SCORES_READ // max(len(model.labels), 1)),
        "wanted": 2 * (wanted - ready),  # some turn out to belong to the eval side
    }
    # The order of locks that statements take: predictions, then groups.
    ids = list(session.scalars(text(_CLOSEST), parameters))
    rows = select(Prediction).where(Prediction.id.in_(ids)).order_by(Prediction.id)
    found = session.scalars(rows.with_for_update(skip_locked=True)).all()
    untaken = [one for one in found if items.find_open_item(session, one.id) is None]
    sides = _place(session, model, [one.image_id for one in untaken])
    drawn = [one for one in untaken if sides.get(one.image_id) in (Side.TRAIN, Side.VALIDATION)]
    for prediction in drawn:
        items.put(session, prediction, ItemKind.UNCERTAIN)
    return len(drawn)


def _drop_outdated(session: Session, model: Model) -> None:
    earlier = select(Prediction.id).where(
        Prediction.id == ReviewItem.prediction_id, Prediction.version != model.live_version
    )
    session.execute(
        update(ReviewItem)
        .where(_free_here(model), earlier.exists())
        .values(closed_at=func.now())
        .execution_options(synchronize_session=False)
    )


def _place(session: Session, model: Model, image_ids: Sequence[UUID]) -> dict[UUID, Side | None]:
    """The side of each image, all at once: one by one, each would be held against all groups there are."""
    images = session.scalars(select(Image).where(Image.id.in_(image_ids)).order_by(Image.id))
    candidates = [
        Candidate(image.id, image.pixels_sha256, image.perceptual_hash)
        for image in images
        if image.pixels_sha256 is not None and image.perceptual_hash is not None  # else deleted meanwhile
    ]
    return place_images(session, model, candidates, Source.TRAFFIC)


def _free_here(model: Model) -> ColumnElement[bool]:
    return (
        (ReviewItem.model_id == model.id)
        & ReviewItem.closed_at.is_(None)
        & (ReviewItem.queue == Queue.UNCERTAIN)
        & items.is_free()
    )


_CLOSEST = """
WITH recent AS (
    SELECT p.id, p.image_id, p.scores FROM predictions p
    JOIN images i ON i.id = p.image_id AND i.store_key IS NOT NULL
    WHERE p.model_id = :model AND p.version = :live AND NOT p.audit AND p.key_id IS NOT NULL
    AND p.created_at > now() - make_interval(days => :days) AND cardinality(p.scores) > 1
    AND NOT EXISTS (SELECT FROM corrections c WHERE c.prediction_id = p.id)
    AND NOT EXISTS (SELECT FROM confirmations c WHERE c.prediction_id = p.id)
    AND NOT EXISTS (
        SELECT FROM predictions q WHERE q.image_id = p.image_id AND q.model_id = p.model_id AND (
            EXISTS (SELECT FROM review_items r WHERE r.prediction_id = q.id AND r.closed_at IS NULL)
            OR EXISTS (SELECT FROM decisions d WHERE d.prediction_id = q.id AND d.final)
        )
    )
    AND NOT EXISTS (
        SELECT FROM group_members m LEFT JOIN image_groups g ON g.id = m.group_id
        WHERE m.model_id = p.model_id AND m.image_id = p.image_id AND (g.side IS NULL OR g.side = 'eval')
    )
    AND NOT EXISTS (
        SELECT FROM samples s
        WHERE s.model_id = p.model_id AND s.image_id = p.image_id AND s.retracted_at IS NULL
    )
    ORDER BY p.created_at DESC LIMIT :most
), weighed AS (
    SELECT DISTINCT ON (r.image_id) r.id, m.margin
    FROM recent r CROSS JOIN LATERAL (
        SELECT s[1] - s[2] AS margin
        FROM (SELECT array_agg(score ORDER BY score DESC) AS s FROM unnest(r.scores) AS score) AS ordered
    ) m
    ORDER BY r.image_id, r.id DESC
)
SELECT id FROM weighed ORDER BY margin, id LIMIT :wanted
"""
