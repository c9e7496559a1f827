"""The parts that every process needs, joined by `bootstrap.build`."""

from dataclasses import dataclass

from backtalk.config import Settings
from backtalk.db import Database
from backtalk.store import ImageStore, VersionStore


@dataclass(frozen=True)
class System:
    """Rows, images and versions."""

    settings: Settings
    db: Database
    images: ImageStore
    versions: VersionStore

    def close(self) -> None:
        """Close the database connections."""
        self.db.close()
