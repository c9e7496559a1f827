"""Who calls, and whether they may: bearer keys and scopes."""

import hashlib
import time
from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask, current_app, g, request

from backtalk import identity
from backtalk.callers import Caller
from backtalk.errors import NotAuthenticated
from backtalk.states import Scope
from services.backend import get_backend

CACHE_S = 5.0  # a revoked key may be taken for so long
_CACHE_SIZE = 4096
_EXTENSION = "backtalk-keys"
_MARK = "required_scope"

View = TypeVar("View", bound=Callable[..., Any])


def require(scope: Scope | None = None) -> Callable[[View], View]:
    """Mark a view as asking for a key with `scope`, or for any valid key.

    The check runs before the call is looked at any further, and leaves the caller at `flask.g.caller`.
    """

    def mark(view: View) -> View:
        setattr(view, _MARK, scope)
        return view

    return mark


def is_guarded(view: Callable[..., Any] | None) -> bool:
    """Whether `view` was marked by `require`: true of every view of the JSON API."""
    return hasattr(view, _MARK)


def find_scope(view: Callable[..., Any] | None) -> Scope | None:
    return getattr(view, _MARK, None)


def find_view() -> Callable[..., Any] | None:
    """The view that answers this request, if any does."""
    return current_app.view_functions.get(request.endpoint or "")


def register(app: Flask) -> None:
    app.extensions[_EXTENSION] = KeyCache()
    app.before_request(check_caller)


def check_caller() -> None:
    """Raises NotAuthenticated or NotAllowed where the view asks for more than the request brings."""
    view = find_view()
    if not is_guarded(view):
        return
    given = request.authorization
    if given is None or given.type != "bearer" or not given.token:
        raise NotAuthenticated("Send a key: `Authorization: Bearer bt_…`.")
    caller = _authenticate(given.token)
    g.caller = caller
    scope = find_scope(view)
    if scope is not None:
        caller.demand(scope)


def _authenticate(token: str) -> Caller:
    cache: KeyCache = current_app.extensions[_EXTENSION]
    digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
    caller = cache.find(digest)
    if caller is None:
        with get_backend().system.db.transaction() as session:
            caller = identity.authenticate_key(session, token)
        cache.keep(digest, caller)
    return caller


class KeyCache:
    """Callers by the digest of their key, for a few seconds: predicting is too frequent to look each up."""

    def __init__(self, ttl_s: float = CACHE_S) -> None:
        self._ttl_s = ttl_s
        self._known: dict[bytes, tuple[float, Caller]] = {}

    def find(self, digest: bytes) -> Caller | None:
        until, caller = self._known.get(digest, (0.0, None))
        return caller if until > time.monotonic() else None

    def keep(self, digest: bytes, caller: Caller) -> None:
        if len(self._known) >= _CACHE_SIZE:
            self._known.clear()
        self._known[digest] = (time.monotonic() + self._ttl_s, caller)
