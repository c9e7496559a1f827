"""What one worker process holds: its connections, and where it trains, its trainers.

Built after the fork: connections and child processes must not be shared between pool processes.
"""

import logging
import mmap
import os
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from billiard.common import REMAP_SIGTERM
from celery.signals import celeryd_init, worker_process_init, worker_process_shutdown, worker_ready
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from backtalk import bootstrap
from backtalk.children import die_with_parent
from backtalk.config import Settings
from backtalk.experiments import Experiments
from backtalk.states import RunKind, VersionState
from backtalk.system import System
from backtalk.tables import Version
from backtalk.trainers import Trainers
from workers.channel import tolerate_nonsense

LOG = logging.getLogger(__name__)
TRAINING_HOST = "training"  # workers named `training-…@host` keep a warm trainer
#: So long before the end of the grace a run is given back: ending its trainer and one transaction.
GIVE_BACK_S = 3.0
_MOMENT = struct.Struct("d")  # on the monotonic clock, which all processes of a machine share


class _Process:
    system: System | None = None
    trainers: Trainers | None = None
    experiments: Experiments | None = None
    trains = False
    keeps_warm = False  # hours wait for nobody: full runs start their trainers when they need them
    busy = False  # a run is in hand
    asked = False  # SIGTERM came to this very process
    #: When runs must be given back, told by the main process to those that it forked; 0: it is not stopping.
    give_back_at: mmap.mmap | None = None


def get_system() -> System:
    """This process's connections, made at the first call."""
    if _Process.system is None:
        _Process.system = bootstrap.build(Settings.load(), pool_size=3)
    return _Process.system


def get_trainers() -> Trainers:
    """This process's trainers, made at the first call."""
    if _Process.trainers is None:
        _Process.trainers = Trainers(warm=_Process.keeps_warm and get_system().settings.warm_trainer)
    return _Process.trainers


def get_experiments() -> Experiments:
    """What this process knows of MLflow, made at the first call."""
    if _Process.experiments is None:
        _Process.experiments = Experiments(get_system())
    return _Process.experiments


def is_stopping() -> bool:
    """Whether the run in hand must be given back now: its worker is about to be ended."""
    if _Process.asked or _Process.give_back_at is None:
        return _Process.asked
    (moment,) = _MOMENT.unpack_from(_Process.give_back_at)
    return bool(moment) and time.monotonic() >= moment


@contextmanager
def training_a_run() -> Iterator[None]:
    """While it lasts, SIGTERM to this process means: give the run back, then end."""
    _Process.busy = True
    try:
        yield
    finally:
        _Process.busy = False
        if _Process.asked:
            _end_by_sigterm()


def _note_sigterm(_number: int, _frame: FrameType | None) -> None:
    """As where a service manager sends it to all processes of a service, and not to the first alone."""
    _Process.asked = True
    if not _Process.busy:
        _end_by_sigterm()


def _end_by_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def _tell_pool_when_to_give_back(grace_s: float) -> None:
    """Celery tells its pool nothing of a shutdown until it ends it: so say it at the first signal."""
    shared = _Process.give_back_at
    assert shared is not None  # made before the pool was forked
    for number in (signal.SIGTERM, signal.SIGQUIT):
        handle = signal.getsignal(number)

        def note(signum: int, frame: FrameType | None, handle: Any = handle) -> None:
            _MOMENT.pack_into(shared, 0, time.monotonic() + max(0.0, grace_s - GIVE_BACK_S))
            if callable(handle):
                handle(signum, frame)

        signal.signal(number, note)


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
    tolerate_nonsense()
    _Process.trains = sender.startswith(TRAINING_HOST)
    _Process.keeps_warm = sender.startswith(f"{TRAINING_HOST}-{RunKind.HEAD}@")
    _Process.give_back_at = mmap.mmap(-1, _MOMENT.size)  # shared with what is forked from here on
    if REMAP_SIGTERM != "SIGQUIT":  # read when Celery was imported, so it is too late to set it here
        LOG.warning("set REMAP_SIGTERM=SIGQUIT, or this worker waits for its tasks without end when stopped")


@worker_ready.connect
def _on_ready(sender: Any, **_: Any) -> None:
    # Celery 5.7.0 asks the pool for its size with each message, also while stopping, when the pool is gone
    # already: a worker stopped at that moment ended in a traceback. It looks here first.
    sender.controller.max_concurrency = sender.controller.concurrency
    if _Process.trains:
        _tell_pool_when_to_give_back(Settings.load().worker_grace_s)


@worker_process_init.connect
def _start(**_: Any) -> None:
    die_with_parent()  # a killed worker's pool would wait for work that nobody hands out
    if _Process.trains:
        signal.signal(signal.SIGTERM, _note_sigterm)
        if _Process.keeps_warm:
            get_trainers().keep_spare(_find_backbone(), get_system().settings.store_path)


@worker_process_shutdown.connect
def _stop(**_: Any) -> None:
    if _Process.trainers is not None:
        _Process.trainers.close()
    if _Process.system is not None:
        _Process.system.close()
