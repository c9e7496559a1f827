"""Conditions to problem details (RFC 9457): what a class of error is called, its status, its headers."""

import logging
import re
from http import HTTPStatus

from flask import Flask, Response, g, json, request
from pydantic import ValidationError
from sqlalchemy import exc
from werkzeug.exceptions import HTTPException

from backtalk import errors

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2

_log = logging.getLogger(__name__)

#: What TensorFlow Serving answers, too: its clients read the member `error`.
_SERVING_PATH = re.compile(
    r"/v1/models/[^/:]+(/(versions|labels)/[^/:]+)?(/metadata|:(predict|classify|regress))?"
)

#: The nearest class in an error's line of descent decides, so a subclass may have a status of its own.
STATUSES: dict[type[Exception], int] = {
    errors.NotFound: 404,
    errors.InvalidInput: 422,
    errors.InvalidCursor: 400,
    errors.UnknownVersionLabel: 400,  # these three as TensorFlow Serving does
    errors.MalformedTensor: 400,
    errors.WrongSignature: 400,
    errors.UnsupportedImage: 415,
    errors.ImageTooLarge: 413,
    errors.Conflict: 409,
    errors.ItemChanged: 412,
    errors.EtagMissing: 428,
    errors.NotAuthenticated: 401,
    errors.NotAllowed: 403,
    errors.Unavailable: 503,
    errors.ArtefactInvalid: 409,
    errors.BacktalkError: 500,
}

# Of SQLAlchemy's errors only these say that the database is away, full or busy.
_AWAY = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)


def register(app: Flask) -> None:
    """Let every error leave `app` as problem details, none as HTML."""
    app.register_error_handler(errors.BacktalkError, answer_condition)
    app.register_error_handler(HTTPException, answer_http)
    app.register_error_handler(exc.SQLAlchemyError, answer_database)
    app.register_error_handler(Exception, answer_unforeseen)


def make_problem(status: int, slug: str, detail: str, extra: dict[str, object] | None = None) -> Response:
    """One problem, with `extra` members beside the standard ones."""
    members = {
        "type": f"urn:backtalk:problem:{slug}",
        "title": slug.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
        "instance": request.path,
        "request_id": g.get("request_id", ""),
    }
    if _SERVING_PATH.fullmatch(request.path):
        members["error"] = detail
    text = json.dumps({**(extra or {}), **members}, default=str)
    response = Response(text, status, mimetype=MEDIA_TYPE)
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="backtalk"'
    if status == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


def answer_condition(error: errors.BacktalkError) -> Response:
    status = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
    if status == 500:
        _log.error("%s: %s", type(error).__name__, error, exc_info=error)
    return make_problem(status, _slug(type(error).__name__), error.message, error.extra)


def answer_http(error: HTTPException) -> Response:
    """What Flask and Werkzeug refuse: unknown paths and methods, bodies too large, and so on."""
    if error.code is None:
        return error.get_response()  # type: ignore[return-value]
    name = HTTPStatus(error.code).phrase
    response = make_problem(error.code, _slug(name), error.description or name)
    for header, value in error.get_headers():
        if header.lower() in {"allow", "retry-after"}:
            response.headers[header] = value
    return response


def answer_database(error: exc.SQLAlchemyError) -> Response:
    if isinstance(error, _AWAY) or (isinstance(error, exc.DBAPIError) and error.connection_invalidated):
        _log.warning("the database is away or busy: %s", error)
        return make_problem(503, "database-away", "The database does not answer just now; try again shortly.")
    if isinstance(error, exc.IntegrityError):
        _log.warning("two calls met: %s", error)
        detail = "Another call changed the same thing at the same time; try again."
        return make_problem(409, "conflict", detail)
    if isinstance(error, exc.DataError):
        return make_problem(422, "invalid-input", "One of the values cannot be stored.")
    return answer_unforeseen(error)


def answer_unforeseen(error: Exception) -> Response:
    _log.error("%s %s failed", request.method, request.path, exc_info=error)
    detail = "Something went wrong here. The request id finds it in the log."
    return make_problem(500, "internal-server-error", detail)


def answer_validation(error: ValidationError) -> Response:
    """What pydantic refuses in a body, a query, a header or a path."""
    found = [
        {"at": ".".join(str(part) for part in each["loc"]), "message": each["msg"]}
        for each in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    said = "; ".join(f"{each['at']}: {each['message']}" if each["at"] else each["message"] for each in found)
    return make_problem(422, "invalid-input", said, {"errors": found})


def _slug(name: str) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name)
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
