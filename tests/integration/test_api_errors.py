"""Whatever comes in, what goes out is a documented status with problem details, never HTML."""

import json
import threading

import pytest

from backtalk.db import Database
from services.api import errors
from tests import factories
from tests.clients import Api, assert_problem

NOBODY = "01890000-0000-7000-8000-000000000000"
CORRECTIONS = f"/v1/predictions/{NOBODY}/corrections"


@pytest.fixture
def prediction(database: Database) -> str:
    """Of model `animals`, which reads it as a cat."""
    with database.transaction() as session:
        model = factories.make_model(session)
        return str(factories.make_prediction(session, model).id)


# --- what does not reach a view ----------------------------------------------------------------
@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "/v1/nothing", "/v1/models/", "/nothing", "/v1/runs/a/b", "/v1//models"]
)
def test_an_unknown_path_is_404(api: Api, path: str) -> None:
    assert_problem(api.get(path, headers={"Accept": "text/html"}), 404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/models", "GET"),
        ("GET", CORRECTIONS, "POST"),
        ("GET", "/v1/models/animals:predict", "POST"),
        ("GET", "/v1/models/animals:rollback", "POST"),
        ("PATCH", "/v1/models/animals/policy", "PUT"),
        ("TRACE", "/v1/models", "GET"),
    ],
)
def test_the_wrong_method_is_405_and_says_which_are_right(
    api: Api, method: str, path: str, allowed: str
) -> None:
    response = api.call(method, path)
    assert_problem(response, 405, "method-not-allowed")
    assert allowed in response.headers["Allow"]


def test_every_answer_carries_a_request_id(api: Api) -> None:
    first, second = api.get("/v1/models"), api.get("/v1/models")
    assert first.headers["X-Request-Id"] != second.headers["X-Request-Id"]
    assert api.get("/nothing").headers["X-Request-Id"]
    assert api.get("/docs").headers["X-Request-Id"]


def test_a_sane_request_id_is_taken_over_and_another_is_not(api: Api) -> None:
    given = api.get("/nothing", headers={"X-Request-Id": "trace-7/a:b"})
    assert assert_problem(given, 404)["request_id"] == "trace-7/a:b"
    for strange in ("", "a b", "x" * 129, "<script>", "é"):
        assert api.get("/livez", headers={"X-Request-Id": strange}).headers["X-Request-Id"] != strange


# --- bodies ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"no json",
        b'{"label": "dog",}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 50_000,
    ],
)
def test_what_is_no_json_is_400(api: Api, prediction: str, body: bytes) -> None:
    path = f"/v1/predictions/{prediction}/corrections"
    assert_problem(api.post(path, data=body, content_type="application/json"), 400, "bad-request")


@pytest.mark.parametrize(
    "body",
    [
        [],
        "dog",
        1,
        '{"label": "dog"}',
        {},
        {"label": None},
        {"label": 3},
        {"label": ""},
        {"label": ["dog"]},
        {"label": "x" * 201},
        {"label": "a\x00b"},
        {"label": "dog", "reporter": "a\x00b"},
        {"label": "dog", "note": "x" * 2001},
        {"label": "dog", "lable": "dog"},
    ],
)
def test_json_of_another_shape_is_422(api: Api, prediction: str, body: object) -> None:
    assert_problem(api.post(f"/v1/predictions/{prediction}/corrections", json=body), 422)


@pytest.mark.parametrize("body", [b"null", b'{"label": "dog", "note": "\\ud800"}', b'{"label": NaN}'])
def test_what_only_python_or_nobody_calls_json_is_422(api: Api, prediction: str, body: bytes) -> None:
    path = f"/v1/predictions/{prediction}/corrections"
    assert_problem(api.post(path, data=body, content_type="application/json"), 422)


def test_what_is_wrong_is_named_for_machines_too(api: Api, prediction: str) -> None:
    problem = assert_problem(
        api.post(f"/v1/predictions/{prediction}/corrections", json={"lable": "dog"}), 422
    )
    assert {each["at"] for each in problem["errors"]} == {"label", "lable"}
    assert "label: Field required" in problem["detail"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", None])
def test_a_body_that_is_not_called_json_is_415(api: Api, prediction: str, content_type: str | None) -> None:
    path = f"/v1/predictions/{prediction}/corrections"
    response = api.post(path, data=json.dumps({"label": "dog"}), content_type=content_type)
    problem = assert_problem(response, 415, "unsupported-media-type")
    assert "application/json" in problem["detail"]


def test_a_body_that_is_too_large_is_413(api: Api, prediction: str) -> None:
    path = f"/v1/predictions/{prediction}/corrections"
    assert_problem(api.post(path, json={"label": "dog", "note": "x" * 300_000}), 413)
    huge = api.post("/v1/models/animals:predict", data=b"\xff\xd8" + bytes(30 * 2**20))
    assert_problem(huge, 413)


def test_an_empty_policy_body_resets_nothing(api: Api, prediction: str) -> None:
    assert_problem(api.put("/v1/models/animals/policy"), 415)
    assert_problem(api.put("/v1/models/animals/policy", content_type="application/json"), 400)


# --- paths, queries, headers -------------------------------------------------------------------
@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/nobody",
        "/v1/models/a%00b",
        "/v1/models/%F0%9F%90%88",
        "/v1/models/nobody/versions",
        "/v1/models/nobody/runs",
        "/v1/models/nobody/policy",
        "/v1/models/nobody/triggers",
        "/v1/models/nobody/review",
        "/v1/models/animals/versions/99",
        "/v1/models/animals/versions/9007199254740991",
        "/v1/models/animals/versions/99/metadata",
        f"/v1/runs/{NOBODY}",
        "/v1/runs/x",
        "/v1/runs/a%00b",
        f"/v1/corrections/{NOBODY}",
        "/v1/corrections/x",
        f"/v1/review/{NOBODY}/image",
        "/v1/review/x/image",
    ],
)
def test_what_is_not_there_is_404(api: Api, prediction: str, path: str) -> None:
    assert_problem(api.get(path), 404)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CORRECTIONS, {"label": "dog"}),
        ("/v1/predictions/x/corrections", {"label": "dog"}),
        (f"/v1/predictions/{NOBODY}/confirmations", {}),
        (f"/v1/review/{NOBODY}/decisions", {"action": "approve"}),
        ("/v1/review/x/decisions", {"action": "approve"}),
        ("/v1/models/nobody/runs", {"kind": "head"}),
        ("/v1/models/nobody:rollback", {}),
        ("/v1/models/nobody/versions/1:promote", {}),
        ("/v1/models/animals/versions/99:promote", {}),
    ],
)
def test_acting_on_what_is_not_there_is_404(api: Api, prediction: str, path: str, body: object) -> None:
    assert_problem(api.post(path, json=body, headers={"If-Match": '"1"'}), 404)


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "limit=1.5", "limit=-1"])
def test_a_limit_out_of_bounds_is_422(api: Api, prediction: str, query: str) -> None:
    for path in ("/v1/models", "/v1/models/animals/runs", "/v1/models/animals/review"):
        assert_problem(api.get(f"{path}?{query}"), 422, "invalid-input")


@pytest.mark.parametrize("cursor", ["x", "%00", "W10", "eyJhIjoxfQ", "WyJpZCIsICJ4Il0", "é", "x" * 300])
def test_a_strange_cursor_is_400(api: Api, prediction: str, cursor: str) -> None:
    for path in ("/v1/models", "/v1/models/animals/versions", "/v1/models/animals/runs"):
        assert_problem(api.get(f"{path}?cursor={cursor}"), 400, "invalid-cursor")


def test_a_cursor_of_another_list_is_400(api: Api, database: Database, prediction: str) -> None:
    with database.transaction() as session:
        factories.make_model(session, "birds")
    cursor = api.get("/v1/models?limit=1").get_json()["next"]
    assert api.get(f"/v1/models?cursor={cursor}").status_code == 200
    assert_problem(api.get(f"/v1/models/animals/versions?cursor={cursor}"), 400, "invalid-cursor")


@pytest.mark.parametrize("key", ["a b", "x" * 256, "é"])
def test_a_strange_idempotency_key_is_422(api: Api, prediction: str, key: str) -> None:
    response = api.post(
        f"/v1/predictions/{prediction}/corrections", json={"label": "dog"}, headers={"Idempotency-Key": key}
    )
    assert_problem(response, 422)


# --- predict, before it has looked for a model -------------------------------------------------
@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"data": b""}, 400),
        ({"data": b"{", "content_type": "application/json"}, 400),
        ({"data": b"[" * 100_000, "content_type": "application/json"}, 400),
        ({"json": []}, 400),
        ({"json": {"signature_name": 7}}, 400),
        ({"json": {"instances": [{"b64": "!"}]}}, 422),
        ({"data": {}, "content_type": "multipart/form-data"}, 400),
    ],
)
def test_predict_refuses_bodies_without_an_image(api: Api, values: dict[str, object], status: int) -> None:
    assert_problem(api.post("/v1/models/animals:predict", **values), status)


def test_predict_with_an_unknown_model_is_404(api: Api) -> None:
    assert_problem(api.post("/v1/models/nobody:predict", data=b"\xff\xd8\xff"), 404, "model-not-found")


# --- the machine -------------------------------------------------------------------------------
def test_a_fault_of_our_own_is_500_and_tells_nothing(api: Api) -> None:
    def fail() -> str:
        raise RuntimeError("secret detail")

    api.app.add_url_rule("/v1/fail", view_func=fail)
    response = api.get("/v1/fail")
    assert_problem(response, 500, "internal-server-error")
    assert "secret" not in response.text


def test_every_condition_has_a_status() -> None:
    kinds = [kind for kind in vars(errors.errors).values() if isinstance(kind, type)]
    assert len(kinds) > 20
    for kind in kinds:
        assert any(parent in errors.STATUSES for parent in kind.__mro__), kind


def test_many_bad_calls_at_once_are_answered_like_one(api: Api, prediction: str) -> None:
    found: list[int] = []

    def call() -> None:
        own = Api(api.app, api.system, api.app.test_client(), api.token)
        response = own.post(
            f"/v1/predictions/{prediction}/corrections", data=b"{", content_type="application/json"
        )
        found.append(response.status_code)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [400] * 8
