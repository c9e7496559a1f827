"""What is refused before it is read: no room, no disk, too often."""

import threading

import pytest

from backtalk import bootstrap
from backtalk.config import Settings
from backtalk.errors import Overloaded
from services.api.admission import Admission
from tests.clients import Api, assert_problem, make_api
from tests.served import make_jpeg, make_served_model


def make_limited(settings: Settings, **values: object) -> Api:
    return make_api(bootstrap.build(settings.model_copy(update=values), pool_size=10))


def test_only_so_many_and_so_many_bytes_are_in_flight(settings: Settings) -> None:
    admission = Admission(settings.model_copy(update={"max_in_flight": 3, "max_bytes_in_flight": 100}))
    admission.enter(1000)  # one alone may be larger than the budget
    with pytest.raises(Overloaded):
        admission.enter(1)
    admission.enter(0)
    admission.leave(1000)
    admission.enter(60)
    admission.enter(40)
    with pytest.raises(Overloaded):
        admission.enter(0)
    assert admission.requests == 3


def test_every_answer_gives_its_place_and_its_turn_back(settings: Settings) -> None:
    caller = make_limited(settings, max_in_flight=2, api_threads=1)
    for path in ("/v1/models", "/v1/nothing", "/v1/models/nobody", "/nothing", "/sign-in") * 3:
        assert caller.get(path).status_code in {200, 404}
        assert caller.put(path).status_code in {404, 405}
    assert_problem(caller.post("/v1/models/nobody:predict", data=b""), 400)
    assert "backtalk_requests_in_flight 0.0" in caller.get("/metrics").text


def test_a_turn_that_does_not_come_is_503(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.api.admission.TURN_WAIT_S", 0.01)
    caller = make_limited(settings, api_threads=1)
    admission = caller.app.extensions["backtalk-admission"]
    admission.take_turn()
    assert_problem(caller.get("/v1/models"), 503, "overloaded")
    assert caller.get("/livez").status_code == 200
    admission.give_turn()
    assert caller.get("/v1/models").status_code == 200


def test_a_disk_that_is_nearly_full_refuses_pictures_and_nothing_else(
    settings: Settings, tiny_folder: object
) -> None:
    caller = make_limited(settings, min_free_bytes=2**60)
    response = caller.post("/v1/models/animals:predict", data=make_jpeg())
    assert_problem(response, 503, "disk-nearly-full")
    assert response.headers["Retry-After"]
    assert caller.get("/v1/models").status_code == 200
    ready = caller.get("/readyz")
    assert ready.status_code == 200
    assert any("nearly full" in said for said in ready.get_json()["degraded"])


def test_predictions_have_a_limit_only_where_one_is_set(
    settings: Settings, redis_url: str, tiny_folder: object
) -> None:
    free, limited = make_limited(settings), make_limited(settings, predict_per_minute=2)
    make_served_model(free.system, tiny_folder)  # type: ignore[arg-type]
    limited.token = free.token
    path, picture = "/v1/models/animals:predict", make_jpeg()
    assert [free.post(path, data=picture).status_code for _ in range(3)] == [200] * 3
    assert [limited.post(path, data=picture).status_code for _ in range(3)] == [200, 200, 429]
    assert limited.get("/v1/models").status_code == 200


def test_many_at_once_over_the_limit_are_refused_and_none_is_lost(settings: Settings) -> None:
    caller = make_limited(settings, max_in_flight=1)
    found: list[int] = []
    start = threading.Barrier(6)

    def call() -> None:
        own = Api(caller.app, caller.system, caller.app.test_client(), caller.token)
        start.wait()
        found.append(own.get("/v1/models").status_code)

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) <= {200, 503}
    assert caller.get("/v1/models").status_code == 200
