"""The parts that every process needs, joined by `bootstrap.build`."""

import os
from dataclasses import dataclass, field

from backtalk.config import Settings
from backtalk.db import Database
from backtalk.images import Turns
from backtalk.store import ImageStore, VersionStore


@dataclass(frozen=True)
class System:
    """Rows, images and versions."""

    settings: Settings
    db: Database
    images: ImageStore
    versions: VersionStore
    turns: Turns = field(default_factory=lambda: Turns(os.cpu_count() or 1))

    def close(self) -> None:
        """Close the database connections."""
        self.db.close()
