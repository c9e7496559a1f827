"""Postgres restarted at once, out of connections, or holding a lock: 503, and well again by itself."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from sqlalchemy import text

from backtalk.db import get_plain_url
from tests.faults.history import Caller, Operation, until_acknowledged
from tests.faults.lessons import add_candidate, get_model, reload
from tests.faults.load import correct_one, under_load
from tests.faults.rig import Rig
from tests.served import LABELS, make_jpeg

#: Three seconds are promised; the rest is for a machine that has other things to do.
AWAY_S = 6.0


# --- restarted at once -------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.fault(row=11, tries=5)
def test_a_database_that_restarts_at_once_under_load_costs_503s_and_nothing_else(rig: Rig) -> None:
    rig.use("served").start("api", failpoints="feedback.before_commit=sleep:0.1")  # one is always half-way
    rig.start_all("relay", "beat", "events")
    pids = {name: part.pid for name, part in rig.parts.items()}
    with under_load(rig, threads=4) as load:
        for _ in range(5):
            reached = load.done + 5
            rig.wait_for(lambda reached=reached: load.done >= reached, 60)
            rig.servers.postgres.restart()
    assert {o.status for o in rig.history if not o.acknowledged} == {503}
    assert {name: part.pid for name, part in rig.parts.items() if part.alive} == pids
    rig.settle()
    assert rig.check(deadlines_s={"predict": AWAY_S, "correct": AWAY_S}) == {}


#: Where a promotion stands when the server goes away.
MOMENTS = ("promotion.before_swap", "ledger.after_entry", "promotion.before_commit", "promotion.after_commit")


@pytest.mark.slow
@pytest.mark.fault(row=11, tries=len(MOMENTS))
def test_a_database_that_restarts_during_a_promotion_leaves_it_whole_or_not_there(rig: Rig) -> None:
    rig.use("served")
    admin = rig.caller()
    for number, moment in enumerate(MOMENTS, 3):
        add_candidate(rig.system, number, state="passed")
        before = get_model(rig.system).live_version
        pid = rig.start("api", failpoints=f"{moment}=sleep:2@once").pid

        def promote(number: int = number) -> Operation:
            return admin.post(f"/v1/models/animals/versions/{number}:promote")

        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(promote)
            rig.wait_for(rig.hits.with_name(f"hits.{moment}").exists)
            rig.servers.postgres.restart()
            answer = asked.result()
        if moment == "promotion.after_commit":
            assert get_model(rig.system).live_version == number
        else:
            assert (answer.status, get_model(rig.system).live_version) == (503, before)
            assert until_acknowledged(promote).status == 200
        assert rig["api"].pid == pid
        assert rig["api"].alive
        assert rig.check("I4", "I5", "I9") == {}
    assert rig.check() == {}


@pytest.mark.fault(row=11, tries=1, only="a run's promotion")
def test_a_run_whose_promotion_lost_the_database_is_promoted_by_whoever_comes_next(rig: Rig) -> None:
    from backtalk import promotion
    from backtalk.heartbeats import AWAY
    from tests.faults.lessons import armed

    system = rig.use("served", lease_s="1.5").system
    run = add_candidate(system, 2)
    with armed("promotion.before_commit=sleep:1"), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(promotion.promote_run, system, str(run.id))
        rig.wait_for(lambda: "promotion.before_commit" in rig.hit_names())
        rig.servers.postgres.restart()
        assert isinstance(asked.exception(), (*AWAY, type(None)))
    assert reload(system, run).state == "promoting"

    def promote_again() -> bool:
        promotion.promote_run(system, str(run.id))  # does nothing while the first one's lease lasts
        return reload(system, run).state == "promoted"

    rig.wait_for(promote_again)
    assert rig.check() == {}


# --- out of connections, and locked ------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.fault(row=13, tries=2)
def test_a_server_without_connections_to_give_and_a_lock_that_is_held_are_503_in_time(rig: Rig) -> None:
    rig.use("served").start("api")
    pid, app = rig["api"].pid, rig.caller("predict", "feedback", "review")
    answers = [
        until_acknowledged(lambda seed=seed: app.predict("animals", make_jpeg(seed))) for seed in range(8)
    ]
    with rows_locked(rig), under_load(rig, threads=1):  # somebody else's work goes on beside it
        refused = correct_all(app, answers)
    assert {done.status for done in refused} == {503}
    assert {done.status for done in correct_all(app, answers)} == {201}
    with no_connection_left(rig):
        refused = [app.predict("animals", make_jpeg(1)), app.get("/v1/models"), *correct_all(app, answers)]
        assert {done.status for done in refused} == {503}
        assert not rig.is_ready()
    rig.wait_for(rig.is_ready, 15)
    assert correct_one(app, 100).status == 201
    assert rig["api"].pid == pid
    assert rig.check(deadlines_s={"predict": AWAY_S, "correct": AWAY_S, "get": AWAY_S}) == {}


def correct_all(app: Caller, answers: list[Operation]) -> list[Operation]:
    """All at once: as many as the API works on at a time."""

    def correct(answer: Operation) -> Operation:
        said = answer.answer["predictions"][0]["label"]
        return app.correct(str(answer.id), next(known for known in LABELS if known != said), key=answer.id)

    with ThreadPoolExecutor(len(answers)) as pool:
        return list(pool.map(correct, answers))


@contextmanager
def rows_locked(rig: Rig) -> Iterator[None]:
    """A transaction that somebody left open holds every prediction there is."""
    with rig.system.db.reading() as session:
        session.execute(text("SELECT id FROM predictions FOR UPDATE"))
        yield


@contextmanager
def no_connection_left(rig: Rig) -> Iterator[None]:
    """Others have taken all connections, those of the API too."""
    url = get_plain_url(rig.database_url)
    with ExitStack() as held:
        first = held.enter_context(psycopg.connect(url, autocommit=True))
        refused_at = None
        while (
            refused_at is None or time.monotonic() - refused_at < 0.5
        ):  # an ended backend takes a moment to go
            first.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name <> 'greedy' "
                "AND pid <> pg_backend_pid()"
            )
            try:
                while True:
                    held.enter_context(psycopg.connect(url, application_name="greedy"))
            except psycopg.OperationalError:
                refused_at = refused_at or time.monotonic()
        yield
