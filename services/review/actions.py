"""Buttons with weight: run now, promote, roll back, lift the hold. Each says first what will happen."""

from typing import Any

from flask import g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from backtalk import catalogue, promotion, triggers
from backtalk.errors import InvalidInput, NothingToRollBack
from backtalk.interventions import Asked
from backtalk.ledger import find_previous_champion
from backtalk.states import RunKind, Scope
from backtalk.tables import Model
from services.backend import get_backend
from services.review import queries
from services.review.sessions import needs
from services.review.site import blueprint


def ask(model: Model, title: str, will: list[str], **context: Any) -> str:
    """The question as a page, or for htmx as the inside of the dialog."""
    return render_template("pages/ask.html", model=model, title=title, will=will, **context)


def done(model_name: str, what: str) -> ResponseReturnValue:
    return redirect(url_for("pages.show_model", model_name=model_name, done=what), code=303)


@blueprint.get("/models/<model_name>/run-now")
@needs(Scope.TRAIN)
def ask_run(model_name: str) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        counts = catalogue.count_all(session, model)
    learned = counts.samples.get("train", 0)
    after = (
        "The model is on hold: if the candidate passes, it waits for a person."
        if model.hold
        else "If it passes the gate it goes live by itself; otherwise the champion stays."
    )
    will = [
        f"A candidate is trained on all {learned} training samples.",
        f"{counts.decided_new} statements were decided since the last verdict.",
        f"It is judged against version {model.live_version}, on pictures that nothing is trained on.",
        after,
        "Requests are answered all the while.",
    ]
    return ask(
        model,
        "Train a candidate now?",
        will,
        action=url_for("pages.request_run", model_name=model.name),
        fields={"kind": RunKind.HEAD},
        button="Run now",
        icon_name="run",
        style="main",
    )


@blueprint.post("/models/<model_name>/run-now")
@needs(Scope.TRAIN)
def request_run(model_name: str) -> ResponseReturnValue:
    kind = request.form.get("kind", "")
    if kind not in set(RunKind):
        raise InvalidInput(f"The kind of a run is one of {', '.join(RunKind)}.")
    with get_backend().system.db.transaction() as session:
        model = catalogue.get_model(session, model_name)
        run = triggers.request_run(session, model=model, kind=RunKind(kind), caller=g.caller)
    return redirect(url_for("pages.show_run", model_name=model.name, run_id=run.id, done="run"), code=303)


@blueprint.get("/models/<model_name>/versions/<int:number>/promote")
@needs(Scope.PROMOTE)
def ask_promote(model_name: str, number: int) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        version = catalogue.get_version(session, model, number)
        accuracies = queries.find_holdout_accuracies(session, model, [version])
    will = [
        f"Version {number} answers instead of version {model.live_version}, within two seconds.",
        "No request is dropped meanwhile.",
        f"The gate left it {version.state}; you promote it in your own name, and the ledger says so.",
        "Its files are checked against their sums first.",
        f"The way back is “Roll back” to version {model.live_version}.",
    ]
    if number in accuracies:
        will.insert(1, f"On the holdout it was right on {accuracies[number]} of the pictures.")
    return ask(
        model,
        f"Make version {number} live?",
        will,
        action=url_for("pages.promote", model_name=model.name, number=number),
        fields={},
        button=f"Promote version {number}",
        icon_name="up",
        style="main",
    )


@blueprint.post("/models/<model_name>/versions/<int:number>/promote")
@needs(Scope.PROMOTE)
def promote(model_name: str, number: int) -> ResponseReturnValue:
    made = promotion.promote_version(
        get_backend().system, model_name=model_name, number=number, caller=g.caller
    )
    return done(model_name, "promote-asked" if isinstance(made, Asked) else "promote")


@blueprint.get("/models/<model_name>/roll-back")
@needs(Scope.PROMOTE)
def ask_rollback(model_name: str) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        target = find_previous_champion(session, model.id, model.live_version or 0)
    if target is None:
        raise NothingToRollBack(f"Version {model.live_version} is the first; there is none before it.")
    will = [
        f"Version {target} answers again instead of version {model.live_version}, within two seconds.",
        "The model goes on hold: no run starts and nothing goes live by itself until somebody lifts it.",
        f"Version {model.live_version} is kept and can be promoted again.",
    ]
    return ask(
        model,
        f"Roll back to version {target}?",
        will,
        action=url_for("pages.roll_back", model_name=model.name),
        fields={},
        button=f"Roll back to {target}",
        icon_name="past",
        style="danger",
    )


@blueprint.post("/models/<model_name>/roll-back")
@needs(Scope.PROMOTE)
def roll_back(model_name: str) -> ResponseReturnValue:
    promotion.rollback_model(get_backend().system, model_name=model_name, caller=g.caller)
    return done(model_name, "rollback")


@blueprint.get("/models/<model_name>/lift-hold")
@needs(Scope.TRAIN)
def ask_lift_hold(model_name: str) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        policy = triggers.get_policy(model)
        counts = catalogue.count_all(session, model)
    will = [
        "Runs start by themselves again, and candidates that pass the gate go live.",
        f"The rules are asked at once: {counts.decided_new} of {policy.min_approved} are approved.",
    ]
    return ask(
        model,
        "Lift the hold?",
        will,
        action=url_for("pages.lift_hold", model_name=model.name),
        fields={},
        button="Lift hold",
        icon_name="run",
        style="main",
    )


@blueprint.post("/models/<model_name>/lift-hold")
@needs(Scope.TRAIN)
def lift_hold(model_name: str) -> ResponseReturnValue:
    with get_backend().system.db.transaction() as session:
        model = catalogue.get_model(session, model_name)
        triggers.set_policy(session, model, {"hold": False}, g.caller)
    return done(model_name, "hold")
