"""Local nights and days of a model, through changes of the clocks. Pure.

All moments are aware and compared in UTC. A night that the spring change skips comes when the clocks have
jumped; one that the autumn change repeats comes the first time.
"""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from backtalk.policy import Policy


def find_latest_night(policy: Policy, now: datetime) -> date | None:
    """The local date of the newest nightly moment that is past; None where the policy has no nightly."""
    if policy.nightly is None:
        return None
    today = _local_date(policy, now)
    return today if night_begins(policy, today) <= now else today - timedelta(days=1)


def night_begins(policy: Policy, night: date) -> datetime:
    """The moment of that local date's nightly run, in UTC."""
    return _moment(night, time.fromisoformat(policy.nightly or "00:00"), policy)


def day_begins(policy: Policy, now: datetime) -> datetime:
    """The local midnight before `now`, in UTC."""
    return _moment(_local_date(policy, now), time(0), policy)


def next_midnight(policy: Policy, now: datetime) -> datetime:
    """The local midnight after `now`, in UTC."""
    return _moment(_local_date(policy, now) + timedelta(days=1), time(0), policy)


def _local_date(policy: Policy, now: datetime) -> date:
    return now.astimezone(ZoneInfo(policy.timezone)).date()


def _moment(day: date, clock: time, policy: Policy) -> datetime:
    # fold 0: the first of two equal times; in a gap, the offset from before it, which lands after the jump.
    return datetime.combine(day, clock, ZoneInfo(policy.timezone)).astimezone(UTC)
