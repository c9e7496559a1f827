"""Keys of apps, people who sign in, and the log of what they did: all that others need, in one place."""

from sqlalchemy.orm import Session

from backtalk import audit
from backtalk.callers import Caller
from backtalk.keys import (
    KEY_PREFIX,
    KeyStatus,
    authenticate_key,
    create_key,
    list_keys,
    read_id,
    revoke_key,
    rotate_key,
)
from backtalk.people import (
    BROWSER_KNOWN,
    SESSION_IDLE,
    SESSION_LIFETIME,
    change_password,
    create_user,
    find_session,
    list_users,
    remember_browser,
    set_disabled,
    set_password,
    set_scopes,
    sign_in,
    sign_out,
)

__all__ = [
    "BROWSER_KNOWN",
    "KEY_PREFIX",
    "SESSION_IDLE",
    "SESSION_LIFETIME",
    "Caller",
    "KeyStatus",
    "authenticate_key",
    "change_password",
    "create_key",
    "create_user",
    "find_session",
    "list_keys",
    "list_users",
    "log_action",
    "read_id",
    "remember_browser",
    "revoke_key",
    "rotate_key",
    "set_disabled",
    "set_password",
    "set_scopes",
    "sign_in",
    "sign_out",
]


def log_action(session: Session, actor: str, action: str, subject: str, **detail: object) -> None:
    """See `audit.record`."""
    audit.record(session, actor, action, subject, **detail)
