"""Keys and scopes: who gets in, where, and how soon a key that was revoked does not."""

import pytest
from sqlalchemy import func, select, update

from backtalk import identity
from backtalk.db import Database
from backtalk.states import Scope
from backtalk.tables import ApiKey
from services.api import auth
from tests import factories
from tests.clients import Api, assert_problem

NOBODY = "01890000-0000-7000-8000-000000000000"

#: Every call of the API with the scope that it asks for; None: any valid key.
CALLS = [
    ("GET", "/v1/models", None),
    ("GET", "/v1/models/animals", None),
    ("GET", "/v1/models/animals/metadata", None),
    ("GET", "/v1/models/animals/versions", None),
    ("GET", "/v1/models/animals/versions/1", None),
    ("GET", "/v1/models/animals/versions/1/metadata", None),
    ("GET", "/v1/models/animals/labels/live", None),
    ("GET", "/v1/models/animals/labels/live/metadata", None),
    ("GET", "/v1/models/animals/runs", None),
    ("GET", f"/v1/runs/{NOBODY}", None),
    ("GET", "/v1/models/animals/policy", None),
    ("GET", "/v1/models/animals/triggers", None),
    ("GET", f"/v1/corrections/{NOBODY}", None),
    ("POST", "/v1/models/animals:predict", Scope.PREDICT),
    ("POST", "/v1/models/animals/predictions", Scope.PREDICT),
    ("POST", "/v1/models/animals/versions/1:predict", Scope.PREDICT),
    ("POST", "/v1/models/animals/labels/live:predict", Scope.PREDICT),
    ("POST", "/v1/models/animals:classify", Scope.PREDICT),
    ("POST", "/v1/models/animals/versions/1:regress", Scope.PREDICT),
    ("POST", "/v1/models/animals/labels/live:classify", Scope.PREDICT),
    ("POST", f"/v1/predictions/{NOBODY}/corrections", Scope.FEEDBACK),
    ("POST", f"/v1/predictions/{NOBODY}/confirmations", Scope.FEEDBACK),
    ("GET", "/v1/models/animals/review", Scope.REVIEW),
    ("GET", "/v1/models/animals/decisions", Scope.REVIEW),
    ("GET", f"/v1/review/{NOBODY}/image", Scope.REVIEW),
    ("POST", f"/v1/review/{NOBODY}/decisions", Scope.REVIEW),
    ("POST", "/v1/models/animals/runs", Scope.TRAIN),
    ("PUT", "/v1/models/animals/policy", Scope.ADMIN),
    ("POST", "/v1/models/animals/versions/1:promote", Scope.PROMOTE),
    ("POST", "/v1/models/animals:rollback", Scope.PROMOTE),
    ("GET", f"/v1/predictions/{NOBODY}", None),
    ("DELETE", f"/v1/images/{NOBODY}", Scope.ADMIN),
    ("POST", "/v1/retractions", Scope.ADMIN),
    ("GET", "/v1/models/animals/reporters", Scope.REVIEW),
    ("GET", "/v1/models/animals/accuracy", None),
    ("GET", "/v1/models/animals/queues", Scope.REVIEW),
    ("GET", "/v1/models/animals/reviewers", Scope.ADMIN),
    ("GET", "/v1/models/animals/versions/1/files/float32", Scope.TRAIN),
]


@pytest.fixture(autouse=True)
def model(database: Database) -> None:
    with database.transaction() as session:
        factories.make_model(session)


@pytest.mark.parametrize(("method", "path", "scope"), CALLS)
def test_without_a_key_nothing_is_answered(api: Api, method: str, path: str, scope: Scope | None) -> None:
    response = api.client.open(path, method=method)
    assert_problem(response, 401, "not-authenticated")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(("method", "path", "scope"), CALLS)
def test_a_key_without_the_scope_is_403(api: Api, method: str, path: str, scope: Scope | None) -> None:
    others = [str(other) for other in Scope if other not in {scope, Scope.ADMIN}]
    response = api.as_key(*others).call(method, path)
    if scope is None:
        assert response.status_code in {200, 404}
    else:
        problem = assert_problem(response, 403, "not-allowed")
        assert problem["scope"] == scope


@pytest.mark.parametrize(("method", "path", "scope"), CALLS)
def test_the_scope_or_admin_lets_a_call_in(api: Api, method: str, path: str, scope: Scope | None) -> None:
    for given in {scope or Scope.PREDICT, Scope.ADMIN}:
        assert api.as_key(str(given)).call(method, path).status_code not in {401, 403}


def test_every_route_of_the_api_is_guarded_and_tested(api: Api) -> None:
    routes = [rule for rule in api.app.url_map.iter_rules() if rule.rule.startswith("/v1")]
    for rule in routes:
        assert auth.is_guarded(api.app.view_functions[rule.endpoint]), rule
    assert len(routes) == len(CALLS)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "bearer x",
        "Basic YTpi",
        "Token x",
        "Bearer bt_x",
        "Bearer \u00e9",
        "Bearer a b",
    ],
)
def test_what_is_no_key_is_401(api: Api, header: str) -> None:
    assert_problem(api.client.get("/v1/models", headers={"Authorization": header}), 401)


def test_the_key_is_asked_for_before_anything_else_is_looked_at(api: Api) -> None:
    response = api.client.post(f"/v1/predictions/{NOBODY}/corrections", data=b"{")
    assert_problem(response, 401)
    assert_problem(api.client.get("/v1/models?limit=x"), 401)


def test_a_key_in_the_address_opens_nothing(api: Api) -> None:
    assert_problem(api.client.get(f"/v1/models?key={api.token}&access_token={api.token}"), 401)


def test_a_session_cookie_of_the_pages_opens_nothing(api: Api, database: Database) -> None:
    with database.transaction() as session:
        identity.create_user(session, name="alice", password="long enough here", scopes=["admin"])
        token, _ = identity.sign_in(session, "alice", "long enough here")
    api.client.set_cookie("backtalk", token)
    assert_problem(api.client.get("/v1/models"), 401)


def test_a_revoked_key_is_refused_when_the_cache_has_let_go(
    api: Api, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert api.get("/v1/models").status_code == 200
    with database.transaction() as session:
        identity.revoke_key(session, api.token.split("_")[1])
    assert auth.CACHE_S <= 5
    api.app.extensions["backtalk-keys"]._known.clear()
    assert_problem(api.get("/v1/models"), 401)


def test_the_cache_lets_go_by_itself() -> None:
    cache = auth.KeyCache(ttl_s=0)
    cache.keep(b"digest", identity.Caller("key:a", "a", frozenset()))
    assert cache.find(b"digest") is None


def test_a_busy_key_is_looked_up_once_and_its_use_noted(api: Api, database: Database) -> None:
    api.get("/v1/models")
    with database.transaction() as session:
        assert session.scalars(select(ApiKey.last_used_at)).one() is not None
        session.execute(update(ApiKey).values(last_used_at=func.now() - func.make_interval(0, 0, 0, 1)))
    api.get("/v1/models")
    with database.reading() as session:
        aged = select(func.now() - ApiKey.last_used_at)
        assert session.scalars(aged).one().total_seconds() > 3600
