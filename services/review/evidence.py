"""The pages of evidence: what is live, what was tried, why, and what comes next."""

from flask import render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from backtalk import catalogue, complaints, lineage
from backtalk.live_accuracy import find_live_accuracy
from backtalk.queues import COUNTED_MOST
from backtalk.tables import Model
from services.backend import get_backend
from services.review import outlook, queries
from services.review.polling import answer_poll, polled
from services.review.rates import make_rate_chart
from services.review.site import blueprint

ROWS_ON_OVERVIEW = 8
MODEL_POLL_S = 5


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
        days = complaints.list_days(session, model)
        changes = queries.list_changes_since(session, model, days[0].day)
        context = {
            "model": model,
            "versions": versions,
            "tainted": lineage.find_tainted(session, model.id),
            "accuracies": queries.find_holdout_accuracies(session, model, versions),
            "live_accuracies": [one for one in find_live_accuracy(session, model) if one.answered][
                :ROWS_ON_OVERVIEW
            ],
            "rates": make_rate_chart(days, changes),
            "most_a_day": complaints.MOST_A_DAY,
            "triggers": catalogue.list_trigger_checks(session, model, limit=ROWS_ON_OVERVIEW).items,
            "ledger": catalogue.list_ledger(session, model, limit=ROWS_ON_OVERVIEW).items,
        }
        live, runs = _draw_model(session, model), _draw_runs(session, model)
    addresses = [url_for(f"pages.poll_{what}", model_name=model.name) for what in ("model", "model_runs")]
    return render_template(
        "pages/model.html",
        live=polled(live, addresses[0], MODEL_POLL_S),
        runs=polled(runs, addresses[1], MODEL_POLL_S),
        **context,
    )


@blueprint.get("/models/<model_name>/live")
def poll_model(model_name: str) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        live = _draw_model(session, catalogue.get_model(session, model_name))
    return answer_poll(live, MODEL_POLL_S)


@blueprint.get("/models/<model_name>/live-runs")
def poll_model_runs(model_name: str) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        runs = _draw_runs(session, catalogue.get_model(session, model_name))
    return answer_poll(runs, MODEL_POLL_S)


def _draw_model(session: Session, model: Model) -> str:
    return render_template(
        "pages/model_live.html",
        model=model,
        traffic=queries.count_traffic(session, model),
        counted_most=COUNTED_MOST,
        change=queries.find_last_change(session, model),
        waiting=outlook.find_outlook(session, model),
        last=queries.find_last_run(session, model),
    )


def _draw_runs(session: Session, model: Model) -> str:
    runs = catalogue.list_runs(session, model, limit=ROWS_ON_OVERVIEW).items
    return render_template("pages/model_runs.html", model=model, runs=runs)


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
