"""The review view and the JSON that it talks: lease, decide, pictures."""

from typing import Any

from flask import g, make_response, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from backtalk import catalogue, images, leases, review
from backtalk.errors import InvalidInput, ItemChanged
from backtalk.leases import ItemView
from backtalk.states import Action, Scope
from backtalk.tables import Model
from services.backend import get_backend
from services.review import queries, words
from services.review.review_words import REVIEW_VIEW
from services.review.sessions import needs
from services.review.site import blueprint, render_error

PICTURE_SIDE = 1024  # pixels: enough for the stage on most screens, 100 to 300 kB as JPEG
MAX_LEASE = 50


@blueprint.get("/review/<model_name>")
@needs(Scope.REVIEW)
def show_queue(model_name: str) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        counts = _count(session, model)
    data = {
        "model": model.name,
        "labels": model.labels,
        "reviewer": g.caller.name,
        "lease": url_for("pages.lease", model_name=model.name),
        "decide": url_for("pages.decide", model_name=model.name, item_id="ITEM"),
        "words": REVIEW_VIEW,
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
        counts = _count(session, model)
    items = [_show(model, view, view.correction in disputed) for view in leased]
    return {"items": items, "counts": counts}


@blueprint.post("/review/<model_name>/items/<item_id>/decision")
@needs(Scope.REVIEW)
def decide(model_name: str, item_id: str) -> ResponseReturnValue:
    """Decide one item; 412 with what was decided where somebody else was first."""
    action, label = _read_decision()
    db = get_backend().system.db
    try:
        with db.transaction() as session:
            model = catalogue.get_model(session, model_name)
            queries.check_item_of(session, model, item_id)
            decision = review.decide_item(
                session,
                caller=g.caller,
                item_id=item_id,
                action=action,
                label=label,
                if_match=request.headers.get("If-Match"),
            )
            counts = _count(session, model)
    except ItemChanged as error:
        with db.reading() as session:
            decided = queries.find_ruling(session, item_id)
        return render_error(412, "ItemChanged", error.message, decided=words.ruling(decided, g.caller))
    return {
        "action": decision.action,
        "label": decision.label,
        "final": decision.final,
        "counts": counts,
    }


@blueprint.get("/review/<model_name>/images/<image_id>")
@needs(Scope.REVIEW)
def send_picture(model_name: str, image_id: str) -> ResponseReturnValue:
    """A fresh JPEG of the picture: what came from outside never reaches a browser as it is."""
    system = get_backend().system
    with system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        image = queries.get_image_of(session, model, image_id)
    picture = images.decode(
        system.images.get(image.store_key or ""),
        max_bytes=max(system.settings.max_image_bytes, image.byte_size),
        max_pixels=max(system.settings.max_pixels, image.width * image.height),
        orientation=image.orientation,
    )
    response = make_response(images.thumbnail(picture.pixels, PICTURE_SIDE))
    response.mimetype = "image/jpeg"
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    response.headers["Cache-Control"] = "private, max-age=3600, immutable"
    response.headers["Content-Disposition"] = "inline"
    return response


def _count(session: Session, model: Model) -> dict[str, int]:
    return {
        "open": review.count_open(session, model.id),
        "today": queries.count_decided_today(session, model, g.caller.actor),
    }


def _show(model: Model, view: ItemView, disputed: bool) -> dict[str, Any]:
    return {
        "item": view.item,
        "kind": view.kind,
        "disputed": disputed,
        "predicted": view.predicted,
        "reported": view.reported,
        "scores": view.scores,
        "note": view.note,
        "mark": view.mark,
        "reporter": view.reporter,
        "image": url_for("pages.send_picture", model_name=model.name, image_id=view.image_id),
        "etag": view.etag,
        "lease_until": view.lease_until.isoformat(),
    }


def read_json() -> dict[str, Any]:
    """The body as a JSON object. Raises InvalidInput where it is none."""
    body = request.get_json(silent=True)
    if not isinstance(body, dict):
        raise InvalidInput("Send a JSON object.")
    return body


def _read_decision() -> tuple[Action, str | None]:
    body = read_json()
    action, label = body.get("action"), body.get("label")
    if action not in list(Action) or not isinstance(label, str | None):
        raise InvalidInput(f"`action` is one of {', '.join(Action)}; `label` is a word or null.")
    return Action(action), label
