"""Health, figures, and the document that describes the API."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import text

from backtalk import schema
from backtalk.db import Database
from backtalk.events import RunRequested
from backtalk.outbox import emit
from services.api import auth
from tests import factories
from tests.clients import Api, assert_problem
from tests.served import go_live, make_jpeg, make_served_model


# --- health ------------------------------------------------------------------------------------
def test_livez_touches_nothing_and_asks_for_no_key(api: Api) -> None:
    api.system.close()
    response = api.client.get("/livez")
    assert (response.status_code, response.get_json()) == (200, {"status": "alive"})


def test_readyz_is_200_with_no_model_at_all(api: Api) -> None:
    response = api.client.get("/readyz")
    assert response.status_code == 200
    assert response.get_json() == {
        "status": "ready",
        "models": [],
        "store": "writable",
        "degraded": [],
    }


def test_a_model_that_never_had_a_version_does_not_count(api: Api, database: Database) -> None:
    with database.transaction() as session:
        factories.make_model(session, live=False)
    assert api.client.get("/readyz").status_code == 200


def test_a_model_with_no_version_in_service_is_503(api: Api, database: Database) -> None:
    with database.transaction() as session:
        factories.make_model(session)
    problem = assert_problem(api.client.get("/readyz"), 503, "not-ready")
    assert "animals" in problem["failed"][0]


def test_a_model_in_service_is_ready_and_one_that_lags_is_degraded(api: Api, tiny_folder: Path) -> None:
    make_served_model(api.system, tiny_folder)
    ready = api.client.get("/readyz")
    assert (ready.status_code, ready.get_json()["degraded"]) == (200, [])
    assert ready.get_json()["models"][0]["version"] == 1
    (api.system.versions.resolve("animals/2") / "head.npz").write_bytes(b"damaged")
    go_live(api.system, "animals", 2)
    api.app.extensions["backtalk"].live.versions.refresh()
    lagging = api.client.get("/readyz")
    assert lagging.status_code == 200
    assert "animals answers with version 1" in lagging.get_json()["degraded"][0]
    status, other = api.get("/v1/models/animals").get_json()["model_version_status"]
    assert (status["version"], status["state"], status["status"]["error_code"]) == ("2", "END", "UNKNOWN")
    assert (other["version"], other["state"]) == ("1", "AVAILABLE")
    (status,) = api.get("/v1/models/animals/versions/1").get_json()["model_version_status"]
    assert status["state"] == "AVAILABLE"


def test_swaps_and_predictions_are_counted(api: Api, tiny_folder: Path) -> None:
    make_served_model(api.system, tiny_folder)
    live = api.app.extensions["backtalk"].live
    api.post("/v1/models/animals:predict", data=make_jpeg())
    assert 'backtalk_swaps_total{model="animals"} 0.0' in api.client.get("/metrics").text
    go_live(api.system, "animals", 2)
    live.versions.refresh()
    figures = api.client.get("/metrics").text
    assert 'backtalk_predictions_total{model="animals",version="1"} 1.0' in figures
    assert 'backtalk_swaps_total{model="animals"} 1.0' in figures
    assert 'backtalk_serving_version{model="animals"} 2.0' in figures


def test_a_redis_that_is_nearly_full_and_a_relay_that_is_late_are_told(
    api: Api, database: Database, redis_url: str
) -> None:
    with database.transaction() as session:
        model = factories.make_model(session, live=False)
        emit(session, RunRequested(model_id=model.id, run_id="1", kind="head"))
        session.execute(text("UPDATE outbox SET created_at = now() - interval '1 minute'"))
    with redis.Redis.from_url(redis_url) as client:
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory", int(used * 1.05))
        try:
            ready, figures = api.client.get("/readyz"), api.client.get("/metrics").text
        finally:
            client.config_set("maxmemory", 0)
    assert ready.status_code == 200
    full, late = ready.get_json()["degraded"]
    assert full.startswith("Redis is nearly full")
    assert late.startswith("1 events wait for the relay, the oldest for 6")
    assert "backtalk_redis_up 1.0" in figures
    [limit] = [line for line in figures.splitlines() if line.startswith("backtalk_redis_limit_bytes ")]
    assert float(limit.split()[1]) == int(used * 1.05)


@pytest.mark.parametrize(
    ("revision", "oldest_code", "ready"),
    [
        ("0005", None, False),  # behind
        ("9999", "9998", False),  # ahead, and something was taken away
        ("9999", schema.newest_revision(), True),  # ahead, and only more
        ("9999", None, False),  # who knows
    ],
)
def test_a_database_at_another_migration_is_503_unless_it_is_ahead_and_only_has_more(
    api: Api, owner_database: Database, revision: str, oldest_code: str | None, ready: bool
) -> None:
    def pretend(revision: str, oldest_code: str | None) -> None:
        with owner_database.transaction() as session:
            session.execute(
                text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision}
            )
            note = f"'oldest code: {oldest_code}'" if oldest_code else "NULL"
            session.execute(text(f"COMMENT ON TABLE alembic_version IS {note}"))

    pretend(revision, oldest_code)
    try:
        response = api.client.get("/readyz")
        if ready:
            assert response.status_code == 200
        else:
            assert revision in assert_problem(response, 503, "not-ready")["detail"]
    finally:
        pretend(schema.newest_revision(), schema.newest_revision())


# --- figures -----------------------------------------------------------------------------------
def test_metrics_count_requests_by_route_never_by_path(api: Api) -> None:
    for name in ("a", "b"):
        api.get(f"/v1/models/{name}")
        api.get(f"/nothing/{name}")
    figures = api.client.get("/metrics").text
    route = 'method="GET",route="/v1/models/<name:model>",status="404"'
    assert f"backtalk_http_requests_total{{{route}}} 2.0" in figures
    assert 'backtalk_http_requests_total{method="any",route="unknown",status="404"} 2.0' in figures
    assert "nothing" not in figures
    assert "backtalk_http_request_seconds_bucket" in figures


def test_metrics_tell_whether_the_loop_moves(api: Api, database: Database) -> None:
    with database.transaction() as session:
        model = factories.make_model(session)
        run = factories.make_run(session, model)
        emit(session, RunRequested(model_id=model.id, run_id=str(run.id), kind="head"))
        prediction = factories.make_prediction(session, model)
        factories.make_item(session, prediction)
    figures = api.client.get("/metrics").text
    for line in (
        "backtalk_database_up 1.0",
        "backtalk_outbox_events 1.0",
        'backtalk_open_review_items{model="animals"} 1.0',
        'backtalk_active_runs{kind="head",model="animals",state="queued"} 1.0',
        'backtalk_wanted_generation{model="animals"} 1.0',
        'backtalk_serving_generation{model="animals"} 0.0',
        'backtalk_load_failing{model="animals"} 1.0',
        'backtalk_swaps_total{model="animals"} 0.0',
    ):
        assert line in figures


# --- the document ------------------------------------------------------------------------------
@pytest.fixture
def document(api: Api) -> dict[str, Any]:
    response = api.client.get("/openapi.json")
    assert response.status_code == 200
    found: dict[str, Any] = response.get_json()
    return found


def find_all(node: Any, name: str) -> Iterator[Any]:
    if isinstance(node, dict):
        if name in node:
            yield node[name]
        for value in node.values():
            yield from find_all(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from find_all(value, name)


def test_the_document_is_openapi_3_1_and_holds_every_route(api: Api, document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in api.app.url_map.iter_rules()
        if auth.is_guarded(api.app.view_functions[rule.endpoint])
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    described = {(path, method) for path, operations in document["paths"].items() for method in operations}
    assert described == routes | {("/livez", "get"), ("/readyz", "get"), ("/metrics", "get")}


def test_every_reference_of_the_document_resolves(document: dict[str, Any]) -> None:
    references = set(find_all(document, "$ref"))
    assert "#/components/schemas/Problem" in references
    for reference in references:
        node: Any = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
        assert node


def test_every_path_parameter_is_described_and_nothing_else(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            said = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert said == set(re.findall(r"{(\w+)}", path)), path


def test_every_operation_has_a_name_of_its_own_and_says_how_it_fails(document: dict[str, Any]) -> None:
    operations = {
        path: operation for path, found in document["paths"].items() for operation in found.values()
    }
    names = [operation["operationId"] for found in document["paths"].values() for operation in found.values()]
    assert len(names) == len(set(names))
    for path, operation in operations.items():
        assert operation["summary"], path
        failures = {s: r for s, r in operation["responses"].items() if s >= "400"}
        assert path in {"/livez", "/metrics"} or failures, path
        for response in failures.values():
            assert list(response["content"]) == ["application/problem+json"], path


def test_the_document_asks_for_a_key_except_where_none_is_needed(document: dict[str, Any]) -> None:
    assert document["security"] == [{"key": []}]
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    open_to_all = {
        path
        for path, found in document["paths"].items()
        for operation in found.values()
        if operation.get("security") == []
    }
    assert open_to_all == {"/livez", "/readyz", "/metrics"}


def test_answers_are_as_the_document_says(api: Api, database: Database, document: dict[str, Any]) -> None:
    with database.transaction() as session:
        model = factories.make_model(session)
        run = factories.make_run(session, model)
        prediction = factories.make_prediction(session, model)
        correction = factories.make_correction(session, prediction, "dog")
        factories.make_item(session, prediction, correction)
    for path, values in (
        ("/v1/models", {}),
        ("/v1/models/{model}", {"model": "animals"}),
        ("/v1/models/{model}/metadata", {"model": "animals"}),
        ("/v1/models/{model}/versions", {"model": "animals"}),
        ("/v1/models/{model}/versions/{number}", {"model": "animals", "number": 1}),
        ("/v1/models/{model}/runs", {"model": "animals"}),
        ("/v1/models/{model}/policy", {"model": "animals"}),
        ("/v1/models/{model}/triggers", {"model": "animals"}),
        ("/v1/models/{model}/review", {"model": "animals"}),
        ("/v1/runs/{run}", {"run": run.id}),
        ("/v1/corrections/{correction}", {"correction": correction.id}),
    ):
        response = api.get(path.format(**values))
        assert response.status_code == 200, response.text
        described = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"][
            "schema"
        ]
        name = described["$ref"].rsplit("/", 1)[1]
        assert set(response.get_json()) == set(document["components"]["schemas"][name]["properties"]), path


def test_the_page_loads_nothing_from_elsewhere(api: Api) -> None:
    page = api.client.get("/docs")
    assert page.mimetype == "text/html"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 4
    for address in loaded:
        assert address.startswith("/docs/"), address
        assert api.client.get(address).status_code == 200, address
    assert "validatorUrl: null" in api.client.get("/docs/start.js").text


@pytest.mark.parametrize(
    "name", ["../plugins.py", "%2e%2e/plugins.py", "js/../../../plugins.py", "%2fetc/passwd"]
)
def test_the_page_gives_out_nothing_but_its_assets(api: Api, name: str) -> None:
    assert api.client.get(f"/docs/assets/{name}").status_code == 404
