"""A caller of the real app over real Postgres and Redis, with a key of its own."""

from dataclasses import dataclass
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from backtalk import identity
from backtalk.serving import LiveModels
from backtalk.states import Scope
from backtalk.system import System


@dataclass
class Api:
    """Calls with one key. `system` is what the app runs on."""

    app: Flask
    system: System
    client: FlaskClient
    token: str

    def call(self, method: str, path: str, **values: Any) -> TestResponse:
        headers = {"Authorization": f"Bearer {self.token}"} | values.pop("headers", {})
        return self.client.open(path, method=method, headers=headers, **values)

    def get(self, path: str, **values: Any) -> TestResponse:
        return self.call("GET", path, **values)

    def post(self, path: str, **values: Any) -> TestResponse:
        return self.call("POST", path, **values)

    def put(self, path: str, **values: Any) -> TestResponse:
        return self.call("PUT", path, **values)

    def as_key(self, *scopes: str, **values: Any) -> "Api":
        """The same app, called with a new key of these scopes."""
        token = make_key(self.system, *scopes, **values)
        return Api(self.app, self.system, self.app.test_client(), token)


def make_key(system: System, *scopes: str, **values: Any) -> str:
    given = {"name": "app"} | values
    with system.db.transaction() as session:
        return identity.create_key(session, scopes=scopes or [str(scope) for scope in Scope], **given)


def make_api(system: System) -> Api:
    """The app with pages and API; its models are looked up when asked, with no thread polling."""
    from services.wsgi import create_app

    app = create_app(system=system, live=LiveModels(system))
    return Api(app, system, app.test_client(), make_key(system))


def assert_problem(response: TestResponse, status: int, kind: str | None = None) -> dict[str, Any]:
    """That this is a whole problem (RFC 9457) of that status, and what it says."""
    assert response.status_code == status, response.text
    assert response.mimetype == "application/problem+json", response.text
    problem: dict[str, Any] = response.get_json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem["request_id"] == response.headers["X-Request-Id"]
    assert kind is None or problem["type"] == f"urn:backtalk:problem:{kind}", problem
    return problem
