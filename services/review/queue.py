"""The review view, and what it asks for while it is open: leases and pictures."""

from datetime import datetime
from typing import Any
from uuid import UUID

from flask import g, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from backtalk import catalogue, leases, review
from backtalk.errors import InvalidInput
from backtalk.leases import ItemView
from backtalk.states import Scope
from backtalk.tables import Model
from services.backend import get_backend
from services.pictures import PICTURE_SIDE, TILE_SIDE, answer_picture
from services.review import queries, words
from services.review.language import translate_all
from services.review.records import record
from services.review.review_words import REVIEW_VIEW
from services.review.sessions import needs
from services.review.site import blueprint

MAX_LEASE = 50
MAX_RELEASE = 200


@blueprint.get("/review/<model_name>")
@needs(Scope.REVIEW)
def show_queue(model_name: str) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        counts = count_for_caller(session, model)
    data = {
        "model": model.name,
        "labels": model.labels,
        "reviewer": g.caller.name,
        "countedMost": words.COUNTED_MOST,
        "lease": url_for("pages.lease", model_name=model.name),
        "answers": url_for("pages.take_answers", model_name=model.name),
        "release": url_for("pages.release", model_name=model.name),
        "words": translate_all(REVIEW_VIEW),
    }
    return render_template("pages/queue.html", model=model, counts=counts, data=data)


@blueprint.post("/review/<model_name>/lease")
@needs(Scope.REVIEW)
def lease(model_name: str) -> ResponseReturnValue:
    """Lease the caller's own open items and then the oldest free ones; those that he holds are renewed."""
    limit = read_json().get("limit", 5)
    if type(limit) is not int or not 1 <= limit <= MAX_LEASE:
        raise InvalidInput(f"`limit` is 1 to {MAX_LEASE}.")
    with get_backend().system.db.transaction() as session:
        model = catalogue.get_model(session, model_name)
        leased = leases.lease_items(session, caller=g.caller, model_name=model.name, limit=limit)
        disputed = queries.find_disputed(session, [view.correction for view in leased])
        counts = count_for_caller(session, model)
    items = [show_item(model, view, view.correction in disputed) for view in leased]
    return {"items": items, "counts": counts}


@blueprint.post("/review/<model_name>/release")
@needs(Scope.REVIEW)
def release(model_name: str) -> ResponseReturnValue:
    """A view that closes lets others have what it had leased and nobody has answered."""
    given = read_json().get("leases")
    if not isinstance(given, dict) or len(given) > MAX_RELEASE:
        raise InvalidInput(f"`leases` is `lease_until` by item, of {MAX_RELEASE} items at most.")
    try:
        known = {UUID(item): datetime.fromisoformat(until) for item, until in given.items()}
    except (ValueError, TypeError):
        raise InvalidInput("`leases` is `lease_until` by item, both as they came with the lease.") from None
    with get_backend().system.db.transaction() as session:
        catalogue.get_model(session, model_name)
        leases.release_items(session, caller=g.caller, leases=known)
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


def count_for_caller(session: Session, model: Model) -> dict[str, int]:
    """Open items (counted up to one more than `words.COUNTED_MOST`), and what the caller decided today."""
    return {
        "open": review.count_open(session, model.id, words.COUNTED_MOST + 1),
        "today": queries.count_decided_today(session, model, g.caller.actor),
    }


def show_item(model: Model, view: ItemView, disputed: bool) -> dict[str, Any]:
    return {
        "item": view.item,
        "kind": view.kind,
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


def read_json() -> dict[str, Any]:
    """The body as a JSON object. Raises InvalidInput where it is none."""
    body = request.get_json(silent=True)
    if not isinstance(body, dict):
        raise InvalidInput("Send a JSON object.")
    return body
