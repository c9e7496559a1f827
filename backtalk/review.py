"""From statement to sample: grouped, offered to reviewers, decided once."""

from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from backtalk import gold, items
from backtalk.callers import POLICY, Caller
from backtalk.dataset import Labelled, find_live_sample, lock_decisions, put_sample, retract_samples
from backtalk.db import parse_id
from backtalk.decisions import Submission, find_last_word, find_repeat, list_rulings, write
from backtalk.errors import InvalidInput, ItemChanged, ItemNotFound, NotAllowed
from backtalk.events import StatementApproved
from backtalk.failpoints import around_commit
from backtalk.groups import Candidate, Source, place_images
from backtalk.learned import find_users
from backtalk.outbox import emit
from backtalk.policy import Policy
from backtalk.queues import counts_in
from backtalk.rulings import Ruling, check_etag, choose_ruling, is_final
from backtalk.settling import remember, settle
from backtalk.states import (
    Action,
    ConfirmationState,
    CorrectionState,
    ItemKind,
    Origin,
    Queue,
    ReviewPolicy,
    Scope,
    Side,
)
from backtalk.suspicion import mark_corrections
from backtalk.tables import (
    ApiKey,
    Confirmation,
    Correction,
    Decision,
    Image,
    Model,
    Prediction,
    ReviewItem,
    Sample,
)

CONSIDER_AT_LATEST_S = 5.0  # even if the doorbell of StatementApproved is lost


def prepare_prediction(session: Session, prediction_id: str) -> None:
    """Group the image, offer what needs a person, and let the approval policy decide the rest.

    Runs after every statement and audit; doing it twice changes nothing.
    """
    prediction = session.get(Prediction, UUID(prediction_id), with_for_update=True)
    if prediction is None:
        return
    if session.get_one(Image, prediction.image_id).deleted_at is not None:
        return  # its statements were retracted with it, and nobody can look at it
    model = session.get_one(Model, prediction.model_id)
    mark_corrections(session, prediction)  # looks at many rows, so before others have to wait
    lock_decisions(session, model.id)
    side = _place(session, model, prediction)
    around_commit(session, "preparation")
    item = items.offer(session, prediction)
    correction = items.find_newest_statement(session, prediction.id)
    if item and correction and _policy_approves(session, model, prediction, correction):
        _decide(session, model, prediction, item, POLICY, Action.APPROVE, correction.label)
    _follow_confirmations(session, model, prediction, side)
    for table in (Correction, Confirmation):
        session.execute(
            update(table)
            .where(table.prediction_id == prediction.id, table.prepared_at.is_(None))
            .values(prepared_at=func.now())
        )


def decide_item(
    session: Session,
    *,
    caller: Caller,
    item_id: str,
    action: Action,
    label: str | None = None,
    if_match: str | None,
    submission: Submission | None = None,
) -> Decision:
    """Take down a reviewer's decision. A submission that was taken down before gives the same decision.

    Raises:
        ItemNotFound: no such item.
        EtagMissing, ItemChanged: the caller did not say, or does not know, the item as it is now.
        UnknownLabel, InvalidInput, NotAllowed: the ruling cannot be made, or not by this caller.
    """
    submission = submission or Submission()
    found = _find_item(session, item_id)
    around_commit(session, "decision")
    # The same order of locks as statements take: prediction, decisions, item.
    prediction = session.get_one(Prediction, found.prediction_id, with_for_update=True)
    model = session.get_one(Model, found.model_id)
    lock_decisions(session, model.id)
    item = session.get_one(ReviewItem, found.id, with_for_update=True, populate_existing=True)
    repeated = find_repeat(session, caller, submission)
    if repeated is not None:
        return repeated
    if item.closed_at is not None:
        raise _tell_late(session, item, caller)
    check_etag(item, if_match)
    if action in (Action.SKIP, Action.FLAG):
        return _pass_on(session, item, caller, action, submission)
    if item.flagged_at is not None and not caller.has(Scope.EXPERT):
        raise NotAllowed("This item waits for an expert: it takes the scope `expert` to decide it.")
    correction = session.get(Correction, item.correction_id) if item.correction_id else None
    ruling = choose_ruling(model, prediction, item, correction, caller, action, label)
    if item.kind == ItemKind.GOLD:
        return gold.answer_gold(session, item, caller, ruling, submission)
    return _decide(session, model, prediction, item, caller, ruling.action, ruling.label, submission)


def count_open(session: Session, model_id: int, most: int | None = None, queue: Queue | None = None) -> int:
    """Open items of one queue, or of those that are due; with `most`, counting stops there."""
    rows = select(ReviewItem.id).where(
        ReviewItem.model_id == model_id, ReviewItem.closed_at.is_(None), counts_in(queue)
    )
    return session.scalar(select(func.count()).select_from(rows.limit(most).subquery())) or 0


def _find_item(session: Session, item_id: str) -> ReviewItem:
    key = parse_id(item_id)
    item = session.get(ReviewItem, key) if key else None
    if item is None:
        raise ItemNotFound(f"There is no review item {item_id!r}.")
    return item


def _place(session: Session, model: Model, prediction: Prediction) -> Side | None:
    image = session.get_one(Image, prediction.image_id)
    if image.pixels_sha256 is None or image.perceptual_hash is None:
        return None  # deleted meanwhile
    source = Source.AUDIT if prediction.audit else Source.TRAFFIC
    candidate = Candidate(image.id, image.pixels_sha256, image.perceptual_hash)
    return place_images(session, model, [candidate], source)[image.id]


def _policy_approves(session: Session, model: Model, prediction: Prediction, correction: Correction) -> bool:
    """Audits and disputes wait for a person under every policy."""
    review = Policy.parse(model.policy).review
    if prediction.audit or correction.state != CorrectionState.PENDING or review is ReviewPolicy.REQUIRED:
        return False
    if review is ReviewPolicy.AUTO:
        return True
    key = session.get(ApiKey, correction.key_id) if correction.key_id else None
    return key is not None and key.trusted


def _follow_confirmations(session: Session, model: Model, prediction: Prediction, side: Side | None) -> None:
    """A confirmation that nobody contradicts is a sample at once; one that was withdrawn is none any more."""
    active = session.scalar(
        select(Confirmation)
        .where(
            Confirmation.prediction_id == prediction.id,
            Confirmation.state == ConfirmationState.ACTIVE,
        )
        .order_by(Confirmation.id)
        .limit(1)
    )
    sample = find_live_sample(session, model.id, prediction.image_id)
    ours = sample is not None and sample.prediction_id == prediction.id
    if active is None:
        if sample is not None and ours and sample.origin == Origin.CONFIRMATION and not sample.by_person:
            retract_samples(session, model.id, prediction.image_id)
    elif side is not None and not ours:
        put_sample(
            session,
            model,
            side,
            Labelled(
                prediction.image_id,
                prediction.label,
                Origin.CONFIRMATION,
                by_person=False,
                audited=prediction.audit,
                prediction_id=prediction.id,
                key_id=active.key_id,
            ),
        )


def _pass_on(
    session: Session, item: ReviewItem, caller: Caller, action: Action, submission: Submission
) -> Decision:
    """Skip: to anybody else. Flag: to experts alone. Whoever passed it on gets it last."""
    if item.kind == ItemKind.GOLD:  # it was for this reviewer alone
        item.closed_at = func.now()
    elif action is Action.FLAG:
        if item.flagged_at is not None:
            raise InvalidInput("This item waits for an expert already; skip it.")
        item.flagged_at, item.flagged_by = func.now(), caller.actor
        item.etag += 1
    item.skipped_by = [*(a for a in item.skipped_by if a != caller.actor), caller.actor]
    items.free(item)
    return write(session, item, caller, action, submission=submission)


def _decide(
    session: Session,
    model: Model,
    prediction: Prediction,
    item: ReviewItem,
    caller: Caller,
    action: Action,
    label: str | None,
    submission: Submission | None = None,
) -> Decision:
    """Write the decision and, where it is final, what follows from it."""
    taught = _weigh_suspected(session, model, item)
    final = is_final(session, model, item, caller, Ruling(action, label))
    before = remember(session, prediction) | taught if final else None
    decision = write(
        session,
        item,
        caller,
        action,
        label,
        final=final,
        teaches=item.kind != ItemKind.SUSPECTED or label != item.reported,
        submission=submission,
        before=before,
    )
    items.free(item)
    if not final:
        _call_expert(session, item)
        return decision
    item.etag += 1
    item.closed_at = func.now()
    settle(session, model, prediction, item, decision, by_person=caller is not POLICY)
    if decision.counts:
        session.execute(
            update(Model)
            .where(Model.id == model.id)
            .values(
                consider_at=func.coalesce(
                    Model.consider_at, func.now() + text(f"interval '{CONSIDER_AT_LATEST_S} s'")
                )
            )
        )
        emit(session, StatementApproved(model_id=model.id, prediction_id=str(prediction.id)))
    return decision


def _weigh_suspected(session: Session, model: Model, item: ReviewItem) -> dict[str, list[int]]:
    """Which versions have learned the label in question; nothing for other items.

    Raises:
        ItemChanged: the label was replaced or withdrawn meanwhile.
    """
    if item.kind != ItemKind.SUSPECTED:
        return {}
    sample = session.get_one(Sample, item.sample_id)
    if sample.retracted_at is not None:
        raise ItemChanged("The label in question was replaced or withdrawn meanwhile.")
    return {"taught": list(find_users(session, model, sample).versions)}


def _call_expert(session: Session, item: ReviewItem) -> None:
    """Two reviewers who disagree are not outvoted by a third: an expert decides.

    The first opinion leaves no trace on the item, not even in its etag: the second reviewer must not know.
    """
    if len({d.label for d in list_rulings(session, item.id)}) > 1:
        item.flagged_at, item.flagged_by = func.now(), items.DISAGREEMENT
        item.queue = Queue.DISPUTED
        item.etag += 1
        session.flush()


def _tell_late(session: Session, item: ReviewItem, caller: Caller) -> ItemChanged:
    """What was decided and when. By whom, an admin is told; others, whether it was themselves."""
    decision = find_last_word(session, item)
    if decision is None:
        return ItemChanged("This item is no longer open: what it was about was withdrawn.")
    now = session.scalar(select(func.clock_timestamp()))
    assert now is not None
    seconds = max(0, round((now - decision.created_at).total_seconds()))
    said = f"as {decision.label!r}" if decision.label else "as teaching nothing"
    own, admin = decision.actor == caller.actor, caller.has(Scope.ADMIN)
    by = "by you" if own else f"by {decision.actor}" if admin else "by another reviewer"
    return ItemChanged(
        f"Decided {said} {by} {seconds} s ago. Ask for the next items.",
        decided_as=decision.label,
        action=decision.action,
        seconds_ago=seconds,
        own=own,
        **({"decided_by": decision.actor} if admin else {}),
    )
