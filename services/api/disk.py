"""Room on the disks that images and versions go to."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

LOOK_EVERY_S = 1.0


class Disks:
    """How many bytes are free where these folders are, or will be; looked up once a second at most."""

    def __init__(self, folders: Iterable[Path], min_free_bytes: int) -> None:
        self._folders = tuple(folders)
        self._min_free_bytes = min_free_bytes
        self._looked_at = float("-inf")
        self._free: dict[Path, int] = {}

    def free_bytes(self) -> dict[Path, int]:
        """By folder, for whoever is not root."""
        if time.monotonic() - self._looked_at > LOOK_EVERY_S:
            self._looked_at = time.monotonic()
            self._free = {folder: _ask(folder) for folder in self._folders}
        return self._free

    def find_full(self) -> Path | None:
        """A folder whose disk has less than the minimum, if there is one."""
        return next((f for f, free in self.free_bytes().items() if free < self._min_free_bytes), None)


def _ask(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:  # the first image makes the folder
        folder = folder.parent
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
