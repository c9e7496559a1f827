"""Idempotency-Key: the key's row and the call's effect are committed together, or neither is.

So a repeat finds the answer that the first call got, a call that failed left nothing and may be repeated, and
of two at once the second waits for the first (its INSERT meets the first one's row).
"""

import hashlib
from collections.abc import Callable

from flask import Response, json, request
from pydantic import BaseModel
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from backtalk.callers import Caller
from backtalk.errors import Conflict, IdempotencyKeyReused
from backtalk.tables import IdempotencyKey

_LOCK_NOT_AVAILABLE = "55P03"


def answer_once(
    session: Session,
    caller: Caller,
    key: str | None,
    body: BaseModel,
    effect: Callable[[], tuple[int, BaseModel]],
) -> Response:
    """Run `effect` unless this key got its answer before; then give that answer again.

    Raises:
        IdempotencyKeyReused: the key came with another method, path or body.
        Conflict: the first call with this key is still going on.
    """
    if key is None:
        status, made = effect()
        return Response(made.model_dump_json(), status, mimetype="application/json")
    owner, digest = caller.key_id or caller.actor, _digest(body)
    if not _reserve(session, owner, key, digest):
        return _repeat(session, owner, key, digest)
    status, made = effect()
    row = session.get_one(IdempotencyKey, (owner, key))
    row.status, row.response = status, made.model_dump(mode="json")
    return Response(made.model_dump_json(), status, mimetype="application/json")


def _reserve(session: Session, owner: str, key: str, digest: str) -> bool:
    values = {"key_id": owner, "key": key, "body_sha256": digest, "status": 0, "response": {}}
    statement = insert(IdempotencyKey).values(values).on_conflict_do_nothing()
    try:
        return bool(session.execute(statement.returning(IdempotencyKey.key)).first())
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        raise Conflict("The first call with this Idempotency-Key is still going on; try again.") from error


def _repeat(session: Session, owner: str, key: str, digest: str) -> Response:
    row = session.get_one(IdempotencyKey, (owner, key))
    if row.body_sha256 != digest:
        raise IdempotencyKeyReused(
            "This Idempotency-Key came before with another call or body; use a new key for a new call."
        )
    response = Response(json.dumps(row.response), row.status, mimetype="application/json")
    response.headers["Idempotency-Replayed"] = "true"
    return response


def _digest(body: BaseModel) -> str:
    said = f"{request.method}\n{request.path}\n{body.model_dump_json()}"
    return hashlib.sha256(said.encode()).hexdigest()
