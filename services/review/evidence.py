"""The pages of evidence: what is live, what was tried, why, and what comes next."""

import hashlib
from typing import Any

from flask import Response, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from backtalk import catalogue, lineage
from backtalk.errors import RunNotFound
from backtalk.states import ACTIVE_RUN_STATES, RunState
from backtalk.tables import Model, Run
from services.backend import get_backend
from services.review import outlook, queries, words
from services.review.gate_table import make_line
from services.review.language import mark
from services.review.language import translate as _
from services.review.site import blueprint

ROWS_ON_OVERVIEW = 8
MODEL_POLL_S, RUN_POLL_S = 5, 2


@blueprint.get("/")
def show_home() -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        page = catalogue.list_models(session, cursor=request.args.get("cursor"))
        cards = [outlook.make_card(session, model) for model in page.items]
    return render_template("pages/home.html", cards=cards, page=page)


@blueprint.get("/models/<model_name>")
def show_model(model_name: str) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        versions = catalogue.list_versions(session, model, limit=ROWS_ON_OVERVIEW).items
        context = {
            "model": model,
            "versions": versions,
            "tainted": lineage.find_tainted(session, model.id),
            "accuracies": queries.find_holdout_accuracies(session, model, versions),
            "triggers": catalogue.list_trigger_checks(session, model, limit=ROWS_ON_OVERVIEW).items,
            "ledger": catalogue.list_ledger(session, model, limit=ROWS_ON_OVERVIEW).items,
        }
        live = _draw_model(session, model)
    address = url_for("pages.poll_model", model_name=model.name)
    return render_template("pages/model.html", live=polled(live, address, MODEL_POLL_S), **context)


@blueprint.get("/models/<model_name>/live")
def poll_model(model_name: str) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        live = _draw_model(session, catalogue.get_model(session, model_name))
    return answer_poll(live, MODEL_POLL_S)


def _draw_model(session: Session, model: Model) -> str:
    return render_template(
        "pages/model_live.html",
        model=model,
        counts=catalogue.count_all(session, model),
        change=queries.find_last_change(session, model),
        waiting=outlook.find_outlook(session, model),
        last=queries.find_last_run(session, model),
        runs=catalogue.list_runs(session, model, limit=ROWS_ON_OVERVIEW).items,
    )


@blueprint.get("/models/<model_name>/runs")
def show_runs(model_name: str) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        page = catalogue.list_runs(session, model, cursor=request.args.get("cursor"))
    return render_template("pages/runs.html", model=model, page=page, runs=page.items)


@blueprint.get("/models/<model_name>/triggers")
def show_triggers(model_name: str) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        page = catalogue.list_trigger_checks(session, model, cursor=request.args.get("cursor"))
    return render_template("pages/triggers.html", model=model, page=page, checks=page.items)


@blueprint.get("/models/<model_name>/ledger")
def show_ledger(model_name: str) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        page = catalogue.list_ledger(session, model, cursor=request.args.get("cursor"))
    return render_template("pages/ledger.html", model=model, page=page, entries=page.items)


@blueprint.get("/models/<model_name>/runs/<run_id>")
def show_run(model_name: str, run_id: str) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        record = _get_run(session, model, run_id)
        live = _draw_run(session, model, record)
    address = url_for("pages.poll_run", model_name=model.name, run_id=run_id)
    every_s = RUN_POLL_S if record.run.state in ACTIVE_RUN_STATES else 0
    return render_template("pages/run.html", model=model, run=record.run, live=polled(live, address, every_s))


@blueprint.get("/models/<model_name>/runs/<run_id>/live")
def poll_run(model_name: str, run_id: str) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        record = _get_run(session, model, run_id)
        live = _draw_run(session, model, record)
    return answer_poll(live, RUN_POLL_S if record.run.state in ACTIVE_RUN_STATES else 0)


def _get_run(session: Session, model: Model, run_id: str) -> catalogue.RunRecord:
    record = catalogue.get_run(session, run_id)
    if record.run.model_id != model.id:
        raise RunNotFound(f"{model.name} has no run {run_id!r}.")
    return record


def _draw_run(session: Session, model: Model, record: catalogue.RunRecord) -> str:
    run = record.run
    artefact = queries.find_artefact_check(session, run)
    checks = ([artefact] if artefact else []) + [c for c in record.checks if c.check != "artefact"]
    snapshot = queries.find_snapshot(session, run)
    return render_template(
        "pages/run_live.html",
        model=model,
        run=run,
        checks=[make_line(check) for check in checks],
        snapshot=_tabulate(snapshot.counts) if snapshot else None,
        facts=_list_facts(session, model, run),
        steps=_list_steps(run),
        fraction=run.progress.get("fraction"),
    )


GROUPS = {
    "splits": "Split",
    "origins": "Where from",
    "train_labels": "Labels trained on",
    "left_out": "Left out, since no person approved it",
    "capped": "Over the cap, by app",
}


def _tabulate(counts: dict[str, Any]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Snapshot counts as groups of lines, largest first."""
    groups = [
        (_(title), sorted(counts[key].items(), key=lambda pair: -pair[1]))
        for key, title in GROUPS.items()
        if counts.get(key)
    ]
    if counts.get("stay_right"):
        groups.append(
            (_("Without a label"), [(_("answers that nobody complained about"), counts["stay_right"])])
        )
    return groups


def _list_facts(session: Session, model: Model, run: Run) -> list[tuple[str, str]]:
    version = catalogue.find_version(session, model, run.version) if run.version else None
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
    names = list(words.PARTS)
    part = _LATE_PARTS.get(RunState(run.state)) or run.progress.get("part", "read")
    if run.state == RunState.QUEUED:
        part = "queued"
    at = names.index(part) if part in names else 1
    states = [DONE] * at + [NOW] + [TO_COME] * (len(names) - at - 1)
    return [{"text": _(words.PARTS[name]), "state": state} for name, state in zip(names, states, strict=True)]


# --- polling -----------------------------------------------------------------------------------
def polled(body: str, address: str, every_s: int) -> str:
    """`body` in a box that asks for itself every so often, or never for 0."""
    seen = hashlib.sha256(body.encode()).hexdigest()[:16]
    return render_template("pages/polled.html", body=body, address=f"{address}?seen={seen}", every_s=every_s)


def answer_poll(body: str, every_s: int) -> ResponseReturnValue:
    """The box anew, or 204 where the page shows just that already: nobody loses focus for nothing."""
    drawn = polled(body, request.path, every_s)
    if f"?seen={request.args.get('seen')}" in drawn and every_s:
        return Response(status=204)
    return drawn
