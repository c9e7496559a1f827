"""The home folder of one machine: who holds it, and how others find the stack that runs there."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backtalk.config import Settings
from backtalk.errors import Conflict

_LOCK = "lock"
_STATE = "stack.json"


class HomeTaken(Conflict):
    """Another process works on this home."""


@dataclass(frozen=True)
class StackInfo:
    """What a running stack tells other processes on its machine."""

    pid: int
    address: str  # http://host:port
    database_url: str
    redis_url: str
    store: str
    images: str
    migration_url: str | None = None  # the same database as the owner of its tables

    def settings(self, home: Path) -> Settings:
        """Settings that reach this stack's parts."""
        return Settings.load(
            home=home,
            database_url=self.database_url,
            migration_url=self.migration_url,
            redis_url=self.redis_url,
            store=self.store,
            images=self.images,
        )


@contextmanager
def hold(home: Path, purpose: str) -> Iterator[None]:
    """Keep every other process from starting servers on `home`; the kernel lets go when we die.

    Raises:
        HomeTaken: another process holds it; the sentence says which.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / _LOCK).open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HomeTaken(_describe_holder(home)) from None
        _write(home / _LOCK, {"pid": os.getpid(), "purpose": purpose})
        yield


def is_held(home: Path) -> bool:
    """Whether some process, also this one, holds `home`."""
    path = home / _LOCK
    if not path.exists():
        return False
    with path.open("r", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def write_stack(home: Path, info: StackInfo) -> None:
    """Tell others. Readable by the owner alone: the address of Redis holds its password."""
    temporary = home / f"{_STATE}.{os.getpid()}"
    temporary.touch(mode=0o600)
    _write(temporary, asdict(info))
    temporary.replace(home / _STATE)


def remove_stack(home: Path) -> None:
    (home / _STATE).unlink(missing_ok=True)


def find_stack(home: Path) -> StackInfo | None:
    """The stack that runs on `home`; none where there is none, or it died without cleaning up."""
    if not is_held(home):
        return None
    known = _read(home / _STATE)
    return StackInfo(**known) if known else None


def _describe_holder(home: Path) -> str:
    stack = _read(home / _STATE)
    if stack:
        return f"A stack is already running on {home} (process {stack['pid']}, {stack['address']})."
    holder = _read(home / _LOCK)
    return f"{home} is in use by process {holder.get('pid', '?')} ({holder.get('purpose', 'unknown')})."


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return {}
