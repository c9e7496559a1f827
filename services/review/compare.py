"""Any two versions side by side, on the holdout as it is now."""

import logging
from dataclasses import dataclass
from functools import partial

from flask import render_template, request
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from backtalk import calibration, catalogue, intervals
from backtalk.checks import check_class_recall
from backtalk.comparison import Comparison, compare_versions
from backtalk.errors import ArtefactInvalid, InvalidInput
from backtalk.ledger import find_previous_champion
from backtalk.policy import Policy
from backtalk.tables import Model, Version
from services.backend import get_backend
from services.review import evidence_words as say
from services.review.figures import Figures, make_figures
from services.review.flips import (
    A_PAGE,
    SHOWN_FIRST,
    WAYS,
    Flip,
    Shelf,
    describe_flips,
    find_shelf,
    place,
    read_start,
)
from services.review.language import translate as _
from services.review.site import blueprint

log = logging.getLogger(__name__)

CONFIDENCE = 0.95  # two-sided
ONE_SIDE = (1 + CONFIDENCE) / 2
CHOICES = 200  # versions that the form offers, the newest


@dataclass(frozen=True)
class Contrast:
    """What the two come to, in words and figures."""

    images: int
    left_out: int
    before: str
    after: str
    difference: str
    low: str
    high: str
    fixed: int
    broken: int
    figures: Figures
    shelves: list[Shelf]


@blueprint.get("/models/<model_name>/compare")
def show_comparison(model_name: str) -> ResponseReturnValue:
    """`?before=` and `?after=` are version numbers; without them, the live one and what it took over from."""
    backend = get_backend()
    with backend.system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        choices = catalogue.list_versions(session, model, limit=CHOICES).items
        before, after = _read_versions(session, model)
        contrast, problem, gallery = None, None, []
        if before is not None and after is not None:
            contrast, problem = find_contrast(session, model, before, after)
        if contrast is not None:
            gallery = _hang(session, model, contrast.shelves, [before, after])
    return render_template(
        "pages/compare.html",
        model=model,
        choices=choices,
        before=before.number if before else None,
        after=after.number if after else None,
        contrast=contrast,
        problem=problem,
        gallery=gallery,
    )


@blueprint.get("/models/<model_name>/compare/flips")
def show_comparison_flips(model_name: str) -> ResponseReturnValue:
    """All holdout pictures that differ one way, page by page."""
    backend = get_backend()
    with backend.system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        before, after = _read_versions(session, model)
        if before is None or after is None:
            raise InvalidInput(_("Name two versions: `?before=` and `?after=`."))
        contrast, problem = find_contrast(session, model, before, after)
        if contrast is None:
            raise ArtefactInvalid(problem or _("These two cannot be compared."))
        shelf = find_shelf(contrast.shelves, "holdout", request.args.get("way", "broken"))
        start = read_start(len(shelf.ids))
        ids = shelf.ids[start : start + A_PAGE]
        flips = describe_flips(session, backend.system, model, ids, [before, after])
    return render_template(
        "pages/flips.html",
        model=model,
        run=None,
        shelves=contrast.shelves,
        shelf=shelf,
        flips=flips,
        start=start,
        a_page=A_PAGE,
        here=partial(
            place,
            "pages.show_comparison_flips",
            model_name=model.name,
            before=before.number,
            after=after.number,
        ),
        before=before.number,
        after=after.number,
    )


def _read_versions(session: Session, model: Model) -> tuple[Version | None, Version | None]:
    """Raises VersionNotFound, InvalidInput: not a number."""
    live = model.live_version
    given = [request.args.get(name) or None for name in ("before", "after")]
    if given == [None, None] and live is not None:
        numbers = [find_previous_champion(session, model.id, live), live]
    else:
        numbers = [_read_number(text) if text is not None else live for text in given]
    before, after = (
        catalogue.get_version(session, model, number) if number is not None else None for number in numbers
    )
    return before, after


def _read_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidInput(_("`before` and `after` are numbers of versions."))
    return int(text)


def find_contrast(
    session: Session, model: Model, before: Version, after: Version
) -> tuple[Contrast | None, str | None]:
    """The contrast, or why there is none."""
    if before.number == after.number:
        return None, _("Choose two different versions.")
    try:
        found = compare_versions(session, get_backend().system, model, before, after)
    except ArtefactInvalid as error:  # its words name a file on this machine: they are for the log
        log.warning("%s", error.message)
        unreadable = _(
            "The files of one of the two cannot be read. Look with: backtalk verify %(model)s",
            model=model.name,
        )
        return None, unreadable
    if not found.answers.image_ids:
        return None, say.nothing_in_common(found.left_out)
    return _describe(model, found), None


def _describe(model: Model, found: Comparison) -> Contrast:
    answers, pairs, n = found.answers, found.pairs, len(found.answers)
    judged = check_class_recall(answers, model.labels, Policy.parse(model.policy)).detail["classes"]
    bins = (
        calibration.bin_confidence(answers.champion, answers.champion_right),
        calibration.bin_confidence(answers.candidate, answers.candidate_right),
    )
    cells = answers.count_confusion(answers.champion), answers.count_confusion(answers.candidate)
    ids = {
        "broken": [i for i, flipped in zip(answers.image_ids, pairs.broken, strict=True) if flipped],
        "fixed": [i for i, flipped in zip(answers.image_ids, pairs.fixed, strict=True) if flipped],
    }
    return Contrast(
        images=n,
        left_out=found.left_out,
        before=_say_accuracy(int(answers.champion_right.sum()), n),
        after=_say_accuracy(int(answers.candidate_right.sum()), n),
        difference=say.points((pairs.b - pairs.c) / n),
        low=say.points(float(intervals.tango_lower(pairs.b, pairs.c, n, ONE_SIDE))),
        high=say.points(float(intervals.tango_upper(pairs.b, pairs.c, n, ONE_SIDE))),
        fixed=pairs.b,
        broken=pairs.c,
        figures=make_figures(model.labels, cells, bins, judged),
        shelves=[Shelf("holdout", way, len(ids[way]), ids[way]) for way in WAYS if ids[way]],
    )


def _say_accuracy(right: int, n: int) -> str:
    return say.interval(right / n, *intervals.wilson(right, n))


def _hang(
    session: Session, model: Model, shelves: list[Shelf], versions: list[Version | None]
) -> list[tuple[Shelf, list[Flip]]]:
    system = get_backend().system
    return [
        (shelf, describe_flips(session, system, model, shelf.ids[:SHOWN_FIRST], versions))
        for shelf in shelves
    ]
