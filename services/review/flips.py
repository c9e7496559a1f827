"""The flip gallery: the very pictures that a version fixed and broke, and one picture by itself."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from flask import render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import select
from sqlalchemy.orm import Session

from backtalk import catalogue
from backtalk.comparison import Saying, ask_version
from backtalk.errors import ArtefactInvalid, ImageNotFound, InvalidInput
from backtalk.states import Split
from backtalk.system import System
from backtalk.tables import Correction, GateCheck, Image, Model, Prediction, Run, Sample, Version
from services.backend import get_backend
from services.review import queries
from services.review.language import translate as _
from services.review.site import blueprint

SHOWN_FIRST = 8  # pictures of a row, on the page of a run or of a comparison
A_PAGE = 32
PREDICTIONS_SHOWN = 20
WAYS = ("broken", "fixed")
#: The checks of a run that keep the pictures behind them, by the set that they speak of.
SETS = {Split.HOLDOUT: "accuracy-champion", Split.REGRESSION: "regression", Split.KEPT: "kept"}


@dataclass(frozen=True)
class Flip:
    """One picture: what is right, and what both said. `gone` is why it cannot be shown, in words."""

    image_id: str
    gone: str | None
    truth: str | None
    before: Saying | None
    after: Saying | None


@dataclass(frozen=True)
class Shelf:
    """The pictures of one way in one set: `kept` of `count` are known by their ids."""

    of: str
    way: str
    count: int
    ids: list[str]


def list_shelves(checks: Iterable[GateCheck]) -> list[Shelf]:
    """What the checks of a run know of flipped pictures, the broken ones first; empty shelves left out."""
    by_name = {check.check: check for check in checks}
    shelves = []
    for split, name in SETS.items():
        check = by_name.get(name)
        if check is None:
            continue
        for way, count in (("broken", check.broken), ("fixed", check.fixed)):
            if count:
                shelves.append(Shelf(split.value, way, count, check.detail.get(f"{way}_images", [])))
    return shelves


def find_shelf(shelves: Iterable[Shelf], of: str, way: str) -> Shelf:
    """An empty one where nothing was flipped so. Raises InvalidInput: there is no such set or way."""
    if of not in set(SETS) or way not in WAYS:
        raise InvalidInput(_("Pictures are those `fixed` or `broken`, of `holdout`, `regression` or `kept`."))
    return next((s for s in shelves if (s.of, s.way) == (of, way)), Shelf(of, way, 0, []))


def describe_flips(
    session: Session, system: System, model: Model, ids: Sequence[str], versions: Sequence[Version | None]
) -> list[Flip]:
    """`versions`: the one before and the one after. What cannot be known any more is None."""
    keys = [key for key in map(catalogue.parse_id, ids) if key is not None]
    known = {row.id: row for row in session.scalars(select(Image).where(Image.id.in_(keys)))}
    labels = _find_labels(session, model, keys)
    said = [_ask(session, system, version, list(known)) for version in versions]
    flips = []
    for image_id in ids:
        key = catalogue.parse_id(image_id)
        image = known.get(key) if key else None
        before, after = (answers.get(key) if key else None for answers in said)
        flips.append(Flip(image_id, say_gone(image), labels.get(key) if key else None, before, after))
    return flips


def _find_labels(session: Session, model: Model, keys: list[UUID]) -> dict[UUID, str]:
    """The right labels as they stand now."""
    rows = select(Sample.image_id, Sample.label).where(
        Sample.model_id == model.id, Sample.image_id.in_(keys), Sample.retracted_at.is_(None)
    )
    return dict(session.execute(rows).all())


def _ask(session: Session, system: System, version: Version | None, keys: list[UUID]) -> dict[UUID, Saying]:
    if version is None:
        return {}
    try:
        return ask_version(session, system, version, keys)
    except ArtefactInvalid:
        return {}


def say_gone(image: Image | None) -> str | None:
    """Why a picture cannot be shown; None where it can."""
    if image is None:
        return _("No such picture any more.")
    if image.deleted_at is not None:
        return _("Deleted since.")
    return _("Its pixels are not kept.") if image.store_key is None else None


# --- pages -------------------------------------------------------------------------------------
@blueprint.get("/models/<model_name>/runs/<run_id>/flips")
def show_run_flips(model_name: str, run_id: str) -> ResponseReturnValue:
    """All pictures of one set that a run's candidate fixed or broke, page by page."""
    backend = get_backend()
    with backend.system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        record = queries.get_run_of(session, model, run_id)
        shelves = list_shelves(record.checks)
        shelf = find_shelf(shelves, request.args.get("of", "holdout"), request.args.get("way", "broken"))
        start = read_start(len(shelf.ids))
        versions = find_both(session, model, record.run)
        flips = describe_flips(session, backend.system, model, shelf.ids[start : start + A_PAGE], versions)
    return render_template(
        "pages/flips.html",
        model=model,
        run=record.run,
        shelves=shelves,
        shelf=shelf,
        flips=flips,
        start=start,
        a_page=A_PAGE,
        here=partial(place, "pages.show_run_flips", model_name=model.name, run_id=run_id),
        before=record.run.base_version,
        after=record.run.version,
    )


def find_both(session: Session, model: Model, run: Run) -> list[Version | None]:
    """The champion that a run began with, and its candidate."""
    return [
        catalogue.find_version(session, model, number) if number else None
        for number in (run.base_version, run.version)
    ]


def place(endpoint: str, *, of: str, way: str, start: int = 0, **values: Any) -> str:
    """The address of one page of pictures."""
    onwards: dict[str, Any] = {"from": start} if start else {}
    return url_for(endpoint, of=of, way=way, **values, **onwards)


def read_start(total: int) -> int:
    """Where the page begins: `?from=`, within the list."""
    given = request.args.get("from", "0")
    start = int(given) if given.isascii() and given.isdigit() and len(given) < 10 else 0
    return min(start, max(total - 1, 0)) // A_PAGE * A_PAGE


@blueprint.get("/models/<model_name>/images/<image_id>")
def show_image(model_name: str, image_id: str) -> ResponseReturnValue:
    """One picture, what it counts as, and what was said of it."""
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        image = queries.find_image_of(session, model, image_id)
        if image is None:
            raise ImageNotFound(f"{model.name} has no picture {image_id!r}.")
        samples = session.scalars(
            select(Sample)
            .where(Sample.model_id == model.id, Sample.image_id == image.id)
            .order_by(Sample.id.desc())
            .limit(PREDICTIONS_SHOWN)
        ).all()
        predictions = session.scalars(
            select(Prediction)
            .where(Prediction.image_id == image.id, Prediction.model_id == model.id)
            .order_by(Prediction.id.desc())
            .limit(PREDICTIONS_SHOWN)
        ).all()
        said = session.scalars(
            select(Correction)
            .where(Correction.prediction_id.in_([p.id for p in predictions]))
            .order_by(Correction.id.desc())
            .limit(PREDICTIONS_SHOWN)
        ).all()
    return render_template(
        "pages/image.html",
        model=model,
        image=image,
        gone=say_gone(image),
        samples=samples,
        predictions=predictions,
        corrections=said,
    )
