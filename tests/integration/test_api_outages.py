"""The database away, full, locked or frozen: 503 with Retry-After, and well again by itself."""

import os
import signal
import time

import pytest
from sqlalchemy import text

from backtalk import bootstrap, keys
from backtalk.config import Settings
from backtalk.db import Database
from backtalk.outage import Outage
from backtalk.serving import LiveModels
from services.wsgi import create_app
from tests import factories
from tests.clients import Api, assert_problem, make_api

NOBODY = "01890000-0000-7000-8000-000000000000"


@pytest.fixture
def prediction(database: Database) -> str:
    """Of model `animals`, which reads it as a cat."""
    with database.transaction() as session:
        model = factories.make_model(session)
        return str(factories.make_prediction(session, model).id)


def test_postgres_away_is_503_with_retry_after(settings: Settings) -> None:
    away = settings.model_copy(update={"database_url": "postgresql+psycopg://nobody@127.0.0.1:1/none"})
    system = bootstrap.build(away)
    caller = make_api_without_key(system)
    for path in ("/v1/models", f"/v1/corrections/{NOBODY}"):
        response = caller.get(path)
        assert_problem(response, 503, "database-away")
        assert int(response.headers["Retry-After"]) >= 1
    assert_problem(caller.get("/readyz"), 503, "not-ready")
    assert caller.get("/livez").status_code == 200
    assert "backtalk_database_up 0.0" in caller.get("/metrics").text
    system.close()


def make_api_without_key(system: bootstrap.System) -> Api:
    app = create_app(system=system, live=LiveModels(system))
    head = "bt_" + "0" * 10 + "_" + "0" * 30
    return Api(app, system, app.test_client(), head + keys.checksum(head))


def test_an_exhausted_pool_is_503(settings: Settings) -> None:
    system = bootstrap.build(settings, pool_size=1)
    caller = make_api(system)
    with system.db.reading() as held:
        held.execute(text("SELECT 1"))
        response = caller.get("/v1/models")
    assert_problem(response, 503, "database-away")
    assert response.headers["Retry-After"]
    assert caller.get("/v1/models").status_code == 200
    system.close()


def test_a_row_that_stays_locked_is_503(settings: Settings, prediction: str) -> None:
    system = bootstrap.build(settings, pool_size=4, lock_timeout_s=0.3)
    caller = make_api(system)
    path = f"/v1/predictions/{prediction}/corrections"
    with system.db.reading() as other:
        other.execute(text("SELECT id FROM predictions FOR UPDATE"))
        assert_problem(caller.post(path, json={"label": "dog"}), 503, "database-away")
    assert caller.post(path, json={"label": "dog"}).status_code == 201
    system.close()


def test_connections_that_the_server_dropped_are_replaced(
    api: Api, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backtalk.db._RESTED_S", 0.0)  # else a connection that was just used is trusted
    assert api.get("/v1/models").status_code == 200
    with database.transaction() as session:
        session.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    assert api.get("/v1/models").status_code == 200


def test_a_connection_whose_server_froze_is_replaced(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backtalk.db._RESTED_S", 0.0)
    with api.system.db.reading() as session:
        backend = session.scalar(text("SELECT pg_backend_pid()"))
    os.kill(backend, signal.SIGSTOP)
    try:
        assert api.get("/v1/models").status_code == 200
    finally:
        os.kill(backend, signal.SIGCONT)


def test_a_statement_that_a_frozen_server_holds_ends_by_itself_and_the_next_callers_are_told_at_once(
    settings: Settings,
) -> None:
    system = bootstrap.build(settings, outage=Outage(), answer_timeout_s=0.5)
    caller = make_api(system)
    with system.db.reading() as session:
        backend = session.scalar(text("SELECT pg_backend_pid()"))
    os.kill(backend, signal.SIGSTOP)  # its connection was used just now, so nobody tries it out first
    try:
        assert_problem(caller.get("/v1/models"), 503, "database-away")
        refused = caller.get("/v1/models")  # a new connection would have been answered: only one is frozen
    finally:
        os.kill(backend, signal.SIGCONT)
    assert_problem(refused, 503, "database-away")
    deadline = time.monotonic() + 30
    while caller.get("/v1/models").status_code != 200:
        assert time.monotonic() < deadline, "it never came back"
        time.sleep(0.1)
    system.close()


def test_a_silence_is_remembered_for_a_moment_and_then_one_caller_tries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outage = Outage()
    assert not outage.is_known()
    outage.note_silence()
    assert outage.is_known()
    monkeypatch.setattr("backtalk.outage.REST_S", 0.0)
    outage.note_silence()
    assert [outage.is_known() for _ in range(3)] == [False, True, True]
    outage.note_answer()
    assert not outage.is_known()
