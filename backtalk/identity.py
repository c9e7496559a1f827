"""Keys of apps and people who sign in: all that others need of them, in one place."""

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
