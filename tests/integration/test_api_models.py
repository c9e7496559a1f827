"""What can be seen and changed of a model: itself, versions, runs, policy, trigger checks."""

import pytest

from backtalk import catalogue
from backtalk.db import Database
from backtalk.states import RunState, VersionState
from backtalk.tables import AuditEntry, GateCheck, LedgerEntry, Model, Run, Snapshot, TriggerCheck
from tests import factories
from tests.clients import Api, assert_problem


@pytest.fixture
def model(database: Database) -> Model:
    with database.transaction() as session:
        return factories.make_model(session)


def walk(api: Api, path: str, limit: int) -> list[dict[str, object]]:
    """All of a list, page by page."""
    items: list[dict[str, object]] = []
    cursor = ""
    while True:
        page = api.get(f"{path}?limit={limit}{cursor}").get_json()
        assert len(page["items"]) <= limit
        items += page["items"]
        if page["next"] is None:
            return items
        cursor = f"&cursor={page['next']}"


# --- models ------------------------------------------------------------------------------------
def test_a_model_names_its_live_version_generation_and_labels(api: Api, model: Model) -> None:
    response = api.get("/v1/models/animals")
    shown = response.get_json()
    assert (shown["model"], shown["version"], shown["generation"]) == ("animals", 1, 1)
    assert shown["labels"] == ["cat", "dog"]
    assert response.headers["Backtalk-Generation"] == "1"


def test_a_version_that_does_not_load_says_why_as_tensorflow_serving_would(api: Api, model: Model) -> None:
    (status,) = api.get("/v1/models/animals").get_json()["model_version_status"]
    assert (status["version"], status["state"], status["status"]["error_code"]) == ("1", "END", "UNKNOWN")
    assert "does not load" in status["status"]["error_message"]


def test_a_version_that_is_not_live_has_ended(api: Api, model: Model, database: Database) -> None:
    with database.transaction() as session:
        factories.make_version(session, model, 2)
    (status,) = api.get("/v1/models/animals/versions/2").get_json()["model_version_status"]
    assert status == {"version": "2", "state": "END", "status": {"error_code": "OK", "error_message": ""}}


@pytest.mark.parametrize("path", ["/metadata", "/versions/1/metadata"])
def test_metadata_tells_model_version_generation_and_labels(api: Api, model: Model, path: str) -> None:
    shown = api.get(f"/v1/models/animals{path}").get_json()
    assert (shown["model"], shown["version"], shown["generation"]) == ("animals", 1, 1)
    assert shown["model_spec"] == {"name": "animals", "signature_name": "", "version": "1"}
    assert shown["model_version_status"][0]["version"] == "1"
    assert shown["labels"] == ["cat", "dog"]


def test_a_model_without_a_version_yet_is_shown_as_such(api: Api, database: Database) -> None:
    with database.transaction() as session:
        factories.make_model(session, live=False)
    for path in ("/v1/models/animals", "/v1/models/animals/metadata"):
        shown = api.get(path).get_json()
        assert (shown["version"], shown["generation"], shown["model_version_status"]) == (None, 0, [])


# --- lists -------------------------------------------------------------------------------------
def test_lists_are_newest_first_and_walked_without_gap_or_repeat(
    api: Api, database: Database, model: Model
) -> None:
    with database.transaction() as session:
        for number in range(2, 9):
            factories.make_version(session, model, number)
        runs = [factories.make_run(session, model, state=RunState.FAILED) for _ in range(7)]
        for number in range(7):
            factories.make_model(session, f"model-{number}")
    for limit in (1, 3, 7, 50):
        assert [v["number"] for v in walk(api, "/v1/models/animals/versions", limit)] == list(range(8, 0, -1))
        assert [r["id"] for r in walk(api, "/v1/models/animals/runs", limit)] == [
            str(run.id) for run in reversed(runs)
        ]
        assert len(walk(api, "/v1/models", limit)) == 8


def test_rows_that_arrive_meanwhile_neither_shift_nor_repeat_the_pages(
    api: Api, database: Database, model: Model
) -> None:
    with database.transaction() as session:
        for number in (2, 3, 4):
            factories.make_version(session, model, number)
    first = api.get("/v1/models/animals/versions?limit=2").get_json()
    with database.transaction() as session:
        factories.make_version(session, model, 5)
    second = api.get(f"/v1/models/animals/versions?limit=2&cursor={first['next']}").get_json()
    assert [v["number"] for v in first["items"] + second["items"]] == [4, 3, 2, 1]


def test_a_list_is_fifty_long_unless_asked(api: Api, database: Database, model: Model) -> None:
    with database.transaction() as session:
        for _ in range(51):
            factories.make_run(session, model, state=RunState.FAILED)
    assert len(api.get("/v1/models/animals/runs").get_json()["items"]) == 50
    assert len(api.get("/v1/models/animals/runs?limit=200").get_json()["items"]) == 51


def test_trigger_checks_say_why(api: Api, database: Database, model: Model) -> None:
    with database.transaction() as session:
        for reason in ("too-few", "hold"):
            session.add(
                TriggerCheck(
                    model_id=model.id,
                    kind="head",
                    policy={},
                    counts={"approved": 3},
                    fired=False,
                    reason=reason,
                )
            )
            session.flush()
    shown = api.get("/v1/models/animals/triggers").get_json()["items"]
    assert [check["reason"] for check in shown] == ["hold", "too-few"]
    assert (shown[0]["fired"], shown[0]["run"], shown[0]["counts"]) == (False, None, {"approved": 3})


# --- runs --------------------------------------------------------------------------------------
def test_a_run_is_asked_for_once_at_a_time(api: Api, model: Model) -> None:
    path = "/v1/models/animals/runs"
    first = api.post(path, json={"kind": "head"})
    assert first.status_code == 202
    assert api.get(f"/v1/runs/{first.get_json()['id']}").get_json()["state"] == "queued"
    assert_problem(api.post(path, json={"kind": "head"}), 409, "run-active")


def test_a_run_asked_for_twice_with_one_key_is_one_run(api: Api, model: Model) -> None:
    answers = [
        api.post("/v1/models/animals/runs", json={"kind": "head"}, headers={"Idempotency-Key": "k"})
        for _ in range(2)
    ]
    assert [each.status_code for each in answers] == [202, 202]
    assert answers[0].get_json() == answers[1].get_json()


def test_a_full_run_is_asked_for_by_its_recipe(api: Api, model: Model) -> None:
    path = "/v1/models/animals/runs"
    problem = assert_problem(api.post(path, json={"kind": "full", "recipe": "nowhere"}), 422)
    assert "default" in problem["detail"]
    assert_problem(api.post(path, json={"kind": "head", "recipe": "quick"}), 422)
    made = api.post(path, json={"kind": "full", "recipe": "quick"})
    assert made.status_code == 202
    shown = api.get(f"/v1/runs/{made.get_json()['id']}").get_json()
    assert (shown["kind"], shown["recipe"]) == ("full", {"name": "quick"})


def test_a_run_shows_snapshot_and_the_checks_of_its_last_judgement(
    api: Api, database: Database, model: Model
) -> None:
    with database.transaction() as session:
        session.add(
            Snapshot(
                model_id=model.id,
                digest="d" * 64,
                sample_ids=[1, 2, 3],
                stay_right_ids=[factories.make_image(session).id],
                counts={"train": 3},
            )
        )
        session.flush()
        run = factories.make_run(
            session, model, state=RunState.REJECTED, verdict="rejected", snapshot_digest="d" * 64
        )
        for turn, check in ((1, "old"), (2, "non-inferior"), (2, "kept")):
            session.add(make_check(run, turn, check))
    shown = api.get(f"/v1/runs/{run.id}").get_json()
    assert (shown["model"], shown["state"], shown["verdict"]) == ("animals", "rejected", "rejected")
    assert shown["snapshot"] == {"digest": "d" * 64, "counts": {"train": 3}, "samples": 3, "stay_right": 1}
    assert [check["check"] for check in shown["checks"]] == ["non-inferior", "kept"]
    assert shown["checks"][0] == {
        "check": "non-inferior",
        "value": 0.01,
        "bound": None,
        "n": 100,
        "fixed": 3,
        "broken": 2,
        "passed": True,
        "detail": {"images": ["a"]},
    }


def make_check(run: Run, turn: int, check: str) -> GateCheck:
    return GateCheck(
        run_id=run.id,
        round=turn,
        check=check,
        value=0.01,
        bound=None,
        n=100,
        fixed=3,
        broken=2,
        passed=True,
        detail={"images": ["a"]},
    )


# --- promotion by a person ---------------------------------------------------------------------
def test_what_cannot_be_promoted_or_rolled_back_is_409(api: Api, database: Database, model: Model) -> None:
    with database.transaction() as session:
        factories.make_version(session, model, 2, VersionState.QUARANTINED)
        factories.make_version(session, model, 3)
    for number in (1, 2, 3):  # live already; not to be trusted; its files are not there
        assert_problem(api.post(f"/v1/models/animals/versions/{number}:promote"), 409)
    assert_problem(api.post("/v1/models/animals:rollback"), 409, "nothing-to-roll-back")


# --- policy ------------------------------------------------------------------------------------
def test_a_policy_is_read_and_replaced(api: Api, model: Model, database: Database) -> None:
    before = api.get("/v1/models/animals/policy")
    assert before.get_json()["min_approved"] == 50
    changed = api.put("/v1/models/animals/policy", json={"min_approved": 7, "nightly": None})
    assert changed.status_code == 200
    assert (changed.get_json()["min_approved"], changed.get_json()["nightly"]) == (7, None)
    assert changed.headers["ETag"] != before.headers["ETag"]
    again = api.put("/v1/models/animals/policy", json={"audit_share": 0.5})
    assert (again.get_json()["min_approved"], again.get_json()["audit_share"]) == (50, 0.5)
    with database.reading() as session:
        assert {row.actor for row in session.query(AuditEntry)} == {f"key:{api.token.split('_')[1]}"}


def test_what_was_read_can_be_sent_back_whole(api: Api, model: Model) -> None:
    before = api.get("/v1/models/animals/policy")
    sent = api.put("/v1/models/animals/policy", json=before.get_json())
    assert sent.get_json() == before.get_json()


def test_a_policy_that_somebody_else_changed_is_412(api: Api, model: Model) -> None:
    etag = api.get("/v1/models/animals/policy").headers["ETag"]
    path = "/v1/models/animals/policy"
    assert api.put(path, json={"min_approved": 7}, headers={"If-Match": etag}).status_code == 200
    assert_problem(api.put(path, json={"min_approved": 8}, headers={"If-Match": etag}), 412)
    assert api.get(path).get_json()["min_approved"] == 7


@pytest.mark.parametrize(
    "values",
    [
        {"min_approved": 0},
        {"min_aproved": 5},
        {"nightly": "25:00"},
        {"timezone": "Mars/Olympus"},
        {"margin": "NaN"},
        {"quorum": 3},
        {"nightly_kind": "huge"},
        {"nightly_recipe": "../quick"},
    ],
)
def test_a_bad_policy_is_422_and_changes_nothing(api: Api, model: Model, values: dict[str, object]) -> None:
    assert_problem(api.put("/v1/models/animals/policy", json=values), 422)
    assert api.get("/v1/models/animals/policy").headers["ETag"] == '"1"'


# --- for the pages -----------------------------------------------------------------------------
def test_counts_tell_what_one_model_has(database: Database, model: Model) -> None:
    with database.transaction() as session:
        other = factories.make_model(session, "other")
        factories.make_decision(session, other)
        factories.make_decision(session, model)
        factories.make_sample(session, model)
        factories.make_run(session, model)
    with database.reading() as session:
        counts = catalogue.count_all(session, catalogue.get_model(session, "animals"))
    assert (counts.predictions_24h, counts.open_items, counts.corrections) == (1, 1, {"pending": 1})
    assert (counts.decided, counts.decided_new, counts.active_runs) == (1, 1, 1)
    assert counts.samples == {"train": 1}


def test_the_ledger_is_listed_newest_first(database: Database, model: Model) -> None:
    with database.transaction() as session:
        for seq in (1, 2, 3):
            session.add(make_entry(model, seq))
    with database.reading() as session:
        page = catalogue.list_ledger(session, model, limit=2)
        rest = catalogue.list_ledger(session, model, limit=2, cursor=page.next)
    assert [entry.seq for entry in page.items + rest.items] == [3, 2, 1]
    assert rest.next is None


def make_entry(model: Model, seq: int) -> LedgerEntry:
    return LedgerEntry(
        model_id=model.id,
        seq=seq,
        action="promote",
        version=seq,
        actor="cli",
        artefact_digest="",
        detail={},
        created_at=model.created_at,
        previous_hash="",
        hash="",
    )
