"""Sign-in, the session cookie and the guards, through Flask's test client on real rows."""

import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
from flask.testing import FlaskClient
from sqlalchemy import func

from backtalk import bootstrap
from backtalk.config import Settings
from backtalk.states import Scope
from backtalk.system import System
from backtalk.tables import ReviewItem, UserSession
from services.wsgi import create_app
from tests import factories, showroom


@pytest.fixture
def client(system: System) -> FlaskClient:
    return create_app(system=system).test_client()


def sign_in(client: FlaskClient, name: str = "ada", **form: str):  # type: ignore[no-untyped-def]
    return client.post("/sign-in", data={"name": name, "password": showroom.PASSWORD} | form)


def read_csrf(client: FlaskClient) -> str:
    found = re.search(r'data-csrf="([^"]+)"', client.get("/").text)
    assert found
    return found[1]


def test_a_page_without_a_session_leads_to_the_sign_in_and_back(client, system):
    showroom.add_person(system)
    asked = client.get("/models/animals?cursor=x")
    assert asked.status_code == 303
    assert asked.location == "/sign-in?next=/models/animals?cursor%3Dx"
    assert sign_in(client, next="/models/animals?cursor=x").location == "/models/animals?cursor=x"


@pytest.mark.parametrize("target", ["https://elsewhere.example", "//elsewhere.example", "/\\elsewhere", "x"])
def test_the_way_back_never_leads_to_another_site(client, system, target):
    showroom.add_person(system)
    assert sign_in(client, next=target).location == "/"


def test_a_wrong_password_is_said_in_a_sentence_and_opens_nothing(client, system):
    showroom.add_person(system)
    answer = sign_in(client, password="wrong horse battery")
    assert answer.status_code == 401
    assert "The name or the password is wrong." in answer.text
    assert client.get("/").status_code == 303


def test_the_session_cookie_is_out_of_reach_of_scripts_and_other_sites(client, system):
    showroom.add_person(system)
    cookie = sign_in(client).headers["Set-Cookie"]
    assert cookie.startswith("backtalk=")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Path=/" in cookie


@pytest.fixture
def secure_system(settings: Settings) -> Iterator[System]:
    built = bootstrap.build(settings.model_copy(update={"cookie_secure": True}), pool_size=5)
    yield built
    built.close()


def test_behind_https_the_cookie_is_secure_and_bound_to_the_host(secure_system):
    showroom.add_person(secure_system)
    client = create_app(system=secure_system).test_client()
    cookie = sign_in(client).headers["Set-Cookie"]
    assert cookie.startswith("__Host-backtalk=")
    assert "Secure" in cookie
    assert "Domain" not in cookie


def test_a_post_without_the_sessions_token_is_refused(client, system):
    showroom.add_person(system)
    sign_in(client)
    for token in ("", "x" * 43, "é"):
        refused = client.post("/sign-out", data={"csrf_token": token})
        assert refused.status_code == 403
        assert "Reload it and try again" in refused.text
    assert client.get("/").status_code == 200


def test_the_token_of_another_session_does_not_count(client, system):
    showroom.add_person(system)
    sign_in(client)
    other = create_app(system=system).test_client()
    sign_in(other)
    assert client.post("/sign-out", data={"csrf_token": read_csrf(other)}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
    ],
)
def test_a_post_from_another_site_is_refused_even_with_the_token(client, system, headers):
    showroom.add_person(system)
    sign_in(client)
    data = {"csrf_token": read_csrf(client)}
    assert client.post("/sign-out", data=data, headers=headers).status_code == 403
    assert client.post("/sign-in", data={"name": "ada"}, headers=headers).status_code == 403
    assert client.get("/").status_code == 200


def test_signing_out_ends_the_session_on_the_server_and_gives_back_what_was_held(client, system):
    showroom.add_person(system)
    with system.db.transaction() as session:
        item = factories.make_item(session, factories.make_prediction(session, factories.make_model(session)))
        item.leased_by, item.lease_until = "user:ada", func.now() + timedelta(minutes=5)
    token = sign_in(client).headers["Set-Cookie"].split("=", 1)[1].split(";")[0]
    assert client.post("/sign-out", data={"csrf_token": read_csrf(client)}).status_code == 303
    client.set_cookie("backtalk", token)
    assert client.get("/").status_code == 303
    with system.db.reading() as session:
        assert factories.count(session, UserSession) == 0
        assert session.get_one(ReviewItem, item.id).leased_by is None


def test_a_fragment_asked_for_without_a_session_sends_the_page_to_the_sign_in(client):
    answer = client.get("/models/animals/live", headers={"HX-Request": "true"})
    assert answer.headers["HX-Redirect"] == "/sign-in"


def test_json_asked_for_without_a_session_says_so(client):
    answer = client.post("/review/animals/lease", json={}, headers={"Accept": "application/json"})
    assert answer.status_code == 401
    assert answer.json["condition"] == "NotAuthenticated"


def test_each_page_forbids_everything_from_elsewhere_and_every_inline_script(client):
    answer = client.get("/sign-in")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"


def test_assets_are_kept_for_ever_under_the_digest_of_what_they_hold(client):
    address = re.search(r'href="(/static/[^"]+base\.css)"', client.get("/sign-in").text)
    assert address
    assert "immutable" in client.get(address[1]).headers["Cache-Control"]
    assert client.get("/static/0000/base.css").headers["Cache-Control"] == "no-cache"
    assert client.get("/static/0000/../site.py").status_code == 404


@pytest.mark.parametrize(
    ("scopes", "path", "status"),
    [
        ((Scope.PREDICT,), "/review/animals", 403),
        ((Scope.PREDICT,), "/models/animals", 200),
        ((Scope.REVIEW,), "/review/animals", 200),
        ((Scope.REVIEW,), "/models/animals/run-now", 403),
        ((Scope.REVIEW,), "/models/animals/versions/1/promote", 403),
        ((Scope.REVIEW,), "/models/animals/roll-back", 403),
        ((Scope.REVIEW,), "/models/animals/lift-hold", 403),
        ((Scope.TRAIN,), "/models/animals/run-now", 200),
        ((Scope.TRAIN,), "/models/animals/lift-hold", 200),
        ((Scope.ADMIN,), "/review/animals", 200),
    ],
)
def test_each_page_is_only_for_those_who_may(client, system, scopes, path, status):
    showroom.add_queue(system, n=1)
    showroom.add_person(system, scopes=scopes)
    sign_in(client)
    assert client.get(path).status_code == status


def test_buttons_are_shown_only_to_those_who_may_press_them(client, system):
    showroom.add_queue(system, n=1)
    showroom.add_person(system)
    sign_in(client)
    page = client.get("/models/animals").text
    assert "Run now" not in page
    assert "Promote" not in page
    assert "Review" in page
