"""Promotion and rollback over HTTP, by a person: done once for one Idempotency-Key, whatever is repeated."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select
from werkzeug.test import TestResponse

from backtalk import failpoints
from backtalk.tables import IdempotencyKey, LedgerEntry, Model
from tests.clients import Api, assert_problem
from tests.served import make_served_model

ROLLBACK = "/v1/models/animals:rollback"
KEYED = {"Idempotency-Key": "night-shift"}


@pytest.fixture
def served(api: Api, tiny_folder: Path) -> Api:
    """Versions 1 to 4, of which 1 to 3 have been live, 3 being so now."""
    make_served_model(api.system, tiny_folder, versions=4)
    for number in (2, 3):
        assert promote(api, number).status_code == 200
    return api


def promote(api: Api, number: int, **values: object) -> TestResponse:
    return api.post(f"/v1/models/animals/versions/{number}:promote", **values)


def history(api: Api) -> list[int]:
    with api.system.db.reading() as session:
        return list(session.scalars(select(LedgerEntry.version).order_by(LedgerEntry.seq)))


def keys(api: Api) -> list[str]:
    with api.system.db.reading() as session:
        return list(session.scalars(select(IdempotencyKey.key)))


def test_a_repeated_rollback_goes_back_once(served: Api) -> None:
    first = served.post(ROLLBACK, headers=KEYED)
    again = served.post(ROLLBACK, headers=KEYED)
    assert first.json == again.json == {"model": "animals", "version": 2, "generation": 4}
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Backtalk-Generation"] == first.headers["Backtalk-Generation"] == "4"
    assert history(served) == [2, 3, 2]
    assert served.post(ROLLBACK, headers={"Idempotency-Key": "another"}).json["version"] == 1


def test_a_repeated_promotion_is_answered_as_before_also_after_a_rollback(served: Api) -> None:
    first = promote(served, 4, headers=KEYED)
    assert served.post(ROLLBACK).json["version"] == 3
    assert promote(served, 4, headers=KEYED).json == first.json
    assert history(served) == [2, 3, 4, 3]
    assert_problem(promote(served, 2, headers=KEYED), 422, "idempotency-key-reused")
    assert_problem(served.post(ROLLBACK, headers=KEYED), 422, "idempotency-key-reused")


def test_rollbacks_with_one_key_at_the_same_time_go_back_once(served: Api) -> None:
    def roll_back(_: int) -> TestResponse:
        return Api(served.app, served.system, served.app.test_client(), served.token).post(
            ROLLBACK, headers=KEYED
        )

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(roll_back, range(4)))
    assert [answer.json["version"] for answer in answers if answer.status_code == 200]
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert history(served) == [2, 3, 2]


def test_a_promotion_that_broke_off_before_its_commit_leaves_neither_key_nor_champion(served: Api) -> None:
    failpoints.arm("promotion.before_commit=raise")
    try:
        assert promote(served, 4, headers=KEYED).status_code == 500
    finally:
        failpoints.arm(None)
    assert (keys(served), history(served)) == ([], [2, 3])
    assert promote(served, 4, headers=KEYED).json["version"] == 4
    with served.system.db.reading() as session:
        assert session.scalars(select(Model)).one().live_version == 4
