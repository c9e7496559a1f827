"""Keys of apps, people who sign in, and the log of what they did.

A key reads `bt_<id>_<secret><checksum>`: the prefix lets a scanner find a leaked one, the checksum lets a
mistyped one be refused without asking the database.
"""

import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from threading import BoundedSemaphore

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError, VerifyMismatchError
from sqlalchemy import Engine, delete, func, select, text, update
from sqlalchemy.orm import Session

from backtalk import audit
from backtalk.callers import Caller as Caller  # noqa: PLC0414 - part of what this module offers
from backtalk.db import Database
from backtalk.errors import (
    InvalidInput,
    InvalidName,
    NameTaken,
    NotAuthenticated,
    NotFound,
)
from backtalk.states import Scope
from backtalk.tables import ApiKey, SignInAttempt, User, UserSession

KEY_PREFIX = "bt"
SESSION_IDLE = timedelta(hours=2)
SESSION_LIFETIME = timedelta(hours=12)
SIGN_IN_WINDOW = timedelta(minutes=5)
SIGN_IN_FAILURES = 5
MIN_PASSWORD = 10
MAX_PASSWORD = 256

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 10
_SECRET_LENGTH = 30  # 178 bits: a fast hash of it is enough
_CHECKSUM_LENGTH = 6
_KEY = re.compile(r"bt_([0-9A-Za-z]{10})_([0-9A-Za-z]{30})([0-9A-Za-z]{6})")
_USER_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
# Seen and used are written at most this often, so that a busy key costs no write with each call.
_TOUCH_EVERY = timedelta(minutes=1)

# OWASP's minimum for Argon2id: 19 MiB keeps an API process small where several people sign in at once.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_HASHING = BoundedSemaphore(2)


# --- keys --------------------------------------------------------------------------------------
def create_key(
    session: Session,
    *,
    name: str,
    scopes: Iterable[Scope | str],
    trusted: bool = False,
    expires_at: datetime | None = None,
) -> str:
    """Make a key and return it; only its hash is kept, so it can be shown this once.

    Raises:
        InvalidName: the name is empty or too long.
        InvalidInput: no scope, or an unknown one.
    """
    if not name.strip() or len(name) > 100 or not name.isprintable():
        raise InvalidName("A key needs a name of 1 to 100 printable characters.")
    key_id, secret = _random(_ID_LENGTH), _random(_SECRET_LENGTH)
    session.add(
        ApiKey(
            id=key_id,
            name=name.strip(),
            secret_sha256=_sha256(secret),
            scopes=_scopes(scopes),
            trusted=trusted,
            expires_at=expires_at,
        )
    )
    session.flush()
    head = f"{KEY_PREFIX}_{key_id}_{secret}"
    return head + _checksum(head)


def authenticate_key(session: Session, token: str) -> Caller:
    """Whose key this is; notes its use about once a minute.

    Raises:
        NotAuthenticated: mistyped, unknown, expired or revoked.
    """
    match = _KEY.fullmatch(token)
    if match is None or not hmac.compare_digest(_checksum(token[:-_CHECKSUM_LENGTH]), match[3]):
        raise NotAuthenticated("That is no key of this service, or it was mistyped: its checksum is wrong.")
    key = session.get(ApiKey, match[1])
    known = key.secret_sha256 if key else _sha256("")
    if not hmac.compare_digest(_sha256(match[2]), known) or key is None:
        raise NotAuthenticated("This key is not known here.")
    if key.revoked_at is not None:
        raise NotAuthenticated("This key was revoked; ask for a new one.")
    if key.expires_at is not None and key.expires_at <= _now():
        raise NotAuthenticated("This key has expired; ask for a new one.")
    _touch_key(session, key)
    scopes = frozenset(Scope(scope) for scope in key.scopes)
    return Caller(f"key:{key.id}", key.name, scopes, key_id=key.id, trusted=key.trusted)


def revoke_key(session: Session, key_id: str) -> None:
    """End a key. Processes that have just seen it may take it for a few seconds more.

    Raises:
        NotFound: no such key.
    """
    key = session.get(ApiKey, key_id)
    if key is None:
        raise NotFound(f"No key has the id {key_id}.")
    key.revoked_at = key.revoked_at or _now()


def _touch_key(session: Session, key: ApiKey) -> None:
    if key.last_used_at is None or key.last_used_at < _now() - _TOUCH_EVERY:
        # Skips a locked row: a second process is writing the same minute.
        row = select(ApiKey.id).where(ApiKey.id == key.id).with_for_update(skip_locked=True)
        session.execute(
            update(ApiKey).where(ApiKey.id.in_(row)).values(last_used_at=func.now()),
            execution_options={"synchronize_session": False},
        )


# --- people ------------------------------------------------------------------------------------
def create_user(session: Session, *, name: str, password: str, scopes: Iterable[Scope | str]) -> User:
    """Somebody who may sign in to the pages. Names are kept in lower case.

    Raises:
        InvalidName: the name cannot be used.
        InvalidInput: the password is too short or too long, or a scope is unknown.
        NameTaken: somebody has that name.
    """
    name = name.strip().lower()
    if not _USER_NAME.fullmatch(name):
        raise InvalidName(
            "A user's name has 1 to 64 letters a-z, digits or . _ @ - and begins with a letter or digit."
        )
    _check_password(password)
    if session.scalar(select(User.id).where(User.name == name)) is not None:
        raise NameTaken(f"Somebody is called {name} already.")
    user = User(name=name, password_hash=_hash(password), scopes=_scopes(scopes))
    session.add(user)
    session.flush()
    return user


def sign_in(session: Session, name: str, password: str) -> tuple[str, UserSession]:
    """Open a session: the token for the cookie, shown once, and its row.

    Each try is written down in a transaction of its own before the password is looked at, so that neither a
    rolled-back request nor many at once get more guesses than one.

    Raises:
        NotAuthenticated: wrong name or password, or too many failures just now.
    """
    name = name.strip().lower()[:64].replace("\x00", "")
    _reserve_attempt(session, name)
    user = session.scalar(select(User).where(User.name == name))
    good = _verify(user.password_hash if user else _nobodys_hash(), password)
    if user is None or not good or user.disabled_at is not None:
        raise NotAuthenticated("The name or the password is wrong.")
    if _HASHER.check_needs_rehash(user.password_hash):
        user.password_hash = _hash(password)
    session.execute(delete(SignInAttempt).where(SignInAttempt.name == name))
    token = secrets.token_urlsafe(32)
    row = UserSession(
        token_sha256=_sha256(token),
        user_id=user.id,
        csrf_token=secrets.token_urlsafe(32),
        expires_at=_now() + SESSION_LIFETIME,
    )
    session.add(row)
    session.flush()
    log_action(session, f"user:{name}", "user.sign-in", f"user:{name}")
    return token, row


def find_session(session: Session, token: str) -> tuple[Caller, UserSession] | None:
    """Who is signed in with this token; None if nobody, or no longer."""
    row = session.get(UserSession, _sha256(token))
    if row is None:
        return None
    user = session.get_one(User, row.user_id)
    now = _now()
    if row.expires_at <= now or row.seen_at <= now - SESSION_IDLE or user.disabled_at is not None:
        return None
    if row.seen_at <= now - _TOUCH_EVERY:
        row.seen_at = now
    scopes = frozenset(Scope(scope) for scope in user.scopes)
    return Caller(f"user:{user.name}", user.name, scopes), row


def sign_out(session: Session, token: str) -> None:
    """End a session; an unknown one is no error."""
    session.execute(delete(UserSession).where(UserSession.token_sha256 == _sha256(token)))


def _reserve_attempt(session: Session, name: str) -> None:
    engine = session.get_bind()
    assert isinstance(engine, Engine)
    with Database(engine).transaction() as own:
        own.execute(
            text("SELECT pg_advisory_xact_lock(hashtext('sign-in'), hashtext(:name))"),
            {"name": name},
        )
        own.execute(delete(SignInAttempt).where(SignInAttempt.at < func.now() - timedelta(days=1)))
        recent = select(func.count()).where(
            SignInAttempt.name == name, SignInAttempt.at > func.now() - SIGN_IN_WINDOW
        )
        if own.scalar(recent) < SIGN_IN_FAILURES:  # type: ignore[operator]
            own.add(SignInAttempt(name=name))
            return
    raise NotAuthenticated(
        "Too many failed sign-ins under this name; wait five minutes and try again.",
        retry_after_s=int(SIGN_IN_WINDOW.total_seconds()),
    )


# --- what they did -----------------------------------------------------------------------------
def log_action(session: Session, actor: str, action: str, subject: str, **detail: object) -> None:
    """See `audit.record`."""
    audit.record(session, actor, action, subject, **detail)


# --- small parts -------------------------------------------------------------------------------
def _now() -> datetime:
    return datetime.now(UTC)


def _random(length: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(length))


def _sha256(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


def _checksum(head: str) -> str:
    """CRC-32 of everything before it, in six characters of base 62."""
    number, digits = zlib.crc32(head.encode()), ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits


def _scopes(scopes: Iterable[Scope | str]) -> list[str]:
    given = {str(scope) for scope in scopes}
    unknown = sorted(given - set(Scope))
    if unknown or not given:
        said = f"Unknown scope {', '.join(unknown)}" if unknown else "At least one scope is needed"
        raise InvalidInput(
            f"{said}; the scopes are {', '.join(Scope)}.",
            scopes=[str(s) for s in Scope],
        )
    return sorted(given)


def _check_password(password: str) -> None:
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise InvalidInput(f"A password has {MIN_PASSWORD} to {MAX_PASSWORD} characters.")


@cache
def _nobodys_hash() -> str:
    """Verified for an unknown name, so that it takes as long as for a known one."""
    return _hash(secrets.token_urlsafe())


def _hash(password: str) -> str:
    with _HASHING:
        return _HASHER.hash(password)


def _verify(known: str, password: str) -> bool:
    if len(password) > MAX_PASSWORD:
        return False
    with _HASHING:
        try:
            return _HASHER.verify(known, password)
        except (VerifyMismatchError, VerificationError):
            return False
