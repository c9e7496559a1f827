"""Beat's own scheduler against a real Redis: each tick at once, then in its time, never a heap."""

from collections import Counter
from collections.abc import Iterator

import pytest
import redis

from backtalk.config import Settings
from workers import ticking
from workers.app import TICKS_QUEUE, make_app


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def beat(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator["Beat"]:
    beat = Beat(redis_url)
    monkeypatch.setattr(ticking, "monotonic", lambda: beat.now)
    yield beat
    beat.scheduler.close()


class Beat:
    """A scheduler whose monotonic clock is the test's."""

    def __init__(self, redis_url: str) -> None:
        self.now = 1000.0
        self.scheduler = ticking.Ticking(make_app(Settings(redis_url=redis_url)))

    def wait(self, seconds: float) -> None:
        """Sleep as beat does, for as long as each tick says."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + max(self.scheduler.tick(), 0.001))


def read_ticks(client: redis.Redis) -> Counter[str]:
    names = Counter[str]()
    while message := client.rpop(TICKS_QUEUE):
        names[str(message).split('"task": "')[1].split('"')[0]] += 1
    return names


def test_each_tick_comes_at_once_and_then_in_its_time(beat: Beat, client: redis.Redis) -> None:
    beat.scheduler.tick()
    assert set(read_ticks(client).values()) == {1}
    beat.wait(62)
    found = read_ticks(client)
    assert (found["upkeep.ring"], found["triggers.nightly"], found["upkeep.sweep"]) == (12, 3, 1)


def test_ticks_that_nobody_takes_do_not_pile_up_and_come_again(
    beat: Beat, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    beat.wait(3600)
    assert client.llen(TICKS_QUEUE) == ticking.WAIT_AT_MOST
    assert [r.message for r in caplog.records if "no worker takes ticks" in r.message] == [
        "no worker takes ticks: with 20 waiting, no more are sent"
    ]
    client.delete(TICKS_QUEUE)
    beat.wait(10)
    assert client.llen(TICKS_QUEUE) >= 2
