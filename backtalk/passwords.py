"""Passwords: what they must be like, and how they are kept."""

import secrets
from functools import cache
from threading import BoundedSemaphore

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError, VerifyMismatchError

from backtalk.errors import InvalidInput

MIN_PASSWORD = 10
MAX_PASSWORD = 256
_DIFFERENT = 5  # characters, so that `aaaaaaaaaa` and `1212121212` are none

# OWASP's minimum for Argon2id: 19 MiB keeps an API process small where several people sign in at once.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_HASHING = BoundedSemaphore(2)


def check_password(name: str, password: str) -> None:
    """Raises InvalidInput for one that is too short, too long, or guessed at the first try."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise InvalidInput(f"A password has {MIN_PASSWORD} to {MAX_PASSWORD} characters.")
    if len(set(password)) < _DIFFERENT or password.lower().startswith(name.lower()):
        raise InvalidInput(
            f"A password has {_DIFFERENT} different characters at least, and does not begin with the name."
        )


def hash_password(password: str) -> str:
    """Argon2id with its parameters and salt, as one word (RFC 9106)."""
    with _HASHING:
        return _HASHER.hash(password)


def verify_password(known: str | None, password: str) -> bool:
    """Whether the password is the one that was hashed. Takes as long where there is nobody to know it."""
    if len(password) > MAX_PASSWORD:
        return False
    hashed = _nobodys_hash()  # made before it is needed: the first unknown name must take no longer
    with _HASHING:
        try:
            _HASHER.verify(known or hashed, password)
        except (VerifyMismatchError, VerificationError):
            return False
    return known is not None


def is_outdated(known: str) -> bool:
    """Whether it was hashed with weaker parameters than today's."""
    return _HASHER.check_needs_rehash(known)


@cache
def _nobodys_hash() -> str:
    return hash_password(secrets.token_urlsafe())
