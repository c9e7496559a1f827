"""The grid: many items at once, by clusters; click out the exceptions, approve the rest."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from flask import g, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from backtalk import catalogue, gold, leases, queues
from backtalk.errors import InvalidInput
from backtalk.leases import ItemView
from backtalk.states import Queue, Scope
from backtalk.tables import Model, ReviewItem
from backtalk.uncertain import draw_uncertain
from services.backend import get_backend
from services.pictures import TILE_SIDE
from services.review import queries, queue_words, words
from services.review.language import translate as _
from services.review.language import translate_all
from services.review.queue import count_for_caller, read_json, read_view, show_item
from services.review.review_words import GRID_VIEW
from services.review.selection import Cluster, Selection, find_items, list_clusters
from services.review.sessions import needs
from services.review.site import blueprint
from services.review.trust import weigh_reporters

TILES = 48


@blueprint.get("/review/<model_name>/grid")
@needs(Scope.REVIEW)
def show_grid(model_name: str) -> ResponseReturnValue:
    """The frame; its module asks for the tiles. All filters stand in the address, to be shared."""
    asked = Selection.read(request.args)
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        counts = count_for_caller(session, model, asked.asked)
        states = queues.measure_queues(session, model, g.caller)
        clusters = list_clusters(session, model, asked, g.caller)
        selection = _choose_first(asked, clusters)
        reporters = sorted(weigh_reporters(session, model))
    chips = [_show_cluster(model, selection, cluster) for cluster in clusters]
    data = {
        "model": model.name,
        "labels": model.labels,
        "reviewer": g.caller.name,
        "countedMost": words.COUNTED_MOST,
        "tiles": TILES,
        "selection": selection.args,
        "lease": url_for("pages.lease_tiles", model_name=model.name),
        "answers": url_for("pages.take_answers", model_name=model.name),
        "release": url_for("pages.release", model_name=model.name),
        "grid": url_for("pages.show_grid", model_name=model.name),
        "queue": asked.queue,
        "words": translate_all(GRID_VIEW),
    }
    return render_template(
        "pages/grid.html",
        model=model,
        counts=counts,
        queue=asked.asked,
        queues=queue_words.describe_queues(states),
        selection=asked,  # the form says what was asked for; the chips, what is shown
        chips=chips,
        any_label=[("", _("any")), *((label, label) for label in model.labels)],
        any_reporter=[("", _("any")), *((name, name) for name in reporters)],
        without_like=f"{data['grid']}?{selection.but(like=None).query}",
        data=data,
    )


def _choose_first(selection: Selection, clusters: list[Cluster]) -> Selection:
    """Without a wish of its own the grid shows the largest pair: the sooner many are done."""
    chosen = (selection.predicted, selection.reported, selection.group, selection.like, selection.queue)
    if (
        selection.by != "pair"
        or selection.sort == "size"
        or not clusters
        or any(one is not None for one in chosen)
    ):
        return selection
    return _narrow(selection, clusters[0])


def _narrow(selection: Selection, cluster: Cluster) -> Selection:
    if cluster.group is not None:
        return selection.but(group=cluster.group, like=None)
    queue = selection.queue or (Queue.AUDITS if cluster.reported is None else None)
    return selection.but(predicted=cluster.predicted, reported=cluster.reported, queue=queue, like=None)


def _show_cluster(model: Model, selection: Selection, cluster: Cluster) -> dict[str, Any]:
    narrowed = _narrow(selection, cluster)
    return {
        "cluster": cluster,
        "href": f"{url_for('pages.show_grid', model_name=model.name)}?{narrowed.query}",
        "current": narrowed == selection.but(like=None),
        "image": cluster.image_id and _thumbnail(model, str(cluster.image_id)),
    }


@blueprint.post("/review/<model_name>/grid/lease")
@needs(Scope.REVIEW)
def lease_tiles(model_name: str) -> ResponseReturnValue:
    """Renew the leases of the tiles that are shown (`hold`) and fill up to `TILES` with new ones."""
    body = read_json()
    wanted, held = body.get("selection"), body.get("hold", [])
    if not isinstance(wanted, dict) or not isinstance(held, list) or len(held) > TILES:
        raise InvalidInput(f"`selection` is an object, `hold` a list of {TILES} ids at most.")
    selection = Selection.read(wanted)
    view = read_view(body)
    ids = [key for key in (catalogue.parse_id(str(one)) for one in held) if key]
    with get_backend().system.db.transaction() as session:
        model = catalogue.get_model(session, model_name)
        if selection.asked is Queue.UNCERTAIN:
            draw_uncertain(session, model, TILES)
        who = {"caller": g.caller, "model": model, "view": view}
        gold.close_expired(session, model)
        kept = leases.lease_these(session, **who, item_ids=ids, limit=TILES)
        free = TILES - len(kept)
        found = find_items(session, model, selection, g.caller, 2 * free, without=ids)
        mix = _choose_mix(session, model, selection, free, without=ids)
        added = leases.lease_these(session, **who, item_ids=found.item_ids, limit=free, mix=mix)
        items = _show_tiles(session, model, added)
        counts = count_for_caller(session, model, selection.asked)
    return {
        "items": items,
        "held": {view.item: view.lease_until.isoformat() for view in kept},
        "counts": counts,
        "remark": found.remark,
    }


def _choose_mix(
    session: Session, model: Model, selection: Selection, most: int, without: list[UUID]
) -> Callable[[list[ReviewItem]], list[ReviewItem]] | None:
    """How gold items come among the tiles, if they do.

    Among those of one predicted label they show the same one. One that is asked what looks like it stands
    before the others, as any item does.
    """
    if selection.like is not None:
        asked = UUID(selection.like)
        item = gold.bring_back(session, model, g.caller, asked) if asked not in without else None
        return (lambda rows: [item, *rows][:most]) if item is not None and most else None
    if not selection.hides_gold:
        return None
    newest_first = selection.sort == "newest"
    return lambda rows: gold.draw_gold(
        session, model, g.caller, rows, most, predicted=selection.predicted, newest_first=newest_first
    )


def _show_tiles(session: Session, model: Model, views: list[ItemView]) -> list[dict[str, Any]]:
    disputed = queries.find_disputed(session, [view.correction for view in views])
    return [
        show_item(model, view, view.correction in disputed)
        | {"image": _thumbnail(model, view.image_id), "group": view.group}
        for view in views
    ]


def _thumbnail(model: Model, image_id: str) -> str:
    return url_for("pages.send_picture", model_name=model.name, image_id=image_id, side=TILE_SIDE)
