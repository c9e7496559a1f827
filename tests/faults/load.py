"""Load for a rig: threads that predict and talk back until the block ends."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from sqlalchemy import text

from tests.faults.history import Caller, Operation, until_acknowledged
from tests.faults.rig import Rig
from tests.served import LABELS, make_jpeg


class Load:
    """What the threads share. `done` counts corrections that were answered."""

    def __init__(self, app: Caller) -> None:
        self.app = app
        self.pause_s = 0.05
        self.done = 0
        self.failed: list[BaseException] = []
        self.stopping = threading.Event()
        self._numbers = count()

    def run(self) -> None:
        try:
            while not self.stopping.wait(self.pause_s):
                correct_one(self.app, next(self._numbers))
                self.done += 1
        except BaseException as error:  # noqa: BLE001  # told to the test when the block ends
            self.failed.append(error)


def correct_one(app: Caller, seed: int, reporter: str = "app") -> Operation:
    """A picture of its own, predicted and corrected as a careful client does: again, with the same key."""
    answer = until_acknowledged(lambda: app.predict("animals", make_jpeg(seed)))
    said = answer.answer["predictions"][0]["label"]
    other = next(label for label in LABELS if label != said)
    key = f"{reporter}-{seed}"
    return until_acknowledged(lambda: app.correct(str(answer.id), other, reporter=reporter, key=key))


@contextmanager
def under_load(rig: Rig, threads: int = 2) -> Iterator[Load]:
    """Predictions and corrections all the time; the block's end waits for those under way."""
    load = Load(rig.caller("predict", "feedback", name="load"))
    running = [threading.Thread(target=load.run, daemon=True) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield load
    finally:
        load.stopping.set()
        for thread in running:
            thread.join(40)
    assert not load.failed, load.failed


def count_unprepared(rig: Rig) -> int:
    """Corrections that no worker has come to."""
    return count_rows(rig, "SELECT count(*) FROM corrections WHERE prepared_at IS NULL")


def count_rows(rig: Rig, query: str) -> int:
    with rig.system.db.reading() as session:
        return int(session.scalar(text(query)) or 0)


def all_prepared(rig: Rig, number: int) -> bool:
    return count_rows(rig, "SELECT count(*) FROM corrections WHERE prepared_at IS NOT NULL") >= number
