"""How many feedback and prediction calls a key may make.

Counted in Redis; while that is away, in this process alone.
"""

import time

from flask import Flask, Response, current_app, g
from flask_limiter import ApplicationLimit, Limiter, RateLimitExceeded
from redis.exceptions import RedisError

from backtalk.callers import Caller
from backtalk.config import Settings
from backtalk.states import Scope
from services.api import auth
from services.api.broker import IMPATIENT
from services.api.errors import make_problem

_EXTENSION = "backtalk-limiter"


def register(app: Flask, settings: Settings) -> None:
    """Limit the calls that need certain scopes. To come after `auth.register`: it asks who calls."""
    per_minute = {Scope.FEEDBACK: settings.feedback_per_minute, Scope.PREDICT: settings.predict_per_minute}
    limited = {scope: number for scope, number in per_minute.items() if number is not None}
    limiter = Limiter(
        _get_key,
        application_limits=[_make_limit(scope, number) for scope, number in limited.items()],
        storage_uri=_storage_uri(settings.redis_url),
        storage_options=IMPATIENT if settings.redis_url else {},
        key_prefix="backtalk",
        in_memory_fallback_enabled=True,
        # Two threads can find Redis gone at once; the fallback takes the first, this keeps the second going.
        swallow_errors=True,
    )
    limiter.request_filter(lambda: _asked_scope() not in limited)  # then Redis is not even asked
    limiter.init_app(app)
    app.extensions[_EXTENSION] = limiter
    app.register_error_handler(RateLimitExceeded, _answer_exceeded)


def _make_limit(scope: Scope, per_minute: int) -> ApplicationLimit:
    return ApplicationLimit(
        f"{per_minute} per minute",
        key_function=_get_key,
        scope=scope.value,
        exempt_when=lambda: _asked_scope() is not scope,
    )


def _get_key() -> str:
    caller: Caller = g.caller
    return caller.key_id or caller.actor


def _asked_scope() -> Scope | None:
    return auth.find_scope(auth.find_view())


def _find_wait_s(limiter: Limiter) -> int:
    current = limiter.current_limit
    try:
        return max(1, int(current.reset_at - time.time()) + 1) if current else 60
    except RedisError:  # it went away between the count and this question
        return 60


def _storage_uri(redis_url: str | None) -> str:
    if redis_url is None:
        return "memory://"
    return "redis+" + redis_url if redis_url.startswith("unix:") else redis_url


def _answer_exceeded(_: RateLimitExceeded) -> Response:
    wait_s = _find_wait_s(current_app.extensions[_EXTENSION])
    response = make_problem(429, "too-many-requests", f"Too many calls of this kind; wait {wait_s} s.")
    response.headers["Retry-After"] = str(wait_s)
    return response
