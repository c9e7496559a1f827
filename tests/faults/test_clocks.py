"""Clocks that differ or jump, and nights that nobody was up for: the database's clock alone decides."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from backtalk.embedded import commands
from backtalk.states import RunState
from backtalk.tables import Model, Run
from backtalk.triggers import announce_nightly, consider_model
from tests import factories
from tests.faults.lessons import give_golden, reload, request_run, teach
from tests.faults.load import correct_one, count_rows, count_unprepared
from tests.faults.rig import Rig, skip_without
from workers.app import make_app

JUDGED = (RunState.PROMOTED, RunState.INCONCLUSIVE, RunState.REJECTED, RunState.PASSED)


# --- nights ----------------------------------------------------------------------------------------
def make_night_pass(rig: Rig) -> str:
    """The model's night was ten minutes ago, and something is approved; returns the night's date."""
    with rig.system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        now = session.scalar(select(func.now()))
        assert now is not None
        night = now - timedelta(minutes=10)
        model.policy = model.policy | {"nightly": f"{night:%H:%M}", "cooldown_s": 0, "timezone": "UTC"}
        model.created_at = now - timedelta(days=9)
        factories.make_decision(session, model, created_at=now - timedelta(hours=1))
        return f"nightly:{night:%Y-%m-%d}"


@pytest.mark.slow
@pytest.mark.fault(row=18, tries=3)
def test_a_night_that_beat_was_down_for_comes_late_and_once_from_two_beats(rig: Rig) -> None:
    """One of the two finds a schedule file that a kill left corrupt."""
    key = make_night_pass(rig.use("served"))
    rig.start_all("relay", "events")
    schedule = rig.folder / "celerybeat-schedule"
    schedule.write_bytes(b"\x00 torn \xff" * 100)
    with_file = [*commands()["beat"], "-s", str(schedule)]
    beats = [rig.start("beat"), rig.start("beat", label="beat-2", command=with_file)]
    rig.wait_for(lambda: count_rows(rig, "SELECT count(*) FROM runs"), 30)
    with rig.servers.redis.client() as client:  # and once more all that a beat has to say
        for beat in beats:
            beat.kill()
        rig.start("beat")
        rig.wait_for(lambda: not client.llen("ticks") and not client.llen("events"), 30)
    rig.wait_for(lambda: count_rows(rig, "SELECT count(*) FROM outbox WHERE published_at IS NULL") == 0, 30)
    with rig.system.db.reading() as session:
        assert [(run.trigger_key, run.retry) for run in session.scalars(select(Run))] == [(key, 0)]
    assert rig.check() == {}


@pytest.mark.parametrize("change", [datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)])
@pytest.mark.parametrize("away", [(0, 0), (20, 34)], ids=["up", "down over the change"])
@pytest.mark.fault(row=18, only="nights of clock changes")
def test_each_date_around_a_change_of_the_clocks_has_one_run(
    rig: Rig, change: datetime, away: tuple[int, int]
) -> None:
    """Ticks each half hour from noon to noon over three nights, in Berlin; in spring 02:30 does not exist."""
    rig.use("served")
    began = change - timedelta(hours=36)
    with rig.system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        model.created_at = began - timedelta(days=9)
        model.policy = {"nightly": "02:30", "timezone": "Europe/Berlin", "cooldown_s": 0}
        consider_model(session, model.id, now=began)
        keys = []
        for tick in range(2 * 72):
            now = began + timedelta(minutes=30 * tick)
            if away[0] <= tick / 2 < away[1]:
                continue
            decided = factories.make_decision(session, model, created_at=now)
            if announce_nightly(session, now=now):
                check = consider_model(session, model.id, now=now)
                session.execute(text("UPDATE outbox SET published_at = now()"))
                if check.run_id is not None:
                    run = session.get_one(Run, check.run_id)
                    run.state, run.ended_at, run.decision_cut = RunState.REJECTED, now, decided.id
                    keys.append(run.trigger_key)
        dates = [(change + timedelta(days=day)).date() for day in (-1, 0, 1)]
        assert keys == [f"nightly:{date}" for date in dates]


# --- clocks that differ ----------------------------------------------------------------------------
def skew(by: str) -> dict[str, str]:
    """The environment of a process whose clocks go wrong; the dates of its files are right."""
    skip_without("faketime", "faketime")
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return {"LD_PRELOAD": str(library), "FAKETIME": by, "NO_FAKE_STAT": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("by", ["+1d", "-1d"])
@pytest.mark.fault(row=19, tries=2)
def test_a_clock_a_day_off_steals_nothing_doubles_nothing_and_stops_nothing(rig: Rig, by: str) -> None:
    """That of the worker which does all ticks, and of one that hears of a run which another one trains."""
    rig.use("served", ring_again_s="2", lease_s="60")
    teach(rig.system, 20)
    give_golden(rig.system)
    rig.start_all("api", "relay")
    rig.start("training-head", failpoints="training.before_verify=sleep:8@once")
    rig.start("events", env=skew(by))
    run = request_run(rig.system)
    rig.wait_for(lambda: "training.before_verify" in rig.hit_names(), 90)
    rig.start("training-head", label="training-head-2", env=skew(by))
    make_app(rig.settings).send_task("training.train", args=[str(run.id)], queue="training-head")
    rig.start("beat")  # all ticks at once
    rig.wait_for(lambda: {"sweeper.after_commit", "upkeep.before_leftovers"} <= set(rig.hit_names()), 30)
    assert list(rig.system.versions.root.glob("*/.candidates/*-1/SHA256SUMS"))  # not taken for left behind
    app = rig.caller("predict", "feedback")
    for seed in range(3):
        assert correct_one(app, seed).status == 201
    rig.wait_for(lambda: count_unprepared(rig) == 0, 30)
    rig.wait_for(lambda: reload(rig.system, run).ended_at, 90)
    ended = reload(rig.system, run)
    assert (ended.state in JUDGED, ended.attempt, ended.fence) == (True, 1, 2), ended.reason
    rig.settle()
    assert rig.check() == {}
