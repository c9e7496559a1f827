"""People who sign in to the pages, and their sessions. The command line makes the first."""

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, delete, func, select
from sqlalchemy.orm import Session

from backtalk import audit, throttle
from backtalk.callers import Caller
from backtalk.db import Database
from backtalk.errors import Conflict, InvalidInput, InvalidName, NameTaken, NotAuthenticated, NotFound
from backtalk.keys import TOUCH_EVERY, check_scopes, hash_secret
from backtalk.passwords import check_password, hash_password, is_outdated, verify_password
from backtalk.states import Scope
from backtalk.tables import User, UserBrowser, UserSession

SESSION_IDLE = timedelta(hours=2)
SESSION_LIFETIME = timedelta(hours=12)
BROWSER_KNOWN = timedelta(days=180)
#: A password that an admin gave opens the door for so long, and nothing behind it but the change of itself.
GIVEN_LIVES = timedelta(days=7)
#: For so long after a sign-in somebody counts as there in person.
PROVED_FOR = timedelta(minutes=5)

_USER_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")


# --- who there is ------------------------------------------------------------------------------
def create_user(
    session: Session, *, name: str, password: str, scopes: Iterable[Scope | str], given: bool = False
) -> User:
    """Somebody who may sign in to the pages. Names are kept in lower case.

    Args:
        given: somebody else knows the password, so its owner must choose another one first.

    Raises:
        InvalidName: the name cannot be used.
        InvalidInput: the password cannot be used, or a scope is unknown.
        NameTaken: somebody has that name.
    """
    name = name.strip().lower()
    if not _USER_NAME.fullmatch(name):
        raise InvalidName(
            "A user's name has 1 to 64 letters a-z, digits or . _ @ - and begins with a letter or digit."
        )
    check_password(name, password)
    if session.scalar(select(User.id).where(User.name == name)) is not None:
        raise NameTaken(f"Somebody is called {name} already.")
    user = User(
        name=name,
        password_hash=hash_password(password),
        password_given_at=datetime.now(UTC) if given else None,
        scopes=check_scopes(scopes),
    )
    session.add(user)
    session.flush()
    return user


def list_users(session: Session) -> list[User]:
    """Everybody, by name."""
    return list(session.scalars(select(User).order_by(User.name)))


@dataclass(frozen=True)
class Person:
    """Somebody as an admin sees them."""

    name: str
    scopes: list[str]
    seen_at: datetime | None  # at a page; forgotten with a new password or after `BROWSER_KNOWN`
    disabled_at: datetime | None
    password_given_at: datetime | None


def list_people(session: Session) -> list[Person]:
    """Everybody, by name, with when they were last here."""
    latest = [
        select(func.max(table.seen_at)).where(table.user_id == User.id).scalar_subquery()
        for table in (UserSession, UserBrowser)
    ]
    rows = session.execute(select(User, func.greatest(*latest)).order_by(User.name))
    return [
        Person(user.name, user.scopes, seen_at, user.disabled_at, user.password_given_at)
        for user, seen_at in rows
    ]


def check_admin_remains(session: Session, name: str) -> None:
    """For a change that takes the scope `admin` or the account from `name`: somebody else must keep both.

    Raises:
        Conflict: nobody else is an admin who may sign in.
    """
    # Locked in one order, so that of two admins who end each other at once one is refused.
    rows = select(User).where(User.scopes.any_() == Scope.ADMIN, User.disabled_at.is_(None))
    admins = {user.name for user in session.scalars(rows.order_by(User.id).with_for_update())}
    if admins == {name.strip().lower()}:
        raise Conflict(f"{name} is the last admin: make somebody else one first.")


def get_user(session: Session, name: str) -> User:
    """Raises NotFound. The row is locked, so that two changes come one after the other."""
    user = session.scalar(select(User).where(User.name == name.strip().lower()).with_for_update())
    if user is None:
        raise NotFound(f"Nobody is called {name}; `backtalk users list` shows who there is.")
    return user


def set_password(session: Session, name: str, password: str, *, given: bool = False) -> None:
    """A new password from whoever runs this Backtalk: ends all sessions, and forgets known browsers.

    Args:
        given: as for `create_user`.

    Raises:
        NotFound, InvalidInput
    """
    user = get_user(session, name)
    check_password(user.name, password)
    user.password_hash = hash_password(password)
    user.password_given_at = datetime.now(UTC) if given else None
    end_sessions(session, user)
    session.execute(delete(UserBrowser).where(UserBrowser.user_id == user.id))


def set_disabled(session: Session, name: str, disabled: bool) -> None:
    """Keep somebody out, their open sessions too, or let them in again. Raises NotFound."""
    user = get_user(session, name)
    user.disabled_at = (user.disabled_at or datetime.now(UTC)) if disabled else None
    end_sessions(session, user)


def set_scopes(session: Session, name: str, scopes: Iterable[Scope | str]) -> None:
    """What somebody may do, from the next request on.

    Raises:
        NotFound, InvalidInput
    """
    get_user(session, name).scopes = check_scopes(scopes)


def end_sessions(session: Session, user: User) -> None:
    """Sign somebody out everywhere."""
    session.flush()
    session.execute(delete(UserSession).where(UserSession.user_id == user.id))


# --- coming and going --------------------------------------------------------------------------
def sign_in(
    session: Session, name: str, password: str, *, address: str | None = None, browser: str | None = None
) -> tuple[str, UserSession]:
    """Open a session: the token for the cookie, shown once, and its row.

    Args:
        address: where the attempt comes from.
        browser: what `remember_browser` gave this browser, if anything.

    Raises:
        NotAuthenticated: wrong name or password, or too many failures just now.
    """
    name = name.strip().lower()[:64].replace("\x00", "")
    user = _prove(session, name, password, address, browser)
    if is_outdated(user.password_hash):
        user.password_hash = hash_password(password)
    audit.record(session, f"user:{name}", "user.sign-in", f"user:{name}")
    return _open_session(session, user)


def change_password(
    session: Session,
    caller: Caller,
    old: str,
    new: str,
    *,
    address: str | None = None,
    browser: str | None = None,
) -> tuple[str, UserSession]:
    """A person's own change: ends all their sessions, and opens a new one.

    Raises:
        NotAuthenticated: the old password is wrong, or too many wrong ones just now.
        InvalidInput: the new one cannot be used.
    """
    check_password(caller.name, new)
    user = _prove(session, caller.name, old, address, browser)
    if user.password_given_at is not None and old == new:
        raise InvalidInput("Choose another password than the one that you were given.")
    user.password_hash = hash_password(new)
    user.password_given_at = None
    end_sessions(session, user)
    audit.record(session, caller.actor, "user.password", f"user:{user.name}")
    return _open_session(session, user)


def prove_again(
    session: Session,
    caller: Caller,
    token: str,
    password: str,
    *,
    address: str | None = None,
    browser: str | None = None,
) -> tuple[str, UserSession]:
    """The person is still there: a new session instead of the one of `token`.

    Its token for forms stays, so that what is open in other tabs goes on.

    Raises:
        NotAuthenticated: the password is wrong, or too many wrong ones just now.
    """
    user = _prove(session, caller.name, password, address, browser)
    before = session.get_one(UserSession, hash_secret(token))
    renewed, row = _open_session(session, user)
    row.csrf_token = before.csrf_token
    session.delete(before)
    audit.record(session, caller.actor, "user.prove", f"user:{user.name}")
    return renewed, row


def find_session(session: Session, token: str) -> tuple[Caller, UserSession] | None:
    """Who is signed in with this token; None if nobody, or no longer."""
    row = session.get(UserSession, hash_secret(token))
    if row is None:
        return None
    user = session.get_one(User, row.user_id)
    now = datetime.now(UTC)
    if row.expires_at <= now or row.seen_at <= now - SESSION_IDLE or user.disabled_at is not None:
        return None
    if row.seen_at <= now - TOUCH_EVERY:
        row.seen_at = now
    # With a password that somebody else knows, one can only choose another.
    scopes = frozenset(Scope(scope) for scope in user.scopes if user.password_given_at is None)
    return Caller(f"user:{user.name}", user.name, scopes), row


def sign_out(session: Session, token: str) -> None:
    """End a session; an unknown one is no error."""
    session.execute(delete(UserSession).where(UserSession.token_sha256 == hash_secret(token)))


def remember_browser(session: Session, user_id: int, browser: str | None) -> str:
    """Know a browser again in which somebody signed in: what its cookie is to hold.

    It opens nothing. It gives the browser a throttle of its own, so that nobody can lock its owner out.
    """
    row = session.get(UserBrowser, hash_secret(browser)) if browser else None
    if browser is None or row is None or row.user_id != user_id:
        browser = secrets.token_urlsafe(32)
        row = UserBrowser(token_sha256=hash_secret(browser), user_id=user_id)
        session.add(row)
    row.seen_at = datetime.now(UTC)
    session.execute(delete(UserBrowser).where(UserBrowser.seen_at < func.now() - BROWSER_KNOWN))
    return browser


def _prove(session: Session, name: str, password: str, address: str | None, browser: str | None) -> User:
    """The person, where the password is theirs; every way to a refusal takes as long and says the same."""
    engine = session.get_bind()
    assert isinstance(engine, Engine)
    # In a transaction of its own, before the caller's has begun: one connection at a time is enough.
    with Database(engine).transaction() as own:
        counts = throttle.choose_counts(name, address, _find_browser(own, name, browser))
        throttle.reserve_attempt(own, counts)
    user = session.scalar(select(User).where(User.name == name))
    good = verify_password(user.password_hash if user else None, password)
    if user is None or not good or user.disabled_at is not None:
        raise NotAuthenticated("The name or the password is wrong.")
    if user.password_given_at is not None and user.password_given_at <= datetime.now(UTC) - GIVEN_LIVES:
        raise NotAuthenticated("The password that you were given has ended; ask an admin for another one.")
    throttle.forgive_attempt(session, counts)
    return user


def _find_browser(session: Session, name: str, browser: str | None) -> str | None:
    if not browser:
        return None
    digest = hash_secret(browser)
    known = select(UserBrowser.token_sha256).join(User).where(User.name == name)
    return session.scalar(known.where(UserBrowser.token_sha256 == digest))


def _open_session(session: Session, user: User) -> tuple[str, UserSession]:
    """Always a new id: one that somebody else could know is never made into a signed-in one."""
    session.execute(delete(UserSession).where(UserSession.expires_at < func.now()))
    token = secrets.token_urlsafe(32)
    row = UserSession(
        token_sha256=hash_secret(token),
        user_id=user.id,
        csrf_token=secrets.token_urlsafe(32),
        expires_at=datetime.now(UTC) + SESSION_LIFETIME,
    )
    session.add(row)
    session.flush()
    return token, row
