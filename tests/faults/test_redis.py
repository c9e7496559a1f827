"""Redis flushed, away, restarted and half-open: callers notice nothing, and no work is lost."""

import time

import pytest
from sqlalchemy import text

from tests.faults.load import all_prepared, correct_one, count_unprepared, under_load
from tests.faults.rig import Rig

#: Within which a worker has to hear again of work, at the latest (seconds).
CANARY_S = 60.0


@pytest.mark.slow
@pytest.mark.fault(row=4)
def test_what_was_queued_in_a_redis_that_is_flushed_is_rung_for_again(rig: Rig) -> None:
    rig.use("served").start_all("api", "relay")
    app = rig.caller("predict", "feedback")
    for seed in range(5):
        assert correct_one(app, seed).status == 201
    with rig.servers.redis.client() as client:
        rig.wait_for(lambda: client.llen("events") == 5, 10)
        client.flushall()
    # The half minute that a bell may go unheard is over at once: the rows are dated back.
    with rig.system.db.transaction() as session:
        for table in ("corrections", "outbox"):
            session.execute(text(f"UPDATE {table} SET created_at = created_at - interval '1 minute'"))
    rig.start_all("events", "beat")
    rig.wait_for(lambda: all_prepared(rig, 5), 30)
    assert rig.check() == {}


@pytest.mark.slow
@pytest.mark.fault(row=5)
def test_redis_away_under_load_costs_nobody_an_answer(rig: Rig) -> None:
    """Twenty seconds: longer than the relay, the workers and the limiter take to reach their longest wait."""
    rig.use("served").start_all("api", "relay", "beat", "events")
    pids = {name: part.pid for name, part in rig.parts.items()}
    with under_load(rig) as load:
        rig.wait_for(lambda: load.done > 5, 20)
        rig.servers.redis.shut_down()
        load.pause_s = 0.5
        before = load.done
        time.sleep(20)
        assert load.done > before + 10
        assert count_unprepared(rig) > 10  # it was away
        rig.servers.redis.start()
        rig.wait_for(lambda: load.done > before + 20, 30)
    answered = rig.history.of("predict", "correct")
    assert {operation.status for operation in answered} == {200, 201}
    rig.wait_for(lambda: count_unprepared(rig) == 0, CANARY_S)
    assert {name: part.pid for name, part in rig.parts.items() if part.alive} == pids
    assert rig.check(deadlines_s={"predict": 3.0, "correct": 3.0}) == {}


@pytest.mark.slow
@pytest.mark.fault(row=6, tries=20)
def test_workers_hear_again_while_redis_is_restarted_twenty_times(rig: Rig) -> None:
    rig.use("served").start_all("api", "relay", "beat", "events")
    pids = {name: part.pid for name, part in rig.parts.items()}
    app = rig.caller("predict", "feedback")
    for number in range(20):
        rig.servers.redis.restart()
        correct_one(app, number)
        if number % 5 == 4:  # in between the next restart meets them while they still reconnect
            rig.wait_for(lambda: count_unprepared(rig) == 0, CANARY_S)
    assert {name: part.pid for name, part in rig.parts.items() if part.alive} == pids
    assert rig.check() == {}


@pytest.mark.slow
@pytest.mark.fault(row=7, only="the relay")
def test_publishing_over_a_half_open_connection_fails_in_time_and_is_repeated(rig: Rig) -> None:
    rig.use("served").start("api")
    relay = rig.start("relay", redis_url=rig.proxy_url("redis"))
    app = rig.caller("predict", "feedback")
    with rig.servers.redis.client() as client:
        correct_one(app, 1)
        rig.wait_for(lambda: client.llen("events") == 1, 10)
        rig.proxy("redis").go_half_open()
        began = time.monotonic()
        assert correct_one(app, 2).status == 201
        rig.wait_for(lambda: "waiting" in relay.said(), 30)
        assert time.monotonic() - began < 30
        rig.proxy("redis").heal()
        rig.wait_for(lambda: client.llen("events") >= 2, 30)  # a second ring for the same is borne
    assert relay.alive
    assert rig.check() == {}


@pytest.mark.slow
@pytest.mark.fault(row=7, tries=2)
def test_a_worker_hears_again_after_its_connections_went_deaf(rig: Rig) -> None:
    """First all that are open, new ones work; then every one for a while, until they are reset."""
    rig.use("served").start_all("api", "relay", "beat")
    events = rig.start("events", redis_url=rig.proxy_url("redis"))
    app = rig.caller("predict", "feedback")
    correct_one(app, 1)
    rig.wait_for(lambda: count_unprepared(rig) == 0, 30)
    proxy = rig.proxy("redis")
    proxy.strand()
    correct_one(app, 2)
    rig.wait_for(lambda: count_unprepared(rig) == 0, CANARY_S)
    proxy.go_half_open()
    correct_one(app, 3)
    time.sleep(15)
    assert count_unprepared(rig) == 1
    proxy.heal()
    rig.wait_for(lambda: count_unprepared(rig) == 0, CANARY_S)
    assert events.alive
    assert rig.check() == {}
