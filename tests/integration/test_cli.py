"""The command line on a real database: what it prints, and that it fails in one sentence."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import select

from backtalk import identity
from backtalk.cli import main
from backtalk.commands.acknowledgement import Acknowledgement, await_replicas
from backtalk.commands.frame import parse_pairs
from backtalk.db import Database
from backtalk.errors import InvalidInput, NotAuthenticated
from backtalk.servers import free_port
from backtalk.states import Scope
from backtalk.system import System
from backtalk.tables import AuditEntry, Replica, Run, TriggerCheck
from tests.factories import count, make_model, make_run

Backtalk = Callable[..., Result]


@pytest.fixture
def backtalk(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backtalk:
    monkeypatch.setenv("BACKTALK_DATABASE_URL", postgres_url)
    monkeypatch.setenv("BACKTALK_HOME", str(tmp_path))

    def run(*words: str, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(main, words, input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


def said(result: Result) -> str:
    """The one sentence of a command that failed."""
    assert result.exit_code == 1
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")
    return lines[0].removeprefix("Error: ")


def test_a_new_key_is_printed_alone_and_works(backtalk: Backtalk, database: Database) -> None:
    result = backtalk("keys", "create", "--name", "app", "--scopes", "predict, feedback")
    assert result.stdout.startswith("bt_")
    with database.transaction() as session:
        caller = identity.authenticate_key(session, result.stdout.strip())
        assert caller.scopes == {Scope.PREDICT, Scope.FEEDBACK}
        assert count(session, AuditEntry, action="key.create", actor="cli") == 1


def test_a_revoked_key_works_no_more(backtalk: Backtalk, database: Database) -> None:
    key = backtalk("keys", "create", "--name", "app", "--scopes", "predict").stdout.strip()
    assert backtalk("keys", "revoke", key).exit_code == 0
    with database.transaction() as session, pytest.raises(NotAuthenticated, match="revoked"):
        identity.authenticate_key(session, key)


def test_an_unknown_scope_is_refused_with_the_list(backtalk: Backtalk) -> None:
    sentence = said(backtalk("keys", "create", "--name", "app", "--scopes", "predict,fly"))
    assert "fly" in sentence
    assert "feedback" in sentence


def test_a_user_signs_in_with_the_password_from_stdin(backtalk: Backtalk, database: Database) -> None:
    result = backtalk("users", "create", "Alice", "--password-stdin", stdin="correct horse battery\n")
    assert result.exit_code == 0
    assert "battery" not in result.output
    with database.transaction() as session:
        token, _ = identity.sign_in(session, "alice", "correct horse battery")
        assert token


def test_a_password_is_made_and_printed_where_nobody_can_be_asked(
    backtalk: Backtalk, database: Database
) -> None:
    password = backtalk("users", "create", "alice").stdout.strip()
    with database.transaction() as session:
        assert identity.sign_in(session, "alice", password)[0]


def test_policies_are_set_and_shown_in_the_same_words(backtalk: Backtalk, database: Database) -> None:
    with database.transaction() as session:
        make_model(session)
    changed = backtalk("policy", "set", "animals", "min_approved=20", "nightly=03:30", "review=auto")
    assert changed.stdout.splitlines() == ["min_approved=20", "nightly=03:30", "review=auto"]
    backtalk("policy", "set", "animals", "nightly=null")
    shown = backtalk("policy", "get", "animals").stdout.splitlines()
    assert {"min_approved=20", "nightly=null", "review=auto", "hold=false"} <= set(shown)
    assert backtalk("policy", "set", "animals", *shown).exit_code == 0


@pytest.mark.parametrize("pair", ["min_aproved=20", "min_approved=none", "min_approved"])
def test_a_bad_policy_changes_nothing(backtalk: Backtalk, database: Database, pair: str) -> None:
    with database.transaction() as session:
        make_model(session)
    assert pair.split("=", maxsplit=1)[0] in said(backtalk("policy", "set", "animals", "quorum=2", pair))
    assert "quorum=1" in backtalk("policy", "get", "animals").stdout


def test_pairs_are_read_as_json_has_them_and_as_text_otherwise() -> None:
    assert parse_pairs(["a=1", "b=0.5", "c=true", "d=null", "e=02:00", "f=Europe/Berlin", "g="]) == {
        "a": 1,
        "b": 0.5,
        "c": True,
        "d": None,
        "e": "02:00",
        "f": "Europe/Berlin",
        "g": "",
    }
    with pytest.raises(InvalidInput):
        parse_pairs(["=1"])


def test_a_run_is_asked_for_once(backtalk: Backtalk, database: Database) -> None:
    with database.transaction() as session:
        make_model(session)
    run_id = backtalk("train", "animals").stdout.strip()
    assert "active" in said(backtalk("train", "animals"))
    with database.reading() as session:
        run = session.get(Run, run_id)
        assert run is not None
        assert run.requested_by == "cli"


def test_a_full_run_is_asked_for_by_a_recipe_that_there_is(backtalk: Backtalk, database: Database) -> None:
    with database.transaction() as session:
        make_model(session)
    assert "default, faster-surfaces, int8, phone" in said(
        backtalk("train", "animals", "--kind", "full", "--recipe", "nowhere")
    )
    assert backtalk("train", "animals", "--kind", "full", "--recipe", "quick").exit_code == 0
    with database.reading() as session:
        assert session.scalars(select(Run.recipe)).one() == {"name": "quick"}


@pytest.mark.parametrize(
    "words",
    [
        ("policy", "get", "ghosts"),
        ("policy", "set", "ghosts", "quorum=1"),
        ("train", "ghosts"),
        ("promote", "ghosts", "1"),
        ("rollback", "ghosts"),
        ("status", "ghosts"),
        ("verify", "ghosts"),
    ],
)
def test_an_unknown_model_is_named(backtalk: Backtalk, words: tuple[str, ...]) -> None:
    assert "ghosts" in said(backtalk(*words))


def test_the_first_version_cannot_be_rolled_back(backtalk: Backtalk, database: Database) -> None:
    with database.transaction() as session:
        make_model(session)
    assert "earlier" in said(backtalk("rollback", "animals"))


def test_status_tells_machines_and_people(backtalk: Backtalk, database: Database) -> None:
    with database.transaction() as session:
        model = make_model(session)
        make_run(session, model, state="inconclusive", reason="Too few images.", ended_at=datetime.now(UTC))
        session.add(
            TriggerCheck(
                model_id=model.id, kind="head", policy={}, counts={}, fired=False, reason="nothing-new"
            )
        )
        session.add(Replica(process="host:1", model_id=model.id, generation=1, version=1))
    status = json.loads(backtalk("status", "animals", "--json").stdout)
    assert (status["model"], status["version"], status["generation"]) == ("animals", 1, 1)
    assert status["runs"][0]["state"] == "inconclusive"
    assert status["replicas"] == [{"process": "host:1", "version": 1, "generation": 1, "error": None}]
    text = backtalk("status", "animals").stdout
    assert "version 1 is live" in text
    assert "Too few images." in text
    assert "nothing-new" in text


def test_models_are_listed(backtalk: Backtalk, database: Database) -> None:
    assert backtalk("models", "list").stdout == ""
    with database.transaction() as session:
        make_model(session)
    assert backtalk("models", "list").stdout == "animals\tversion 1\tcat, dog\n"


@pytest.mark.parametrize("labels", [[], ["cat"]])
def test_a_folder_that_makes_no_model_is_refused(
    backtalk: Backtalk, tmp_path: Path, labels: list[str]
) -> None:
    folder = tmp_path / "images"
    for label in ["", *labels]:
        (folder / label).mkdir()
        (folder / label / "note.txt").write_text("no image")
    assert said(backtalk("models", "create", "animals", "--from", str(folder)))
    assert backtalk("models", "list").stdout == ""


def test_a_missing_folder_is_named(backtalk: Backtalk) -> None:
    assert "/nowhere" in said(backtalk("models", "create", "animals", "--from", "/nowhere"))


def test_a_bad_setting_is_told_before_anything_else(
    backtalk: Backtalk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKTALK_LEASES", "1")
    assert "BACKTALK_LEASES" in said(backtalk("models", "list"))


def test_a_database_that_does_not_answer_is_told_in_a_sentence(
    backtalk: Backtalk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKTALK_DATABASE_URL", f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    assert "database does not answer" in said(backtalk("models", "list"))


# --- waiting for replicas -----------------------------------------------------------------------
def add_replicas(system: System, *generations: tuple[str, int, float]) -> None:
    """Process, generation and age in seconds of each."""
    with system.db.transaction() as session:
        model = make_model(session)
        for process, generation, age_s in generations:
            seen = datetime.now(UTC) - timedelta(seconds=age_s)
            session.add(
                Replica(process=process, model_id=model.id, generation=generation, seen_at=seen, version=1)
            )


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [
        ([("one", 2, 0), ("two", 3, 0)], Acknowledgement.ALL),
        ([("one", 2, 0), ("two", 1, 0)], Acknowledgement.MISSING),
        ([("one", 2, 0), ("gone", 1, 30)], Acknowledgement.ALL),
        ([("gone", 1, 30)], Acknowledgement.NOBODY),
        ([], Acknowledgement.NOBODY),
    ],
)
def test_every_fresh_replica_must_acknowledge(
    system: System, replicas: list[tuple[str, int, float]], expected: Acknowledgement
) -> None:
    add_replicas(system, *replicas)
    assert await_replicas(system, "animals", 2, wait_s=0.3) is expected
