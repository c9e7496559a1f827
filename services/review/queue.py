"""The review view, and what it asks for while it is open: leases and pictures."""

from typing import Any
from uuid import UUID

from flask import g, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from backtalk import catalogue, leases, queues, review, reviewers
from backtalk.errors import InvalidInput
from backtalk.leases import ItemView
from backtalk.policy import Policy
from backtalk.states import OFFERED_QUEUES, Queue, Scope
from backtalk.tables import Model
from services.backend import get_backend
from services.pictures import PICTURE_SIDE, TILE_SIDE, answer_picture
from services.review import queries, queue_words, words
from services.review.language import translate_all
from services.review.recorded import record
from services.review.review_words import REVIEW_VIEW
from services.review.sessions import needs
from services.review.site import blueprint

MAX_LEASE = 50


@blueprint.get("/review/<model_name>")
@needs(Scope.REVIEW)
def show_queue(model_name: str) -> ResponseReturnValue:
    queue = read_queue(request.args.get("queue"))
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        counts = count_for_caller(session, model, queue)
        states = queues.measure_queues(session, model, g.caller)
    data = {
        "model": model.name,
        "labels": model.labels,
        "reviewer": g.caller.name,
        "countedMost": words.COUNTED_MOST,
        "queue": queue,
        "lease": url_for("pages.lease", model_name=model.name),
        "answers": url_for("pages.take_answers", model_name=model.name),
        "release": url_for("pages.release", model_name=model.name),
        "words": translate_all(REVIEW_VIEW),
    }
    shown = {"queue": queue, "queues": queue_words.describe_queues(states), "data": data}
    return render_template("pages/queue.html", model=model, counts=counts, **shown)


@blueprint.get("/review/<model_name>/reviewers")
@needs(Scope.ADMIN)
def show_reviewers(model_name: str) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        records = reviewers.measure_reviewers(session, model)
    share = Policy.parse(model.policy).gold_share
    return render_template("pages/reviewers.html", model=model, records=records, gold_share=share)


@blueprint.post("/review/<model_name>/lease")
@needs(Scope.REVIEW)
def lease(model_name: str) -> ResponseReturnValue:
    """Lease the caller's own open items and then the oldest free ones; those that he holds are renewed."""
    body = read_json()
    limit = body.get("limit", 5)
    if type(limit) is not int or not 1 <= limit <= MAX_LEASE:
        raise InvalidInput(f"`limit` is 1 to {MAX_LEASE}.")
    queue, view = read_queue(body.get("queue")), read_view(body)
    with get_backend().system.db.transaction() as session:
        model = catalogue.get_model(session, model_name)
        leased = leases.lease_items(
            session, caller=g.caller, model_name=model.name, limit=limit, queue=queue, view=view
        )
        disputed = queries.find_disputed(session, [view.correction for view in leased])
        counts = count_for_caller(session, model, queue)
    items = [show_item(model, view, view.correction in disputed) for view in leased]
    return {"items": items, "counts": counts}


@blueprint.post("/review/<model_name>/release")
@needs(Scope.REVIEW)
def release(model_name: str) -> ResponseReturnValue:
    """A page that was left lets others have what it had leased, and what is on its way to it still."""
    view = read_view(read_json())
    if view is None:
        raise InvalidInput("`view` is the UUID that the page gave with its leases.")
    with get_backend().system.db.transaction() as session:
        catalogue.get_model(session, model_name)
        leases.close_view(session, g.caller, view)
    return "", 204


@blueprint.get("/review/<model_name>/images/<image_id>")
@needs(Scope.REVIEW)
def send_picture(model_name: str, image_id: str) -> ResponseReturnValue:
    """A fresh JPEG of the picture: what came from outside never reaches a browser as it is."""
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        image = queries.get_image_of(session, model, image_id)
    side = PICTURE_SIDE if "side" not in request.args else TILE_SIDE
    return answer_picture(image, side)


def count_for_caller(session: Session, model: Model, queue: Queue | None = None) -> dict[str, int]:
    """Open items of the queue (counted up to `words.COUNTED_MOST` + 1), and what the caller decided today."""
    return {
        "open": review.count_open(session, model.id, words.COUNTED_MOST + 1, queue),
        "today": queries.count_decided_today(session, model, g.caller.actor),
    }


def show_item(model: Model, view: ItemView, disputed: bool) -> dict[str, Any]:
    return {
        "item": view.item,
        "kind": view.kind,
        "queue": view.queue,
        "disputed": disputed,
        "predicted": view.predicted,
        "reported": view.reported,
        "scores": view.scores,
        "note": view.note,
        "mark": record(view.mark),
        "reporter": view.reporter,
        "image": url_for("pages.send_picture", model_name=model.name, image_id=view.image_id),
        "flagged": words.actor(view.flagged_by) if view.flagged_by else None,
        "etag": view.etag,
        "lease_until": view.lease_until.isoformat(),
    }


def read_queue(name: object) -> Queue | None:
    """Raises InvalidInput where it is none that can be asked for."""
    if name in (None, ""):
        return None
    if name not in OFFERED_QUEUES:
        raise InvalidInput(f"`queue` is one of {', '.join(OFFERED_QUEUES)}.")
    return Queue(str(name))


def read_view(body: dict[str, Any]) -> UUID | None:
    """The id that a page drew for itself. Raises InvalidInput where it is no UUID."""
    view = body.get("view")
    if view is None:
        return None
    found = catalogue.parse_id(view) if isinstance(view, str) else None
    if found is None:
        raise InvalidInput("`view` is a UUID.")
    return found


def read_json() -> dict[str, Any]:
    """The body as a JSON object. Raises InvalidInput where it is none."""
    body = request.get_json(silent=True)
    if not isinstance(body, dict):
        raise InvalidInput("Send a JSON object.")
    return body
