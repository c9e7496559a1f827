"""What the pages for admins share: forms that say what will happen, and proving who is there."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from flask import after_this_request, g, make_response, render_template, request
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session
from werkzeug import Response

from backtalk import identity
from backtalk.errors import Conflict, InvalidInput, NotAuthenticated
from backtalk.states import Scope
from services.backend import get_backend
from services.review.language import mark, translate
from services.review.sessions import cookie_name, describe_browser, set_cookie

_ = translate

#: What each scope lets somebody do.
SCOPES = {
    Scope.PREDICT: mark("Ask for predictions"),
    Scope.FEEDBACK: mark("Report and confirm answers"),
    Scope.REVIEW: mark("Decide what is learned from"),
    Scope.EXPERT: mark("Decide what was flagged or disputed"),
    Scope.TRAIN: mark("Start runs"),
    Scope.PROMOTE: mark("Promote versions and roll back"),
    Scope.ADMIN: mark("Everything: people, keys and policies too"),
}
LONGEST_DAYS = 3650


@dataclass(frozen=True)
class Field:
    """One input. `kind`: text, days, check or scopes, which is one box for each of `SCOPES`."""

    name: str
    label: str
    kind: str = "text"
    value: str = ""
    hint: str = ""
    chosen: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Form:
    """A page that asks, and says first what will happen. `guarded`: it gives a secret or a right away, so
    the password is asked for again unless it was just given."""

    title: str
    will: list[str]
    button: str
    back: str
    icon: str = "approve"
    style: str = "main"
    fields: tuple[Field, ...] = ()
    hidden: dict[str, str] = field(default_factory=dict)
    guarded: bool = False


def is_proved() -> bool:
    return bool(g.proved_at > datetime.now(UTC) - identity.PROVED_FOR)


def answer_form(form: Form, act: Callable[[Session], ResponseReturnValue]) -> ResponseReturnValue:
    """GET shows the form; POST acts in one transaction, or shows the form again with what is wrong."""
    if request.method == "GET":
        return show_form(form)
    try:
        if form.guarded:
            prove_again()
        with get_backend().system.db.transaction() as session:
            return act(session)
    except (InvalidInput, NotAuthenticated, Conflict) as error:
        return make_response(show_form(form, error.message), 422)


def show_form(form: Form, problem: str | None = None) -> str:
    prove = form.guarded and not is_proved()
    return render_template("pages/admin_form.html", form=form, problem=problem, prove=prove, scopes=SCOPES)


def show_once(title: str, secret: str, notes: list[str], back: str) -> str:
    """The only time that a secret is shown: in the answer to the form, which nobody keeps."""
    return render_template("pages/once.html", title=title, secret=secret, notes=notes, back=back)


def prove_again() -> None:
    """Open a new session if the password was not given within the last minutes.

    Raises:
        NotAuthenticated: it is wrong or missing.
    """
    if is_proved():
        return
    password = request.form.get("password", "")
    if not password:
        raise NotAuthenticated(_("Give your own password too: the last time is more than five minutes ago."))
    name = cookie_name()
    with get_backend().system.db.transaction() as session:
        token, opened = identity.prove_again(
            session, g.caller, request.cookies[name], password, **describe_browser()
        )
    g.proved_at = opened.created_at

    @after_this_request
    def renew(response: Response) -> Response:
        set_cookie(response, name, token, opened.expires_at)
        return response


def read_scopes() -> list[str]:
    return request.form.getlist("scopes")


def read_days(name: str, default: int | None = None, least: int = 1) -> int | None:
    """Raises InvalidInput unless the field is empty or a number of days."""
    given = request.form.get(name, "").strip()
    if not given:
        return default
    if not given.isascii() or not given.isdecimal() or not least <= int(given) <= LONGEST_DAYS:
        raise InvalidInput(
            _("Days are a whole number, %(least)s to %(most)s.", least=least, most=LONGEST_DAYS)
        )
    return int(given)
