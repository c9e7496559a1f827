"""What reviewers answer: taken down in the order in which it was given, each for itself, each once."""

from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

from flask import g
from flask.typing import ResponseReturnValue

from backtalk import catalogue, gold, review, undoing
from backtalk.decisions import Submission
from backtalk.errors import BacktalkError, InvalidInput, ItemChanged, Unavailable
from backtalk.rulings import etag_of
from backtalk.states import Action, Scope
from backtalk.tables import Model
from services.backend import get_backend
from services.review import queries, review_words
from services.review.queue import count_for_caller, read_json, read_queue
from services.review.recorded import record
from services.review.sessions import needs
from services.review.site import blueprint

MOST_ANSWERS = 100


@dataclass(frozen=True)
class Given:
    """One answer. `id` is drawn by the view, so that sending it again changes nothing."""

    id: UUID
    batch: UUID | None
    action: Action
    item: str
    etag: str | None
    label: str | None
    undoes: UUID | None  # the answer that an undo takes back

    @classmethod
    def read(cls, body: object) -> Self:
        """Raises InvalidInput where it makes no sense."""
        if not isinstance(body, dict):
            raise InvalidInput("An answer is a JSON object.")
        action, label, etag = body.get("action"), body.get("label"), body.get("etag")
        if (
            action not in list(Action)
            or not isinstance(label, str | None)
            or not isinstance(etag, str | None)
        ):
            raise InvalidInput(
                f"`action` is one of {', '.join(Action)}; `label` and `etag` are words or null."
            )
        return cls(
            id=_read_id(body, "id"),
            batch=_read_id(body, "batch") if body.get("batch") else None,
            action=Action(action),
            item=str(body.get("item")),
            etag=etag,
            label=label,
            undoes=_read_id(body, "undoes") if action == Action.UNDO else None,
        )

    @property
    def submission(self) -> Submission:
        return Submission(self.id, self.batch)


def _read_id(body: dict[str, Any], name: str) -> UUID:
    value = body.get(name)
    found = catalogue.parse_id(value) if isinstance(value, str) else None
    if found is None:
        raise InvalidInput(f"`{name}` is a UUID.")
    return found


@blueprint.post("/review/<model_name>/answers")
@needs(Scope.REVIEW)
def take_answers(model_name: str) -> ResponseReturnValue:
    """Answers in their order, and what became of each.

    `taken`; `late`: somebody else was first; `changed`: the item is another now; `refused`. An answer that
    cannot be taken does not hold up the others.
    """
    body = read_json()
    answers, queue = body.get("answers"), read_queue(body.get("queue"))
    if not isinstance(answers, list) or not 1 <= len(answers) <= MOST_ANSWERS:
        raise InvalidInput(f"`answers` is a list of 1 to {MOST_ANSWERS}.")
    db = get_backend().system.db
    with db.reading() as session:
        model = catalogue.get_model(session, model_name)
    results = [_take(model, answer) for answer in answers]
    with db.reading() as session:
        counts = count_for_caller(session, model, queue)
    return {"results": results, "counts": counts}


def _take(model: Model, answer: object) -> dict[str, Any]:
    """A transaction of its own for each: what was taken down stays so, whatever becomes of the next."""
    answer_id = answer.get("id") if isinstance(answer, dict) else None
    try:
        given = Given.read(answer)
        made = _undo(given) if given.undoes else _decide(model, given)
    except Unavailable:
        raise
    except BacktalkError as error:
        made = {"state": "refused", "condition": type(error).__name__, "message": record(error.message)}
    return {"id": answer_id} | made


def _decide(model: Model, given: Given) -> dict[str, Any]:
    try:
        return _write_decision(model, given)
    except ItemChanged as error:
        return _describe_change(error)


def _write_decision(model: Model, given: Given) -> dict[str, Any]:
    with get_backend().system.db.transaction() as session:
        queries.check_item_of(session, model, given.item)
        decision = review.decide_item(
            session,
            caller=g.caller,
            item_id=given.item,
            action=given.action,
            label=given.label,
            if_match=given.etag,
            submission=given.submission,
        )
        return {"state": "taken", "label": decision.label, "final": gold.seems_final(session, decision)}


def _undo(given: Given) -> dict[str, Any]:
    assert given.undoes is not None
    with get_backend().system.db.transaction() as session:
        undone = undoing.undo_decision(
            session, caller=g.caller, request_id=given.undoes, submission=given.submission
        )
        learned = review_words.learned_sentence(undone.learned)
        return {"state": "taken", "final": False, "etag": etag_of(undone.item), "learned": learned}


def _describe_change(error: ItemChanged) -> dict[str, Any]:
    if "seconds_ago" not in error.extra:
        return {"state": "changed", "message": record(error.message)}
    return {"state": "late", "message": record(error.message), "decided": review_words.ruling(error.extra)}
