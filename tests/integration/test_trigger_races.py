"""Two processes at the same moment start one run, whatever they know of each other."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from backtalk.callers import CLI
from backtalk.db import Database, make_engine
from backtalk.errors import RunActive
from backtalk.tables import Model, OutboxEvent, Run, TriggerCheck
from backtalk.triggers import consider_model, emit_due, request_run
from tests import factories

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


def make_due_model(database: Database) -> int:
    with database.transaction() as session:
        model = factories.make_model(session, policy={"nightly": None, "min_approved": 3})
        for _ in range(3):
            factories.make_decision(session, model, created_at=NOON)
        return model.id


def list_events(session: Session) -> list[str]:
    return list(session.scalars(select(OutboxEvent.event).order_by(OutboxEvent.id)))


def test_two_hundred_considerations_at_once_make_exactly_one_run(postgres_url):
    database = Database(make_engine(postgres_url, pool_size=24))
    model_id = make_due_model(database)
    start = threading.Barrier(24)

    def consider_often(_: int) -> list[bool]:
        start.wait()
        fired = []
        for _ in range(200 // 24 + 1):
            with database.transaction() as session:
                fired.append(consider_model(session, model_id).fired)
        return fired

    with ThreadPoolExecutor(24) as pool:
        fired = [one for some in pool.map(consider_often, range(24)) for one in some]
    assert len(fired) >= 200
    assert sum(fired) == 1
    with database.reading() as session:
        assert factories.count(session, Run) == 1
        assert factories.count(session, TriggerCheck) == len(fired)
        assert list_events(session) == ["RunRequested"]
    database.close()


def test_a_run_that_slips_in_past_the_lock_is_stopped_by_the_index(database):
    model_id = make_due_model(database)
    inserted, considered = threading.Event(), []

    def consider_meanwhile() -> None:
        inserted.wait()
        with database.transaction() as session:
            considered.append(consider_model(session, model_id))

    thread = threading.Thread(target=consider_meanwhile)
    thread.start()
    with database.transaction() as session:
        factories.make_run(session, session.get_one(Model, model_id))
        inserted.set()
        # Not committed yet, so it cannot be seen: the other one runs into the index and waits.
        while not _someone_waits(session):
            assert thread.is_alive()
            time.sleep(0.01)
    thread.join()
    assert (considered[0].fired, considered[0].reason) == (False, "active-run")
    with database.reading() as session:
        assert factories.count(session, Run) == 1
        assert session.get_one(Model, model_id).consider_at is not None
        assert list_events(session) == []


def _someone_waits(session: Session) -> bool:
    return bool(session.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


def test_twenty_people_who_ask_at_once_get_one_run(postgres_url):
    database = Database(make_engine(postgres_url, pool_size=20))
    model_id = make_due_model(database)
    start = threading.Barrier(20)

    def ask(_: int) -> bool:
        start.wait()
        try:
            with database.transaction() as session:
                request_run(session, model=session.get_one(Model, model_id), kind="head", caller=CLI)
        except RunActive:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(ask, range(20))) == 1
    with database.reading() as session:
        assert factories.count(session, Run) == 1
    database.close()


def test_a_model_that_is_being_considered_is_passed_by_when_what_is_due_is_rung_for(database):
    model_id = make_due_model(database)
    with database.transaction() as session:
        session.get_one(Model, model_id).consider_at = NOON
    with database.transaction() as considering:
        consider_model(considering, model_id)
        with database.transaction() as ringing:
            assert emit_due(ringing) == []


def test_a_statement_that_is_decided_during_a_consideration_is_considered_after_it(database):
    model_id = make_due_model(database)
    with database.transaction() as session:
        session.get_one(Model, model_id).policy = {"nightly": None, "min_approved": 4}
    with database.transaction() as session:
        assert consider_model(session, model_id).reason == "too-few"
        with database.transaction() as deciding:  # rows that refer to the model are not held up
            factories.make_decision(deciding, deciding.get_one(Model, model_id), created_at=NOON)
    with database.transaction() as session:
        assert consider_model(session, model_id).fired
