"""What one worker process holds: its connections, and where it trains, its trainers.

Built after the fork: connections and child processes must not be shared between pool processes.
"""

import logging
from typing import Any

from billiard.common import REMAP_SIGTERM
from celery.signals import celeryd_init, worker_process_init, worker_process_shutdown, worker_ready
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from backtalk import bootstrap
from backtalk.children import die_with_parent
from backtalk.config import Settings
from backtalk.states import VersionState
from backtalk.system import System
from backtalk.tables import Version
from backtalk.trainers import Trainers

LOG = logging.getLogger(__name__)
TRAINING_HOST = "training"  # workers named `training-…@host` keep a warm trainer


class _Process:
    system: System | None = None
    trainers: Trainers | None = None
    trains = False


def get_system() -> System:
    """This process's connections, made at the first call."""
    if _Process.system is None:
        _Process.system = bootstrap.build(Settings.load(), pool_size=3)
    return _Process.system


def get_trainers() -> Trainers:
    """This process's trainers, made at the first call."""
    if _Process.trainers is None:
        _Process.trainers = Trainers(warm=get_system().settings.warm_trainer)
    return _Process.trainers


def _find_backbone() -> str | None:
    """The backbone that the next run most likely needs: that of the newest live version."""
    query = select(Version.backbone_digest).where(Version.state == VersionState.LIVE)
    try:
        with get_system().db.reading() as session:
            return session.scalar(query.order_by(Version.created_at.desc()).limit(1))
    except SQLAlchemyError:  # the first run then loads it by itself
        return None


@celeryd_init.connect
def _note_role(sender: str, **_: Any) -> None:
    _Process.trains = sender.startswith(TRAINING_HOST)
    if REMAP_SIGTERM != "SIGQUIT":  # read when Celery was imported, so it is too late to set it here
        LOG.warning("set REMAP_SIGTERM=SIGQUIT, or this worker waits for its tasks without end when stopped")


@worker_ready.connect
def _remember_concurrency(sender: Any, **_: Any) -> None:
    # Celery 5.7.0 asks the pool for its size with each message, also while stopping, when the pool is gone
    # already: a worker stopped at that moment ended in a traceback. It looks here first.
    sender.controller.max_concurrency = sender.controller.concurrency


@worker_process_init.connect
def _start(**_: Any) -> None:
    die_with_parent()  # a killed worker's pool would wait for work that nobody hands out
    if _Process.trains:
        get_trainers().keep_spare(_find_backbone(), get_system().settings.store_path)


@worker_process_shutdown.connect
def _stop(**_: Any) -> None:
    if _Process.trainers is not None:
        _Process.trainers.close()
    if _Process.system is not None:
        _Process.system.close()
