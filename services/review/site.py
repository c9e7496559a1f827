"""The Blueprint of the pages: headers, assets, errors, and what each template may call."""

import hashlib
from functools import cache
from pathlib import Path

from flask import (
    Blueprint,
    Response,
    current_app,
    g,
    make_response,
    render_template,
    request,
    send_from_directory,
    url_for,
)
from flask.sansio.blueprints import BlueprintSetupState
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException

from backtalk import errors
from backtalk.states import Scope
from services.review import evidence_words, recorded, words
from services.review.language import LANGUAGES, choose_language, find_message, find_plural, translate

STATIC = Path(__file__).parent / "static"

#: Nothing from elsewhere, no inline script or style, no framing.
PAGE_POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

#: The status of each condition; the first class that fits counts.
STATUSES: tuple[tuple[type[errors.BacktalkError], int], ...] = (
    (errors.NotAuthenticated, 401),
    (errors.NotAllowed, 403),
    (errors.NotFound, 404),
    (errors.EtagMissing, 428),
    (errors.ItemChanged, 412),
    (errors.Conflict, 409),
    (errors.InvalidInput, 422),
    (errors.Unavailable, 503),
    (errors.ArtefactInvalid, 409),
)

blueprint = Blueprint("pages", __name__, template_folder="templates")


@blueprint.record_once
def teach_languages(state: BlueprintSetupState) -> None:
    """`{% trans %}` and `_()` in templates; both fill in `%(name)s`, escaped."""
    env = state.app.jinja_env
    env.add_extension("jinja2.ext.i18n")
    env.install_gettext_callables(find_message, find_plural, newstyle=True)  # type: ignore[attr-defined]


@cache
def assets_digest() -> str:
    """One short digest over all assets: a changed file changes every address, so caches may keep them."""
    sums = hashlib.sha256()
    for path in sorted(STATIC.rglob("*")):
        if path.is_file():
            sums.update(path.relative_to(STATIC).as_posix().encode() + b"\0" + path.read_bytes())
    return sums.hexdigest()[:12]


def asset(name: str) -> str:
    """The address of one asset. Modules and fonts find each other by relative paths below the digest."""
    return url_for("pages.send_asset", digest=assets_digest(), name=name)


@blueprint.get("/static/<digest>/<path:name>")
def send_asset(digest: str, name: str) -> Response:
    response = send_from_directory(STATIC, name)
    current = digest == assets_digest()
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if current else "no-cache"
    return response


@blueprint.after_request
def add_headers(response: Response) -> Response:
    headers = response.headers
    headers.setdefault("Content-Security-Policy", PAGE_POLICY)
    headers.setdefault("Cache-Control", "no-store")
    if request.endpoint != "pages.send_asset":
        headers["Content-Language"] = choose_language()
        response.vary.update(("Accept-Language", "Cookie"))
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "same-origin"
    headers["Cross-Origin-Opener-Policy"] = "same-origin"
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
    return response


@blueprint.context_processor
def name_for_templates() -> dict[str, object]:
    caller = g.get("caller")
    scopes = caller.scopes if caller else frozenset()
    return {
        "asset": asset,
        "caller": caller,
        "csrf_token": g.get("csrf_token", ""),
        "may": {scope.value: scope in scopes or Scope.ADMIN in scopes for scope in Scope},
        "words": words,
        "say": evidence_words,
        "done": words.done(request.args.get("done", "")),
        "language": choose_language(),
        "languages": LANGUAGES,
        "fragment": "HX-Request" in request.headers,
    }


def wants_json() -> bool:
    """Whether the caller is the review view, which talks JSON."""
    return request.accept_mimetypes.best == "application/json"


def render_error(status: int, condition: str, message: str, **extra: object) -> Response:
    if wants_json():
        response = make_response(
            {"condition": condition, "message": recorded.record(message), **extra}, status
        )
    else:
        page = render_template("pages/error.html", status=status, message=message)
        response = make_response(page, status)
    if status == 503:
        response.headers["Retry-After"] = "2"
    return response


@blueprint.errorhandler(errors.BacktalkError)
def render_condition(error: errors.BacktalkError) -> ResponseReturnValue:
    status = next((code for kind, code in STATUSES if isinstance(error, kind)), 500)
    return render_error(status, type(error).__name__, error.message)


@blueprint.errorhandler(OperationalError)
@blueprint.errorhandler(PoolTimeout)
def render_database_away(error: Exception) -> ResponseReturnValue:
    current_app.logger.warning("database away: %s", error)
    return render_error(
        503, "Unavailable", translate("The database does not answer just now. Try again in a moment.")
    )


@blueprint.errorhandler(HTTPException)
def render_http_error(error: HTTPException) -> ResponseReturnValue:
    """What Flask and Werkzeug refuse, such as a method that a page does not take."""
    return render_error(error.code or 500, error.name, error.description or error.name)


@blueprint.errorhandler(Exception)
def render_unforeseen(error: Exception) -> ResponseReturnValue:
    current_app.logger.error("%s %s failed", request.method, request.path, exc_info=error)
    message = translate(
        "Something went wrong here. The request id %(id)s finds it in the log.", id=g.get("request_id", "–")
    )
    return render_error(500, "InternalServerError", message)
