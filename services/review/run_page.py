"""The page of one run: how far it is, what it learned from, how it was judged, and on which pictures."""

from typing import Any

from flask import render_template, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from backtalk import catalogue
from backtalk.boards import link_board, name_board
from backtalk.states import ACTIVE_RUN_STATES, RunKind, RunState
from backtalk.tables import GateCheck, Model, Run, Version
from services.backend import get_backend
from services.review import evidence_words as say
from services.review import queries, words
from services.review.figures import Figures, make_figures
from services.review.flips import SHOWN_FIRST, Flip, Shelf, describe_flips, find_both, list_shelves
from services.review.gate_table import make_line
from services.review.language import mark
from services.review.language import translate as _
from services.review.learning import describe_learning
from services.review.polling import answer_poll, polled
from services.review.site import blueprint

RUN_POLL_S = 2


@blueprint.get("/models/<model_name>/runs/<run_id>")
def show_run(model_name: str, run_id: str) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        record = queries.get_run_of(session, model, run_id)
        live = _draw_run(session, model, record)
    address = url_for("pages.poll_run", model_name=model.name, run_id=run_id)
    every_s = RUN_POLL_S if record.run.state in ACTIVE_RUN_STATES else 0
    return render_template("pages/run.html", model=model, run=record.run, live=polled(live, address, every_s))


@blueprint.get("/models/<model_name>/runs/<run_id>/live")
def poll_run(model_name: str, run_id: str) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        record = queries.get_run_of(session, model, run_id)
        live = _draw_run(session, model, record)
    return answer_poll(live, RUN_POLL_S if record.run.state in ACTIVE_RUN_STATES else 0)


def _draw_run(session: Session, model: Model, record: catalogue.RunRecord) -> str:
    run = record.run
    artefact = queries.find_artefact_check(session, run)
    checks = ([artefact] if artefact else []) + [c for c in record.checks if c.check != "artefact"]
    snapshot = queries.find_snapshot(session, run)
    version = catalogue.find_version(session, model, run.version) if run.version else None
    return render_template(
        "pages/run_live.html",
        model=model,
        run=run,
        checks=[make_line(check) for check in checks],
        figures=_make_figures(model, record.checks),
        gallery=_hang_gallery(session, model, record),
        before=run.base_version,
        after=run.version,
        snapshot=_tabulate(snapshot.counts) if snapshot else None,
        learning=describe_learning(run, version),
        facts=_list_facts(run, version),
        board=_find_board(model, run),
        steps=_list_steps(run),
        fraction=run.progress.get("fraction"),
        standing=say.list_standing(run),
    )


def _make_figures(model: Model, checks: list[GateCheck]) -> Figures | None:
    """As they were judged; None for verdicts from before they were kept, and without a holdout."""
    detail = {check.check: check.detail for check in checks}
    cells = detail.get("fixed-broken", {}).get("confusion")
    if not cells or not cells["candidate"]:
        return None
    bins = detail.get("ece", {}).get("bins")
    return make_figures(
        model.labels,
        (cells["champion"], cells["candidate"]),
        (bins["champion"], bins["candidate"]) if bins else None,
        detail.get("class-recall", {}).get("classes", ()),
    )


def _hang_gallery(
    session: Session, model: Model, record: catalogue.RunRecord
) -> list[tuple[Shelf, list[Flip]]]:
    """The first pictures of each shelf."""
    shelves = list_shelves(record.checks)
    versions = find_both(session, model, record.run)
    ids = [shelf.ids[:SHOWN_FIRST] for shelf in shelves]
    flips = describe_flips(
        session, get_backend().system, model, [one for row in ids for one in row], versions
    )
    hung = iter(flips)
    return [(shelf, [next(hung) for _ in row]) for shelf, row in zip(shelves, ids, strict=True)]


_GROUPS = {
    "splits": mark("Split"),
    "origins": mark("Where from"),
    "train_labels": mark("Labels trained on"),
    "left_out": mark("Left out, since no person approved it"),
    "capped": mark("Over the cap, by app"),
}


def _tabulate(counts: dict[str, Any]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Snapshot counts as groups of lines, largest first."""
    groups = [
        (_(title), sorted(counts[key].items(), key=lambda pair: -pair[1]))
        for key, title in _GROUPS.items()
        if counts.get(key)
    ]
    if counts.get("stay_right"):
        groups.append(
            (_("Without a label"), [(_("answers that nobody complained about"), counts["stay_right"])])
        )
    return groups


def _find_board(model: Model, run: Run) -> str | None:
    """Its curves in TensorBoard; none before it has begun."""
    if run.state == RunState.QUEUED:
        return None
    return link_board(get_backend().system, name_board(model.name, run.kind, run.id, run.created_at))


def _list_facts(run: Run, version: Version | None) -> list[tuple[str, str]]:
    chosen = version.metrics.get("chosen", {}) if version else {}
    facts = [
        (_("Run"), str(run.id)),
        (_("Asked for by"), words.actor(run.requested_by)),
        (_("Made from version"), str(run.base_version or "–")),
        (_("Makes version"), str(run.version or "–")),
        (_("Seed"), str(run.seed)),
        (_("Decisions up to"), str(run.decision_cut or "–")),
        (_("Attempt"), str(run.attempt)),
    ]
    facts += [(_("Chosen %(name)s", name=name), str(value)) for name, value in chosen.items()]
    if version:
        facts.append((_("Artefact"), version.artefact_digest[:16] + "…"))
    return facts


DONE, NOW, TO_COME = mark("done"), mark("now"), mark("to come")
_LATE_PARTS = {RunState.JUDGING: "judge", RunState.PROMOTING: "promote"}


def _list_steps(run: Run) -> list[dict[str, str]]:
    """The parts of a run: done, now or still to come."""
    names = list(say.FULL_PARTS if run.kind == RunKind.FULL else say.HEAD_PARTS)
    part = _LATE_PARTS.get(RunState(run.state)) or run.progress.get("part", names[1])
    if run.state == RunState.QUEUED:
        part = "queued"
    elif part == "export" and run.kind == RunKind.FULL and "read" not in run.progress.get("seconds", {}):
        part = "tune"  # the backbone is written first; the head, whose export is a step, comes later
    at = names.index(part) if part in names else 1
    states = [DONE] * at + [NOW] + [TO_COME] * (len(names) - at - 1)
    return [{"text": _(say.PARTS[name]), "state": state} for name, state in zip(names, states, strict=True)]
