"""What the next run of a model waits for, in a sentence."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from backtalk import catalogue, review, triggers
from backtalk.nights import find_latest_night, night_begins
from backtalk.policy import Policy
from backtalk.states import ACTIVE_RUN_STATES
from backtalk.tables import Model, Run, TriggerCheck
from services.review import queries, words
from services.review.language import join_sentences
from services.review.language import translate as _


@dataclass(frozen=True)
class Outlook:
    """`approved` of `wanted` decided statements are there; `sentence` says what else is in the way."""

    approved: int
    wanted: int
    sentence: str


@dataclass(frozen=True)
class Card:
    """One model on the home page."""

    model: Model
    open: int
    outlook: str


def make_card(session: Session, model: Model) -> Card:
    found = find_outlook(session, model)
    begin = _("%(n)s of %(wanted)s approved towards the next run.", n=found.approved, wanted=found.wanted)
    line = join_sentences((begin, found.sentence))
    return Card(model, review.count_open(session, model.id, words.COUNTED_MOST + 1), line)


def find_outlook(session: Session, model: Model) -> Outlook:
    """Counted are decided statements since the snapshot of the last run that reached a verdict."""
    policy = triggers.get_policy(model)
    approved = catalogue.count_decided_new(session, model)
    last = queries.find_last_run(session, model)
    check = queries.find_last_check(session, model)
    now = datetime.now(UTC)
    return Outlook(approved, policy.min_approved, _say(policy, approved, last, check, now))


def _say(policy: Policy, approved: int, last: Run | None, check: TriggerCheck | None, now: datetime) -> str:
    if last is not None and last.state in ACTIVE_RUN_STATES:
        return _("A run is going on; the rules are asked again when it ends.")
    if policy.hold:
        return _("On hold: no run starts by itself.")
    waits = []
    cooldown_s = _find_cooldown_s(policy, last, now)
    if cooldown_s > 0:
        waits.append(_("Cooldown %(n)s.", n=words.duration(cooldown_s)))
    elif approved >= policy.min_approved and check is not None and not check.fired:
        waits.append(words.trigger_reason(check))  # something else is in the way: it says what
    if policy.nightly:
        waits.append(_("Next night %(when)s.", when=say_night(policy, now)))
    return join_sentences(waits)


def _find_cooldown_s(policy: Policy, last: Run | None, now: datetime) -> float:
    if last is None or last.ended_at is None:
        return 0.0
    return (last.ended_at + timedelta(seconds=policy.cooldown_s) - now).total_seconds()


def say_night(policy: Policy, now: datetime) -> str:
    """When the next nightly run is due, at the model's home: `02:00 UTC, in 5 h`."""
    latest = find_latest_night(policy, now)
    if latest is None:
        return _("never")
    hours = (night_begins(policy, latest + timedelta(days=1)) - now).total_seconds() / 3600
    soon = _("in %(n)s h", n=round(hours)) if hours >= 1.5 else _("in %(n)s min", n=round(hours * 60))
    return f"{policy.nightly} {policy.timezone}{_(', ')}{soon}"
