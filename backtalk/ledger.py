"""The append-only, hash-chained record of every change of champion."""

import hashlib
import json
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backtalk.failpoints import failpoint
from backtalk.tables import LedgerEntry

FIRST = "0" * 64  # what the first entry names as the hash before it


def append_entry(
    session: Session,
    *,
    model_id: int,
    seq: int,
    action: str,
    version: int,
    previous_version: int | None,
    run_id: UUID | None,
    actor: str,
    artefact_digest: str,
    detail: dict[str, Any],
) -> LedgerEntry:
    """Chain one entry on. The caller holds the model's row lock, so `seq` is the generation that it made."""
    failpoint("ledger.before_entry")
    before = session.scalar(
        select(LedgerEntry.hash).where(LedgerEntry.model_id == model_id, LedgerEntry.seq == seq - 1)
    )
    entry = LedgerEntry(
        model_id=model_id,
        seq=seq,
        action=action,
        version=version,
        previous_version=previous_version,
        run_id=run_id,
        actor=actor,
        artefact_digest=artefact_digest,
        detail=json.loads(canonical_json(detail)),
        created_at=session.scalar(select(func.now())),
        previous_hash=before or FIRST,
    )
    entry.hash = hash_entry(entry)
    session.add(entry)
    session.flush()
    failpoint("ledger.after_entry")
    return entry


def hash_entry(entry: LedgerEntry) -> str:
    """sha256 over the hash before it and the canonical JSON of everything else."""
    content = {
        "model_id": entry.model_id,
        "seq": entry.seq,
        "action": entry.action,
        "version": entry.version,
        "previous_version": entry.previous_version,
        "run_id": str(entry.run_id) if entry.run_id else None,
        "actor": entry.actor,
        "artefact_digest": entry.artefact_digest,
        "detail": entry.detail,
        "created_at": _utc(entry.created_at),
    }
    return hashlib.sha256((entry.previous_hash + canonical_json(content)).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _utc(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")


def find_breaks(session: Session, model_id: int, generation: int) -> list[str]:
    """What is wrong with a model's chain, as sentences; none for a whole one."""
    entries = list(
        session.scalars(select(LedgerEntry).where(LedgerEntry.model_id == model_id).order_by(LedgerEntry.seq))
    )
    breaks = []
    before = FIRST
    for expected, entry in enumerate(entries, start=1):
        if entry.seq != expected:
            breaks.append(f"entry {expected} is missing: the next is {entry.seq}")
            break
        if entry.previous_hash != before:
            breaks.append(f"entry {entry.seq} does not follow the one before it")
        if hash_entry(entry) != entry.hash:
            breaks.append(f"entry {entry.seq} was altered: its hash does not match")
        before = entry.hash
    if len(entries) != generation:
        breaks.append(f"the ledger ends at {len(entries)}, the model is at generation {generation}")
    return breaks


def find_previous_champion(session: Session, model_id: int, version: int) -> int | None:
    """The version that `version` took over from when it was promoted last."""
    entry = session.scalar(
        select(LedgerEntry)
        .where(
            LedgerEntry.model_id == model_id,
            LedgerEntry.version == version,
            LedgerEntry.action.in_(("create", "promote")),
        )
        .order_by(LedgerEntry.seq.desc())
        .limit(1)
    )
    return entry.previous_version if entry else None
