"""Corrections and confirmations: said once, kept once, answered alike; and what Redis has to do with it."""

import threading
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import func, select, text

from backtalk import bootstrap
from backtalk.config import Settings
from backtalk.db import Database
from backtalk.servers import RedisServer
from backtalk.tables import Confirmation, Correction, IdempotencyKey, OutboxEvent
from tests import factories
from tests.clients import Api, assert_problem, make_api


@pytest.fixture
def prediction(database: Database) -> str:
    """Of model `animals`, which reads it as a cat."""
    with database.transaction() as session:
        return str(factories.make_prediction(session, factories.make_model(session)).id)


def count(database: Database, table: type) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def correct(api: Api, prediction: str, label: str = "dog", **values: object):  # type: ignore[no-untyped-def]
    headers = values.pop("headers", {})
    return api.post(
        f"/v1/predictions/{prediction}/corrections", json={"label": label} | values, headers=headers
    )


def test_a_correction_is_kept_with_its_event(api: Api, database: Database, prediction: str) -> None:
    response = correct(api, prediction, reporter="bob", note="it barks")
    assert response.status_code == 201
    assert response.get_json()["state"] == "pending"
    with database.reading() as session:
        row = session.get_one(Correction, UUID(response.get_json()["id"]))
        assert session.scalars(select(OutboxEvent.event)).all() == ["CorrectionReceived"]
    assert (row.label, row.reporter, row.note) == ("dog", "bob", "it barks")
    assert row.key_id == api.token.split("_")[1]


def test_a_confirmation_needs_no_body(api: Api, database: Database, prediction: str) -> None:
    path = f"/v1/predictions/{prediction}/confirmations"
    first = api.post(path)
    assert first.status_code == 201
    assert api.post(path, json={}).get_json() == first.get_json()
    assert api.post(path, json={"reporter": "bob"}).status_code == 201
    assert count(database, Confirmation) == 2


def test_an_unknown_label_is_422_with_the_list(api: Api, prediction: str) -> None:
    problem = assert_problem(correct(api, prediction, "brid"), 422, "unknown-label")
    assert problem["labels"] == ["cat", "dog"]


def test_a_correction_equal_to_the_prediction_is_422_and_points_to_confirmations(
    api: Api, prediction: str
) -> None:
    problem = assert_problem(correct(api, prediction, "cat"), 422, "same-label")
    assert f"/v1/predictions/{prediction}/confirmations" in problem["detail"]


def test_two_reporters_who_disagree_are_disputed(api: Api, database: Database, prediction: str) -> None:
    assert correct(api, prediction, reporter="ann").get_json()["state"] == "pending"
    confirmed = api.post(f"/v1/predictions/{prediction}/confirmations", json={"reporter": "bob"})
    assert confirmed.get_json()["state"] == "disputed"
    with database.reading() as session:
        assert session.scalars(select(Correction.state)).all() == ["disputed"]


def test_the_receipt_tells_what_became_of_it(api: Api, prediction: str) -> None:
    made = correct(api, prediction).get_json()
    receipt = api.get(f"/v1/corrections/{made['id']}")
    assert receipt.status_code == 200
    assert receipt.get_json() | {"split": None} == {
        "id": made["id"],
        "state": "pending",
        "label": "dog",
        "image": receipt.get_json()["image"],
        "reviewed_at": None,
        "split": None,
        "trained_in": None,
        "live_in": None,
        "fixed_now": receipt.get_json()["fixed_now"],
    }


# --- Idempotency-Key ---------------------------------------------------------------------------
def test_the_same_key_twice_is_one_row_and_one_answer(api: Api, database: Database, prediction: str) -> None:
    headers = {"Idempotency-Key": "first"}
    first, second = (correct(api, prediction, headers=headers) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.get_json() == second.get_json()
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert count(database, Correction) == 1


def test_the_same_key_with_another_call_is_422(api: Api, database: Database, prediction: str) -> None:
    headers = {"Idempotency-Key": "first"}
    correct(api, prediction, headers=headers)
    other = correct(api, prediction, note="another body", headers=headers)
    assert_problem(other, 422, "idempotency-key-reused")
    path = f"/v1/predictions/{prediction}/confirmations"
    assert_problem(api.post(path, json={}, headers=headers), 422, "idempotency-key-reused")
    assert count(database, Correction) == 1


def test_two_callers_may_choose_the_same_key(api: Api, database: Database, prediction: str) -> None:
    headers = {"Idempotency-Key": "first"}
    first = correct(api, prediction, headers=headers)
    second = correct(api.as_key("feedback", "review"), prediction, headers=headers)
    assert first.get_json()["id"] != second.get_json()["id"]
    assert count(database, IdempotencyKey) == 2


def test_a_call_that_failed_leaves_its_key_free(api: Api, database: Database, prediction: str) -> None:
    headers = {"Idempotency-Key": "first"}
    assert_problem(correct(api, prediction, "brid", headers=headers), 422)
    assert count(database, IdempotencyKey) == 0
    assert correct(api, prediction, headers=headers).status_code == 201


def test_many_at_once_with_one_key_are_one_row_and_one_answer(
    api: Api, database: Database, prediction: str
) -> None:
    answers: list[tuple[int, str]] = []
    start = threading.Barrier(6)

    def call() -> None:
        own = Api(api.app, api.system, api.app.test_client(), api.token)
        start.wait()
        response = correct(own, prediction, headers={"Idempotency-Key": "first"})
        answers.append((response.status_code, response.get_json().get("id")))

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 1
    assert answers[0][0] == 201
    assert count(database, Correction) == 1


def test_a_repeat_while_the_first_is_going_on_is_409(settings: Settings, prediction: str) -> None:
    system = bootstrap.build(settings, pool_size=4, lock_timeout_s=0.3)
    caller = make_api(system)
    insert = text(
        "INSERT INTO idempotency_keys (key_id, key, body_sha256, status, response) "
        "VALUES (:owner, 'first', '', 0, '{}')"
    )
    with system.db.reading() as first:
        first.execute(insert, {"owner": caller.token.split("_")[1]})
        response = correct(caller, prediction, headers={"Idempotency-Key": "first"})
        assert_problem(response, 409, "conflict")
    assert correct(caller, prediction, headers={"Idempotency-Key": "first"}).status_code == 201
    system.close()


# --- how often ---------------------------------------------------------------------------------
def make_limited(settings: Settings, **values: object) -> Api:
    limited = settings.model_copy(update={"feedback_per_minute": 3} | values)
    return make_api(bootstrap.build(limited, pool_size=10))


def test_over_the_limit_is_429_with_retry_after(settings: Settings, redis_url: str, prediction: str) -> None:
    caller = make_limited(settings)
    path = f"/v1/predictions/{prediction}/confirmations"
    assert [caller.post(path).status_code for _ in range(3)] == [201] * 3
    response = correct(caller, prediction)
    assert_problem(response, 429, "too-many-requests")
    assert 1 <= int(response.headers["Retry-After"]) <= 61


def test_the_limit_is_per_key_over_all_processes_and_on_feedback_alone(
    settings: Settings, redis_url: str, prediction: str
) -> None:
    one = make_limited(settings)
    path = f"/v1/predictions/{prediction}/confirmations"
    for _ in range(3):
        one.post(path)
    other_process = make_limited(settings)
    other_process.token = one.token
    assert other_process.post(path).status_code == 429
    assert one.as_key("feedback", "review").post(path).status_code == 201
    assert one.get("/v1/models").status_code == 200


def test_calls_that_are_refused_count_too(settings: Settings, redis_url: str, prediction: str) -> None:
    caller = make_limited(settings)
    assert [correct(caller, prediction, "brid").status_code for _ in range(4)] == [422, 422, 422, 429]


@pytest.mark.parametrize("address", ["redis://127.0.0.1:1", "redis://192.0.2.1:6379"])
def test_redis_away_changes_nothing_for_callers(
    settings: Settings, database: Database, prediction: str, address: str
) -> None:
    caller = make_limited(settings, redis_url=address)
    answers: list[int] = []

    def call() -> None:
        own = Api(caller.app, caller.system, caller.app.test_client(), caller.token)
        answers.append(own.post(f"/v1/predictions/{prediction}/confirmations").status_code)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [201] * 3
    ready = caller.get("/readyz")
    assert ready.status_code in {200, 503}
    assert any("Redis" in said for said in ready.get_json()["degraded"])


def test_redis_stopped_and_started_again_is_noticed_by_nobody(
    settings: Settings, database: Database, prediction: str, server_folder: Path
) -> None:
    server = RedisServer.start(server_folder / "redis-to-stop")
    caller = make_limited(settings, redis_url=server.url(), feedback_per_minute=600)
    path = f"/v1/predictions/{prediction}/confirmations"
    assert caller.post(path).status_code == 201
    server.stop()
    assert [caller.post(path).status_code for _ in range(5)] == [201] * 5
    server = RedisServer.start(server_folder / "redis-to-stop", port=server.port)
    assert [caller.post(path).status_code for _ in range(5)] == [201] * 5
    server.stop()


def test_another_apps_prediction_is_not_there_for_a_key(
    api: Api, database: Database, prediction: str
) -> None:
    stranger = api.as_key("predict", "feedback", name="stranger")
    assert_problem(correct(stranger, prediction), 404, "prediction-not-found")
    path = f"/v1/predictions/{prediction}/confirmations"
    assert_problem(stranger.post(path), 404, "prediction-not-found")
    assert count(database, Correction) == 0
