"""What a reviewer's action means for an item, and whether it ends the matter."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from backtalk.callers import POLICY, Caller
from backtalk.decisions import list_rulings
from backtalk.errors import EtagMissing, InvalidInput, ItemChanged, NotAllowed, UnknownLabel
from backtalk.items import is_disputed
from backtalk.policy import Policy
from backtalk.states import Action, ItemKind, Scope
from backtalk.tables import Correction, Model, Prediction, ReviewItem


@dataclass(frozen=True)
class Ruling:
    """An action with the label that it finds right; none where it teaches nothing."""

    action: Action
    label: str | None


def etag_of(item: ReviewItem) -> str:
    """The literal If-Match value, quotes included."""
    return f'"{item.etag}"'


def check_etag(item: ReviewItem, if_match: str | None) -> None:
    if not if_match:
        raise EtagMissing("Say which state of the item you decide on: send its `etag` as If-Match.")
    if if_match.strip() not in (etag_of(item), "*"):
        raise ItemChanged("The item has changed since you read it. Read it again and decide anew.")


def choose_ruling(
    model: Model,
    prediction: Prediction,
    item: ReviewItem,
    correction: Correction | None,
    caller: Caller,
    action: Action,
    label: str | None,
) -> Ruling:
    """Approve means: the label in question is right. It is the reported one (correction), the predicted one
    (audit, uncertain) or the one that is trained on (suspected).

    Raises:
        UnknownLabel, InvalidInput: the action and label do not fit.
        NotAllowed: `four_eyes` forbids to approve or relabel what one reported oneself.
    """
    if action is Action.REJECT and label is None:
        return Ruling(action, None)
    if Policy.parse(model.policy).four_eyes and correction is not None and _is_own(correction, caller):
        raise NotAllowed("This model's policy (four_eyes) lets nobody label what they reported themselves.")
    if action is Action.RELABEL:
        if label is None:
            raise InvalidInput("To relabel, send the right `label`.")
        if label not in model.labels:
            raise UnknownLabel(f"{model.name} has no label {label!r}.", labels=list(model.labels))
        return Ruling(action, label)
    if action is Action.UNDO:
        raise InvalidInput("An undo names the decision that it withdraws, not an item.")
    if label is not None:
        raise InvalidInput(f"`label` goes with relabel, not with {action}.")
    in_question = item.kind in (ItemKind.CORRECTION, ItemKind.SUSPECTED)
    return Ruling(action, item.reported if in_question else prediction.label)


def _is_own(correction: Correction, caller: Caller) -> bool:
    return correction.reporter == caller.name or (
        correction.key_id is not None and correction.key_id == caller.key_id
    )


def is_final(session: Session, model: Model, item: ReviewItem, caller: Caller, ruling: Ruling) -> bool:
    """One decision is final; with `quorum` 2 two must agree.

    What was flagged, also since two reviewers disagreed, is settled by the first expert who decides it; a
    dispute between statements by the first reviewer.

    Raises:
        NotAllowed: the caller has decided this item already, and another must.
    """
    if caller is POLICY or Policy.parse(model.policy).quorum == 1:
        return True
    before = list_rulings(session, item.id)
    settled_by_one = item.flagged_at is not None or is_disputed(session, item.prediction_id)
    own = any(d.actor == caller.actor for d in before)
    if own and not (settled_by_one and caller.has(Scope.ADMIN)):
        raise NotAllowed("You have decided this item; this model's policy (quorum) asks for somebody else.")
    return settled_by_one or any(d.label == ruling.label for d in before)
