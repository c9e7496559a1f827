"""Keys of apps: made, told apart, renewed, ended.

A key reads `bt_<id>_<secret><checksum>`: the prefix lets a scanner find a leaked one, the checksum lets a
mistyped one be refused without asking the database. The id stays when the secret is renewed, so whatever was
issued to a key belongs to it still.
"""

import hmac
import re
import secrets
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from backtalk.callers import Caller
from backtalk.errors import Conflict, InvalidInput, InvalidName, NotAuthenticated, NotFound
from backtalk.states import Scope
from backtalk.tables import ApiKey

KEY_PREFIX = "bt"
#: Seen and used are written at most this often, so that a busy key costs no write with each call.
TOUCH_EVERY = timedelta(minutes=1)
ROTATION_OVERLAP = timedelta(days=7)

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 10
_SECRET_LENGTH = 30  # 178 bits: a fast hash of it is enough
_CHECKSUM_LENGTH = 6
_ID = re.compile(r"[0-9A-Za-z]{10}")
_KEY = re.compile(r"bt_([0-9A-Za-z]{10})_([0-9A-Za-z]{30})([0-9A-Za-z]{6})")


def create_key(
    session: Session,
    *,
    name: str,
    scopes: Iterable[Scope | str],
    trusted: bool = False,
    expires_at: datetime | None = None,
    key_id: str | None = None,
) -> str:
    """Make a key and return it; only its hash is kept, so it can be shown this once.

    Args:
        key_id: from `draw_id`; a form that is sent twice then makes one key.

    Raises:
        InvalidName: the name is empty or too long.
        InvalidInput: no scope, or an unknown one.
        Conflict: there is a key with that id already.
    """
    if not name.strip() or len(name) > 100 or not name.isprintable():
        raise InvalidName("A key needs a name of 1 to 100 printable characters.")
    key_id, secret = key_id or draw_id(), _random(_SECRET_LENGTH)
    if not _ID.fullmatch(key_id):
        raise InvalidInput(f"The id of a key has {_ID_LENGTH} letters or digits.")
    if session.get(ApiKey, key_id) is not None:
        raise Conflict("This key was made already, and was shown then. Make another one, and end this one.")
    session.add(
        ApiKey(
            id=key_id,
            name=name.strip(),
            secret_sha256=hash_secret(secret),
            scopes=check_scopes(scopes),
            trusted=trusted,
            expires_at=expires_at,
        )
    )
    session.flush()
    return _write(key_id, secret)


def authenticate_key(session: Session, token: str) -> Caller:
    """Whose key this is; notes its use about once a minute.

    Raises:
        NotAuthenticated: mistyped, unknown, renewed, expired or revoked.
    """
    match = _KEY.fullmatch(token)
    if match is None or not hmac.compare_digest(checksum(token[:-_CHECKSUM_LENGTH]), match[3]):
        raise NotAuthenticated("That is no key of this service, or it was mistyped: its checksum is wrong.")
    key = session.get(ApiKey, match[1])
    given, nobody = hash_secret(match[2]), hash_secret("")
    is_current = hmac.compare_digest(given, key.secret_sha256 if key else nobody)
    is_older = hmac.compare_digest(given, (key and key.previous_sha256) or nobody)
    if key is None or not (is_current or is_older):
        raise NotAuthenticated("This key is not known here.")
    if key.revoked_at is not None:
        raise NotAuthenticated("This key was revoked; ask for a new one.")
    if is_older and (key.previous_until is None or key.previous_until <= _now()):
        raise NotAuthenticated("This key was renewed, and its older secret has ended; use the newer one.")
    if key.expires_at is not None and key.expires_at <= _now():
        raise NotAuthenticated("This key has expired; ask for a new one.")
    _touch(session, key, older=is_older)
    scopes = frozenset(Scope(scope) for scope in key.scopes)
    return Caller(f"key:{key.id}", key.name, scopes, key_id=key.id, trusted=key.trusted)


def rotate_key(
    session: Session,
    key_id: str,
    *,
    overlap: timedelta = ROTATION_OVERLAP,
    expires_at: datetime | None = None,
) -> str:
    """Give a key a new secret and return it whole, to be shown this once.

    The secret before it lives on for `overlap`; any older one ends now: a key has two live ones at most.

    Args:
        expires_at: moves the key's end, where it has or gets one.

    Raises:
        NotFound: no such key.
        Conflict: it was revoked.
    """
    key = _get_key(session, key_id)
    if key.revoked_at is not None:
        raise Conflict(f"Key {key_id} was revoked: make a new one with `backtalk keys create`.")
    secret = _random(_SECRET_LENGTH)
    key.previous_sha256, key.previous_used_at = key.secret_sha256, key.last_used_at
    key.previous_until = _now() + overlap
    key.secret_sha256 = hash_secret(secret)
    key.expires_at = expires_at or key.expires_at
    session.flush()
    return _write(key_id, secret)


def revoke_key(session: Session, key_id: str) -> None:
    """End a key with both its secrets. Processes that have just seen it may take it for a few seconds more.

    Raises:
        NotFound: no such key.
    """
    key = _get_key(session, key_id)
    key.revoked_at = key.revoked_at or _now()
    session.flush()


@dataclass(frozen=True)
class KeyStatus:
    """A key as its owner may see it: everything but the hashes."""

    id: str
    name: str
    scopes: list[str]
    trusted: bool
    state: str  # live, rotating (two live secrets), expired, revoked
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None  # with either secret
    older_until: datetime | None  # when the older secret ends or ended
    older_used_at: datetime | None


def list_keys(session: Session) -> list[KeyStatus]:
    """All keys, the newest first."""
    keys = session.scalars(select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.id))
    return [_describe(key) for key in keys]


def _describe(key: ApiKey) -> KeyStatus:
    return KeyStatus(
        id=key.id,
        name=key.name,
        scopes=key.scopes,
        trusted=key.trusted,
        state=_state(key),
        created_at=key.created_at,
        expires_at=key.expires_at,
        last_used_at=key.last_used_at,
        older_until=key.previous_until,
        older_used_at=key.previous_used_at,
    )


def get_status(session: Session, key_id: str) -> KeyStatus:
    """Raises NotFound. The row is locked, so that two changes come one after the other."""
    return _describe(_get_key(session, key_id))


def draw_id() -> str:
    """An id that no key has yet."""
    return _random(_ID_LENGTH)


def read_id(text: str) -> str:
    """The id out of a whole key, or the id itself."""
    return text.split("_")[1] if text.startswith(f"{KEY_PREFIX}_") else text


def check_scopes(scopes: Iterable[Scope | str]) -> list[str]:
    """Sorted and known.

    Raises:
        InvalidInput: none is given, or one is unknown.
    """
    given = {str(scope) for scope in scopes}
    unknown = sorted(given - set(Scope))
    if unknown or not given:
        said = f"Unknown scope {', '.join(unknown)}" if unknown else "At least one scope is needed"
        raise InvalidInput(f"{said}; the scopes are {', '.join(Scope)}.", scopes=[str(s) for s in Scope])
    return sorted(given)


def hash_secret(value: str) -> str:
    """SHA-256 in hexadecimal, for secrets of so many random bits that nobody can guess one."""
    return sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


def _get_key(session: Session, key_id: str) -> ApiKey:
    key = session.get(ApiKey, key_id, with_for_update=True)
    if key is None:
        raise NotFound(f"No key has the id {key_id}.")
    return key


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= _now():
        return "expired"
    return "rotating" if key.previous_until is not None and key.previous_until > _now() else "live"


def _touch(session: Session, key: ApiKey, *, older: bool) -> None:
    seen = key.previous_used_at if older else key.last_used_at
    if seen is not None and seen >= _now() - TOUCH_EVERY:
        return
    values = {"last_used_at": func.now()} | ({"previous_used_at": func.now()} if older else {})
    # Skips a locked row: a second process is writing the same minute, or somebody is changing the key. A
    # prediction waits for neither.
    row = select(ApiKey.id).where(ApiKey.id == key.id).with_for_update(skip_locked=True)
    session.execute(
        update(ApiKey).where(ApiKey.id.in_(row)).values(values),
        execution_options={"synchronize_session": False},
    )


def _write(key_id: str, secret: str) -> str:
    head = f"{KEY_PREFIX}_{key_id}_{secret}"
    return head + checksum(head)


def _random(length: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(length))


def checksum(head: str) -> str:
    """CRC-32 of everything before it, in six characters of base 62."""
    number, digits = zlib.crc32(head.encode()), ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits


def _now() -> datetime:
    return datetime.now(UTC)
