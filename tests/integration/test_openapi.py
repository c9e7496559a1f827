"""The real server does what its OpenAPI document says, and nothing else: with Redis, and without."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path

import pytest
from sqlalchemy import select

from backtalk.config import Settings
from backtalk.servers import RedisServer
from backtalk.system import System
from backtalk.tables import Model, Prediction
from tests import factories
from tests.clients import make_key
from tests.contract import Summary, call_as_documented
from tests.gunicorns import Gunicorn, serve_gunicorn
from tests.served import make_jpeg, make_served_model

CHECKS = 14  # how many schemathesis 4.32 has
Call = Callable[..., Summary]


@pytest.fixture
def token(system: System) -> str:
    return make_key(system)


@contextmanager
def serve(settings: Settings, system: System, tiny_folder: Path, token: str) -> Iterator[Gunicorn]:
    """A server with something of everything: predictions, statements, items to review, versions, runs."""
    make_served_model(system, tiny_folder, versions=4)
    make_served_model(system, tiny_folder, "solar-cells")
    with serve_gunicorn(settings, FEEDBACK_PER_MINUTE="1000000") as server:
        for seed in range(12):
            assert ask(server, token, make_jpeg(seed)).status == 200
        with system.db.transaction() as session:
            for prediction in session.scalars(select(Prediction)):
                factories.make_item(session, prediction)
            factories.make_run(session, session.scalars(select(Model)).first(), state="failed")
        yield server


def ask(server: Gunicorn, token: str, picture: bytes) -> HTTPResponse:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/jpeg"}
    return server.ask("POST", "/v1/models/animals:predict", body=picture, headers=headers)


def delete_image_of(server: Gunicorn, token: str, predicted: HTTPResponse) -> HTTPResponse:
    """A deletion that finds its image: among calls made by chance there may be none."""
    prediction = json.loads(predicted.body)["predictions"][0]["id"]  # type: ignore[attr-defined]
    headers = {"Authorization": f"Bearer {token}"}
    record = server.ask("GET", f"/v1/predictions/{prediction}", headers=headers)
    image = json.loads(record.body)["image"]  # type: ignore[attr-defined]
    return server.ask("DELETE", f"/v1/images/{image}", headers=headers)


def call(server: Gunicorn, token: str, **how: object) -> Summary:
    """Everything that is documented, and whether the server is still there afterwards."""
    summary = call_as_documented(f"http://127.0.0.1:{server.port}", token, **how)  # type: ignore[arg-type]
    print(summary.describe())  # noqa: T201  # `-rA` or `-s` shows it
    assert summary.failures == [], "\n\n".join(summary.failures[:10])
    assert len(summary.operations) == summary.documented
    assert len(summary.checks) == CHECKS
    predicted = ask(server, token, make_jpeg())
    assert predicted.status == 200
    assert delete_image_of(server, token, predicted).status == 204
    return summary


def test_calls_and_chains_of_calls_are_answered_as_documented(
    settings: Settings, system: System, tiny_folder: Path, token: str
) -> None:
    with serve(settings, system, tiny_folder, token) as server:
        summary = call(server, token, examples=2, chains=30, coverage=False)
    assert summary.chained > 5, "the links in the document lead nowhere"


@pytest.mark.slow
def test_thousands_of_calls_are_answered_as_documented(
    settings: Settings, system: System, tiny_folder: Path, token: str
) -> None:
    with serve(settings, system, tiny_folder, token) as server:
        summary = call(server, token, examples=40, chains=600, coverage=True)
    assert summary.calls > 2000
    assert summary.chained > 50
    assert {200, 201, 202, 401, 404, 405, 409, 412, 415, 422} <= set(summary.statuses)


@pytest.mark.slow
def test_they_are_answered_in_the_same_way_without_redis(
    settings: Settings, system: System, tiny_folder: Path, token: str, server_folder: Path
) -> None:
    redis = RedisServer.start(server_folder / "redis-that-stops")
    away = settings.model_copy(update={"redis_url": redis.url()})
    with serve(away, system, tiny_folder, token) as server:
        redis.stop()
        summary = call(server, token, examples=15, chains=200, coverage=True)
    assert summary.calls > 1000
    assert {200, 201, 202} <= set(summary.statuses)
    assert 503 not in summary.statuses
