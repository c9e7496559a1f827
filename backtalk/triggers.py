"""When a run begins: enough decided statements, a night, or a person who asks. Never twice for one reason.

Whatever is blocked gets `models.consider_at`, so no trigger can stall. `docs/triggers.md` lists the reasons.
"""

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from uuid import UUID

from psycopg.errors import UniqueViolation
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from backtalk import audit
from backtalk.callers import POLICY, Caller
from backtalk.considerations import (
    RING_AGAIN,
    Entry,
    Nights,
    Scene,
    find_active_run,
    look,
    read_clock,
    read_policy,
    write_check,
)
from backtalk.db import new_id
from backtalk.draws import draw
from backtalk.errors import InvalidInput, RunActive
from backtalk.events import ConsiderationDue, NightlyCame, RunRequested
from backtalk.failpoints import around_commit
from backtalk.nights import find_latest_night, night_begins
from backtalk.outbox import emit
from backtalk.policies import get_policy as get_policy  # noqa: PLC0414 - part of what this module offers
from backtalk.policies import set_policy as set_policy  # noqa: PLC0414
from backtalk.recipes import DEFAULT, load_recipe
from backtalk.states import RunKind, RunState
from backtalk.tables import Model, OutboxEvent, Run, TriggerCheck
from backtalk.wishes import (
    Refusal,
    Wish,
    find_block,
    refuse_beside_active,
    weigh_approved,
    weigh_night,
    weigh_withdrawn,
)

#: The indexes that decide where two processes start a run at the same moment.
ONE_RUN = {"uq_runs_active", "uq_runs_model_id_kind_trigger_key_retry"}


# --- considerations --------------------------------------------------------------------------------
def consider_model(session: Session, model_id: int, *, now: datetime | None = None) -> TriggerCheck:
    """Start the run that is due, if any, and write down why one came or not.

    `now` is the database's clock unless a test says otherwise.

    Raises:
        ModelNotFound
    """
    scene = look(session, model_id, now)
    around_commit(session, "consideration")
    found, nights = _decide(session, scene)
    run = None
    if isinstance(found, Wish):
        run = _start_run(session, scene, found, POLICY)
        found = found if run is not None else refuse_beside_active(found, scene.now)
    if isinstance(found, Refusal):
        kind, reason, key, again_at = RunKind.HEAD, found.reason, None, found.again_at
    else:
        kind, reason, key, again_at = found.kind, "fired", found.key, None
    if again_at is None and find_active_run(session, model_id, kind) is not None:
        again_at = scene.now + RING_AGAIN  # should the message of its end get lost
    scene.model.consider_at = again_at
    entry = Entry(
        kind=kind,
        reason=reason,
        sentence=found.sentence,
        nights=nights,
        run_id=run.id if run else None,
        trigger_key=key,
    )
    return write_check(session, scene, entry)


def _decide(session: Session, scene: Scene) -> tuple[Wish | Refusal, Nights]:
    """The run to start or the reason for none, and which nights are dealt with."""
    nights = scene.nights
    withdrawn = weigh_withdrawn(session, scene)
    if isinstance(withdrawn, Wish):
        return find_block(session, scene, withdrawn) or withdrawn, nights
    if scene.policy.hold:
        number = scene.waiting[RunKind.HEAD].total
        said = f"On hold, with {number} decided statements waiting; hold=false in the policy lifts it."
        return Refusal("hold", said), nights
    night, approved = weigh_night(session, scene), weigh_approved(session, scene)
    if isinstance(night, Refusal) and night.settles_night:
        nights = replace(nights, settled=nights.considered)
    for wish in (night, approved):
        if isinstance(wish, Wish):
            return find_block(session, scene, wish) or wish, nights
    return night or withdrawn or approved, nights


def _start_run(
    session: Session, scene: Scene, wish: Wish, caller: Caller, recipe: str | None = None
) -> Run | None:
    """Queue the run; None where another one is active after all: the unique indexes decide."""
    run = Run(
        id=new_id(),
        model_id=scene.model.id,
        kind=wish.kind,
        trigger_key=wish.key,
        retry=wish.retry,
        requested_by=caller.actor,
        state=RunState.QUEUED,
        recipe={"name": recipe or scene.policy.nightly_recipe} if wish.kind == RunKind.FULL else None,
        seed=int(draw(scene.model.salt, "seed", f"{wish.kind}:{wish.key}:{wish.retry}") * 2**31),
        created_at=scene.now,
    )
    try:
        with session.begin_nested():
            session.add(run)
    except IntegrityError as error:
        if not isinstance(error.orig, UniqueViolation) or error.orig.diag.constraint_name not in ONE_RUN:
            raise
        return None
    emit(session, RunRequested(model_id=run.model_id, run_id=str(run.id), kind=run.kind))
    return run


def check_recipe(kind: RunKind, recipe: str | None, folder: Path | None) -> str | None:
    """The recipe of a run that somebody asks for; `folder` holds the installation's own.

    Raises:
        InvalidInput: a head run has none.
        UnknownRecipe, InvalidRecipe
    """
    if kind != RunKind.FULL:
        if recipe is not None:
            raise InvalidInput("A head run has no recipe: leave it out, or ask for a full run.")
        return None
    name = recipe or DEFAULT
    load_recipe(name, folder)
    return name


# --- a person asks ---------------------------------------------------------------------------------
def request_run(
    session: Session,
    *,
    model: Model,
    kind: str,
    caller: Caller,
    recipe: str | None = None,
    request_id: UUID | None = None,
    now: datetime | None = None,
) -> Run:
    """Queue a run at a person's wish, whatever has been approved, and under hold too.

    `request_id` is drawn by whoever asks: asked for twice with the same one, there is one run.

    Raises:
        RunActive: one of that kind is active; `run` names it.
    """
    kind = RunKind(kind)
    scene = look(session, model.id, now)
    said = f"{caller.actor} asked for a {kind} run."
    wish = Wish(kind, f"manual:{request_id or new_id()}", said)
    if request_id is not None and (asked := _find_asked(session, scene, wish)) is not None:
        return asked
    run = _start_run(session, scene, wish, caller, recipe)
    if run is None:
        active = find_active_run(session, model.id, kind)
        raise RunActive(
            f"A {kind} run is active on {model.name} already. Wait until it ends.",
            run=str(active) if active else None,
        )
    scene.model.consider_at = scene.now + RING_AGAIN  # should the message of its end get lost
    audit.record(session, caller.actor, "run.request", f"model:{model.name}", run=str(run.id), kind=str(kind))
    entry = Entry(
        kind=kind, reason="fired", sentence=said, nights=scene.nights, run_id=run.id, trigger_key=wish.key
    )
    write_check(session, scene, entry)
    return run


def _find_asked(session: Session, scene: Scene, wish: Wish) -> Run | None:
    rows = select(Run).where(
        Run.model_id == scene.model.id, Run.kind == wish.kind, Run.trigger_key == wish.key
    )
    return session.scalar(rows.order_by(Run.retry.desc()).limit(1))


# --- ticks -----------------------------------------------------------------------------------------
def announce_nightly(session: Session, *, now: datetime | None = None) -> list[int]:
    """Emit NightlyCame for each model whose newest local night nobody has considered yet; returns their ids.

    Asks for state, not for the moment, so that two ticks, or none over midnight, do no harm.
    """
    now = now or read_clock(session)
    newest = (
        select(TriggerCheck.counts)
        .where(TriggerCheck.model_id == Model.id)
        .order_by(TriggerCheck.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    rung = _list_rung(session)
    came = []
    for model, counts in session.execute(select(Model, newest).order_by(Model.id)).all():
        policy, considered = read_policy(model), Nights.read(counts).considered
        night = find_latest_night(policy, now)
        if night is None or night_begins(policy, night) <= model.created_at or model.id in rung:
            continue
        if considered is None or considered < night:
            emit(session, NightlyCame(model_id=model.id))
            came.append(model.id)
    return came


def _list_rung(session: Session) -> set[int]:
    """Models whose NightlyCame the relay has not come to yet: while it is away, one is enough."""
    rows = select(OutboxEvent.payload["model_id"].as_integer()).where(
        OutboxEvent.published_at.is_(None), OutboxEvent.event == NightlyCame.__name__
    )
    return set(session.scalars(rows))


def emit_due(session: Session, *, now: datetime | None = None) -> list[int]:
    """Emit ConsiderationDue for each model whose `consider_at` is past; returns their ids.

    The moment is put off rather than cleared: should the message get lost, it comes again, and the
    consideration itself clears it. A locked model is passed by; the next call comes to it.
    """
    now = now or read_clock(session)
    due = select(Model).where(Model.consider_at <= now).order_by(Model.id)
    models = session.scalars(due.with_for_update(skip_locked=True, key_share=True)).all()
    for model in models:
        model.consider_at = now + RING_AGAIN
        emit(session, ConsiderationDue(model_id=model.id))
    session.flush()
    return [model.id for model in models]
