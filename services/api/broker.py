"""How Redis is: there, and with room for one more message."""

import time
from dataclasses import dataclass
from typing import Any

from flask import Flask
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

_EXTENSION = "backtalk-broker"

LOOK_EVERY_S = 1.0
#: Of its `maxmemory`, from which on somebody should look: at all of it, messages are refused.
NEARLY_FULL = 0.9

#: A call waits at most so long for Redis, once (seconds).
IMPATIENT: dict[str, Any] = {
    "socket_connect_timeout": 0.25,
    "socket_timeout": 0.25,
    "retry": Retry(NoBackoff(), 0),
}


@dataclass(frozen=True)
class Look:
    """What was seen. Sizes in bytes; `limit` is 0 where Redis takes what the machine has."""

    there: bool
    used: int = 0
    limit: int = 0

    @property
    def is_nearly_full(self) -> bool:
        return self.limit > 0 and self.used >= NEARLY_FULL * self.limit


class Broker:
    """Looks at Redis once a second at most; without an address, all is well."""

    def __init__(self, url: str | None) -> None:
        self._client = Redis.from_url(url, **IMPATIENT) if url is not None else None
        self._looked_at = float("-inf")
        self._seen = Look(there=True)

    def look(self) -> Look:
        if self._client is not None and time.monotonic() - self._looked_at > LOOK_EVERY_S:
            self._seen = _ask(self._client)
            self._looked_at = time.monotonic()
        return self._seen


def _ask(client: Redis) -> Look:
    try:
        memory = client.info("memory")
    except RedisError:
        return Look(there=False)
    # What it holds for its own log and for replicas does not count towards the limit (Redis, evict.c).
    used = int(memory["used_memory"]) - int(memory.get("mem_not_counted_for_evict", 0))
    return Look(there=True, used=used, limit=int(memory.get("maxmemory", 0)))


def register(app: Flask, redis_url: str | None) -> None:
    app.extensions[_EXTENSION] = Broker(redis_url)


def get_broker(app: Flask) -> Broker:
    broker: Broker = app.extensions[_EXTENSION]
    return broker
