"""Promotion and rollback over HTTP, by a person: once for one key, also where the store cannot be written."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select
from werkzeug.test import TestResponse

from backtalk import bootstrap, failpoints, promotion, upkeep
from backtalk.config import Settings
from backtalk.tables import IdempotencyKey, LedgerEntry, Model
from tests.clients import Api, assert_problem, make_api
from tests.served import CANDIDATE, make_served_model, unpublish

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


# --- a store that the API may not write ------------------------------------------------------------
@pytest.fixture
def reading(served: Api, settings: Settings) -> Iterator[Api]:
    """The same rows and files, seen by an API that is told never to write the store; version 4 is new."""
    unpublish(served.system, 4)
    system = bootstrap.build(settings.model_copy(update={"store_readonly": True}), pool_size=5)
    yield make_api(system)
    system.close()


def asked_at(api: Api, number: int) -> str | None:
    items = api.get("/v1/models/animals/versions").json["items"]
    return next(item["asked_at"] for item in items if item["number"] == number)  # type: ignore[no-any-return]


def test_without_the_right_to_write_a_worker_publishes_what_is_promoted(served: Api, reading: Api) -> None:
    config = served.system.versions.models_config_path
    before = config.read_bytes()
    answers = [promote(reading, 4, headers=KEYED) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert [answer.headers["Retry-After"] for answer in answers] == ["1", "1"]
    assert answers[0].json == answers[1].json == {"model": "animals", "version": 4, "generation": 3}
    assert asked_at(reading, 4) is not None
    assert history(served) == [2, 3]
    assert served.system.versions.resolve(CANDIDATE).is_dir()

    promotion.promote_asked(served.system)
    promotion.promote_asked(served.system)  # rung for twice
    assert history(served) == [2, 3, 4]
    assert served.system.versions.resolve("animals/4").is_dir()
    assert asked_at(reading, 4) is None
    with served.system.db.reading() as session:
        last = session.scalars(select(LedgerEntry).order_by(LedgerEntry.seq.desc())).first()
        assert last is not None
        assert last.actor == f"key:{reading.token.split('_')[1]}"  # in the name of who asked
    written = config.read_bytes()
    assert written != before

    assert reading.post(ROLLBACK).json["version"] == 3  # published long ago: at once
    assert promote(reading, 4).status_code == 200  # so is this one now
    assert reading.post(ROLLBACK).json["version"] == 3
    assert config.read_bytes() == written  # not by this API
    upkeep.mend_models_config(served.system)
    assert served.system.versions.read_models_config() == {"animals": 3}


def test_a_wish_is_dropped_where_the_champion_changed_or_the_files_did(served: Api, reading: Api) -> None:
    assert promote(reading, 4).status_code == 202
    assert served.post(ROLLBACK).status_code == 200
    promotion.promote_asked(served.system)
    assert history(served) == [2, 3, 2]
    assert asked_at(reading, 4) is None
    assert served.system.versions.resolve(CANDIDATE).is_dir()  # without an integer name again

    assert promote(reading, 4).status_code == 202
    head = served.system.versions.resolve(CANDIDATE) / "head.npz"
    head.write_bytes(head.read_bytes()[:-1])
    promotion.promote_asked(served.system)
    assert (history(served), asked_at(reading, 4)) == ([2, 3, 2], None)
    assert_problem(promote(reading, 4), 409, "artefact-invalid")


def test_readyz_says_who_writes(served: Api, reading: Api, caplog: pytest.LogCaptureFixture) -> None:
    assert served.get("/readyz").json["store"] == "writable"
    assert reading.get("/readyz").json["store"] == "read-only"
    make_api(reading.system)
    assert "could write" in caplog.text  # told not to, and not kept from it


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_as_a_user_who_may_not_write_the_api_finds_out_by_itself(api: Api, tiny_folder: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="bt-store-"))
    try:
        folder.chmod(0o755)
        settings = api.system.settings.model_copy(update={"store": folder / "store"})
        system = bootstrap.build(settings, pool_size=5)
        make_served_model(system, tiny_folder, versions=4)
        unpublish(system, 4)
        found = call_as_nobody(make_api(system))
        assert found["may_write"] is False
        assert found["promoted"] == [202, 200, 200]
        assert "PermissionError" in found["write"]
        promotion.promote_asked(system)
        assert history(api) == [2, 1]  # the wish was of another generation
        system.close()
    finally:
        shutil.rmtree(folder)


def call_as_nobody(api: Api) -> dict[str, object]:
    """In a child of this process: nobody may not even read the interpreter, so all is imported before."""
    assert promote(api, 99).status_code == 404
    assert api.get("/readyz").json["store"] == "writable"
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            api.system.db.engine.dispose(close=False)  # the parent's connections stay the parent's
            assert api.get("/v1/models").status_code == 200  # nobody may not reach Postgres' socket either
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(write_end, json.dumps(_call(api)).encode())
        except BaseException as error:  # noqa: BLE001  # said by the parent
            os.write(write_end, json.dumps({"failed": repr(error)}).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as said:
        found: dict[str, object] = json.loads(said.read())
    os.waitpid(child, 0)
    assert "failed" not in found, found
    return found


def _call(api: Api) -> dict[str, object]:
    try:
        (api.system.versions.root / "animals" / "7").mkdir()
        write = "done"
    except OSError as error:
        write = repr(error)
    answers = [promote(api, 4), promote(api, 2), api.post(ROLLBACK)]
    return {
        "write": write,
        "may_write": api.system.versions.may_write("animals"),
        "promoted": [answer.status_code for answer in answers],
    }
