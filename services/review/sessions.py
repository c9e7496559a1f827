"""Who is at the page: sign-in, the session cookie, and the guards on every request that changes something."""

import hmac
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import ParamSpec
from urllib.parse import urlsplit

from flask import g, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug import Response

from backtalk import identity, views
from backtalk.errors import NotAllowed, NotAuthenticated
from backtalk.states import Scope
from services.backend import get_backend
from services.review.language import COOKIE, LANGUAGES
from services.review.language import translate as _
from services.review.site import blueprint, wants_json

P = ParamSpec("P")

#: What may be asked for without a session.
OPEN_ENDPOINTS = {"pages.send_asset", "pages.show_sign_in", "pages.sign_in", "pages.switch_language"}
#: What somebody may ask for who may do nothing: everybody has a scope but for a password that was given.
WITHOUT_SCOPES = {"pages.show_account", "pages.change_password", "pages.sign_out"}
LANGUAGE_KEPT = timedelta(days=365)
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}


class StalePage(NotAllowed):
    """The form or view belongs to another session; reloading it helps."""


def cookie_name() -> str:
    """Over HTTPS the `__Host-` prefix keeps other hosts and paths from setting it (RFC 6265bis)."""
    return "__Host-backtalk" if is_secure() else "backtalk"


def is_secure() -> bool:
    """Whether cookies of this request may go over HTTPS alone. Plain HTTP is for one's own machine."""
    return request.is_secure or get_backend().system.settings.cookie_secure


@blueprint.before_request
def open_session() -> ResponseReturnValue | None:
    """Find the caller, and refuse what another site could have sent."""
    if request.method not in SAFE_METHODS:
        refuse_other_sites()
    if request.endpoint == "pages.send_asset":
        return None
    token = request.cookies.get(cookie_name())
    if token:
        with get_backend().system.db.transaction() as session:
            found = identity.find_session(session, token)
        if found:
            g.caller, g.csrf_token, g.proved_at = found[0], found[1].csrf_token, found[1].created_at
    if request.endpoint in OPEN_ENDPOINTS:
        return None
    if "caller" not in g:
        return ask_to_sign_in()
    if request.method not in SAFE_METHODS:
        check_csrf()
    return None if g.caller.scopes else lead_to_new_password()


def lead_to_new_password() -> ResponseReturnValue | None:
    """Who has signed in with a password that an admin gave may do nothing before choosing another one."""
    if request.endpoint in WITHOUT_SCOPES:
        return None
    if wants_json() or request.method not in SAFE_METHODS:
        raise NotAllowed(_("Choose a password of your own first, on the page of your account."))
    return redirect(url_for("pages.show_account"), code=303)


def refuse_other_sites() -> None:
    """Browsers say where a request comes from; a session cookie alone proves nothing.

    Raises:
        NotAllowed: Sec-Fetch-Site, or Origin where that is missing, names another site.
    """
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    if site is not None:
        same = site in {"same-origin", "none"}
    else:
        same = origin is None or urlsplit(origin).netloc == request.host
    if not same:
        raise NotAllowed(_("This request came from another site, so it was refused. Open the page itself."))


def check_csrf() -> None:
    """Raises StalePage unless the request carries the session's token, as a header or a form field."""
    given = request.headers.get("X-CSRF-Token") or request.form.get("csrf_token") or ""
    if not hmac.compare_digest(given.encode(), g.csrf_token.encode()):
        raise StalePage(_("The page was out of date, so nothing was changed. Reload it and try again."))


def ask_to_sign_in() -> ResponseReturnValue:
    if wants_json() or request.method not in SAFE_METHODS:
        raise NotAuthenticated(_("You are signed out. Sign in again; nothing that you did here is lost."))
    if "HX-Request" in request.headers:
        # A fragment cannot hold the sign-in page: let htmx leave for it.
        response = Response(status=204)
        response.headers["HX-Redirect"] = url_for("pages.show_sign_in")
        return response
    wanted = request.full_path if request.query_string else request.path
    return redirect(url_for("pages.show_sign_in", next=wanted), code=303)


def needs(*scopes: Scope) -> Callable[[Callable[P, ResponseReturnValue]], Callable[P, ResponseReturnValue]]:
    """Let a view run only for callers with one of `scopes`, or `admin`."""
    allowed = frozenset(scopes) | {Scope.ADMIN}

    def guard(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
            if not allowed & g.caller.scopes:
                wanted = _(" or ").join(f"“{scope}”" for scope in scopes)
                raise NotAllowed(_("This needs the scope %(scope)s; ask an admin for it.", scope=wanted))
            return view(*args, **kwargs)

        return guarded

    return guard


def local_target(wanted: str | None) -> str:
    """`wanted` if it is a path on this site, else the home page: no open redirect."""
    if wanted and wanted.startswith("/") and not wanted.startswith(("//", "/\\")) and wanted.isprintable():
        return wanted
    return url_for("pages.show_home")


@blueprint.get("/sign-in")
def show_sign_in() -> ResponseReturnValue:
    if "caller" in g:
        return redirect(local_target(request.args.get("next")), code=303)
    return render_template("pages/sign_in.html", next=local_target(request.args.get("next")))


@blueprint.post("/sign-in")
def sign_in() -> ResponseReturnValue:
    name, password = request.form.get("name", ""), request.form.get("password", "")
    target = local_target(request.form.get("next"))
    try:
        with get_backend().system.db.transaction() as session:
            token, opened = identity.sign_in(session, name.strip(), password, **describe_browser())
            identity.sign_out(session, request.cookies.get(cookie_name(), ""))
            browser = identity.remember_browser(session, opened.user_id, find_browser())
    except NotAuthenticated as error:
        page = render_template("pages/sign_in.html", next=target, name=name, problem=error.message)
        return make_response(page, 401)
    response = redirect(target, code=303)
    set_cookie(response, cookie_name(), token, opened.expires_at)
    set_cookie(response, browser_cookie_name(), browser, datetime.now(UTC) + identity.BROWSER_KNOWN)
    return response


def set_cookie(response: Response, name: str, value: str, expires: datetime) -> None:
    """Out of reach of scripts and of other sites, and behind HTTPS of other hosts."""
    response.set_cookie(
        name,
        value,
        expires=expires,
        httponly=True,
        samesite="Lax",
        secure=is_secure(),
        path="/",
    )


def browser_cookie_name() -> str:
    """Of the cookie by which a browser is known again; it opens nothing."""
    return f"{cookie_name()}-browser"


def find_browser() -> str | None:
    return request.cookies.get(browser_cookie_name())


def describe_browser() -> dict[str, str | None]:
    """Where an attempt to prove a password comes from, for the throttle."""
    return {"address": request.remote_addr, "browser": find_browser()}


@blueprint.post("/language")
def switch_language() -> ResponseReturnValue:
    """Of this browser, whoever is at it; before the sign-in too."""
    response = redirect(local_target(request.form.get("next")), code=303)
    chosen = request.form.get("language", "")
    if chosen in LANGUAGES:
        set_cookie(response, COOKIE, chosen, datetime.now(UTC) + LANGUAGE_KEPT)
    return response


@blueprint.post("/sign-out")
def sign_out() -> ResponseReturnValue:
    with get_backend().system.db.transaction() as session:
        identity.sign_out(session, request.cookies[cookie_name()])
        views.close_all(session, g.caller)  # the page says so too, and is not heard any more by then
    response = redirect(url_for("pages.show_sign_in"), code=303)
    response.delete_cookie(
        cookie_name(),
        path="/",
        httponly=True,
        samesite="Lax",
        secure=is_secure(),
    )
    return response
