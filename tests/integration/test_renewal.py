"""Two live secrets of one key, and a throttle that slows a guesser down without locking a person out."""

from datetime import timedelta

import pytest
from click.testing import CliRunner
from sqlalchemy import func, select, update

from backtalk import identity, passwords, throttle
from backtalk.callers import Caller
from backtalk.cli import main
from backtalk.db import Database
from backtalk.errors import Conflict, InvalidInput, NotAuthenticated
from backtalk.tables import ApiKey, AuditEntry, User, UserSession

PASSWORD = "correct horse battery"


def make_key(database: Database) -> str:
    with database.transaction() as session:
        return identity.create_key(session, name="app", scopes=["predict"])


def rotate(database: Database, token: str, **values: timedelta) -> str:
    with database.transaction() as session:
        return identity.rotate_key(session, identity.read_id(token), **values)


def authenticate(database: Database, token: str) -> Caller:
    with database.transaction() as session:
        return identity.authenticate_key(session, token)


def make_user(database: Database) -> None:
    with database.transaction() as session:
        identity.create_user(session, name="alice", password=PASSWORD, scopes=["review"])


def sign_in(database: Database, password: str = PASSWORD, **where: str | None) -> str:
    with database.transaction() as session:
        return identity.sign_in(session, "alice", password, **where)[0]


# --- keys --------------------------------------------------------------------------------------
def test_both_secrets_open_the_same_key_until_the_older_one_ends(database: Database) -> None:
    older = make_key(database)
    newer = rotate(database, older, overlap=timedelta(days=2))
    assert newer != older
    assert authenticate(database, newer) == authenticate(database, older)
    with database.transaction() as session:
        session.execute(update(ApiKey).values(previous_until=func.now()))
    with pytest.raises(NotAuthenticated, match="renewed"):
        authenticate(database, older)
    assert authenticate(database, newer)


def test_a_second_renewal_ends_the_oldest_secret(database: Database) -> None:
    first = make_key(database)
    second = rotate(database, first)
    third = rotate(database, second)
    with pytest.raises(NotAuthenticated, match="not known"):
        authenticate(database, first)
    assert authenticate(database, second) == authenticate(database, third)


def test_without_an_overlap_the_older_secret_ends_at_once(database: Database) -> None:
    older = make_key(database)
    rotate(database, older, overlap=timedelta())
    with pytest.raises(NotAuthenticated, match="renewed"):
        authenticate(database, older)


def test_a_revoked_key_ends_with_both_secrets_and_is_not_renewed(database: Database) -> None:
    older = make_key(database)
    newer = rotate(database, older)
    with database.transaction() as session:
        identity.revoke_key(session, identity.read_id(older))
    for token in (older, newer):
        with pytest.raises(NotAuthenticated, match="revoked"):
            authenticate(database, token)
    with pytest.raises(Conflict, match="keys create"):
        rotate(database, older)


def test_the_list_tells_whether_the_older_secret_is_still_used(database: Database) -> None:
    older = make_key(database)
    rotate(database, older)
    with database.reading() as session:
        [before] = identity.list_keys(session)
    authenticate(database, older)
    with database.reading() as session:
        [after] = identity.list_keys(session)
    assert (before.state, before.older_used_at) == ("rotating", None)
    assert after.older_used_at is not None


def test_a_key_that_somebody_is_changing_makes_no_prediction_wait(database: Database) -> None:
    token = make_key(database)
    with database.transaction() as session:
        session.scalars(select(ApiKey).with_for_update()).one()
        assert authenticate(database, token).name == "app"


def test_keys_and_people_are_kept_by_commands_that_are_logged(
    database: Database, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKTALK_DATABASE_URL", postgres_url)

    def backtalk(*words: str) -> str:
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        return result.stdout

    token = backtalk("keys", "create", "--name", "app", "--scopes", "predict").strip()
    newer = backtalk("keys", "rotate", token, "--overlap", "1").strip()
    assert authenticate(database, newer) == authenticate(database, token)
    assert "rotating" in backtalk("keys", "list")
    assert token.split("_")[2] not in backtalk("keys", "list")
    backtalk("users", "create", "alice", "--scopes", "review", "--generate")
    backtalk("users", "roles", "alice", "--scopes", "review,train")
    backtalk("users", "password", "alice", "--generate")
    backtalk("users", "disable", "alice")
    assert backtalk("users", "list") == "alice\tdisabled\treview,train\n"
    backtalk("users", "enable", "alice")
    with database.reading() as session:
        actions = list(session.scalars(select(AuditEntry.action).order_by(AuditEntry.seq)))
    assert actions == [
        "key.create",
        "key.rotate",
        "user.create",
        "user.roles",
        "user.password",
        "user.disable",
        "user.enable",
    ]


# --- people ------------------------------------------------------------------------------------
def test_a_new_installation_has_neither_people_nor_keys(database: Database) -> None:
    with database.reading() as session:
        assert identity.list_users(session) == []
        assert identity.list_keys(session) == []


def fail(database: Database, times: int, **where: str | None) -> None:
    for _ in range(times):
        with pytest.raises(NotAuthenticated, match="wrong"):
            sign_in(database, "a wrong guess", **where)


def test_guessing_from_one_address_locks_nobody_out_elsewhere(database: Database) -> None:
    make_user(database)
    fail(database, throttle.PER_NAME_AND_ADDRESS, address="192.0.2.1")
    with pytest.raises(NotAuthenticated, match="Too many"):
        sign_in(database, address="192.0.2.1")
    assert sign_in(database, address="192.0.2.2")


def test_guessing_from_everywhere_is_bounded_and_a_known_browser_still_gets_in(database: Database) -> None:
    make_user(database)
    with database.transaction() as session:
        _, opened = identity.sign_in(session, "alice", PASSWORD)
        browser = identity.remember_browser(session, opened.user_id, None)
    for n in range(throttle.PER_NAME):
        fail(database, 1, address=f"192.0.2.{n}")
    with pytest.raises(NotAuthenticated, match="Too many"):
        sign_in(database, address="198.51.100.1")
    with pytest.raises(NotAuthenticated, match="Too many"):
        sign_in(database, address="198.51.100.1", browser="made up")
    assert sign_in(database, address="198.51.100.1", browser=browser)


def test_a_known_browser_gets_no_endless_guesses_either(database: Database) -> None:
    make_user(database)
    with database.transaction() as session:
        user_id = session.scalars(select(User.id)).one()
        browser = identity.remember_browser(session, user_id, None)
    fail(database, throttle.PER_BROWSER, browser=browser)
    with pytest.raises(NotAuthenticated, match="Too many"):
        sign_in(database, browser=browser)


def test_one_address_has_few_guesses_whatever_the_names(database: Database) -> None:
    for n in range(throttle.PER_ADDRESS):
        with pytest.raises(NotAuthenticated, match="wrong"), database.transaction() as session:
            identity.sign_in(session, f"user{n}", "a guess", address=f"2001:db8::{n:x}")  # one /64
    make_user(database)
    with pytest.raises(NotAuthenticated, match="Too many"):
        sign_in(database, address="2001:db8::ffff")


def test_an_unknown_name_costs_one_hash_as_a_known_one_does(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_user(database)
    counted: list[str] = []

    class Counting(passwords.PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # noqa: A002  # as argon2 names it
            counted.append("verify")
            return super().verify(hash, password)

    monkeypatch.setattr(passwords, "_HASHER", Counting(time_cost=2, memory_cost=19 * 1024, parallelism=1))
    for name in ("nobody", "alice"):
        with pytest.raises(NotAuthenticated), database.transaction() as session:
            identity.sign_in(session, name, "a wrong guess")
        assert counted == ["verify"]
        counted.clear()


def test_a_new_password_ends_every_other_session(database: Database) -> None:
    make_user(database)
    older = sign_in(database)
    with database.transaction() as session:
        found = identity.find_session(session, older)
        assert found is not None
    with database.transaction() as session:
        token, _ = identity.change_password(session, found[0], PASSWORD, "another fine password")
    with database.transaction() as session:
        assert identity.find_session(session, older) is None
        assert identity.find_session(session, token) is not None
    with pytest.raises(NotAuthenticated, match="wrong"):
        sign_in(database)
    assert sign_in(database, "another fine password")


def test_disabling_somebody_ends_their_sessions_for_good(database: Database) -> None:
    make_user(database)
    sign_in(database)
    for disabled in (True, False):
        with database.transaction() as session:
            identity.set_disabled(session, "alice", disabled)
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(UserSession)) == 0


@pytest.mark.parametrize("password", ["aaaaaaaaaaaa", "1212121212", "alice12345", "Alice-2026-x"])
def test_passwords_that_are_guessed_at_once_are_refused(database: Database, password: str) -> None:
    with pytest.raises(InvalidInput), database.transaction() as session:
        identity.create_user(session, name="alice", password=password, scopes=["review"])
