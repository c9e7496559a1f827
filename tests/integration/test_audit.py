"""The audit log: written with what it speaks of, in one chain, whoever writes at the same time."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from backtalk import audit, review, schema, verification
from backtalk.audit import Proof
from backtalk.callers import Caller
from backtalk.cli import main
from backtalk.db import Database, lock_model, make_engine
from backtalk.servers import PostgresServer
from backtalk.states import Action, Scope
from backtalk.system import System
from backtalk.tables import AuditEntry, Decision, Model
from tests import factories


def record(database: Database, action: str = "key.revoke", **detail: object) -> None:
    with database.transaction() as session:
        audit.record(session, "user:alice", action, "key:abc", **detail)


def read(database: Database) -> list[AuditEntry]:
    with database.reading() as session:
        return list(session.scalars(select(AuditEntry).order_by(AuditEntry.seq)))


def prove(database: Database, noted_head: str | None = None) -> Proof:
    with database.reading() as session:
        return audit.prove(session, noted_head)


@pytest.fixture
def tamper(owner_database: Database) -> Callable[[str], None]:
    """Changes the log as only somebody with all rights on the database can."""

    def change(statement: str) -> None:
        with owner_database.transaction() as session:
            session.execute(text("SET LOCAL session_replication_role = replica"))
            session.execute(text(statement))

    return change


def test_an_entry_has_the_hash_of_the_one_before(database: Database) -> None:
    record(database, why="leaked")
    record(database, "user.disable")
    first, second = read(database)
    assert (first.seq, first.previous_hash) == (1, "0" * 64)
    assert (second.seq, second.previous_hash) == (2, first.hash)
    assert (first.actor, first.action, first.subject) == ("user:alice", "key.revoke", "key:abc")
    assert first.detail == {"why": "leaked"}
    assert prove(database) == Proof(2, f"2:{second.hash}", [])


def test_values_that_jsonb_writes_in_another_way_keep_the_chain_whole(database: Database) -> None:
    record(
        database, big=1e22, small=1e-7, whole=2.0, word="žluťoučký ☃", none=None, many=[1, {"b": 1, "a": 2}]
    )
    assert prove(database).breaks == []


def test_what_is_rolled_back_leaves_no_entry(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction() as session:
        audit.record(session, "user:alice", "key.revoke", "key:abc")
        raise ZeroDivisionError
    record(database)
    assert [entry.seq for entry in read(database)] == [1]


def test_many_writers_at_once_make_one_chain_and_do_not_wait_in_a_circle(database: Database) -> None:
    """Each locks a model's row and writes; in some the entry is recorded before that lock, in some after."""
    with database.transaction() as session:
        names = [factories.make_model(session, name).name for name in ("cats", "dogs")]
    failures: list[Exception] = []

    def write(turn: int) -> None:
        try:
            for step in range(5):
                with database.transaction() as session:
                    if (turn + step) % 2:
                        audit.record(session, f"user:{turn}", "policy.set", "model:cats", step=step)
                    model = lock(session, names[step % 2])
                    lock_model(session, model.id, "groups")
                    if not (turn + step) % 2:
                        audit.record(session, f"user:{turn}", "policy.set", "model:dogs", step=step)
        except Exception as error:  # noqa: BLE001  # whatever it was, the test fails with it
            failures.append(error)

    threads = [threading.Thread(target=write, args=(turn,)) for turn in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert prove(database).entries == 30
    assert prove(database).breaks == []


def lock(session: Session, name: str) -> Model:
    return session.scalars(select(Model).where(Model.name == name).with_for_update()).one()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE audit_log SET actor = 'user:bob' WHERE seq = 2", "entry 2 was altered"),
        ("UPDATE audit_log SET at = at + interval '1 s' WHERE seq = 1", "entry 1 was altered"),
        ("UPDATE audit_log SET detail = '{\"n\": 9}' WHERE seq = 3", "entry 3 was altered"),
        ("DELETE FROM audit_log WHERE seq = 2", "entry 2 is missing"),
        ("DELETE FROM audit_log WHERE seq = 1", "entry 1 is missing"),
    ],
)
def test_a_changed_log_is_found_out(
    database: Database, tamper: Callable[[str], None], statement: str, said: str
) -> None:
    for n in range(4):
        record(database, n=n)
    assert prove(database).breaks == []
    tamper(statement)
    assert said in prove(database).breaks[0]


def test_a_log_cut_short_is_found_out_by_the_head_that_was_noted(
    system: System, database: Database, tamper: Callable[[str], None]
) -> None:
    for n in range(3):
        record(database, n=n)
    noted = prove(database).head
    record(database)
    assert prove(database, noted).breaks == []
    tamper("DELETE FROM audit_log WHERE seq >= 3")
    assert prove(database).breaks == []  # what is left is whole
    assert "noted earlier is gone" in prove(database, noted).breaks[0]
    problems = {f.subject: f.problem for f in verification.verify(system, noted_head=noted)}
    assert problems["audit log"] is not None


def test_two_entries_cannot_follow_the_same_one(database: Database) -> None:
    record(database)
    [first] = read(database)
    with pytest.raises(IntegrityError), database.transaction() as session:
        session.add(
            AuditEntry(
                seq=2,
                at=first.at,
                actor="x",
                action="x",
                subject="x",
                detail={},
                previous_hash=first.previous_hash,
                hash="x",
            )
        )


def test_a_persons_decision_is_logged_and_the_policys_own_is_not(database: Database) -> None:
    with database.transaction() as session:
        model = factories.make_model(session, policy={"review": "auto"})
        automatic, asked = (
            factories.make_prediction(session, model),
            factories.make_prediction(session, model),
        )
        factories.make_correction(session, automatic, "dog")
        item = factories.make_item(session, asked, factories.make_correction(session, asked, "dog"))
    with database.transaction() as session:
        review.prepare_prediction(session, str(automatic.id))
        assert factories.count(session, Decision, actor="policy") == 1
    alice = Caller("user:alice", "alice", frozenset({Scope.REVIEW}))
    with database.transaction() as session:
        decision = review.decide_item(
            session, caller=alice, item_id=str(item.id), action=Action.APPROVE, if_match=f'"{item.etag}"'
        )
    [entry] = read(database)
    assert (entry.actor, entry.action, entry.subject) == ("user:alice", "decision.approve", "model:animals")
    assert entry.detail["decision"] == decision.id


def test_nobody_writes_the_log_past_the_chain() -> None:
    root = Path(__file__).parents[2]
    sources = [path for part in ("backtalk", "services", "workers") for path in (root / part).rglob("*.py")]
    writers = {
        path.name for path in sources if "AuditEntry(" in path.read_text().replace("AuditEntry(Base)", "")
    }
    assert writers == {"audit.py"}


def test_entries_are_found_by_model_and_by_actor(database: Database) -> None:
    with database.transaction() as session:
        audit.record(session, "user:alice", "policy.set", "model:cats")
        audit.record(session, "cli", "policy.set", "model:dogs")
        audit.record(session, "cli", "image.delete", "image:1", model="cats")
    with database.reading() as session:
        assert [e.seq for e in audit.list_entries(session, model="cats")] == [3, 1]
        assert [e.seq for e in audit.list_entries(session, actor="cli")] == [3, 2]
        assert [e.seq for e in audit.list_entries(session, model="cats", actor="cli")] == [3]
        assert [e.seq for e in audit.list_entries(session, limit=1)] == [3]


def test_a_log_from_before_the_chain_is_chained_by_the_migration(postgres_server: PostgresServer) -> None:
    url = postgres_server.create_database("unchained")
    schema.upgrade(url, "0005")
    database = Database(make_engine(url))
    with database.transaction() as session:
        session.execute(
            text(
                "INSERT INTO audit_log (id, actor, action, subject, detail) VALUES "
                "(3, 'cli', 'key.create', 'key:a', '{\"scopes\": [\"admin\"], \"share\": 0.1}'), "
                "(8, 'user:ž', 'promote', 'model:cats', '{}')"
            )
        )
    schema.upgrade(url)
    record(database)
    assert [(entry.seq, entry.actor) for entry in read(database)] == [
        (1, "cli"),
        (2, "user:ž"),
        (3, "user:alice"),
    ]
    assert prove(database).breaks == []
    database.close()


def test_the_command_line_lists_the_log_and_proves_it(
    database: Database, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKTALK_DATABASE_URL", postgres_url)
    record(database, why="leaked")
    run = CliRunner().invoke
    listed = run(main, ["audit", "--actor", "user:alice"]).stdout
    assert 'user:alice\tkey.revoke\tkey:abc\twhy="leaked"' in listed
    assert json.loads(run(main, ["audit", "--json"]).stdout)["previous_hash"] == "0" * 64
    assert run(main, ["audit", "--model", "animals"]).stdout == ""
    head = prove(database).head
    assert f"ok  * audit log (1 entries, head {head})" in run(main, ["verify"]).stdout
    assert run(main, ["verify", "--audit-head", head]).exit_code == 0
    assert run(main, ["verify", "--audit-head", "2:" + "0" * 64]).exit_code == 1
