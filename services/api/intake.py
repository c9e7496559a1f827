"""How requests come in and answers go out: request ids, body limits, JSON, headers of every answer."""

import contextlib
import re
import secrets
from typing import Any

from flask import Flask, Request, Response, current_app, g, request
from pydantic import BaseModel
from werkzeug.exceptions import BadRequest, RequestTimeout, UnsupportedMediaType

from backtalk.config import Settings
from backtalk.errors import InvalidInput
from services.api import auth
from services.deadlines import DEADLINES

MAX_JSON_BYTES = 256 * 1024  # of every body but those with pictures
MAX_FORM_BYTES = 256 * 1024  # of the fields of a form, together
MAX_PARTS = 16
#: A browser that was here over HTTPS comes by nothing else for a year (RFC 6797).
HSTS = "max-age=31536000"
_TIMEOUT = "BODY_TIMEOUT_S"
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_OPTIONAL = "body_may_be_missing"
_PICTURES = "body_has_pictures"


class ApiRequest(Request):
    """Reads JSON loudly: flask-openapi asks silently, so what is no JSON at all would look like no body."""

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        view = current_app.view_functions.get(self.endpoint or "")
        if not (auth.is_guarded(view) and "body" in getattr(view, "__annotations__", {})):
            return super().get_json(force=force, silent=silent, cache=cache)
        if getattr(view, _OPTIONAL, False) and not self.get_data():
            return {}
        try:
            value = super().get_json(force=force, silent=False, cache=cache)
        except RecursionError:
            raise BadRequest("The body is JSON nested too deeply.") from None
        if not isinstance(value, dict):
            raise InvalidInput("The body must be a JSON object.")
        return value

    def on_json_loading_failed(self, e: ValueError | None) -> Any:
        if e is None:
            raise UnsupportedMediaType("Send JSON, with the header `Content-Type: application/json`.")
        raise BadRequest(f"The body is not valid JSON: {e}.")


def body_may_be_missing(view: Any) -> Any:
    """Mark a view whose body has no required member: no body at all is then an empty object."""
    setattr(view, _OPTIONAL, True)
    return view


def body_has_pictures(view: Any) -> Any:
    """Mark a view that takes images, so bodies as large as they are."""
    setattr(view, _PICTURES, True)
    return view


def takes_pictures(view: Any) -> bool:
    return getattr(view, _PICTURES, False)


def find_body_limit() -> int:
    """Of this request, in bytes."""
    limit: int = current_app.config["MAX_CONTENT_LENGTH"]
    return limit if takes_pictures(auth.find_view()) else MAX_JSON_BYTES


def register(app: Flask, settings: Settings) -> None:
    app.request_class = ApiRequest
    # As JSON an image is a third larger, and has some words around it.
    app.config["MAX_CONTENT_LENGTH"] = settings.max_image_bytes * 4 // 3 + 64 * 1024
    app.config["MAX_FORM_MEMORY_SIZE"] = MAX_FORM_BYTES
    app.config["MAX_FORM_PARTS"] = MAX_PARTS
    app.config[_TIMEOUT] = settings.body_timeout_s
    app.before_request(_take_request_id)
    app.after_request(_add_headers)


def register_reading(app: Flask) -> None:
    """To come after whatever may refuse a request without having read it."""
    app.before_request(_read_body)


def _read_body() -> None:
    """Read it whole, in the time that is given for it.

    Raises:
        RequestEntityTooLarge: more than the view takes.
        RequestTimeout, BadRequest: the client did not send it all.
    """
    if request.endpoint is None or request.method in {"GET", "HEAD", "OPTIONS"}:
        return
    request.max_content_length = find_body_limit()
    connection = request.environ.get("gunicorn.socket")
    timeout_s: float = current_app.config[_TIMEOUT]
    with contextlib.ExitStack() as stack:
        was_ended = (
            stack.enter_context(DEADLINES.limit(lambda: connection, timeout_s)) if connection else bool
        )
        found = len(request.get_data())
        # What a client broke off looks whole to Werkzeug, since gunicorn ends the stream by itself.
        if found < (request.content_length or 0):
            if was_ended():
                raise RequestTimeout(f"The body did not come within {timeout_s:.0f} s.")
            raise BadRequest(f"Only {found} of {request.content_length} bytes of the body came.")


def _take_request_id() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if _SANE_ID.fullmatch(given) else secrets.token_hex(12)


def _add_headers(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.get("request_id") or secrets.token_hex(12)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    if request.is_secure:
        response.headers["Strict-Transport-Security"] = HSTS
    if request.path.startswith("/v1/"):
        response.headers.setdefault("Cache-Control", "no-store")
    return response


def answer(
    body: BaseModel, status: int = 200, *, generation: int | None = None, etag: str | None = None
) -> Response:
    """An answer in JSON just as its model describes it (Flask's own would write dates as HTTP does)."""
    response = Response(body.model_dump_json(by_alias=True), status, mimetype="application/json")
    if generation is not None:
        response.headers["Backtalk-Generation"] = str(generation)
    if etag is not None:
        response.headers["ETag"] = etag
    return response
