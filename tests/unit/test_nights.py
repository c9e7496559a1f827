"""Local nights, through time zones and changes of the clocks."""

from datetime import UTC, date, datetime, timedelta

import pytest

from backtalk.errors import InvalidPolicy
from backtalk.nights import day_begins, find_latest_night, next_midnight, night_begins
from backtalk.policy import Policy


def policy(nightly: str | None = "02:00", timezone: str = "UTC") -> Policy:
    return Policy(nightly=nightly, timezone=timezone)


def test_a_night_is_past_from_its_very_moment_on():
    moment = datetime(2026, 11, 24, 2, tzinfo=UTC)
    assert find_latest_night(policy(), moment) == date(2026, 11, 24)
    assert find_latest_night(policy(), moment - timedelta(microseconds=1)) == date(2026, 11, 23)


def test_without_a_nightly_there_is_no_night():
    assert find_latest_night(policy(nightly=None), datetime(2026, 11, 24, 12, tzinfo=UTC)) is None


def test_the_date_is_the_local_one():
    # 23:30 UTC on the 23rd is 08:30 on the 24th in Tokyo and 18:30 on the 23rd in New York.
    now = datetime(2026, 11, 23, 23, 30, tzinfo=UTC)
    assert find_latest_night(policy(timezone="Asia/Tokyo"), now) == date(2026, 11, 24)
    assert find_latest_night(policy(timezone="America/New_York"), now) == date(2026, 11, 23)


def test_a_night_in_the_hour_that_spring_skips_comes_after_the_jump():
    # In Berlin the clocks went from 02:00 to 03:00 on 29 March 2026, at 01:00 UTC.
    berlin = policy("02:30", "Europe/Berlin")
    assert night_begins(berlin, date(2026, 3, 29)) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    assert find_latest_night(berlin, datetime(2026, 3, 29, 1, 29, tzinfo=UTC)) == date(2026, 3, 28)
    assert find_latest_night(berlin, datetime(2026, 3, 29, 1, 30, tzinfo=UTC)) == date(2026, 3, 29)


def test_a_night_in_the_hour_that_autumn_repeats_comes_once_the_first_time():
    # In Berlin the clocks went from 03:00 back to 02:00 on 25 October 2026, at 01:00 UTC.
    berlin = policy("02:30", "Europe/Berlin")
    assert night_begins(berlin, date(2026, 10, 25)) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    second_time = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    assert find_latest_night(berlin, second_time) == date(2026, 10, 25)


@pytest.mark.parametrize(
    "timezone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Tokyo"]
)
@pytest.mark.parametrize("nightly", ["00:00", "02:00", "02:30", "23:59"])
def test_every_local_date_of_a_year_has_exactly_one_night(timezone, nightly):
    here = policy(nightly, timezone)
    seen: list[date] = []
    now = datetime(2025, 12, 31, tzinfo=UTC)
    while now < datetime(2027, 1, 2, tzinfo=UTC):
        night = find_latest_night(here, now)
        if not seen or night != seen[-1]:
            seen.append(night)
        now += timedelta(minutes=15)
    assert seen == [seen[0] + timedelta(days=i) for i in range(len(seen))]


def test_a_day_of_the_change_has_23_or_25_hours():
    berlin = policy(timezone="Europe/Berlin")
    for day, hours in (((2026, 3, 29), 23), ((2026, 10, 25), 25), ((2026, 11, 24), 24)):
        noon = datetime(*day, 12, tzinfo=UTC)
        assert next_midnight(berlin, noon) - day_begins(berlin, noon) == timedelta(hours=hours)


@pytest.mark.parametrize("nightly", ["2:00", "24:00", "02:60", "T0200", "0200Z", "02:00:00", "", "٠٢:٠٠"])
def test_a_nightly_that_is_no_clock_time_is_refused(nightly):
    with pytest.raises(InvalidPolicy, match="use HH:MM"):
        Policy.parse({"nightly": nightly})


@pytest.mark.parametrize("timezone", ["", "Mars/Olympus", "../UTC", "Europe", "UTC\x00"])
def test_an_unknown_time_zone_is_refused(timezone):
    with pytest.raises(InvalidPolicy, match="time zone"):
        Policy.parse({"timezone": timezone})
