"""People and keys by an admin's hand, through Flask's test client on real rows."""

import html
import logging
import re
from datetime import timedelta

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, update

from backtalk import identity
from backtalk.errors import Conflict, NotAuthenticated
from backtalk.states import Scope
from backtalk.system import System
from backtalk.tables import ApiKey, AuditEntry, User, UserBrowser, UserSession
from services.wsgi import create_app
from tests import factories, showroom


class Visitor:
    """Somebody signed in, who sends forms as a browser would: with what was hidden in them."""

    def __init__(self, system: System, name: str, password: str = showroom.PASSWORD) -> None:
        self.client: FlaskClient = create_app(system=system).test_client()
        answer = self.client.post("/sign-in", data={"name": name, "password": password})
        self.signed_in = answer.status_code == 303

    def send(self, path: str, page: str | None = None, **form: object):  # type: ignore[no-untyped-def]
        asked = page or self.client.get(path).text
        hidden = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', asked)
        return self.client.post(path, data=dict(hidden) | form)


@pytest.fixture
def ada(system: System) -> Visitor:
    showroom.add_person(system, "ada", (Scope.ADMIN,))
    return Visitor(system, "ada")


def read_secret(text: str) -> str:
    found = re.search(r'<code id="secret"[^>]*>([^<]+)</code>', text)
    assert found, text
    return html.unescape(found[1])


def list_actions(system: System) -> list[tuple[str, str, str]]:
    with system.db.reading() as session:
        rows = session.scalars(select(AuditEntry).order_by(AuditEntry.seq))
        return [(row.actor, row.action, row.subject) for row in rows if row.action != "user.sign-in"]


def grow_old(system: System, minutes: int = 6) -> None:
    with system.db.transaction() as session:
        session.execute(
            update(UserSession).values(created_at=UserSession.created_at - timedelta(minutes=minutes))
        )


FORMS = (
    *(f"/people/{name}" for name in ("new", "ada/roles", "ada/password", "ada/disable", "ada/enable")),
    *(f"/keys/{name}" for name in ("new", "x/renew", "x/revoke")),
)


def test_only_an_admin_gets_to_the_pages_of_people_and_keys(system):
    showroom.add_person(system, "bob", [scope for scope in Scope if scope != Scope.ADMIN])
    bob = Visitor(system, "bob")
    own = bob.client.get("/account").text
    for path in ("/people", "/keys", *FORMS):
        assert bob.client.get(path).status_code == 403, path
    for path in FORMS:
        assert bob.send(path, page=own).status_code == 403, path
    assert "/people" not in bob.client.get("/").text


def test_a_new_person_gets_a_password_once_and_must_choose_another_before_anything_else(ada, system):
    answer = ada.send("/people/new", name="Bob", scopes=["review", "train"])
    password = read_secret(answer.text)
    assert answer.headers["Cache-Control"] == "no-store"
    assert password not in ada.client.get("/people").text
    assert list_actions(system) == [("user:ada", "user.create", "user:bob")]
    bob = Visitor(system, "bob", password)
    assert bob.client.get("/models/any").location == "/account"
    refused = bob.send("/people/new", page=bob.client.get("/account").text)
    assert refused.status_code == 403
    assert "Choose a password of your own first" in refused.text
    change = {"old": password, "new": password, "again": password}
    page = bob.client.get("/account").text
    assert "another password than the one" in bob.send("/account/password", page=page, **change).text
    change |= {"new": "a horse of my own", "again": "a horse of my own"}
    assert bob.send("/account/password", page=page, **change).status_code == 303
    assert bob.client.get("/").status_code == 200
    assert "/people" not in bob.client.get("/").text
    assert not Visitor(system, "bob", password).signed_in


def test_a_given_password_ends_after_a_week(ada, system):
    password = read_secret(ada.send("/people/new", name="bob", scopes="review").text)
    with system.db.transaction() as session:
        user = identity.get_user(session, "bob")
        user.password_given_at -= identity.GIVEN_LIVES
    with pytest.raises(NotAuthenticated, match="given has ended"), system.db.transaction() as session:
        identity.sign_in(session, "bob", password)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"name": "ada", "scopes": "review"}, "Somebody is called ada already."),
        ({"name": "É", "scopes": "review"}, "1 to 64 letters"),
        ({"name": "bob"}, "At least one scope is needed"),
        ({"name": "bob", "scopes": "rule"}, "Unknown scope rule"),
    ],
)
def test_a_person_who_cannot_be_added_comes_back_with_the_reason(ada, form, said):
    answer = ada.send("/people/new", **form)
    assert answer.status_code == 422
    assert said in html.unescape(answer.text)
    assert f'value="{form["name"]}"' in answer.text


def test_roles_hold_from_the_next_click_and_the_audit_log_says_which(ada, system):
    showroom.add_person(system, "bob", (Scope.REVIEW,))
    bob = Visitor(system, "bob")
    assert ada.send("/people/bob/roles", scopes=["review", "admin"]).location == "/people?done=roles"
    assert bob.client.get("/people").status_code == 200
    with system.db.reading() as session:
        entry = session.scalars(select(AuditEntry).order_by(AuditEntry.seq.desc())).first()
    assert (entry.action, entry.subject, entry.detail) == (
        "user.roles",
        "user:bob",
        {"scopes": ["admin", "review"]},
    )


def test_disabling_ends_the_sessions_and_enabling_lets_in_again(ada, system):
    showroom.add_person(system, "bob", (Scope.REVIEW,))
    bob = Visitor(system, "bob")
    assert ada.send("/people/bob/disable").status_code == 303
    assert bob.client.get("/").status_code == 303  # to the sign-in
    assert not Visitor(system, "bob").signed_in
    assert "disabled" in ada.client.get("/people").text
    ada.send("/people/bob/enable")
    assert Visitor(system, "bob").signed_in


def test_a_new_password_ends_the_sessions_and_the_one_before(ada, system):
    showroom.add_person(system, "bob", (Scope.REVIEW,))
    bob = Visitor(system, "bob")
    password = read_secret(ada.send("/people/bob/password").text)
    assert bob.client.get("/").location.startswith("/sign-in")
    assert not Visitor(system, "bob").signed_in
    assert Visitor(system, "bob", password).client.get("/").location == "/account"
    assert ada.send("/people/ada/password").status_code == 422  # one's own is changed elsewhere


def test_the_last_admin_can_neither_be_disabled_nor_demoted(ada, system):
    showroom.add_person(system, "bob", (Scope.ADMIN,))
    with system.db.transaction() as session:
        identity.set_disabled(session, "bob", True)
    for path, form in (("/people/ada/disable", {}), ("/people/ada/roles", {"scopes": "review"})):
        answer = ada.send(path, **form)
        assert answer.status_code == 422
        assert "ada is the last admin" in answer.text
    with system.db.transaction() as session:
        identity.set_disabled(session, "bob", False)
    assert ada.send("/people/ada/disable").status_code == 303
    assert ada.client.get("/").location.startswith("/sign-in")


def test_of_two_admins_who_end_each_other_one_is_refused(system):
    import threading

    names = ("ada", "bob")
    for name in names:
        showroom.add_person(system, name, (Scope.ADMIN,))
    outcomes, ready = [], threading.Barrier(2)

    def end(name: str) -> None:
        ready.wait()
        try:
            with system.db.transaction() as session:
                identity.check_admin_remains(session, name)
                identity.set_disabled(session, name, True)
            outcomes.append("ended")
        except Conflict:
            outcomes.append("refused")

    threads = [threading.Thread(target=end, args=(name,)) for name in names]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(outcomes) == ["ended", "refused"]


def test_a_key_is_shown_once_in_no_log_and_works(ada, system, caplog):
    caplog.set_level(logging.DEBUG)
    page = ada.client.get("/keys/new").text
    answer = ada.send("/keys/new", page, name="line 1", scopes=["predict", "feedback"], expires="30")
    key = read_secret(answer.text)
    assert answer.headers["Cache-Control"] == "no-store"
    with system.db.transaction() as session:
        caller = identity.authenticate_key(session, key)
        row = session.scalars(select(ApiKey)).one()
    assert caller.scopes == {Scope.PREDICT, Scope.FEEDBACK}
    assert timedelta(days=29) < row.expires_at - row.created_at <= timedelta(days=30, minutes=1)
    listed = ada.client.get("/keys").text
    secret = key.split("_")[2]
    assert row.id in listed
    assert secret not in listed + caplog.text
    with system.db.reading() as session:
        assert not any(secret in str(vars(entry)) for entry in session.scalars(select(AuditEntry)))
    again = ada.send("/keys/new", page, name="line 1", scopes="predict")  # as a reload would
    assert again.status_code == 422
    assert "made already" in again.text
    assert list_actions(system) == [("user:ada", "key.create", f"key:{row.id}")]


def test_a_renewed_key_has_two_secrets_for_as_long_as_was_said_and_a_reload_renews_once(ada, system):
    older = read_secret(ada.send("/keys/new", name="line 1", scopes="predict").text)
    key_id = identity.read_id(older)
    path = f"/keys/{key_id}/renew"
    page = ada.client.get(path).text
    newer = read_secret(ada.send(path, page, overlap="2").text)
    assert "renewed meanwhile" in ada.send(path, page, overlap="2").text
    for token in (older, newer):
        with system.db.transaction() as session:
            assert identity.authenticate_key(session, token).key_id == key_id
    listed = ada.client.get("/keys").text
    assert "two secrets" in listed
    assert "Older secret until" in listed
    assert "ends at once" in ada.client.get(path).text
    newest = read_secret(ada.send(path, overlap="0").text)
    with pytest.raises(NotAuthenticated), system.db.transaction() as session:
        identity.authenticate_key(session, newer)
    ada.send(f"/keys/{key_id}/revoke")
    with pytest.raises(NotAuthenticated, match="revoked"), system.db.transaction() as session:
        identity.authenticate_key(session, newest)
    assert "was revoked" in ada.send(path, overlap="0").text
    assert [action for _, action, _ in list_actions(system)] == [
        "key.create",
        "key.rotate",
        "key.rotate",
        "key.revoke",
    ]


@pytest.mark.parametrize("days", ["0", "-1", "4000", "1.5", "soon", "٣"])
def test_days_that_are_none_are_refused_in_words(ada, days):
    answer = ada.send("/keys/new", name="line 1", scopes="predict", expires=days)
    assert answer.status_code == 422
    assert "Days are a whole number" in answer.text


GUARDED = ("/people/new", "/people/bob/roles", "/people/bob/password", "/people/bob/enable", "/keys/new")


@pytest.mark.parametrize("path", GUARDED)
def test_rights_and_secrets_ask_for_the_password_again_after_five_minutes(ada, system, path):
    showroom.add_person(system, "bob", (Scope.REVIEW,))
    grow_old(system)
    form = {"name": "eve", "scopes": "review"}
    before = ada.client.get("/account").text
    missing = ada.send(path, **form)
    assert missing.status_code == 422
    assert "Give your own password too" in missing.text
    wrong = ada.send(path, password="wrong horse battery", **form)
    assert (wrong.status_code, "password is wrong" in wrong.text) == (422, True)
    assert list_actions(system) == []
    good = ada.send(path, password=showroom.PASSWORD, **form)
    assert good.status_code in (200, 303)
    assert next(action for _, action, _ in list_actions(system)) == "user.prove"
    with system.db.reading() as session:
        assert factories.count(session, UserSession) == 1  # the one before has ended
    # Other tabs go on, and for five minutes nothing is asked again.
    assert ada.send("/people/bob/roles", page=before, scopes="train").status_code == 303


def test_to_take_away_needs_no_password_so_that_it_is_quick(ada, system):
    showroom.add_person(system, "bob", (Scope.REVIEW,))
    key = read_secret(ada.send("/keys/new", name="line 1", scopes="predict").text)
    grow_old(system)
    assert ada.send("/people/bob/disable").status_code == 303
    assert ada.send(f"/keys/{identity.read_id(key)}/revoke").status_code == 303


def test_each_form_says_first_what_will_happen_and_needs_the_sessions_token(ada, system):
    showroom.add_person(system, "bob", (Scope.REVIEW,))
    key_id = identity.read_id(read_secret(ada.send("/keys/new", name="line 1", scopes="predict").text))
    said = {
        "/people/new": "shown to you once",
        "/people/bob/roles": "nobody is signed out",
        "/people/bob/password": "signed out everywhere",
        "/people/bob/disable": "signed out everywhere",
        "/people/bob/enable": "password of before",
        "/keys/new": "only its hash is kept",
        f"/keys/{key_id}/renew": "goes on as long as you say",
        f"/keys/{key_id}/revoke": "within five seconds",
    }
    done = list_actions(system)
    for path, sentence in said.items():
        assert sentence in html.unescape(ada.client.get(path).text), path
        assert ada.client.post(path, data={"name": "eve", "scopes": "review"}).status_code == 403
    assert list_actions(system) == done


def test_the_list_of_people_tells_when_each_was_last_here(ada, system):
    showroom.add_person(system, "bob", (Scope.REVIEW,))
    showroom.add_person(system, "cem", (Scope.REVIEW,))
    Visitor(system, "bob")
    with system.db.transaction() as session:
        bob = session.scalar(select(User.id).where(User.name == "bob"))
        for table in (UserSession, UserBrowser):
            late = table.seen_at - timedelta(days=3)
            session.execute(update(table).where(table.user_id == bob).values(seen_at=late))
    listed = ada.client.get("/people").text
    row = re.compile(r'<th scope="row">(\w+).*?</code></td>\s*<td>(.*?)</td>', re.DOTALL)
    rows = dict(row.findall(listed))
    assert "just now" in rows["ada"]
    assert "3 days ago" in rows["bob"]
    assert rows["cem"] == "–"
    assert ada.client.get("/people/nobody/roles").status_code == 404
    assert ada.client.get("/keys/nobody/renew").status_code == 404
