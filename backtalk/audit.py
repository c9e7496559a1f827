"""The append-only, hash-chained log of every change that a person or a key made.

Entries are appended as the last thing before a transaction's commit, one writer at a time. Since nothing is
locked after this lock, it cannot be part of a deadlock; since it is held until the commit, two writers cannot
follow the same entry.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from functools import partial
from typing import Any

from sqlalchemy import func, literal, or_, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from backtalk.db import lock_model, run_last
from backtalk.ledger import FIRST, canonical_json
from backtalk.tables import AuditEntry


def record(session: Session, actor: str, action: str, subject: str, **detail: object) -> None:
    """Write down a change with the rows that it changed: both are there after the commit, or neither.

    Not for use inside a savepoint: the entry is written even if only the savepoint is rolled back.

    Args:
        actor: `key:<id>`, `user:<name>` or `cli`.
        action: what was done, as `<thing>.<verb>`.
        subject: what it was done to: `model:<name>`, `key:<id>`, `user:<name>`, …
        detail: values that JSON can hold.
    """
    content = json.loads(canonical_json(detail))
    run_last(session, partial(_append, actor=actor, action=action, subject=subject, detail=content))


def _append(session: Session, *, actor: str, action: str, subject: str, detail: dict[str, Any]) -> None:
    lock_model(session, 0, "audit_log")
    before = session.execute(
        select(AuditEntry.seq, AuditEntry.hash).order_by(AuditEntry.seq.desc()).limit(1)
    ).first()
    # JSONB writes some numbers in another way (1e22, for one): what is hashed is what will be read.
    at, kept = session.execute(select(func.clock_timestamp(), literal(detail, JSONB))).one()
    entry = AuditEntry(
        seq=before.seq + 1 if before else 1,
        at=at,
        actor=actor,
        action=action,
        subject=subject,
        detail=kept,
        previous_hash=before.hash if before else FIRST,
    )
    entry.hash = hash_entry(entry)
    session.add(entry)
    session.flush()


def hash_entry(entry: AuditEntry) -> str:
    """sha256 over the hash before it and the canonical JSON of everything else, in hexadecimal."""
    content = {
        "seq": entry.seq,
        "at": entry.at.astimezone(UTC).isoformat(timespec="microseconds"),
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "detail": entry.detail,
    }
    return hashlib.sha256((entry.previous_hash + canonical_json(content)).encode()).hexdigest()


@dataclass(frozen=True)
class Proof:
    """What a walk along the whole chain found."""

    entries: int
    head: str  # `<seq>:<hash>` of the newest entry: noted elsewhere, it shows later that none was cut off
    breaks: list[str]  # sentences; none for a whole chain


def prove(session: Session, noted_head: str | None = None) -> Proof:
    """Walk the chain, and look for the head that somebody noted earlier.

    Args:
        noted_head: `head` of an earlier proof.
    """
    before, seq, heads, breaks = FIRST, 0, set(), []
    for entry in _walk(session):
        seq += 1
        if entry.seq != seq:
            breaks.append(f"entry {seq} is missing: the next is {entry.seq}")
            seq = entry.seq
        elif entry.previous_hash != before:
            breaks.append(f"entry {seq} does not follow the one before it")
        if hash_entry(entry) != entry.hash:
            breaks.append(f"entry {seq} was altered: its hash does not match")
        before = entry.hash
        if noted_head is not None and f"{seq}:{before}" == noted_head:
            heads.add(noted_head)
    if noted_head is not None and noted_head not in heads:
        breaks.append(f"the entry {noted_head} that was noted earlier is gone")
    return Proof(seq, f"{seq}:{before}", breaks)


def _walk(session: Session) -> Iterator[AuditEntry]:
    yield from session.scalars(
        select(AuditEntry).order_by(AuditEntry.seq), execution_options={"yield_per": 1000}
    )


def list_entries(
    session: Session,
    *,
    model: str | None = None,
    actor: str | None = None,
    action: str | None = None,
    before: int | None = None,
    limit: int = 50,
) -> list[AuditEntry]:
    """The newest entries, newest first.

    Args:
        model: only what was done to the model of this name, or to something of it.
        actor: only what this actor did, such as `user:alice`.
        action: only this, such as `policy.set`, or all of one thing, such as `policy`.
        before: only entries with a lower number: the last one of the page before.
    """
    query = select(AuditEntry).order_by(AuditEntry.seq.desc()).limit(limit)
    if model is not None:
        of_model = AuditEntry.detail["model"].astext == model
        query = query.where(or_(AuditEntry.subject == f"model:{model}", of_model))
    if actor is not None:
        query = query.where(AuditEntry.actor == actor)
    if action is not None:
        of_thing = AuditEntry.action.startswith(f"{action}.", autoescape=True)
        query = query.where(or_(AuditEntry.action == action, of_thing))
    if before is not None:
        query = query.where(AuditEntry.seq < before)
    return list(session.scalars(query))
