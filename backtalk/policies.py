"""A model's policy as its row has it: read, checked, changed, and the change written down."""

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from backtalk import audit
from backtalk.callers import Caller
from backtalk.considerations import (
    RING_AGAIN,
    TRIGGER_FIELDS,
    Entry,
    Nights,
    Scene,
    lock_row,
    look,
    read_policy,
    write_check,
)
from backtalk.events import HoldLifted
from backtalk.nights import find_latest_night
from backtalk.outbox import emit
from backtalk.policy import Policy
from backtalk.tables import Model


def get_policy(model: Model) -> Policy:
    """The policy in force, defaults filled in and `hold` from its column."""
    return read_policy(model)


def set_policy(
    session: Session,
    model: Model,
    changes: dict[str, Any],
    caller: Caller,
    *,
    replace: bool = False,
    now: datetime | None = None,
) -> Policy:
    """Change the policy and say what follows from it; where nothing changes, nothing is written.

    With `replace` whatever `changes` leaves out goes back to its default, except `hold`: a rollback sets it,
    and only `hold: false` by name lifts it.

    Raises:
        InvalidPolicy: a key is unknown or a value is bad.
    """
    locked = lock_row(session, model.id)
    before = read_policy(locked)
    kept = {"hold": before.hold} if replace else before.model_dump(mode="json")
    after = Policy.parse(kept | changes)
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    changed = {name for name in new if new[name] != old[name]}
    if not changed:
        return after
    locked.policy, locked.hold = after.differences(), after.hold
    locked.policy_version += 1
    detail = {
        "before": {name: old[name] for name in sorted(changed)},
        "after": {name: new[name] for name in sorted(changed)},
        "policy_version": locked.policy_version,
    }
    audit.record(session, caller.actor, "policy.set", f"model:{locked.name}", **detail)
    session.flush()
    _follow_up(session, look(session, model.id, now), before, changed)
    return after


def _follow_up(session: Session, scene: Scene, before: Policy, changed: set[str]) -> None:
    """A change may make a run due. Under new nights the last one is not caught up on: nobody wanted it."""
    model, after = scene.model, scene.policy
    if changed & {"nightly", "timezone"} and after.nightly is not None:
        night = find_latest_night(after, scene.now)
        said = f"The nights begin at {after.nightly} ({after.timezone}) from now on."
        entry = Entry(
            kind=after.nightly_kind, reason="policy-changed", sentence=said, nights=Nights(night, night)
        )
        write_check(session, scene, entry)
    if before.hold and not after.hold:
        emit(session, HoldLifted(model_id=model.id))
        model.consider_at = scene.now + RING_AGAIN  # should the message get lost
    elif changed & TRIGGER_FIELDS and not after.hold:
        model.consider_at = scene.now
    session.flush()
