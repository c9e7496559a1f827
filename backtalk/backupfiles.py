"""A backup on disk: copies with their sums, and the description that makes them whole."""

import json
import os
from dataclasses import asdict, dataclass, field
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from backtalk.dumps import Dump
from backtalk.errors import BackupInvalid
from backtalk.progress import Report
from backtalk.sums import SUMS, read_sums

FORMAT = 1
DESCRIPTION = "backup.json"
TABLES, IMAGES, VERSIONS = "tables", "images", "versions"
_BLOCK = 2**20
_REPORT_EVERY = 100  # files


@dataclass
class Description:
    """`backup.json`, written last: without it a folder is no backup."""

    made_at: str
    release: str
    dump: Dump
    format: int = FORMAT
    files: int = 0
    byte_size: int = 0
    sums_sha256: str = ""  # of SHA256SUMS
    deleted_meanwhile: list[str] = field(default_factory=list)  # keys of images; gone on restore as well
    missing: list[str] = field(default_factory=list)  # what rows named and nobody had deleted

    def save(self, folder: Path) -> None:
        (folder / DESCRIPTION).write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        os.sync()

    @classmethod
    def load(cls, folder: Path) -> "Description":
        """Raises BackupInvalid: no backup, not a whole one, or of a later format."""
        try:
            values: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            found = cls(**{**values, "dump": Dump(**values["dump"])})
        except FileNotFoundError:
            raise BackupInvalid(
                f"{folder} holds no whole backup: {DESCRIPTION}, which is written last, is missing."
            ) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise BackupInvalid(f"{folder / DESCRIPTION} cannot be read: {error}") from None
        if found.format != FORMAT:
            raise BackupInvalid(f"{folder} has format {found.format}; this release reads format {FORMAT}.")
        return found


class Copier:
    """Copies files and keeps the sums of what it wrote."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.byte_size = 0
        self._lines: dict[str, str] = {}

    def copy(self, source: Path, name: str) -> str:
        """Copy one file to `name` below the target; its SHA-256. Raises FileNotFoundError."""
        path, digest = self.target / name, sha256()
        with source.open("rb") as read:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as write:
                while block := read.read(_BLOCK):
                    digest.update(block)
                    write.write(block)
                    self.byte_size += len(block)
        self._lines[name] = digest.hexdigest()
        return digest.hexdigest()

    def drop(self, prefix: str) -> None:
        """Forget what was copied below a folder that turned out to have moved."""
        self._lines = {name: one for name, one in self._lines.items() if not name.startswith(f"{prefix}/")}

    def sum_up(self, name: str) -> None:
        """Add a file that is there already."""
        with (self.target / name).open("rb") as file:
            self._lines[name] = file_digest(file, "sha256").hexdigest()
            self.byte_size += file.tell()

    def finish(self, description: Description) -> None:
        text = "".join(f"{self._lines[name]}  {name}\n" for name in sorted(self._lines)).encode()
        (self.target / SUMS).write_bytes(text)
        os.sync()  # all of it is on the disk before the word that it is whole
        description.files, description.byte_size = len(self._lines), self.byte_size
        description.sums_sha256 = sha256(text).hexdigest()
        description.save(self.target)


def list_sums(folder: Path, description: Description) -> dict[str, str]:
    """SHA-256 by name. Raises BackupInvalid: the list is not what `backup.json` says."""
    try:
        data = (folder / SUMS).read_bytes()
    except OSError:
        data = b""
    if sha256(data).hexdigest() != description.sums_sha256:
        raise BackupInvalid(f"{folder / SUMS} is missing or was changed.")
    return read_sums(data.decode())


def check_sums(folder: Path, description: Description, report: Report) -> dict[str, str]:
    """Read every byte of a backup. Raises BackupInvalid: names the file that is missing or changed."""
    sums = list_sums(folder, description)
    for number, (name, expected) in enumerate(sums.items()):
        if number % _REPORT_EVERY == 0:
            report("sums", number, len(sums))
        try:
            with (folder / name).open("rb") as file:
                found = file_digest(file, "sha256").hexdigest()
        except OSError:
            raise BackupInvalid(f"The backup is not whole: {name} is missing.") from None
        if found != expected:
            raise BackupInvalid(f"The backup is not whole: {name} was changed.")
    report("sums", len(sums), len(sums))
    return sums
