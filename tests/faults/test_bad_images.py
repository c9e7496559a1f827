"""Row 26: whatever is sent as an image, the worker lives, good traffic goes on, the answer is documented."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import psutil
import pytest

from tests.bad_images import list_bad_images
from tests.faults.rig import Rig
from tests.served import make_jpeg

DOCUMENTED = {200, 400, 413, 415, 422}
SENDERS = 3
#: Two pictures of 25 megapixels at once, each with what its decoder, most of all libwebp, needs (bytes).
ROOM = 900 * 2**20


@dataclass
class Watch:
    """What is seen of the API's processes and of good traffic while bad files come in."""

    rig: Rig
    pids: set[int] = field(default_factory=set)
    peak: int = 0
    good: Counter[int | None] = field(default_factory=Counter)
    slowest_good_s: float = 0.0

    def processes(self) -> list[psutil.Process]:
        api = psutil.Process(self.rig["api"].pid)
        return [api, *api.children(recursive=True)]

    def memory(self) -> int:
        return sum(process.memory_info().rss for process in self.processes())

    def measure(self, stopping: threading.Event) -> None:
        while not stopping.wait(0.05):
            self.peak = max(self.peak, self.memory())

    def go_on_predicting(self, stopping: threading.Event) -> None:
        app = self.rig.caller("predict", name="good", timeout_s=60)
        number = 0
        while not stopping.is_set():
            number += 1
            began = time.monotonic()
            self.good[app.predict("animals", make_jpeg(number % 50)).status] += 1
            self.slowest_good_s = max(self.slowest_good_s, time.monotonic() - began)


@pytest.mark.fault(row=26, tries=1)
def test_a_sample_of_bad_images_costs_nobody_anything(rig: Rig) -> None:
    attack(rig, islice(list_bad_images(heavy=False), 5, None, 12))


@pytest.mark.slow
@pytest.mark.fault(row=26, tries=1)
def test_bad_images_by_the_hundred_cost_nobody_anything(rig: Rig) -> None:
    attack(rig, list_bad_images())


def attack(rig: Rig, files: Iterable[tuple[str, bytes]]) -> None:
    rig.use("served")
    rig.start("api", env={"BACKTALK_LARGE_IMAGES_AT_ONCE": "2"})
    watch, stopping = Watch(rig), threading.Event()
    before, at_rest = {process.pid for process in watch.processes()}, watch.memory()
    beside = [threading.Thread(target=t, args=(stopping,)) for t in (watch.measure, watch.go_on_predicting)]
    for thread in beside:
        thread.start()
    try:
        seen = send_all(rig, files)
    finally:
        stopping.set()
        for thread in beside:
            thread.join()
    report(seen, watch, at_rest)
    rig.tried(len(seen))
    odd = [(name, status) for name, status, _ in seen if status not in DOCUMENTED]
    assert odd == []
    assert {process.pid for process in watch.processes()} == before
    assert watch.good.keys() == {200}
    assert watch.peak - at_rest < ROOM
    assert "Traceback" not in rig["api"].said()


def send_all(rig: Rig, files: Iterable[tuple[str, bytes]]) -> list[tuple[str, int | None, float]]:
    """Name, status and seconds of each; several at a time, so that large ones meet each other."""
    app = rig.caller("predict", name="bad", timeout_s=120)
    room = threading.Semaphore(2 * SENDERS)  # the files are made as they are sent

    def send(name: str, data: bytes) -> tuple[str, int | None, float]:
        try:
            began = time.monotonic()
            return name, app.predict("animals", data).status, time.monotonic() - began
        finally:
            room.release()

    with ThreadPoolExecutor(SENDERS) as pool:
        sent = []
        for name, data in files:
            room.acquire()
            sent.append(pool.submit(send, name, data))
        return [one.result() for one in sent]


def report(seen: list[tuple[str, int | None, float]], watch: Watch, at_rest: int) -> None:
    statuses = dict(sorted(Counter(status or 0 for _, status, _ in seen).items()))
    slowest, name = max((seconds, name) for name, _, seconds in seen)
    sys.stdout.write(
        f"\n{len(seen)} files; statuses {statuses}; slowest {slowest:.2f} s ({name}); "
        f"memory {at_rest / 2**20:.0f} MB at rest, {watch.peak / 2**20:.0f} MB at the peak; "
        f"{watch.good.total()} good predictions beside them, the slowest {watch.slowest_good_s:.2f} s\n"
    )
