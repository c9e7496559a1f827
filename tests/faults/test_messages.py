"""Messages that are lost, doubled, refused or nonsense: the rows are the jobs, so none of it matters."""

import json
import threading

import httpx
import pytest
import redis
from sqlalchemy import text

from backtalk.embedded import commands
from backtalk.states import RunState
from tests.faults.lessons import give_golden, reload, request_run, teach
from tests.faults.load import all_prepared, correct_one, count_rows, count_unprepared
from tests.faults.rig import Part, Rig
from workers.app import make_app

QUEUES = ("events", "training-head")  # and the names of the workers on them
JUDGED = (RunState.PROMOTED, RunState.INCONCLUSIVE, RunState.REJECTED, RunState.PASSED)


def date_back(rig: Rig, seconds: int = 60) -> None:
    """As if everything that waits had waited for longer."""
    with rig.system.db.transaction() as session:
        for table, column in (
            ("corrections", "created_at"),
            ("outbox", "created_at"),
            ("runs", "heartbeat_at"),
        ):
            session.execute(
                text(f"UPDATE {table} SET {column} = {column} - make_interval(secs => :s)"), {"s": seconds}
            )


# --- Redis takes no more ---------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.fault(row=8)
def test_a_redis_that_is_full_costs_nobody_an_answer_and_says_so(rig: Rig) -> None:
    rig.use("served").start_all("api", "relay", "beat", "events")
    app = rig.caller("predict", "feedback")
    correct_one(app, 0)
    rig.wait_for(lambda: count_unprepared(rig) == 0, 30)
    rig["events"].stop()
    correct_one(app, 1)
    with rig.servers.redis.client() as client:
        rig.wait_for(lambda: client.llen("events") > 0, 10)
        client.config_set("maxmemory", 1)
        rig["events"].go_on()  # it takes a message, and cannot note that it has it
        for seed in range(2, 12):
            assert correct_one(app, seed).status == 201
        rig.wait_for(lambda: "waiting" in rig["relay"].said(), 30)
        date_back(rig)
        degraded = rig.wait_for(lambda: find_degraded(rig, "Redis is nearly full"), 10)
        assert any("events wait for the relay" in said for said in degraded)
        figures = httpx.get(f"{rig.address}/metrics").text
        assert "backtalk_redis_limit_bytes 1.0" in figures
        assert read_figure(figures, "backtalk_outbox_oldest_seconds") > 50
        client.config_set("maxmemory", 0)
    rig.wait_for(lambda: all_prepared(rig, 12), 60)
    assert all(part.alive for part in rig.parts.values())
    rig.wait_for(lambda: httpx.get(f"{rig.address}/readyz").json()["degraded"] == [], 10)
    assert {operation.status for operation in rig.history.of("predict", "correct")} == {200, 201}
    assert rig.check(deadlines_s={"predict": 3.0, "correct": 3.0}) == {}


def find_degraded(rig: Rig, word: str) -> list[str] | None:
    said: list[str] = httpx.get(f"{rig.address}/readyz").json()["degraded"]
    return said if any(word in one for one in said) else None


def read_figure(figures: str, name: str) -> float:
    return next(float(line.split()[1]) for line in figures.splitlines() if line.startswith(name + " "))


# --- lost with its worker --------------------------------------------------------------------------
def start_dying(rig: Rig, name: str) -> Part:
    """A worker that is killed as soon as it has taken a message."""
    words = commands()[name]
    at = words.index("celery")
    mark = rig.folder / f"{name}.died"
    command = [*words[:at], "tests.faults.dying", str(mark), *words[at + 1 :]]
    return rig.start(name, command=command)


@pytest.mark.slow
@pytest.mark.fault(row=9, tries=2)
def test_a_message_that_dies_with_its_worker_is_rung_for_again(rig: Rig) -> None:
    """A statement's, and a run's."""
    rig.use("served", ring_again_s="2")
    teach(rig.system, 20)
    give_golden(rig.system)
    rig.start_all("api", "relay")
    workers = {name: start_dying(rig, name) for name in ("events", "training-head")}
    correct_one(rig.caller("predict", "feedback"), 1)
    run = request_run(rig.system)
    for name, worker in workers.items():
        assert worker.wait() == -9
        assert (rig.folder / f"{name}.died").exists()
    with rig.servers.redis.client() as client:
        assert [client.llen(name) for name in workers] == [0, 0]
        assert client.hlen("unacked") == 0
    assert (count_unprepared(rig), reload(rig.system, run).attempt) == (1, 0)
    date_back(rig)
    rig.start_all("events", "training-head", "beat")
    rig.wait_for(lambda: count_unprepared(rig) == 0, 30)
    rig.wait_for(lambda: reload(rig.system, run).ended_at, 90)
    assert (reload(rig.system, run).attempt, reload(rig.system, run).state in JUDGED) == (1, True)
    assert rig.check() == {}


# --- doubled ---------------------------------------------------------------------------------------
def publish(rig: Rig, task: str, argument: object, queue: str, times: int = 50) -> None:
    """The same message, from ten threads at once."""
    app = make_app(rig.settings)
    ready = threading.Barrier(10)

    def send() -> None:
        ready.wait()
        for _ in range(times // 10):
            app.send_task(task, args=[argument], queue=queue)

    threads = [threading.Thread(target=send) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    app.close()


@pytest.mark.slow
@pytest.mark.fault(row=10, tries=3)
def test_fifty_times_the_same_message_make_one_run_one_attempt_and_one_item(rig: Rig) -> None:
    rig.use("served")
    teach(rig.system, 20)
    give_golden(rig.system)
    rig.start_all("api", "events", "training-head")
    rig.start("training-head", label="training-head-2")
    rig.start("events", label="events-2")
    app = rig.caller("predict", "feedback")
    assert correct_one(app, 1).status == 201
    said = next(o for o in rig.history.of("correct")).sent["prediction"]
    publish(rig, "review.prepare", said, "events")
    run = request_run(rig.system)
    publish(rig, "training.train", str(run.id), "training-head")
    rig.wait_for(lambda: reload(rig.system, run).state == RunState.JUDGING, 90)
    publish(rig, "promotion.judge", str(run.id), "events")
    rig.wait_for(lambda: reload(rig.system, run).ended_at, 60)
    with rig.servers.redis.client() as client:
        rig.wait_for(lambda: is_drained(client), 60)
    ended = reload(rig.system, run)
    assert (ended.attempt, ended.fence) == (1, 2)  # one claim to train, one to judge
    assert count_rows(rig, "SELECT count(*) FROM runs") == 1
    assert count_rows(rig, "SELECT count(*) FROM versions WHERE run_id IS NOT NULL") == 1
    assert count_rows(rig, "SELECT max(round) FROM gate_checks") == 1
    assert count_rows(rig, "SELECT count(*) FROM review_items") == 1
    assert rig.check() == {}


def is_drained(client: redis.Redis) -> bool:
    """Nothing waits, and nobody holds anything."""
    return not client.llen("events") and not client.llen("training-head") and not client.hlen("unacked")


# --- poison ----------------------------------------------------------------------------------------
def send_nonsense(client: redis.Redis, queue: str) -> int:
    """Messages as no release of ours writes them; returns how many."""
    properties = {"delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": queue},
                  "priority": 0, "body_encoding": "base64", "delivery_tag": "1"}  # fmt: skip
    whole = {"body": "W1tdLCB7fSwge31d", "content-encoding": "utf-8", "content-type": "application/json",
             "properties": properties}  # fmt: skip
    headers = {"lang": "py", "id": "1", "root_id": "1", "parent_id": None, "group": None}
    nonsense = [
        b"no json at all",
        b"\xff\xfe",
        b"{}",
        b'{"body": 1}',
        json.dumps(whole | {"headers": headers | {"task": "no.such.task"}}).encode(),
        json.dumps(whole | {"headers": headers | {"task": "review.prepare"}}).encode(),  # no argument
        json.dumps(whole | {"headers": headers}).encode(),  # no task
        json.dumps(
            whole | {"headers": headers | {"task": "training.train"}, "body": "bm90IGpzb24="}
        ).encode(),
        json.dumps(
            whole
            | {
                "headers": headers | {"task": "training.train"},
                "content-type": "application/x-python-serialize",
            }
        ).encode(),
    ]
    client.lpush(queue, *nonsense)
    return len(nonsense)


@pytest.mark.slow
@pytest.mark.fault(row=23, tries=18, only="messages that are nonsense")
def test_nonsense_in_a_queue_is_dropped_with_a_word_and_the_queue_flows_on(rig: Rig) -> None:
    rig.use("served", ring_again_s="2")
    teach(rig.system, 20)
    give_golden(rig.system)
    rig.start_all("api", "relay", "beat", "events", "training-head")
    pids = {name: part.pid for name, part in rig.parts.items()}
    with rig.servers.redis.client() as client:
        tried = sum(send_nonsense(client, queue) for queue in QUEUES)
        correct_one(rig.caller("predict", "feedback"), 1)
        run = request_run(rig.system)
        rig.wait_for(lambda: count_unprepared(rig) == 0, 60)
        rig.wait_for(lambda: reload(rig.system, run).ended_at, 90)
        rig.wait_for(lambda: is_drained(client), 30)
    assert reload(rig.system, run).state in JUDGED
    for name in QUEUES:
        for word in (
            "dropped what is no message",
            "no.such.task",
            "raised unexpected",
            "Can't decode",
            "pickle",
        ):
            assert word in rig[name].said(), (name, word)
    assert {name: part.pid for name, part in rig.parts.items() if part.alive} == pids
    rig.tried(tried)
    assert rig.check() == {}
