"""Keys, sign-in, sessions and the audit log, against a real Postgres."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from backtalk import audit, identity, keys, throttle
from backtalk.db import Database
from backtalk.errors import InvalidInput, InvalidName, NameTaken, NotAllowed, NotAuthenticated, NotFound
from backtalk.states import Scope
from backtalk.tables import ApiKey, AuditEntry, SignInAttempt, User, UserSession

PASSWORD = "correct horse battery"


def make_key(database: Database, **values: object) -> str:
    given: dict[str, object] = {"name": "app", "scopes": ["predict", "feedback"]}
    with database.transaction() as session:
        return identity.create_key(session, **(given | values))  # type: ignore[arg-type]


def authenticate(database: Database, token: str) -> identity.Caller:
    with database.transaction() as session:
        return identity.authenticate_key(session, token)


def make_user(database: Database, name: str = "alice", **values: object) -> None:
    given: dict[str, object] = {"password": PASSWORD, "scopes": ["review"]}
    with database.transaction() as session:
        identity.create_user(session, name=name, **(given | values))  # type: ignore[arg-type]


def sign_in(database: Database, name: str = "alice", password: str = PASSWORD) -> str:
    with database.transaction() as session:
        return identity.sign_in(session, name, password)[0]


# --- keys --------------------------------------------------------------------------------------
def test_a_key_begins_with_bt_and_says_whose_it_is(database: Database) -> None:
    token = make_key(database, trusted=True)
    caller = authenticate(database, token)
    assert token.startswith("bt_")
    assert token.count("_") == 2
    assert token.isascii()
    assert caller.actor == f"key:{token.split('_')[1]}"
    assert caller.key_id == token.split("_")[1]
    assert (caller.name, caller.trusted) == ("app", True)
    assert caller.scopes == {Scope.PREDICT, Scope.FEEDBACK}


def test_only_the_hash_of_a_key_is_kept(database: Database) -> None:
    token = make_key(database)
    with database.reading() as session:
        row = session.scalars(select(ApiKey)).one()
    assert len(row.secret_sha256) == 64
    assert not any(token.split("_")[2][:-6] in str(value) for value in vars(row).values())


def test_a_mistyped_key_is_told_by_its_checksum(database: Database) -> None:
    token = make_key(database)
    for at in range(3, len(token)):
        typo = token[:at] + ("a" if token[at] != "a" else "b") + token[at + 1 :]
        with pytest.raises(NotAuthenticated, match="mistyped"):
            authenticate(database, typo)


@pytest.mark.parametrize("token", ["", "bt_", "bt__", "hello", "bt_a_b", "bt_\x00_\x00", "bt_" + "é" * 47])
def test_what_is_no_key_is_refused_without_asking_the_database(token: str) -> None:
    with pytest.raises(NotAuthenticated):
        identity.authenticate_key(None, token)  # type: ignore[arg-type]


def test_a_wellformed_key_that_was_never_made_is_refused(database: Database) -> None:
    token = make_key(database)
    with database.transaction() as session:
        session.delete(session.get_one(ApiKey, token.split("_")[1]))
    with pytest.raises(NotAuthenticated, match="not known"):
        authenticate(database, token)


def test_another_keys_secret_does_not_open_this_one(database: Database) -> None:
    first, second = make_key(database), make_key(database)
    head = "_".join([*first.split("_")[:2], second.split("_")[2][:-6]])
    with pytest.raises(NotAuthenticated, match="not known"):
        authenticate(database, head + keys.checksum(head))


def test_revoked_and_expired_keys_are_refused(database: Database) -> None:
    expired = make_key(database, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    revoked = make_key(database)
    with database.transaction() as session:
        identity.revoke_key(session, revoked.split("_")[1])
    with pytest.raises(NotAuthenticated, match="expired"):
        authenticate(database, expired)
    with pytest.raises(NotAuthenticated, match="revoked"):
        authenticate(database, revoked)


def test_revoking_an_unknown_key_says_so(database: Database) -> None:
    with database.transaction() as session, pytest.raises(NotFound):
        identity.revoke_key(session, "nobody")


def test_use_is_noted_about_once_a_minute(database: Database) -> None:
    token = make_key(database)
    authenticate(database, token)
    first = last_used(database)
    authenticate(database, token)
    assert first is not None
    assert last_used(database) == first
    with database.transaction() as session:
        session.execute(update(ApiKey).values(last_used_at=func.now() - timedelta(minutes=2)))
    authenticate(database, token)
    later = last_used(database)
    assert later is not None
    assert later > first


def last_used(database: Database) -> datetime | None:
    with database.reading() as session:
        return session.scalars(select(ApiKey.last_used_at)).one()


@pytest.mark.parametrize("scopes", [[], ["predict", "root"]])
def test_a_key_needs_known_scopes(database: Database, scopes: list[str]) -> None:
    with pytest.raises(InvalidInput, match="admin"):
        make_key(database, scopes=scopes)


@pytest.mark.parametrize("name", ["", "  ", "a\x00b", "x" * 101])
def test_a_key_needs_a_name(database: Database, name: str) -> None:
    with pytest.raises(InvalidName):
        make_key(database, name=name)


def test_admin_may_do_everything_and_others_only_what_they_may(database: Database) -> None:
    admin = authenticate(database, make_key(database, scopes=["admin"]))
    reader = authenticate(database, make_key(database, scopes=["predict"]))
    assert all(admin.has(scope) for scope in Scope)
    reader.demand(Scope.PREDICT)
    with pytest.raises(NotAllowed, match="promote"):
        reader.demand(Scope.PROMOTE)


# --- people ------------------------------------------------------------------------------------
def test_a_person_signs_in_and_out(database: Database) -> None:
    make_user(database, "Alice")
    token = sign_in(database, " ALICE ")
    with database.transaction() as session:
        found = identity.find_session(session, token)
    assert found is not None
    caller, opened = found
    assert (caller.actor, caller.key_id, caller.scopes) == ("user:alice", None, {Scope.REVIEW})
    assert len(opened.csrf_token) >= 32
    assert token not in (opened.token_sha256, opened.csrf_token)
    with database.transaction() as session:
        identity.sign_out(session, token)
        assert identity.find_session(session, token) is None


def test_each_sign_in_opens_a_session_of_its_own(database: Database) -> None:
    make_user(database)
    first, second = sign_in(database), sign_in(database)
    with database.transaction() as session:
        identity.sign_out(session, first)
        assert identity.find_session(session, second) is not None


def test_passwords_are_kept_as_argon2id(database: Database) -> None:
    make_user(database)
    with database.reading() as session:
        assert session.scalars(select(User.password_hash)).one().startswith("$argon2id$v=19$m=19456,t=2,p=1$")


@pytest.mark.parametrize("name", ["bob", "", "\x00", "alice\x00", "x" * 5000])
def test_an_unknown_name_and_a_wrong_password_are_told_alike(database: Database, name: str) -> None:
    make_user(database)
    with pytest.raises(NotAuthenticated) as unknown:
        sign_in(database, name, "wrong password")
    with pytest.raises(NotAuthenticated) as wrong:
        sign_in(database, "alice", "wrong password")
    assert unknown.value.message == wrong.value.message


def test_guessing_is_stopped_even_with_the_right_password(database: Database) -> None:
    make_user(database)
    for _ in range(throttle.PER_NAME_AND_ADDRESS):
        with pytest.raises(NotAuthenticated, match="wrong"):
            sign_in(database, password="a guess")
    with pytest.raises(NotAuthenticated, match="five minutes"):
        sign_in(database)
    with database.transaction() as session:
        session.execute(update(SignInAttempt).values(at=func.now() - throttle.WINDOW))
    assert sign_in(database)


def test_signing_in_forgets_the_failures_before_it(database: Database) -> None:
    make_user(database)
    for _ in range(3):
        for _ in range(throttle.PER_NAME_AND_ADDRESS - 1):
            with pytest.raises(NotAuthenticated):
                sign_in(database, password="a guess")
        sign_in(database)


def test_many_guesses_at_once_are_no_more_than_one_after_another(database: Database) -> None:
    make_user(database)
    said: list[str] = []

    def guess() -> None:
        try:
            sign_in(database, password="a guess")
        except NotAuthenticated as error:
            said.append(error.message)

    threads = [threading.Thread(target=guess) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum("wrong" in message for message in said) == throttle.PER_NAME_AND_ADDRESS
    assert len(said) == 12


@pytest.mark.parametrize(
    "late",
    [
        {"seen_at": func.now() - identity.SESSION_IDLE - timedelta(seconds=1)},
        {"expires_at": func.now() - timedelta(seconds=1)},
    ],
)
def test_a_session_ends_when_idle_and_when_old(database: Database, late: dict[str, object]) -> None:
    make_user(database)
    token = sign_in(database)
    with database.transaction() as session:
        session.execute(update(UserSession).values(late))
        assert identity.find_session(session, token) is None


def test_a_session_that_is_used_is_kept_open(database: Database) -> None:
    make_user(database)
    token = sign_in(database)
    with database.transaction() as session:
        session.execute(update(UserSession).values(seen_at=func.now() - timedelta(minutes=30)))
    with database.transaction() as session:
        assert identity.find_session(session, token) is not None
    with database.reading() as session:
        seen = session.scalars(select(UserSession.seen_at)).one()
    assert seen > datetime.now(UTC) - timedelta(minutes=1)


def test_a_disabled_user_is_signed_out_and_kept_out(database: Database) -> None:
    make_user(database)
    token = sign_in(database)
    with database.transaction() as session:
        session.execute(update(User).values(disabled_at=func.now()))
        assert identity.find_session(session, token) is None
    with pytest.raises(NotAuthenticated, match="wrong"):
        sign_in(database)


def test_names_are_taken_whatever_their_case(database: Database) -> None:
    make_user(database, "alice")
    with pytest.raises(NameTaken):
        make_user(database, "ALICE")


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "a\x00", "ä", "x" * 65])
def test_names_that_cannot_be_used_are_refused(database: Database, name: str) -> None:
    with pytest.raises(InvalidName):
        make_user(database, name)


@pytest.mark.parametrize("password", ["", "short", "x" * 257])
def test_passwords_have_a_sensible_length(database: Database, password: str) -> None:
    with pytest.raises(InvalidInput, match="characters"):
        make_user(database, password=password)


def test_what_people_do_is_logged_with_the_rows_it_changed(database: Database) -> None:
    with database.transaction() as session:
        audit.record(session, "user:alice", "revoke-key", "key:abc", why="leaked")
    with database.reading() as session:
        row = session.scalars(select(AuditEntry)).one()
    assert (row.actor, row.action, row.subject, row.detail) == (
        "user:alice",
        "revoke-key",
        "key:abc",
        {"why": "leaked"},
    )
