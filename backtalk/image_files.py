"""The images on disk: the uploads' own compressed data, metadata cut out."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

from backtalk.errors import ImageNotFound
from backtalk.failpoints import failpoint
from backtalk.sums import make_folder, read_disk_clock, sync_folder

#: Names this old are on the disk, whether or not their writer came to sync them (seconds).
_SETTLED_S = 60.0
_SHA256 = re.compile(r"[0-9a-f]{64}")
_IMAGE_KEY = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}-[0-9a-f]{16}")


class ImageStore:
    """The uploads' own compressed data, metadata cut out: `<2 hex>/<pixels sha256>-<16 hex of the data>`.

    The data's own digest is part of the key, since two files with the same pixels may need different
    orientations: the row that holds the key holds the orientation of just those bytes.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._incoming = root / ".incoming"
        self._aside = root / ".gone"

    def put(self, pixels_sha256: str, data: bytes) -> str:
        """Keep an image and return its key. Durable on return; any number of callers may put the same one."""
        if not _SHA256.fullmatch(pixels_sha256):
            raise ValueError("pixels_sha256 must be 64 hexadecimal digits")
        key = f"{pixels_sha256[:2]}/{pixels_sha256}-{sha256(data).hexdigest()[:16]}"
        path = self.root / key
        try:
            settled = path.stat().st_mtime < time.time() - _SETTLED_S
        except FileNotFoundError:
            self._write(path, data)
            settled = False
        if not settled:  # also where another writer has just renamed it, and not yet synced the name
            sync_folder(path.parent)
        return key

    def _write(self, path: Path, data: bytes) -> None:
        try:  # the folders are nearly always there, and each look at them is paid by a prediction
            self._place(path, data)
        except FileNotFoundError:
            make_folder(self._incoming)
            make_folder(path.parent)
            self._place(path, data)

    def _place(self, path: Path, data: bytes) -> None:
        aside = self._incoming / uuid4().hex
        try:
            _write_synced(aside, data)
            failpoint("images.before_rename")
            aside.rename(path)
            failpoint("images.after_rename")
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    def get(self, key: str) -> bytes:
        """Raises ImageNotFound: no such file, or it is damaged."""
        try:
            data = self._path(key).read_bytes()
        except FileNotFoundError:
            raise ImageNotFound("The image's file is gone from the store.") from None
        if sha256(data).hexdigest()[:16] != key[-16:]:
            raise ImageNotFound("The image's file in the store is damaged; restore it from a backup.")
        return data

    def locate(self, key: str) -> Path:
        """Where the file lies or would lie. Raises ImageNotFound: no key of an image."""
        return self._path(key)

    def has(self, key: str) -> bool:
        return self._path(key).exists()

    def list_twins(self, pixels_sha256: str) -> list[str]:
        """Keys of all files with these pixels: the same picture may have come in several encodings."""
        if not _SHA256.fullmatch(pixels_sha256):
            raise ValueError("pixels_sha256 must be 64 hexadecimal digits")
        folder = self.root / pixels_sha256[:2]
        return sorted(f"{folder.name}/{path.name}" for path in folder.glob(f"{pixels_sha256}-*"))

    def set_aside(self, key: str) -> None:
        """Move a file out of sight, to come back or to go; fine if it is not there."""
        make_folder(self._aside)
        path = self._path(key)
        with suppress(FileNotFoundError):
            path.rename(self._aside / path.name)
            sync_folder(path.parent)

    def put_back(self, key: str) -> None:
        """What `set_aside` moved takes its place again; fine if it is gone."""
        path = self._path(key)
        with suppress(FileNotFoundError):
            (self._aside / path.name).rename(path)
            sync_folder(path.parent)

    def remove_aside(self, key: str) -> None:
        """Remove what `set_aside` moved; fine if it is gone."""
        (self._aside / self._path(key).name).unlink(missing_ok=True)
        sync_folder(self._aside)

    def list_aside(self) -> list[str]:
        """Keys of what was moved out of sight and is still there."""
        keys = (f"{path.name[:2]}/{path.name}" for path in self._aside.glob("*"))
        return sorted(key for key in keys if _IMAGE_KEY.fullmatch(key))

    def keys(self, older_than_s: float = 0.0) -> Iterator[str]:
        """Every key in the store, in no order; of files whose last write is so many seconds ago."""
        if older_than_s and not self.root.is_dir():
            return
        now = read_disk_clock(self.root) if older_than_s else 0.0
        for path in self.root.glob("[0-9a-f][0-9a-f]/*"):
            key = f"{path.parent.name}/{path.name}"
            if _IMAGE_KEY.fullmatch(key) and (not older_than_s or _age_s(path, now) > older_than_s):
                yield key

    def sweep(self, older_than_s: float = 3600.0) -> int:
        """Remove what broken-off writes left aside; returns how many files."""
        if not self._incoming.is_dir():
            return 0
        removed, now = 0, read_disk_clock(self._incoming)
        for path in self._incoming.glob("*"):
            try:
                if path.stat().st_mtime < now - older_than_s:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:  # its writer has just finished
                continue
        return removed

    def _path(self, key: str) -> Path:
        if not _IMAGE_KEY.fullmatch(key):
            raise ImageNotFound(f"{key!r} is no key of an image.")
        return self.root / key


def _write_synced(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        failpoint("images.before_write")
        rest = memoryview(data)
        while rest:  # a disk that fills up takes a part, and says so only at the next write
            rest = rest[os.write(descriptor, rest) :]
        failpoint("images.before_sync")
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _age_s(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
