"""Keys of apps: made, renewed and ended by admins; each secret is shown once."""

from datetime import UTC, datetime, timedelta
from typing import Any

from flask import g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from backtalk import audit, identity
from backtalk.errors import Conflict
from backtalk.states import Scope
from services.backend import get_backend
from services.review.admin import Field, Form, answer_form, read_days, read_scopes, show_once
from services.review.language import translate as _
from services.review.sessions import needs
from services.review.site import blueprint

OVERLAP_DAYS = 7


@blueprint.get("/keys")
@needs(Scope.ADMIN)
def show_keys() -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        keys = identity.list_keys(session)
    return render_template("pages/keys.html", keys=keys)


@blueprint.route("/keys/new", methods=["GET", "POST"])
@needs(Scope.ADMIN)
def make_key() -> ResponseReturnValue:
    name, trusted = request.form.get("name", ""), "trusted" in request.form
    scopes = read_scopes() or [Scope.PREDICT, Scope.FEEDBACK]
    form = Form(
        title=_("Make a key"),
        will=[
            _("The key is shown to you once; only its hash is kept."),
            _("Keys of one name are one app: they may correct each other's predictions."),
        ],
        fields=(
            Field("name", _("Name"), value=name, hint=_("What it is for, such as the app's name")),
            Field("scopes", _("May"), "scopes", chosen=frozenset(scopes)),
            Field(
                "trusted",
                _("Trusted: its corrections need no review where the policy says so"),
                "check",
                value="1" if trusted else "",
            ),
            Field(
                "expires",
                _("Ends after days"),
                "days",
                value=request.form.get("expires", ""),
                hint=_("Empty: it has no end"),
            ),
        ),
        hidden={"id": request.form.get("id") or identity.draw_id()},
        button=_("Make the key"),
        back=url_for("pages.show_keys"),
        guarded=True,
    )

    def make(session: Session) -> ResponseReturnValue:
        days = read_days("expires")
        given: dict[str, Any] = {"name": name, "scopes": read_scopes(), "trusted": trusted}
        key = identity.create_key(session, expires_at=_in_days(days), key_id=form.hidden["id"], **given)
        subject = f"key:{identity.read_id(key)}"
        audit.record(session, g.caller.actor, "key.create", subject, expires_days=days, **given)
        return _show(key, _("Key “%(name)s”", name=name.strip()))

    return answer_form(form, make)


@blueprint.route("/keys/<key_id>/renew", methods=["GET", "POST"])
@needs(Scope.ADMIN)
def renew_key(key_id: str) -> ResponseReturnValue:
    key = _get(key_id)
    will = [
        _("A new secret is shown to you once. The id, the name and what belongs to the key stay."),
        _("The present secret goes on as long as you say; then it ends."),
    ]
    if key.state == "rotating":
        will.append(_("The secret before that, which still works today, ends at once."))
    form = Form(
        title=_("Renew the key “%(name)s”?", name=key.name),
        will=will,
        fields=(
            Field(
                "overlap",
                _("Days that the present secret goes on"),
                "days",
                value=request.form.get("overlap", str(OVERLAP_DAYS)),
                hint=_("0 ends it now"),
            ),
        ),
        hidden={"until": _stamp(key)},
        button=_("Renew"),
        icon="past",
        back=url_for("pages.show_keys"),
        guarded=True,
    )

    def renew(session: Session) -> ResponseReturnValue:
        days = read_days("overlap", default=OVERLAP_DAYS, least=0) or 0
        if request.form.get("until") != _stamp(identity.get_status(session, key_id)):
            raise Conflict(
                _("The key was renewed meanwhile, so nothing was changed. Look at the list first.")
            )
        token = identity.rotate_key(session, key_id, overlap=timedelta(days=days))
        detail = {"overlap_days": days, "expires_days": None}
        audit.record(session, g.caller.actor, "key.rotate", f"key:{key_id}", **detail)
        return _show(token, _("New secret of “%(name)s”", name=key.name))

    return answer_form(form, renew)


@blueprint.route("/keys/<key_id>/revoke", methods=["GET", "POST"])
@needs(Scope.ADMIN)
def revoke_key(key_id: str) -> ResponseReturnValue:
    key = _get(key_id)
    form = Form(
        title=_("Revoke the key “%(name)s”?", name=key.name),
        will=[
            _("Both its secrets end within five seconds, for good."),
            _("Whatever still uses it gets “401” from then on."),
            _("What came in with it stays."),
        ],
        button=_("Revoke"),
        icon="reject",
        style="danger",
        back=url_for("pages.show_keys"),
    )

    def revoke(session: Session) -> ResponseReturnValue:
        identity.revoke_key(session, key_id)
        audit.record(session, g.caller.actor, "key.revoke", f"key:{key_id}")
        return redirect(url_for("pages.show_keys", done="revoked"), code=303)

    return answer_form(form, revoke)


def _get(key_id: str) -> identity.KeyStatus:
    """Raises NotFound."""
    with get_backend().system.db.reading() as session:
        return identity.get_status(session, key_id)


def _stamp(key: identity.KeyStatus) -> str:
    """Changes with each renewal: a form that is sent twice renews once."""
    return key.older_until.isoformat() if key.older_until else ""


def _show(key: str, title: str) -> str:
    notes = [
        _("Copy it now: it is not shown again, here or anywhere."),
        _("Apps send it as “Authorization: Bearer …”. Whoever has it may what it may."),
    ]
    return show_once(title, key, notes, url_for("pages.show_keys"))


def _in_days(days: int | None) -> datetime | None:
    return datetime.now(UTC) + timedelta(days=days) if days else None
