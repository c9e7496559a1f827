"""The rig itself: what it says of a sound system, and that the checker sees what is broken."""

import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import select, text

from backtalk.db import new_id
from backtalk.tables import Model
from tests.factories import make_decision
from tests.faults import checker
from tests.faults.history import History
from tests.faults.proxy import Proxy
from tests.faults.rig import Rig
from tests.served import make_jpeg


def use_a_little(rig: Rig) -> None:
    """A prediction, a correction and a confirmation over HTTP."""
    rig.start("api")
    app = rig.caller("predict", "feedback")
    first, second = app.predict("animals", make_jpeg(1)), app.predict("animals", make_jpeg(2))
    said = first.answer["predictions"][0]["label"]
    other = next(label for label in ("cat", "dog") if label != said)
    assert app.correct(str(first.id), other, key="k").status == 201
    assert app.confirm(str(second.id)).status == 201


def test_a_sound_system_breaks_no_invariant(rig: Rig) -> None:
    rig.use("served")
    use_a_little(rig)
    assert rig.check() == {}
    assert {"images.after_rename", "recording.after_commit", "feedback.after_commit"} <= set(rig.hit_names())


def store(rig: Rig, name: str) -> Path:
    return rig.folder / "models_store" / "animals" / name


def approve_unheard(rig: Rig) -> None:
    with rig.system.db.transaction() as session:
        make_decision(session, session.scalars(select(Model)).one())


def stray_version(rig: Rig) -> None:
    """Whole, so that upkeep leaves it alone."""
    store(rig, "7").mkdir()
    (store(rig, "7") / "SHA256SUMS").touch()


BREAKS: dict[str, tuple[str, Callable[[Rig], None]]] = {
    "lost correction": ("I1", lambda rig: run(rig, "DELETE FROM corrections")),
    "altered correction": ("I1", lambda rig: run(rig, "UPDATE corrections SET label = 'owl'")),
    "doubled correction": ("I1", lambda rig: run(rig, _DOUBLE)),
    "lost prediction": ("I1", lambda rig: run(rig, "DELETE FROM predictions")),
    "judging sample in a snapshot": ("I2", lambda rig: run(rig, _SNAPSHOT)),
    "version without files": ("I4", lambda rig: store(rig, "1/head.npz").unlink()),
    "live version that nobody promoted": ("I4", lambda rig: run(rig, "UPDATE models SET live_version = 2")),
    "ledger behind the generation": ("I5", lambda rig: run(rig, "UPDATE models SET generation = 2")),
    "altered ledger": ("I5", lambda rig: run(rig, _ALTER)),
    "prediction of another version": ("I6", lambda rig: run(rig, "UPDATE predictions SET version = 2")),
    "dead lease": ("I7", lambda rig: run(rig, _DEAD)),
    "unheard approval": ("I7", approve_unheard),
    "too many attempts": ("I8", lambda rig: run(rig, _DEAD.replace("'1 hour', 1", "'0 hour', 9"))),
    "stray number": ("I9", stray_version),
}  # fmt: skip

_DOUBLE = """INSERT INTO corrections (id, model_id, prediction_id, label, reporter, state)
SELECT gen_random_uuid(), model_id, prediction_id, label, reporter, 'retracted' FROM corrections"""
_SNAPSHOT = """WITH s AS (INSERT INTO samples (model_id, image_id, label, split, origin, by_person)
SELECT model_id, image_id, label, 'holdout', 'base', true FROM predictions LIMIT 1 RETURNING id, model_id)
INSERT INTO snapshots (model_id, digest, sample_ids, stay_right_ids, counts)
SELECT model_id, 'x', ARRAY[id], '{}', '{}' FROM s"""
_ALTER = """ALTER TABLE ledger DISABLE TRIGGER ALL; UPDATE ledger SET actor = 'user:mallory';
ALTER TABLE ledger ENABLE TRIGGER ALL"""
_DEAD = """INSERT INTO runs
(id, model_id, kind, trigger_key, requested_by, state, seed, lease_until, attempt)
SELECT gen_random_uuid(), id, 'head', 'x', 'user:alice', 'training', 1, now() - interval '1 hour', 1
FROM models"""


def run(rig: Rig, statements: str) -> None:
    with rig.system.db.transaction() as session:
        session.execute(text("SET session_replication_role = replica"))
        for statement in statements.split(";"):
            session.execute(text(statement))


def test_the_checker_sees_each_invariant_broken(rig: Rig) -> None:
    """One after the other on copies of one system: a checker that sees nothing proves nothing."""
    rig.use("served")
    use_a_little(rig)
    rig["api"].end()
    for what, (name, break_it) in BREAKS.items():
        sound = rig.database_url.split("?")[0].rsplit("/", 1)[1]
        copy = Copy(rig, sound)
        break_it(copy.rig)
        assert name in copy.check(), what
        copy.put_back()


class Copy:
    """Breaks the rig itself and puts it back from a copy."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.rig = rig
        self._name = name
        self._kept = f"kept_{uuid4().hex[:8]}"
        rig.system.db.close()
        rig.servers.postgres.run(f"CREATE DATABASE {self._kept} TEMPLATE {name}")
        self._files = {
            p: p.read_bytes() for p in rig.folder.rglob("*") if p.is_file() and "log" not in p.name
        }

    def check(self) -> dict[str, list[str]]:
        found = checker.check(checker.Scene(self.rig.system, self.rig.history))
        return {name: said for name, said in found.items() if said}

    def put_back(self) -> None:
        self.rig.system.db.close()
        self.rig.servers.postgres.run(f"DROP DATABASE {self._name} WITH (FORCE)")
        self.rig.servers.postgres.run(f"ALTER DATABASE {self._kept} RENAME TO {self._name}")
        for path, data in self._files.items():
            if not path.exists() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        shutil.rmtree(store(self.rig, "7"), ignore_errors=True)


def test_undocumented_and_late_answers_break_an_invariant(rig: Rig) -> None:
    rig.use("empty")
    history = History()
    for status, seconds in ((500, 0.0), (201, 60.0), (201, 0.0)):
        operation = history.begin("correct", "POST", f"/v1/predictions/{new_id()}/corrections", {})
        operation.status, operation.ended_at = status, operation.began_at + seconds
    said = list(checker.i10_only_documented_statuses_in_time(checker.Scene(rig.system, history)))
    assert len(said) == 2, said
    assert "500" in said[0]
    assert "60.0 s" in said[1]


# --- the proxy -------------------------------------------------------------------------------------
@pytest.fixture
def echo():  # type: ignore[no-untyped-def]
    """A server that answers what it is sent."""
    import socketserver
    import threading

    class Echo(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while data := self.request.recv(1000):
                self.request.sendall(data)

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with Proxy(("127.0.0.1", server.server_address[1])) as proxy:
        yield proxy
    server.shutdown()
    server.server_close()


def ask(connection: socket.socket, word: bytes = b"hello") -> bytes:
    connection.sendall(word)
    return connection.recv(1000)


def test_the_proxy_passes_on_delays_cuts_refuses_and_goes_half_open(echo: Proxy) -> None:
    def connect() -> socket.socket:
        return socket.create_connection(echo.address, timeout=0.5)

    connection = connect()
    assert ask(connection) == b"hello"
    echo.latency_s = 0.1
    began = time.monotonic()
    assert ask(connection) == b"hello"
    assert time.monotonic() - began >= 0.2
    echo.heal()
    echo.cut()
    with pytest.raises(ConnectionResetError):
        connection.recv(10)
    echo.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect()
    echo.heal()
    connection = connect()
    assert ask(connection) == b"hello"
    echo.go_half_open()
    with pytest.raises(TimeoutError):
        ask(connection)
    with pytest.raises(TimeoutError):  # accepted, and then nothing
        ask(connect())
    echo.heal()
    assert ask(connect()) == b"hello"
