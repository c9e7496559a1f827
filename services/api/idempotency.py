"""Idempotency-Key: the key's row and the call's effect are committed together, or neither is.

So a repeat finds the answer that the first call got, a call that failed left nothing and may be repeated, and
of two at once the second waits for the first (its INSERT meets the first one's row).
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from flask import Response, request
from pydantic import BaseModel, RootModel
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from backtalk.callers import Caller
from backtalk.errors import Conflict, IdempotencyKeyReused
from backtalk.tables import IdempotencyKey
from services.api.intake import answer

_LOCK_NOT_AVAILABLE = "55P03"


class Outcome(NamedTuple):
    """What a call did, as its answer says it."""

    status: int
    body: BaseModel
    generation: int | None = None  # of the model, for the header


class _Kept(RootModel[dict[str, Any]]):
    """The body of an earlier outcome, as the key's row has it."""


def _write(made: Outcome) -> Response:
    return answer(made.body, made.status, generation=made.generation)


def answer_once(
    session: Session,
    caller: Caller,
    key: str | None,
    said: BaseModel | Iterable[bytes],
    effect: Callable[[], Outcome],
    write: Callable[[Outcome], Response] = _write,
) -> Response:
    """Run `effect` unless this key got its answer before; then give that answer again.

    Args:
        session: of the transaction that `effect` works in.
        said: what the call says beyond its method and path: the body as it was understood, or its parts.
        write: makes the answer of the outcome, and again of what the key's row keeps of it: status, body and
            generation.

    Raises:
        IdempotencyKeyReused: the key came with another method, path or body.
        Conflict: the first call with this key is still going on.
    """
    if key is None:
        return write(effect())
    owner, digest = caller.key_id or caller.actor, _digest(said)
    if not _reserve(session, owner, key, digest):
        response = write(_recall(session, owner, key, digest))
        response.headers["Idempotency-Replayed"] = "true"
        return response
    made = effect()
    row = session.get_one(IdempotencyKey, (owner, key))
    row.status, row.generation = made.status, made.generation
    row.response = made.body.model_dump(mode="json")
    return write(made)


def _reserve(session: Session, owner: str, key: str, digest: str) -> bool:
    values = {"key_id": owner, "key": key, "body_sha256": digest, "status": 0, "response": {}}
    statement = insert(IdempotencyKey).values(values).on_conflict_do_nothing()
    try:
        return bool(session.execute(statement.returning(IdempotencyKey.key)).first())
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        raise Conflict("The first call with this Idempotency-Key is still going on; try again.") from error


def _recall(session: Session, owner: str, key: str, digest: str) -> Outcome:
    row = session.get_one(IdempotencyKey, (owner, key))
    if row.body_sha256 != digest:
        raise IdempotencyKeyReused(
            "This Idempotency-Key came before with another call or body; use a new key for a new call."
        )
    return Outcome(row.status, _Kept(row.response), row.generation)


def _digest(said: BaseModel | Iterable[bytes]) -> str:
    found = hashlib.sha256(f"{request.method}\n{request.path}\n".encode())
    if isinstance(said, BaseModel):
        found.update(said.model_dump_json().encode())
    else:
        for part in said:
            found.update(b"%d\n" % len(part))
            found.update(part)
    return found.hexdigest()
