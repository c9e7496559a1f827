"""Which run is due for a model, and what refuses or blocks it. Reads rows, writes none."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from backtalk.considerations import RING_AGAIN, Scene, Waiting, find_active_run
from backtalk.decisions import stands
from backtalk.lineage import find_tainted
from backtalk.nights import day_begins, next_midnight
from backtalk.policy import Policy
from backtalk.states import ACTIVE_RUN_STATES, VERDICT_RUN_STATES, RunKind, RunState
from backtalk.tables import Decision, Run, Sample

#: Failed runs for one reason after which only a new statement or a person starts another.
MAX_FAILED = 3
#: Somebody who decides without a pause must not hold a run back for ever: so many times `debounce_s` at most.
DEBOUNCE_PATIENCE = 10
#: How the keys begin of runs without something that was withdrawn.
WITHDRAWN = "withdrawn:"


@dataclass(frozen=True)
class Wish:
    """A run that is due, unless something blocks it."""

    kind: RunKind
    key: str
    sentence: str
    retry: int = 0


@dataclass(frozen=True)
class Refusal:
    """Why no run is due, or what blocks one until `again_at`."""

    reason: str
    sentence: str
    again_at: datetime | None = None
    settles_night: bool = False  # this night needs no run any more


# --- what is due -----------------------------------------------------------------------------------
def weigh_withdrawn(session: Session, scene: Scene) -> Wish | Refusal | None:
    """A run without what was withdrawn, where the live version learned from some; None where it did not.

    One for each retraction, whatever else holds runs back: somebody who withdraws something asks for it.
    """
    if scene.model.live_version not in find_tainted(session, scene.model.id):
        return None
    newest = session.scalar(
        select(func.max(Sample.retraction_id)).where(
            Sample.model_id == scene.model.id, Sample.retraction_id.is_not(None)
        )
    )
    key = f"{WITHDRAWN}{newest}"
    past = _list_past(session, scene, RunKind.HEAD, key)
    if any(run.state in {*VERDICT_RUN_STATES, *ACTIVE_RUN_STATES, RunState.CANCELLED} for run in past):
        return None
    said = f"Version {scene.model.live_version} learned from something that was withdrawn"
    return _weigh_past(past, Wish(RunKind.HEAD, key, said), scene.waiting[RunKind.HEAD])


def weigh_night(session: Session, scene: Scene) -> Wish | Refusal | None:
    """The newest night's run, late if need be; None where it has had one, or needs none."""
    night, kind = scene.nights.considered, scene.policy.nightly_kind
    if scene.policy.nightly is None or night is None or scene.nights.is_settled(night):
        return None
    key = f"nightly:{night.isoformat()}"
    past = _list_past(session, scene, kind, key)
    if any(run.state in {*VERDICT_RUN_STATES, *ACTIVE_RUN_STATES} for run in past):
        return None
    waiting = scene.waiting[kind]
    if waiting.total < scene.policy.nightly_min_new:
        return _skip_night(night, waiting, scene.policy)
    said = f"The night of {night} has come, with {waiting.total} decided statements waiting"
    return _weigh_past(past, Wish(kind, key, said), waiting)


def _skip_night(night: date, waiting: Waiting, policy: Policy) -> Refusal:
    if not waiting.total:
        said = f"Nothing was approved since the last run, so the night of {night} is skipped."
        return Refusal("nothing-new", said, settles_night=True)
    said = f"{waiting.total} of {policy.nightly_min_new} decided statements: the night of {night} is skipped."
    return Refusal("too-few", said, settles_night=True)


def weigh_approved(session: Session, scene: Scene) -> Wish | Refusal:
    """A head run for the statements that were decided since the last one."""
    policy, waiting = scene.policy, scene.waiting[RunKind.HEAD]
    if not waiting.total:
        return Refusal("nothing-new", "Nothing was approved since the last run.")
    if waiting.total < policy.min_approved:
        return Refusal("too-few", f"{waiting.total} of {policy.min_approved} decided statements.")
    scarce = min(scene.model.labels, key=lambda label: waiting.by_label.get(label, 0))
    number = waiting.by_label.get(scarce, 0)
    if number < policy.min_per_class:
        said = f"{waiting.total} decided statements, but {number} of {policy.min_per_class} for {scarce!r}."
        return Refusal("too-few-per-class", said)
    key = f"approved:{waiting.newest_id}"
    said = f"{waiting.total} decided statements wait, and {policy.min_approved} are enough"
    return _weigh_past(_list_past(session, scene, RunKind.HEAD, key), Wish(RunKind.HEAD, key, said), waiting)


def _list_past(session: Session, scene: Scene, kind: RunKind, key: str) -> Sequence[Run]:
    rows = select(Run).where(Run.model_id == scene.model.id, Run.kind == kind, Run.trigger_key == key)
    return session.scalars(rows).all()


def _weigh_past(past: Sequence[Run], wish: Wish, waiting: Waiting) -> Wish | Refusal:
    """What earlier runs for the same reason say: how many tries there were, and whether to go on."""
    if any(run.state == RunState.CANCELLED for run in past):
        said = "The run for this was cancelled; a new statement or a person starts the next one."
        return Refusal("cancelled", said)
    if any(run.state in VERDICT_RUN_STATES for run in past):
        return Refusal("nothing-new", "A run for exactly these statements has had its verdict.")
    failed = [run for run in past if run.state == RunState.FAILED]
    recent = [run for run in failed if waiting.newest_at is None or run.created_at > waiting.newest_at]
    if any(run.progress.get("quarantined") for run in recent):
        said = "The run for this was quarantined; a new statement or a person starts the next one."
        return Refusal("gave-up", said)
    if len(recent) >= MAX_FAILED:
        said = f"{len(recent)} runs for this failed; a new statement or a person starts the next one."
        return Refusal("gave-up", said)
    retry = len(failed) + sum(run.state == RunState.SUPERSEDED for run in past)
    said = f"{wish.sentence}; try {retry + 1}." if retry else f"{wish.sentence}."
    return Wish(wish.kind, wish.key, said, retry)


# --- what blocks it --------------------------------------------------------------------------------
def find_block(session: Session, scene: Scene, wish: Wish) -> Refusal | None:
    """The first thing that keeps a due run waiting, with the moment to ask again."""
    if find_active_run(session, scene.model.id, wish.kind) is not None:
        return refuse_beside_active(wish, scene.now)
    if wish.key.startswith(WITHDRAWN):
        return None
    return (
        _exceed_day(session, scene, wish)
        or _cool_down(session, scene, wish)
        or (_debounce(session, scene, wish) if wish.key.startswith("approved:") else None)
    )


def refuse_beside_active(wish: Wish, now: datetime) -> Refusal:
    said = f"{wish.sentence} Another {wish.kind} run is active; its end asks again."
    return Refusal("active-run", said, now + RING_AGAIN)


def _exceed_day(session: Session, scene: Scene, wish: Wish) -> Refusal | None:
    by_trigger = or_(Run.trigger_key.startswith("approved:"), Run.trigger_key.startswith("nightly:"))
    today = Run.created_at >= day_begins(scene.policy, scene.now)
    number = session.scalar(select(func.count()).where(Run.model_id == scene.model.id, by_trigger, today))
    if (number or 0) < scene.policy.max_runs_per_day:
        return None
    said = f"{wish.sentence} But {number} runs began today, as many as max_runs_per_day allows."
    return Refusal("max-runs-per-day", said, next_midnight(scene.policy, scene.now))


def _cool_down(session: Session, scene: Scene, wish: Wish) -> Refusal | None:
    ended = session.scalar(
        select(func.max(Run.ended_at)).where(Run.model_id == scene.model.id, Run.kind == wish.kind)
    )
    if ended is None or ended + _seconds(scene.policy.cooldown_s) <= scene.now:
        return None
    said = f"{wish.sentence} The last run has just ended; cooldown_s is {scene.policy.cooldown_s:g}."
    return Refusal("cooldown", said, ended + _seconds(scene.policy.cooldown_s))


def _debounce(session: Session, scene: Scene, wish: Wish) -> Refusal | None:
    policy, waiting = scene.policy, scene.waiting[RunKind.HEAD]
    if waiting.newest_at is None or waiting.newest_at + _seconds(policy.debounce_s) <= scene.now:
        return None
    enough_at = session.scalar(
        select(Decision.created_at)
        .where(Decision.model_id == scene.model.id, Decision.counts, Decision.id > waiting.cut, stands())
        .order_by(Decision.id)
        .offset(policy.min_approved - 1)
        .limit(1)
    )
    quiet_at = waiting.newest_at + _seconds(policy.debounce_s)
    patient_until = (enough_at or waiting.newest_at) + _seconds(policy.debounce_s * DEBOUNCE_PATIENCE)
    if min(quiet_at, patient_until) <= scene.now:
        return None
    said = f"{wish.sentence} Somebody is deciding just now; debounce_s is {policy.debounce_s:g}."
    return Refusal("debounce", said, min(quiet_at, patient_until))


def _seconds(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)
