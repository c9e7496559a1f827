"""The relay between a real Postgres and a real Redis, either of which may be away."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError
from sqlalchemy import select, text

from backtalk import events, outbox
from backtalk.config import Settings
from backtalk.db import Database
from backtalk.servers import RedisServer, free_port
from backtalk.tables import OutboxEvent
from tests.factories import count, make_model
from workers.relay import BATCH, Relay, find_queue, make_publisher, run

AWAY = (BrokerError, RedisError, OSError)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def relay_to(database: Database, redis_url: str) -> Relay:
    return Relay(database, make_publisher(Settings(redis_url=redis_url)))


def emit(database: Database, *happened: events.Event) -> None:
    with database.transaction() as session:
        outbox.emit(session, *happened)


def count_unpublished(database: Database) -> int:
    with database.reading() as session:
        return count(session, OutboxEvent, published_at=None)


def read_tasks(client: redis.Redis, queue: str) -> list[tuple[str, list[object]]]:
    """Task and arguments of what waits in a queue, the oldest first."""
    import base64

    found = []
    for message in reversed(client.lrange(queue, 0, -1)):
        parsed = json.loads(message)
        body = json.loads(base64.b64decode(parsed["body"]))
        found.append((parsed["headers"]["task"], body[0]))
    return found


def test_committed_events_ring_their_tasks_in_order(
    database: Database, redis_url: str, client: redis.Redis
) -> None:
    emit(
        database,
        events.CorrectionReceived(model_id=1, prediction_id="p1"),
        events.StatementApproved(model_id=1, prediction_id="p1"),
        events.CandidateTrained(model_id=1, run_id="r1"),
    )
    assert relay_to(database, redis_url).ring() == 3
    assert read_tasks(client, "events") == [
        ("review.prepare", ["p1"]),
        ("triggers.consider", [1]),
        ("promotion.judge", ["r1"]),
    ]
    assert count_unpublished(database) == 0


def test_an_event_is_rung_for_once(database: Database, redis_url: str, client: redis.Redis) -> None:
    emit(database, events.HoldLifted(model_id=1))
    relay = relay_to(database, redis_url)
    assert (relay.ring(), relay.ring()) == (1, 0)
    assert client.llen("events") == 1


@pytest.mark.parametrize("kind", ["head", "full"])
def test_runs_wait_in_the_queue_of_their_kind(
    database: Database, redis_url: str, client: redis.Redis, kind: str
) -> None:
    emit(database, events.RunRequested(model_id=1, run_id="r1", kind=kind))
    relay_to(database, redis_url).ring()
    assert read_tasks(client, f"training-{kind}") == [("training.train", ["r1"])]


def test_everything_but_training_is_an_event() -> None:
    assert find_queue("promotion.judge", {}) == "events"
    assert find_queue("devices.make_file", {}) == "training-head"  # TensorFlow is installed there


def test_events_of_a_rolled_back_transaction_ring_nothing(
    database: Database, redis_url: str, client: redis.Redis
) -> None:
    with pytest.raises(RuntimeError), database.transaction() as session:
        outbox.emit(session, events.HoldLifted(model_id=1))
        session.flush()
        raise RuntimeError
    assert relay_to(database, redis_url).ring() == 0


def test_events_stay_while_redis_is_away(database: Database) -> None:
    emit(database, events.HoldLifted(model_id=1), events.HoldLifted(model_id=2))
    relay = relay_to(database, f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(AWAY):
        relay.ring()
    assert count_unpublished(database) == 2


def test_what_was_rung_for_before_redis_went_away_is_not_rung_again(database: Database) -> None:
    emit(database, *(events.HoldLifted(model_id=number) for number in range(5)))
    rung: list[object] = []

    def publish(task: str, arguments: list[object], queue: str) -> None:
        if len(rung) == 3:
            raise ConnectionError("gone")
        rung.append(arguments)

    with pytest.raises(ConnectionError):
        Relay(database, publish).ring()
    assert count_unpublished(database) == 2


def test_an_event_of_another_release_does_not_block_the_others(
    database: Database, redis_url: str, client: redis.Redis
) -> None:
    with database.transaction() as session:
        session.add(OutboxEvent(event="SomethingNew", payload={}))
    emit(database, events.HoldLifted(model_id=1))
    relay_to(database, redis_url).ring()
    assert read_tasks(client, "events") == [("triggers.consider", [1])]
    assert count_unpublished(database) == 0


def test_two_relays_share_the_work_without_ringing_twice(
    database: Database, redis_url: str, client: redis.Redis
) -> None:
    emit(database, *(events.HoldLifted(model_id=number) for number in range(3 * BATCH)))
    relays = [relay_to(database, redis_url) for _ in range(2)]

    def work(relay: Relay) -> None:
        while count_unpublished(database):
            relay.ring()

    threads = [threading.Thread(target=work, args=(relay,)) for relay in relays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rung = [arguments[0] for _, arguments in read_tasks(client, "events")]
    assert sorted(rung) == list(range(3 * BATCH))


def test_a_consideration_that_is_due_is_rung_for(
    database: Database, redis_url: str, client: redis.Redis
) -> None:
    with database.transaction() as session:
        model = make_model(session)
        model.consider_at = datetime(2026, 1, 1, tzinfo=UTC)
        model_id = model.id
    relay = relay_to(database, redis_url)
    assert relay.ring_due() == 1
    relay.ring()
    assert read_tasks(client, "events") == [("triggers.consider", [model_id])]


def test_the_relay_catches_up_when_the_servers_come_back(database: Database, server_folder: Path) -> None:
    server = RedisServer.start(server_folder / "relayed")
    relay, stopping = relay_to(database, server.url()), threading.Event()
    thread = threading.Thread(target=run, args=(relay, stopping))
    thread.start()
    try:
        server.stop()
        emit(database, events.HoldLifted(model_id=1))
        with database.transaction() as session:  # Postgres throws the relay out as well
            session.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        server = RedisServer.start(server_folder / "relayed", port=server.port)
        deadline = time.monotonic() + 60
        while count_unpublished(database) and time.monotonic() < deadline:
            time.sleep(0.05)
        with redis.Redis.from_url(server.url()) as client:
            assert read_tasks(client, "events") == [("triggers.consider", [1])]
    finally:
        stopping.set()
        thread.join()
        server.stop()


def test_published_events_are_kept_with_their_time(database: Database, redis_url: str) -> None:
    emit(database, events.HoldLifted(model_id=1))
    relay_to(database, redis_url).ring()
    with database.reading() as session:
        row = session.scalars(select(OutboxEvent)).one()
        assert row.published_at is not None
