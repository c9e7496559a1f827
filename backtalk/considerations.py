"""What a consideration looks at, and how it is written down, also when no run came of it."""

from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from backtalk.decisions import stands
from backtalk.errors import ModelNotFound
from backtalk.nights import find_latest_night, night_begins
from backtalk.policy import Policy
from backtalk.states import ACTIVE_RUN_STATES, VERDICT_RUN_STATES, RunKind
from backtalk.tables import Decision, Model, Run, Sample, TriggerCheck

#: A message may get lost: what is due is rung for again after so long, until it has been considered.
RING_AGAIN = timedelta(seconds=60)

#: What a consideration goes by; the rest of the policy has no say.
TRIGGER_FIELDS = {
    "min_approved",
    "min_per_class",
    "nightly",
    "nightly_kind",
    "nightly_recipe",
    "nightly_min_new",
    "timezone",
    "hold",
    "debounce_s",
    "cooldown_s",
    "max_runs_per_day",
}


@dataclass(frozen=True)
class Waiting:
    """Decided statements with a right label after the snapshot cut of the last run with a verdict."""

    cut: int
    by_label: dict[str, int]
    newest_id: int | None
    newest_at: datetime | None

    @property
    def total(self) -> int:
        return sum(self.by_label.values())


@dataclass(frozen=True)
class Nights:
    """Local dates: the newest night that was considered, and the newest that needs no run any more."""

    considered: date | None
    settled: date | None

    @classmethod
    def read(cls, counts: dict[str, Any] | None) -> "Nights":
        """From the counts of a check; each carries them on, so the newest has them."""
        considered, settled = ((counts or {}).get(key) for key in ("night", "night_settled"))
        return cls(
            date.fromisoformat(considered) if considered else None,
            date.fromisoformat(settled) if settled else None,
        )

    def is_settled(self, night: date) -> bool:
        return self.settled is not None and self.settled >= night


@dataclass(frozen=True)
class Scene:
    """All that a consideration looks at. The model's row is locked, so nothing is decided beside it."""

    model: Model
    policy: Policy
    now: datetime
    waiting: dict[RunKind, Waiting]
    nights: Nights


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One consideration, before it is a row. `sentence` says the reason in full."""

    kind: RunKind
    reason: str
    sentence: str
    nights: Nights
    run_id: UUID | None = None
    trigger_key: str | None = None


def look(session: Session, model_id: int, now: datetime | None = None) -> Scene:
    """Lock the model and see what waits. `now` is the database's clock unless a test says otherwise.

    Raises:
        ModelNotFound
    """
    model = lock_row(session, model_id)
    policy = read_policy(model)
    now = now or read_clock(session)
    nights = _find_nights(session, model_id)
    latest = find_latest_night(policy, now)
    if latest is not None and night_begins(policy, latest) > model.created_at:
        nights = replace(nights, considered=max(latest, nights.considered or latest))
    waiting = {kind: count_waiting(session, model, kind) for kind in RunKind}
    return Scene(model, policy, now, waiting, nights)


def lock_row(session: Session, model_id: int) -> Model:
    """The model, locked against considerations and promotions, but not against rows that refer to it."""
    model = session.get(Model, model_id, with_for_update={"key_share": True}, populate_existing=True)
    if model is None:
        raise ModelNotFound(f"There is no model {model_id}.")
    return model


def read_policy(model: Model) -> Policy:
    """The policy in force, defaults filled in and `hold` from its column."""
    return Policy.parse(model.policy | {"hold": model.hold})


def read_clock(session: Session) -> datetime:
    """The database's clock, now: a transaction's own time may be from before it waited for a lock."""
    now = session.scalar(select(func.clock_timestamp()))
    assert isinstance(now, datetime)
    return now


def count_waiting(session: Session, model: Model, kind: RunKind) -> Waiting:
    """Failed, cancelled and superseded runs consume nothing, so their statements are still counted."""
    cut = session.scalar(
        select(func.max(Run.decision_cut)).where(
            Run.model_id == model.id, Run.kind == kind, Run.state.in_(VERDICT_RUN_STATES)
        )
    )
    rows = session.execute(
        select(Decision.label, func.count(), func.max(Decision.id), func.max(Decision.created_at))
        .where(
            Decision.model_id == model.id,
            Decision.counts,
            Decision.id > (cut or 0),
            stands(),
            ~was_withdrawn(),
        )
        .group_by(Decision.label)
    ).all()
    return Waiting(
        cut=cut or 0,
        by_label={str(label): number for label, number, _, _ in rows},
        newest_id=max((newest for _, _, newest, _ in rows), default=None),
        newest_at=max((at for _, _, _, at in rows), default=None),
    )


def was_withdrawn() -> ColumnElement[bool]:
    """Whether what a decision brought was withdrawn since: it starts no run any more."""
    return exists().where(Sample.decision_id == Decision.id, Sample.retraction_id.is_not(None))


def find_active_run(session: Session, model_id: int, kind: RunKind) -> UUID | None:
    return session.scalar(
        select(Run.id).where(Run.model_id == model_id, Run.kind == kind, Run.state.in_(ACTIVE_RUN_STATES))
    )


def _find_nights(session: Session, model_id: int) -> Nights:
    newest = select(TriggerCheck.counts).where(TriggerCheck.model_id == model_id)
    return Nights.read(session.scalar(newest.order_by(TriggerCheck.id.desc()).limit(1)))


def write_check(session: Session, scene: Scene, entry: Entry) -> TriggerCheck:
    """Write a consideration down."""
    model, policy, nights, waiting = scene.model, scene.policy, entry.nights, scene.waiting[entry.kind]
    shown = policy.model_dump(mode="json", include=TRIGGER_FIELDS)
    row = TriggerCheck(
        model_id=model.id,
        kind=entry.kind,
        policy=shown | {"policy_version": model.policy_version},
        counts={
            "sentence": entry.sentence,
            "new": waiting.total,
            "needed": policy.min_approved,
            "by_label": waiting.by_label,
            "cut": waiting.cut,
            "newest_decision": waiting.newest_id,
            "trigger_key": entry.trigger_key,
            "consider_at": model.consider_at.isoformat() if model.consider_at else None,
            "night": nights.considered.isoformat() if nights.considered else None,
            "night_settled": nights.settled.isoformat() if nights.settled else None,
        },
        fired=entry.run_id is not None,
        run_id=entry.run_id,
        reason=entry.reason,
        at=scene.now,
    )
    session.add(row)
    session.flush()
    return row
