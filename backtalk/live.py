"""What one process has in service, kept equal to what the database wants live.

A thread asks every `poll_s`, loads beside what is serving, and swaps one reference. What does not load leaves
the version before it in service, and says so in `replicas`.
"""

import logging
import os
import socket
import threading
import time
from dataclasses import dataclass, replace

from sqlalchemy import delete, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from backtalk.db import Database
from backtalk.errors import ModelNotFound, NoVersionInService, Unavailable
from backtalk.loading import Loader, ServedVersion, Wanted, read_wanted
from backtalk.tables import Replica

_LOOK_EVERY_S = 0.2  # between two looks for a model that no poll has shown
_LONGEST_RETRY_S = 60.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelState:
    """What this process has in service of one model, and what it should have."""

    model: str
    version: int | None  # none: it cannot answer
    generation: int
    wanted_version: int
    wanted_generation: int
    error: str | None  # why the wanted version is not the one in service


@dataclass(frozen=True, slots=True)
class _Slot:
    """One model's place: what should be live, what is, and what was (for a rollback at once)."""

    wanted: Wanted
    current: ServedVersion | None = None
    previous: ServedVersion | None = None
    error: str | None = None
    failures: int = 0
    retry_at: float = 0.0  # on the monotonic clock, seconds


class LiveVersions:
    """One reference per model. Thread-safe; `start` only after the process has forked."""

    def __init__(self, database: Database, loader: Loader, poll_s: float) -> None:
        self.process = f"{socket.gethostname()}:{os.getpid()}:{int(time.time())}"
        self._database = database
        self._loader = loader
        self._poll_s = poll_s
        self._slots: dict[str, _Slot] = {}  # replaced, never changed: readers take no lock
        self._polled = False
        self._turn = threading.Lock()
        self._looking = threading.Lock()
        self._looked_at = float("-inf")
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._poll_for_ever, name="poll-versions", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop polling, and take this process off the list, so that no promotion waits for it."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=10)
        try:
            with self._database.transaction() as session:
                session.execute(delete(Replica).where(Replica.process == self.process))
        except SQLAlchemyError:
            _log.warning("this process stays on the list of replicas until its row is too old to count")

    def get_version(self, name: str) -> ServedVersion:
        """The version in service. Holding on to it is what pins a request to it.

        Raises:
            ModelNotFound: no model has that name.
            NoVersionInService: it has no version yet, or none that loads.
            Unavailable: the model is not known here, and the database does not answer.
        """
        slot = self._slots.get(name)
        if slot is None or slot.current is None:
            slot = self._look_for(name)
        if slot is None:
            raise ModelNotFound(f"There is no model named {name!r}.")
        if slot.current is None:
            why = slot.error or "its first version is still being made, or making it broke off"
            raise NoVersionInService(f"No version of {name} is in service: {why}.")
        return slot.current

    def list_held(self, name: str) -> list[ServedVersion]:
        """The version in service, and after it the one before, where this process still holds it.

        Raises: as `get_version`.
        """
        current = self.get_version(name)
        previous = self._slots[name].previous if name in self._slots else None
        held = _with_policy(previous, current.wanted)
        return [current] if held is None or held.number == current.number else [current, held]

    def states(self) -> list[ModelState]:
        """What is in service, by model. Models that never had a version are left out.

        Raises:
            Unavailable: the database has not answered since this process started.
        """
        if not self._polled:
            self._refresh_or_fail()
        return [
            ModelState(
                model=name,
                version=slot.current.number if slot.current else None,
                generation=slot.current.generation if slot.current else 0,
                wanted_version=slot.wanted.artefact.number,
                wanted_generation=slot.wanted.generation,
                error=slot.error,
            )
            for name, slot in self._slots.items()
            if slot.wanted.artefact is not None
        ]

    def refresh(self) -> None:
        """Ask the database, load what changed, and say what is in service now."""
        with self._turn:
            with self._database.reading() as session:
                wanted = read_wanted(session)
            known = {slot.wanted.model_id: slot for slot in self._slots.values()}
            for one in wanted:
                slot = self._next_slot(known.get(one.model_id), one)
                self._slots = self._slots | {one.name: slot}  # in service before the next one is loaded
            self._slots = {one.name: self._slots[one.name] for one in wanted}
            self._polled = True
            self._report()

    def _next_slot(self, slot: _Slot | None, wanted: Wanted) -> _Slot:
        slot = slot or _Slot(wanted)
        if not wanted.same_files(slot.wanted):  # another version: what failed before says nothing about it
            slot = replace(slot, error=None, failures=0)
        slot = replace(slot, wanted=wanted, current=_with_policy(slot.current, wanted))
        if wanted.artefact is None:
            return slot
        if slot.current and wanted.same_files(slot.current.wanted):
            return replace(slot, current=replace(slot.current, wanted=wanted), error=None, failures=0)
        if slot.previous and wanted.same_files(slot.previous.wanted):
            back = replace(slot.previous, wanted=wanted)
            return replace(slot, current=back, previous=slot.current, error=None, failures=0)
        if slot.failures and time.monotonic() < slot.retry_at:
            return slot
        return self._load(slot, wanted.artefact.number)

    def _load(self, slot: _Slot, number: int) -> _Slot:
        began = time.monotonic()
        try:
            served = self._loader.load(slot.wanted)
        except Exception as error:  # noqa: BLE001 - whatever it is, the version in service goes on answering
            _log.exception("version %d of %s does not load", number, slot.wanted.name)
            wait_s = min(self._poll_s * 2**slot.failures, _LONGEST_RETRY_S)
            return replace(
                slot,
                error=f"version {number} does not load: {error}",
                failures=slot.failures + 1,
                retry_at=time.monotonic() + wait_s,
            )
        _log.info("version %d of %s loaded in %.2f s", number, slot.wanted.name, time.monotonic() - began)
        return _Slot(slot.wanted, current=served, previous=slot.current)

    def _report(self) -> None:
        rows = [
            {
                "process": self.process,
                "model_id": slot.wanted.model_id,
                "generation": slot.current.generation if slot.current else 0,
                "version": slot.current.number if slot.current else None,
                "error": slot.error,
                "seen_at": func.now(),
            }
            for slot in self._slots.values()
        ]
        if not rows:
            return
        statement = insert(Replica).values(rows)
        said = {name: statement.excluded[name] for name in ("generation", "version", "error", "seen_at")}
        statement = statement.on_conflict_do_update(index_elements=["process", "model_id"], set_=said)
        with self._database.transaction() as session:
            session.execute(statement)

    def _poll_for_ever(self) -> None:
        away = False
        while not self._closing.is_set():
            try:
                self.refresh()
                away = False
            except Exception as error:  # noqa: BLE001 - the thread must outlive whatever this was
                if not away:
                    _log.warning("what should be live is not known: %s", error)
                away = True
            self._closing.wait(self._poll_s)

    def _look_for(self, name: str) -> _Slot | None:
        """Ask between two polls: a model may be newer than the last one. Guessing names must cost little."""
        with self._looking:
            slot = self._slots.get(name)
            if (slot is None or slot.current is None) and time.monotonic() > self._looked_at + _LOOK_EVERY_S:
                self._refresh_or_fail()
                self._looked_at = time.monotonic()
        return self._slots.get(name)

    def _refresh_or_fail(self) -> None:
        try:
            self.refresh()
        except SQLAlchemyError as error:
            raise Unavailable("The database does not answer. Try again.") from error


def _with_policy(served: ServedVersion | None, wanted: Wanted) -> ServedVersion | None:
    """The policy holds at once, also for a version that stays because its successor does not load."""
    if served is None or served.wanted.policy == wanted.policy:
        return served
    return replace(served, wanted=replace(served.wanted, policy=wanted.policy))
