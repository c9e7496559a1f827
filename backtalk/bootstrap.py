"""Settings to objects. The only place where the parts of the system are built and joined."""

from typing import Any

from backtalk import failpoints
from backtalk.config import Settings
from backtalk.db import Database, make_engine
from backtalk.images import Turns
from backtalk.outage import Outage
from backtalk.store import ImageStore, VersionStore
from backtalk.system import System

__all__ = ["System", "build"]


def build(settings: Settings, *, outage: Outage | None = None, **engine_options: Any) -> System:
    """Join the parts; nothing is connected yet.

    Args:
        settings: with `database_url` set.
        outage: where given, callers of a database that fell silent are told at once for a moment.
        engine_options: passed on to `db.make_engine`, such as `pool_size`.

    Raises:
        ValueError: no `database_url`.
    """
    if settings.database_url is None:
        raise ValueError("BACKTALK_DATABASE_URL is not set, and no stack is running to take it from.")
    if settings.failpoints or settings.failpoint_log:
        failpoints.arm(settings.failpoints, settings.failpoint_log)
    return System(
        settings=settings,
        db=Database(make_engine(settings.database_url, **engine_options), outage),
        images=ImageStore(settings.images_path),
        versions=VersionStore(settings.store_path, settings.serving_prefix, readonly=settings.store_readonly),
        turns=Turns(settings.large_images_at_once),
    )
