"""Gold items: pictures whose right label is known, shown to reviewers as audits to measure how they answer.

They come from the holdout, whose labels people gave. What is answered about them teaches nothing and changes
nothing; nobody but an admin learns which items they were. `stock` makes the predictions that they show, in a
worker; `draw_gold` mixes items into a lease.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from backtalk import items
from backtalk.callers import Caller
from backtalk.champions import get_champion
from backtalk.db import new_id
from backtalk.decisions import Submission, write
from backtalk.draws import draw
from backtalk.policy import Policy
from backtalk.rulings import Ruling
from backtalk.states import RULINGS, ItemKind, Queue
from backtalk.system import System
from backtalk.tables import Decision, Model, Prediction, ReviewItem
from backtalk.unasked import predict_labels, predict_unasked

STOCK = 200  # predictions that are kept ready

_TIME_BITS = 80  # of a UUID v7, those below its time (RFC 9562)


def draw_gold(
    session: Session,
    model: Model,
    caller: Caller,
    beside: Sequence[ReviewItem],
    most: int,
    *,
    predicted: str | None = None,
    newest_first: bool = False,
) -> list[ReviewItem]:
    """The first `most` of `beside` and of new items for this caller alone.

    One stands beside each with the probability `gold_share`, and none is made that has no place. Never a
    picture that he has answered before. Each has an id as if it had come together with the item that it
    stands beside, so that neither its place in the queue nor its id gives it away. And it shows the same
    picture whenever the same reviewer gets that neighbour again, as a page does that is loaded anew.

    Args:
        beside: items in the order of their ids, or with `newest_first` in the opposite one.
        predicted: the only label that the new items may show as predicted.
    """
    share = Policy.parse(model.policy).gold_share
    mixed: list[ReviewItem] = []
    for neighbour in beside:
        pair = [neighbour]
        if draw(model.salt, "gold", f"{neighbour.id}:{caller.actor}") < share:
            gold_id = _id_beside(neighbour.id)
            place = int((gold_id > neighbour.id) != newest_first)
            item = None
            if len(mixed) + place < most:
                item = _make_item(session, model, caller, neighbour, gold_id, predicted)
            if item is not None:
                pair.insert(place, item)
        mixed += pair
    return mixed[:most]


def _make_item(
    session: Session,
    model: Model,
    caller: Caller,
    neighbour: ReviewItem,
    gold_id: UUID,
    predicted: str | None,
) -> ReviewItem | None:
    """A gold item that came when its neighbour did; none where the caller has answered all there are."""
    asked = {"model": model.id, "actor": caller.actor, "beside": str(neighbour.id), "predicted": predicted}
    found = session.execute(text(_UNSEEN), asked).one_or_none()
    if found is None:
        return None
    prediction = session.get_one(Prediction, found.prediction_id)
    item = ReviewItem(
        id=gold_id,
        model_id=model.id,
        prediction_id=prediction.id,
        kind=ItemKind.GOLD,
        sample_id=found.sample_id,
        etag=1,
        created_at=neighbour.created_at,
    )
    items.describe(session, item, prediction, None)
    session.add(item)
    session.flush()
    return item


def bring_back(session: Session, model: Model, caller: Caller, item_id: UUID) -> ReviewItem | None:
    """A gold item that nobody answered, for who asks about it again; None where it is no such item.

    A page that is left closes it, while an audit that is asked for by its id is simply there.
    """
    item = session.get(ReviewItem, item_id, with_for_update=True)
    if item is None or item.model_id != model.id or item.kind != ItemKind.GOLD:
        return None
    answered = session.scalar(select(Decision.id).where(Decision.item_id == item.id).limit(1))
    if answered is not None or item.leased_by not in (None, caller.actor):
        return None
    if item.closed_at is not None and items.find_open_item(session, item.prediction_id) is not None:
        return None
    item.closed_at = None
    return item


def stock_gold(session: Session, system: System, model: Model) -> int:
    """Make predictions of the live version on the base folder's holdout, for gold items to show; how many.

    All that it gets wrong, up to half of `STOCK`, and as many that it gets right: a reviewer who approves
    whatever he sees must be found out.
    """
    live = get_champion(session, model.id)
    wanted = {"model": model.id, "most": 10 * STOCK}
    truth = {row.image_id: row.label for row in session.execute(text(_BASE_HOLDOUT), wanted)}
    says = predict_labels(session, system, live, list(truth))
    wrong = [i for i, label in says.items() if label != truth[i]][: STOCK // 2]
    right = [i for i, label in says.items() if label == truth[i]][: max(len(wrong), STOCK // 4)]
    return len(predict_unasked(session, system, live, [*wrong, *right]))


def close_expired(session: Session, model: Model) -> None:
    """Gold items that nobody looks at any more were for one reviewer, who is gone."""
    session.execute(
        update(ReviewItem)
        .where(
            ReviewItem.model_id == model.id,
            ReviewItem.closed_at.is_(None),
            ReviewItem.queue == Queue.GOLD,
            items.is_free(),
        )
        .values(closed_at=func.now())
        .execution_options(synchronize_session=False)
    )


def answer_gold(
    session: Session, item: ReviewItem, caller: Caller, ruling: Ruling, submission: Submission
) -> Decision:
    """Write down what the reviewer said, and nothing more."""
    items.free(item)
    item.closed_at = func.now()
    item.etag += 1
    return write(session, item, caller, ruling.action, ruling.label, submission=submission)


def seems_final(session: Session, decision: Decision) -> bool:
    """What the reviewer is told of `final`: of a gold item the same as of any other."""
    item = session.get_one(ReviewItem, decision.item_id)
    if item.kind != ItemKind.GOLD or decision.action not in RULINGS:
        return decision.final
    return Policy.parse(session.get_one(Model, decision.model_id).policy).quorum == 1


def _id_beside(neighbour: UUID) -> UUID:
    """A random UUID v7 of the same time."""
    below = (1 << _TIME_BITS) - 1
    return UUID(int=(neighbour.int & ~below) | (new_id().int & below))


_UNSEEN = """
SELECT s.id AS sample_id, p.id AS prediction_id
FROM samples s
JOIN images i ON i.id = s.image_id AND i.store_key IS NOT NULL
JOIN predictions p ON p.image_id = s.image_id AND p.model_id = s.model_id
WHERE s.model_id = :model AND s.split = 'holdout' AND s.by_person AND s.retracted_at IS NULL
AND (CAST(:predicted AS text) IS NULL OR p.label = :predicted)
AND NOT EXISTS (SELECT FROM review_items o WHERE o.prediction_id = p.id AND o.closed_at IS NULL)
AND NOT EXISTS (
    SELECT FROM predictions q JOIN decisions d ON d.prediction_id = q.id AND d.actor = :actor
    WHERE q.image_id = s.image_id
)
AND NOT EXISTS (
    SELECT FROM predictions q JOIN review_items o ON o.prediction_id = q.id
    WHERE q.image_id = s.image_id AND o.closed_at IS NULL AND o.leased_by = :actor
)
ORDER BY md5(concat(p.id, CAST(:beside AS text), :actor)) LIMIT 1
"""

_BASE_HOLDOUT = """
SELECT s.image_id, s.label FROM samples s
JOIN images i ON i.id = s.image_id AND i.store_key IS NOT NULL
WHERE s.model_id = :model AND s.split = 'holdout' AND s.origin = 'base' AND s.retracted_at IS NULL
ORDER BY md5(s.image_id::text) LIMIT :most
"""
