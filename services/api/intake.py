"""How requests come in and answers go out: request ids, body limits, JSON, headers of every answer."""

import re
import secrets
from typing import Any

from flask import Flask, Request, Response, current_app, g, request
from pydantic import BaseModel
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from backtalk.config import Settings
from backtalk.errors import InvalidInput
from services.api import auth

MAX_JSON_BYTES = 256 * 1024  # of a body that is described by a model; predict has limits of its own
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_OPTIONAL = "body_may_be_missing"


class ApiRequest(Request):
    """Reads JSON loudly: flask-openapi asks silently, so what is no JSON at all would look like no body."""

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        view = current_app.view_functions.get(self.endpoint or "")
        if not (auth.is_guarded(view) and "body" in getattr(view, "__annotations__", {})):
            return super().get_json(force=force, silent=silent, cache=cache)
        self.max_content_length = MAX_JSON_BYTES
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


def register(app: Flask, settings: Settings) -> None:
    app.request_class = ApiRequest
    # As JSON an image is a third larger, and has some words around it.
    app.config["MAX_CONTENT_LENGTH"] = settings.max_image_bytes * 4 // 3 + 64 * 1024
    app.config["MAX_FORM_MEMORY_SIZE"] = 256 * 1024
    app.config["MAX_FORM_PARTS"] = 16
    app.before_request(_take_request_id)
    app.after_request(_add_headers)


def _take_request_id() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if _SANE_ID.fullmatch(given) else secrets.token_hex(12)


def _add_headers(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.get("request_id") or secrets.token_hex(12)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
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
