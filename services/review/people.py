"""People: who may sign in and do what, for admins."""

import secrets

from flask import g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from backtalk import audit, identity
from backtalk.errors import InvalidInput
from backtalk.states import Scope
from backtalk.tables import User
from services.backend import get_backend
from services.review.admin import Field, Form, answer_form, read_scopes, show_once
from services.review.language import translate as _
from services.review.sessions import needs
from services.review.site import blueprint


@blueprint.get("/people")
@needs(Scope.ADMIN)
def show_people() -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        people = identity.list_people(session)
    return render_template("pages/people.html", people=people)


@blueprint.route("/people/new", methods=["GET", "POST"])
@needs(Scope.ADMIN)
def add_person() -> ResponseReturnValue:
    name, scopes = request.form.get("name", ""), read_scopes() or [Scope.REVIEW]
    form = Form(
        title=_("Add a person"),
        will=[
            _("A password is made and shown to you once; hand it over."),
            _("It opens nothing but the choice of another one, and ends after %(n)s days.", n=_given_days()),
        ],
        fields=(
            Field("name", _("Name"), value=name, hint=_("Letters a to z, digits and . _ @ -")),
            Field("scopes", _("May"), "scopes", chosen=frozenset(scopes)),
        ),
        button=_("Add"),
        back=url_for("pages.show_people"),
        guarded=True,
    )

    def add(session: Session) -> ResponseReturnValue:
        password = make_password()
        user = identity.create_user(session, name=name, password=password, scopes=read_scopes(), given=True)
        audit.record(session, g.caller.actor, "user.create", f"user:{user.name}", scopes=user.scopes)
        return _show_password(user.name, password)

    return answer_form(form, add)


@blueprint.route("/people/<name>/roles", methods=["GET", "POST"])
@needs(Scope.ADMIN)
def change_roles(name: str) -> ResponseReturnValue:
    user = _get(name)
    form = Form(
        title=_("What %(name)s may do", name=user.name),
        will=[_("It holds from the next click of %(name)s on; nobody is signed out.", name=user.name)],
        fields=(Field("scopes", _("May"), "scopes", chosen=frozenset(read_scopes() or user.scopes)),),
        button=_("Save"),
        back=url_for("pages.show_people"),
        guarded=True,
    )

    def change(session: Session) -> ResponseReturnValue:
        scopes = read_scopes()
        if Scope.ADMIN not in scopes:
            identity.check_admin_remains(session, user.name)
        identity.set_scopes(session, user.name, scopes)
        audit.record(session, g.caller.actor, "user.roles", f"user:{user.name}", scopes=sorted(scopes))
        return _done("roles")

    return answer_form(form, change)


@blueprint.route("/people/<name>/password", methods=["GET", "POST"])
@needs(Scope.ADMIN)
def give_password(name: str) -> ResponseReturnValue:
    user = _get(name)
    form = Form(
        title=_("A new password for %(name)s?", name=user.name),
        will=[
            _("%(name)s is signed out everywhere; the old password ends now.", name=user.name),
            _("A password is made and shown to you once; hand it over."),
            _("It opens nothing but the choice of another one, and ends after %(n)s days.", n=_given_days()),
        ],
        button=_("Make a password"),
        back=url_for("pages.show_people"),
        guarded=True,
    )

    def give(session: Session) -> ResponseReturnValue:
        if user.name == g.caller.name:
            raise InvalidInput(_("Your own password is changed on the page of your account."))
        password = make_password()
        identity.set_password(session, user.name, password, given=True)
        audit.record(session, g.caller.actor, "user.password", f"user:{user.name}")
        return _show_password(user.name, password)

    return answer_form(form, give)


@blueprint.route("/people/<name>/disable", methods=["GET", "POST"])
@needs(Scope.ADMIN)
def disable_person(name: str) -> ResponseReturnValue:
    user = _get(name)
    form = Form(
        title=_("Keep %(name)s out?", name=user.name),
        will=[
            _("%(name)s is signed out everywhere, now, and can sign in no more.", name=user.name),
            _("What they decided stays. You can let them in again."),
        ],
        button=_("Disable %(name)s", name=user.name),
        icon="reject",
        style="danger",
        back=url_for("pages.show_people"),
    )

    def disable(session: Session) -> ResponseReturnValue:
        identity.check_admin_remains(session, user.name)
        identity.set_disabled(session, user.name, True)
        audit.record(session, g.caller.actor, "user.disable", f"user:{user.name}")
        return _done("disabled")

    return answer_form(form, disable)


@blueprint.route("/people/<name>/enable", methods=["GET", "POST"])
@needs(Scope.ADMIN)
def enable_person(name: str) -> ResponseReturnValue:
    user = _get(name)
    form = Form(
        title=_("Let %(name)s in again?", name=user.name),
        will=[
            _(
                "%(name)s can sign in with the password of before, and may what is in the list.",
                name=user.name,
            )
        ],
        button=_("Let in"),
        back=url_for("pages.show_people"),
        guarded=True,
    )

    def enable(session: Session) -> ResponseReturnValue:
        identity.set_disabled(session, user.name, False)
        audit.record(session, g.caller.actor, "user.enable", f"user:{user.name}")
        return _done("enabled")

    return answer_form(form, enable)


def make_password() -> str:
    """120 random bits, for a short life."""
    return secrets.token_urlsafe(15)


def _get(name: str) -> User:
    """Raises NotFound."""
    with get_backend().system.db.reading() as session:
        return identity.get_user(session, name)


def _given_days() -> int:
    return identity.GIVEN_LIVES.days


def _show_password(name: str, password: str) -> str:
    notes = [
        _("Hand it over in a way that only %(name)s reads. It is not shown again.", name=name),
        _("The first sign-in asks for a password of their own."),
    ]
    return show_once(_("Password of %(name)s", name=name), password, notes, url_for("pages.show_people"))


def _done(what: str) -> ResponseReturnValue:
    return redirect(url_for("pages.show_people", done=what), code=303)
