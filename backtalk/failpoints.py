"""Named places at every durable step, where a test can make a process die, fail, wait or stand still.

Off, which is always but in tests, a failpoint costs one look at a module's variable. Armed by
`BACKTALK_FAILPOINTS`, a list such as `promotion.before_commit=kill@2;store.before_rename=raise`:

- `kill` ends the process with SIGKILL, as the kernel does when memory runs out;
- `raise` raises `FailpointRaised`, which no code expects;
- `disk-full` raises the OSError of a full disk (ENOSPC);
- `sleep:2.5` waits so many seconds;
- `stop` stops the process with SIGSTOP, until somebody sends SIGCONT;
- `@3` after an action means: at the third hit in this process only; `@3+`: from the third on. `@once`: at the
  first hit of any process that shares the log. Without it, at every hit.

`BACKTALK_FAILPOINT_LOG` names a file to which each hit appends `name pid` before anything is done about it.
(FoundationDB's BUGGIFY and FreeBSD's fail(9) work alike.)
"""

import errno
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

#: Every failpoint, and the step at which it lies; a unit test holds this list and the code equal.
FAILPOINTS: Mapping[str, str] = MappingProxyType(
    {
        # a picture comes in and is answered
        "images.before_write": "an image's file is about to be written aside",
        "images.before_sync": "its bytes are written, and not yet on the disk",
        "images.before_rename": "it is on the disk, under a name that nobody knows",
        "images.after_rename": "it has its name, which is not yet on the disk",
        "recording.before_commit": "a prediction is about to become a row",
        "recording.after_commit": "it is a row, and nobody has been answered",
        # somebody talks back
        "feedback.before_commit": "a correction or confirmation is written, with its event",
        "feedback.after_commit": "it is committed, and nobody has been answered",
        "preparation.before_commit": "a statement is grouped, offered, perhaps approved by policy",
        "preparation.after_commit": "that is committed",
        "decision.before_commit": "a reviewer's decision is written, with what follows from it",
        "decision.after_commit": "it is committed, and nobody has been answered",
        "consideration.before_commit": "a trigger check is written, perhaps with its run",
        "consideration.after_commit": "that is committed",
        # events become messages
        "outbox.before_publish": "the relay is about to ring for an event",
        "outbox.after_publish": "it has rung, and not marked the event",
        "outbox.before_mark": "a batch is rung for; the mark is about to be committed",
        "outbox.after_mark": "the mark is committed",
        # a run is trained
        "training.after_claim": "a worker owns the run",
        "training.snapshot.before_commit": "the snapshot is taken, the version's number drawn",
        "training.snapshot.after_commit": "that is committed",
        "training.after_job": "the trainer's job lies in the store",
        "trainer.before_fit": "the trainer has read its job",
        "trainer.after_fit": "it has fitted the head; nothing is written",
        "trainer.after_saved_model": "the SavedModel is written, the head and the sums are not",
        "trainer.before_sums": "all files of the artefact are written, none is on the disk for sure",
        "trainer.after_sums": "the artefact is whole; its digest is in this process alone",
        "trainer.after_step": "a full run has made a step, which no checkpoint holds",
        "checkpoint.before_sums": "a checkpoint's arrays are written aside, its sums are not",
        "checkpoint.before_rename": "it is on the disk, under a name that nobody looks for",
        "checkpoint.after_rename": "it has its name, which is not yet on the disk",
        "training.before_verify": "the other process is about to verify the artefact",
        "training.hand_over.before_commit": "the candidate's row, its check and the event are written",
        "training.hand_over.after_commit": "they are committed",
        "training.before_give_back": "a worker is about to let go of a run that it cannot finish",
        # it is judged
        "judging.after_claim": "a worker owns the candidate",
        "judging.before_commit": "the verdict and its checks are written",
        "judging.after_commit": "they are committed",
        # it goes live
        "promotion.after_claim": "a worker owns the passed candidate",
        "store.before_rename": "its folder is about to get its number",
        "store.after_rename": "it has it; the name is not yet on the disk",
        "store.published": "the name is on the disk; no row knows",
        "promotion.before_swap": "the compare-and-set of the champion is about to be sent",
        "promotion.after_swap": "it won; the ledger does not know",
        "ledger.before_entry": "the ledger's entry is about to be chained on",
        "ledger.after_entry": "it is chained on",
        "promotion.before_commit": "swap, ledger, event and the run's end are written",
        "promotion.after_commit": "they are committed; models.config names the version before",
        "rollback.before_commit": "a rollback's swap, ledger entry and event are written",
        "rollback.after_commit": "they are committed; models.config names the version before",
        "loading.before_sums": "an API process is about to verify and load what is live now",
        "config.before_write": "models.config is about to be written",
        "config.after_write": "it is written",
        "devicefile.before_sync": "a version is written as one file, and not yet on the disk",
        "devicefile.before_rename": "that file agrees with what serves, and has no name yet",
        "files.before_rename": "a file that is replaced as a whole is on the disk beside the old one",
        "files.after_rename": "it has taken the old one's name, which is not yet on the disk",
        # the house is kept clean
        "sweeper.before_commit": "runs are taken from the dead, doorbells rung again",
        "sweeper.after_commit": "that is committed",
        "upkeep.before_rows": "old events, replicas and keys are about to be deleted",
        "upkeep.before_prune": "a version's files are about to be removed",
        "upkeep.after_prune": "they are removed; its row does not say so yet",
        "upkeep.before_prune_backbone": "a backbone that no version needs is about to be removed",
        "store.before_remove": "a folder is about to be moved out of sight",
        "store.after_aside": "it is out of sight, and still there",
        "upkeep.before_leftovers": "what broken-off work left is about to be removed",
    }
)


class FailpointRaised(Exception):
    """What the action `raise` raises: no condition of Backtalk, so that nothing handles it by name."""


@dataclass(frozen=True)
class Order:
    """What is to happen at one failpoint."""

    action: Callable[[], None]
    first: int = 1  # the hit from which on it happens
    only_there: bool = False  # and at no later one
    once: bool = False  # at the first hit of all processes that share the log


class _Armed:
    """The orders of this process, and how often each failpoint was hit. Thread-safe."""

    def __init__(self, orders: Mapping[str, Order], log: Path | None) -> None:
        self._orders = orders
        self._log = log
        self._hits: Counter[str] = Counter()
        self._lock = Lock()

    def hit(self, name: str) -> None:
        with self._lock:
            self._hits[name] += 1
            number = self._hits[name]
        if self._log is not None:
            _append(self._log, f"{name} {os.getpid()}\n")
        order = self._orders.get(name)
        if order is None or number < order.first or (order.only_there and number > order.first):
            return
        if not order.once or self._is_first(name):
            order.action()

    def _is_first(self, name: str) -> bool:
        assert self._log is not None  # `arm` sees to it
        try:
            os.close(os.open(f"{self._log}.{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        return True


_armed: _Armed | None = None


def failpoint(name: str) -> None:
    """A durable step: nothing happens here unless a test said so."""
    if _armed is not None:
        _armed.hit(name)


def around_commit(session: "Session", step: str) -> None:
    """Hit `<step>.before_commit` and `<step>.after_commit` when the transaction at hand is committed."""
    if _armed is None:
        return
    from sqlalchemy import event

    def hit(when: str) -> Callable[["Session"], None]:
        def listen(committed: "Session") -> None:
            if not committed.in_nested_transaction():
                failpoint(f"{step}.{when}_commit")

        return listen

    event.listen(session, "before_commit", hit("before"))
    event.listen(session, "after_commit", hit("after"))


def arm(orders: str | None, log: Path | None = None) -> None:
    """Take orders for this process, in place of all before; with neither orders nor log, none.

    Raises:
        ValueError: the orders name an unknown failpoint or action.
    """
    global _armed  # noqa: PLW0603  # one look at it is all that a failpoint may cost
    parsed = parse(orders or "")
    if any(order.once for order in parsed.values()) and log is None:
        raise ValueError("@once needs BACKTALK_FAILPOINT_LOG: the mark that it came lies beside the log")
    _armed = _Armed(parsed, log) if parsed or log is not None else None


def arm_from_environment() -> None:
    """For a process that reads no settings, such as the trainer; its parent has checked them."""
    log = os.environ.get("BACKTALK_FAILPOINT_LOG")
    arm(os.environ.get("BACKTALK_FAILPOINTS"), Path(log) if log else None)


def parse(orders: str) -> dict[str, Order]:
    """`name=action[@hit]` joined by semicolons.

    Raises:
        ValueError: an unknown failpoint or action, or a number that is none; the message says which.
    """
    parsed = {}
    for part in filter(None, (part.strip() for part in orders.split(";"))):
        name, _, words = part.partition("=")
        if name not in FAILPOINTS:
            raise ValueError(f"there is no failpoint {name!r}; backtalk/failpoints.py lists them")
        parsed[name] = _parse_order(name, words)
    return parsed


def _parse_order(name: str, words: str) -> Order:
    said, _, when = words.partition("@")
    kind, _, argument = said.partition(":")
    actions: dict[str, Callable[[], None]] = {
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
        "raise": lambda: _raise(FailpointRaised(name)),
        "disk-full": lambda: _raise(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    }
    if kind == "sleep":
        with suppress(ValueError):
            seconds = float(argument)
            actions["sleep"] = lambda: time.sleep(seconds)
    if kind not in actions or (argument and kind != "sleep"):
        raise ValueError(f"{name}: {said!r} is none of kill, raise, disk-full, stop and sleep:SECONDS")
    if when in ("", "once"):
        return Order(actions[kind], once=when == "once")
    hit = when.removesuffix("+")
    if not hit.isdecimal() or int(hit) == 0:
        raise ValueError(f"{name}: {when!r} is no number of a hit; the first is 1")
    return Order(actions[kind], int(hit), only_there=hit == when)


def _raise(error: Exception) -> Any:
    raise error


def _append(log: Path, line: str) -> None:
    """One write(2) to a file opened for appending: lines of several processes do not mix."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
