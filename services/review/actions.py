"""Buttons with weight: run now, promote, roll back, lift the hold. Each says first what will happen."""

from collections.abc import Callable
from typing import Any

from flask import g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from backtalk import catalogue, promotion, triggers
from backtalk.db import new_id, parse_id
from backtalk.errors import Conflict, InvalidInput, NothingToRollBack
from backtalk.interventions import Asked, Changed
from backtalk.ledger import find_previous_champion
from backtalk.recipes import list_recipes
from backtalk.states import RunKind, Scope, Split
from backtalk.tables import LedgerEntry, Model
from services.backend import get_backend
from services.review import consequences
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
    system = get_backend().system
    with system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        decided, samples = (
            catalogue.count_decided_new(session, model),
            catalogue.count_samples(session, model),
        )
        recipe = triggers.get_policy(model).nightly_recipe
    return render_template(
        "pages/run_now.html",
        model=model,
        title=_("Train a candidate now?"),
        decided=decided,
        learned=samples.get(Split.TRAIN, 0),
        judged_on=samples.get(Split.HOLDOUT, 0),
        recipes=list_recipes(system.settings.recipes),
        recipe=recipe,
        request_id=new_id(),
    )


@blueprint.post("/models/<model_name>/run-now")
@needs(Scope.TRAIN)
def request_run(model_name: str) -> ResponseReturnValue:
    """The form's own id makes one run of it, however often it is sent."""
    kind, request_id = request.form.get("kind", ""), parse_id(request.form.get("request", ""))
    if kind not in set(RunKind):
        raise InvalidInput(_("The kind of a run is one of %(kinds)s.", kinds=", ".join(RunKind)))
    if request_id is None:
        raise InvalidInput(_("The form was not whole. Load the page again."))
    system = get_backend().system
    recipe = request.form.get("recipe") or None if kind == RunKind.FULL else None
    with system.db.transaction() as session:
        model = catalogue.get_model(session, model_name)
        named = triggers.check_recipe(RunKind(kind), recipe, system.settings.recipes)
        run = triggers.request_run(
            session, model=model, kind=kind, caller=g.caller, recipe=named, request_id=request_id
        )
    return redirect(url_for("pages.show_run", model_name=model.name, run_id=run.id, done="run"), code=303)


@blueprint.get("/models/<model_name>/versions/<int:number>/promote")
@needs(Scope.PROMOTE)
def ask_promote(model_name: str, number: int) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        version = catalogue.get_version(session, model, number)
        will = consequences.list_promotion(session, model, version)
    return ask(
        model,
        _("Make version %(n)s live?", n=number),
        will,
        action=url_for("pages.promote", model_name=model.name, number=number),
        fields={"generation": model.generation},
        button=_("Promote version %(n)s", n=number),
        icon_name="up",
        style="main",
    )


@blueprint.post("/models/<model_name>/versions/<int:number>/promote")
@needs(Scope.PROMOTE)
def promote(model_name: str, number: int) -> ResponseReturnValue:
    def change(seen: int) -> Changed | Asked:
        return promotion.promote_version(
            get_backend().system, model_name=model_name, number=number, caller=g.caller, seen=seen
        )

    made = change_once(model_name, "promote", number, change)
    return done(model_name, "promote-asked" if isinstance(made, Asked) else "promote")


def change_once(
    model_name: str, action: str, number: int | None, change: Callable[[int], Changed | Asked]
) -> Changed | Asked | None:
    """Change the champion that the form was made about. A second click, or a reload, does nothing more.

    None where this very form did it before.

    Raises:
        Conflict: the champion changed meanwhile, and not by this very form.
    """
    text = request.form.get("generation", "")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidInput(_("The form was not whole. Load the page again."))
    seen = int(text)
    if was_done(model_name, seen, action, number):
        return None
    try:
        return change(seen)
    except Conflict:
        if not was_done(model_name, seen, action, number):
            raise
        return None


def was_done(model_name: str, seen: int, action: str, number: int | None) -> bool:
    """Whether the caller made just this change, right after the generation that the form speaks of."""
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        entry = session.get(LedgerEntry, (model.id, seen + 1))
        if entry is None or (entry.action, entry.actor) != (action, g.caller.actor):
            return False
        return number is None or entry.version == number


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
        will = consequences.list_rollback(session, model, target)
    return ask(
        model,
        _("Roll back to version %(n)s?", n=target),
        will,
        action=url_for("pages.roll_back", model_name=model.name),
        fields={"generation": model.generation},
        button=_("Roll back to %(n)s", n=target),
        icon_name="past",
        style="danger",
    )


@blueprint.post("/models/<model_name>/roll-back")
@needs(Scope.PROMOTE)
def roll_back(model_name: str) -> ResponseReturnValue:
    def change(seen: int) -> Changed:
        return promotion.rollback_model(
            get_backend().system, model_name=model_name, caller=g.caller, seen=seen
        )

    change_once(model_name, "rollback", None, change)
    return done(model_name, "rollback")


@blueprint.get("/models/<model_name>/lift-hold")
@needs(Scope.TRAIN)
def ask_lift_hold(model_name: str) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        policy = triggers.get_policy(model)
        decided = catalogue.count_decided_new(session, model)
    will = [
        _("Runs start by themselves again, and candidates that pass the gate go live."),
        _(
            "The rules are asked at once: %(n)s of %(wanted)s are approved.",
            n=decided,
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
