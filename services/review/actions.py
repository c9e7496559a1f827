"""Buttons with weight: run now, promote, roll back, lift the hold. Each says first what will happen."""

from typing import Any

from flask import g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from backtalk import catalogue, promotion, triggers
from backtalk.errors import InvalidInput, NothingToRollBack
from backtalk.ledger import find_previous_champion
from backtalk.states import RunKind, Scope
from backtalk.tables import Model
from services.backend import get_backend
from services.review import queries, words
from services.review.language import mark
from services.review.language import translate as _
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
        _("The model is on hold: if the candidate passes, it waits for a person.")
        if model.hold
        else _("If it passes the gate it goes live by itself; otherwise the champion stays.")
    )
    will = [
        _("A candidate is trained on all %(n)s training samples.", n=learned),
        _("%(n)s statements were decided since the last verdict.", n=counts.decided_new),
        _(
            "It is judged against version %(n)s, on pictures that nothing is trained on.",
            n=model.live_version,
        ),
        after,
        _("Requests are answered all the while."),
    ]
    return ask(
        model,
        _("Train a candidate now?"),
        will,
        action=url_for("pages.request_run", model_name=model.name),
        fields={"kind": RunKind.HEAD},
        button=_("Run now"),
        icon_name="run",
        style="main",
    )


@blueprint.post("/models/<model_name>/run-now")
@needs(Scope.TRAIN)
def request_run(model_name: str) -> ResponseReturnValue:
    kind = request.form.get("kind", "")
    if kind not in set(RunKind):
        raise InvalidInput(_("The kind of a run is one of %(kinds)s.", kinds=", ".join(RunKind)))
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
        _(
            "Version %(one)s answers instead of version %(other)s, within two seconds.",
            one=number,
            other=model.live_version,
        ),
        _("No request is dropped meanwhile."),
        _(
            "The gate left it %(state)s; you promote it in your own name, and the ledger says so.",
            state=words.version_state(version.state).text,
        ),
        _("Its files are checked against their sums first."),
        _("The way back is “Roll back” to version %(n)s.", n=model.live_version),
    ]
    if number in accuracies:
        will.insert(
            1, _("On the holdout it was right on %(share)s of the pictures.", share=accuracies[number])
        )
    return ask(
        model,
        _("Make version %(n)s live?", n=number),
        will,
        action=url_for("pages.promote", model_name=model.name, number=number),
        fields={},
        button=_("Promote version %(n)s", n=number),
        icon_name="up",
        style="main",
    )


@blueprint.post("/models/<model_name>/versions/<int:number>/promote")
@needs(Scope.PROMOTE)
def promote(model_name: str, number: int) -> ResponseReturnValue:
    promotion.promote_version(get_backend().system, model_name=model_name, number=number, caller=g.caller)
    return done(model_name, "promote")


@blueprint.get("/models/<model_name>/roll-back")
@needs(Scope.PROMOTE)
def ask_rollback(model_name: str) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        target = find_previous_champion(session, model.id, model.live_version or 0)
    if target is None:
        raise NothingToRollBack(
            mark("Version %(n)s is the first; there is none before it.") % {"n": model.live_version}
        )
    will = [
        _(
            "Version %(one)s answers again instead of version %(other)s, within two seconds.",
            one=target,
            other=model.live_version,
        ),
        _("The model goes on hold: no run starts and nothing goes live by itself until somebody lifts it."),
        _("Version %(n)s is kept and can be promoted again.", n=model.live_version),
    ]
    return ask(
        model,
        _("Roll back to version %(n)s?", n=target),
        will,
        action=url_for("pages.roll_back", model_name=model.name),
        fields={},
        button=_("Roll back to %(n)s", n=target),
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
        _("Runs start by themselves again, and candidates that pass the gate go live."),
        _(
            "The rules are asked at once: %(n)s of %(wanted)s are approved.",
            n=counts.decided_new,
            wanted=policy.min_approved,
        ),
    ]
    return ask(
        model,
        _("Lift the hold?"),
        will,
        action=url_for("pages.lift_hold", model_name=model.name),
        fields={},
        button=_("Lift hold"),
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
