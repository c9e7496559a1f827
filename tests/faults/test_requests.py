"""Callers whose answer never came: killed half-way, or committed and the reply lost. Repeating is safe."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from tests.faults.history import Caller, Operation, until_acknowledged
from tests.faults.load import count_rows
from tests.faults.rig import Rig
from tests.served import LABELS, make_jpeg

#: Of a whole request each; a process dies there once.
STEPS = {
    "predict": ("images.before_write", "images.before_sync", "images.before_rename", "images.after_rename",
                "recording.before_commit", "recording.after_commit"),
    "correct": ("feedback.before_commit", "feedback.after_commit"),
    "confirm": ("feedback.before_commit", "feedback.after_commit"),
    "decide": ("decision.before_commit", "decision.after_commit"),
}  # fmt: skip


def other_than(label: str) -> str:
    return next(known for known in LABELS if known != label)


def predict(app: Caller, seed: int) -> Operation:
    return until_acknowledged(lambda: app.predict("animals", make_jpeg(seed)), 60)


# --- killed at each step -----------------------------------------------------------------------------
@pytest.fixture
def ready(rig: Rig) -> tuple[Rig, Caller]:
    """An empty queue, and an app that may predict, speak and review."""
    return rig.use("served"), rig.caller("predict", "feedback", "review")


def start_dying(rig: Rig, kind: str) -> int:
    """The API, to die once at each step of this request (gunicorn starts it again); how many there are."""
    rig.start("api", failpoints=";".join(f"{step}=kill@once" for step in STEPS[kind]))
    return len(STEPS[kind])


def count_unanswered(rig: Rig, kind: str) -> int:
    return sum(operation.status is None for operation in rig.history.of(kind))


@pytest.mark.slow
@pytest.mark.fault(row=21)
def test_a_prediction_whose_api_is_killed_at_each_step_is_answered_in_the_end(
    ready: tuple[Rig, Caller],
) -> None:
    rig, app = ready
    steps = start_dying(rig, "predict")
    assert predict(app, 1).status == 200
    assert count_unanswered(rig, "predict") >= steps
    rig.tried(steps)
    assert count_rows(rig, "SELECT count(*) FROM images") == 1
    # One was written down when its process died, and nobody knows its id.
    assert count_rows(rig, "SELECT count(*) FROM predictions") == 2
    assert rig.check() == {}


@pytest.mark.fault(row=21, only="statements")
@pytest.mark.parametrize("kind", ["correct", pytest.param("confirm", marks=pytest.mark.slow)])
def test_a_statement_whose_api_is_killed_at_each_step_is_taken_down_once(
    ready: tuple[Rig, Caller], kind: str
) -> None:
    rig, app = ready
    steps = start_dying(rig, kind)
    answer = predict(app, 1)
    wrong = other_than(answer.answer["predictions"][0]["label"])
    say: dict[str, Callable[[], Operation]] = {
        "correct": lambda: app.correct(str(answer.id), wrong, key="once"),
        "confirm": lambda: app.confirm(str(answer.id), key="once"),
    }
    assert until_acknowledged(say[kind], 60).status == 201
    assert count_unanswered(rig, kind) >= steps
    rig.tried(steps)
    table = {"correct": "corrections", "confirm": "confirmations"}[kind]
    assert count_rows(rig, f"SELECT count(*) FROM {table}") == 1
    assert rig.check() == {}


@pytest.mark.slow
@pytest.mark.fault(row=21)
def test_a_decision_whose_api_is_killed_at_each_step_is_made_once_and_the_repeat_says_by_whom(
    ready: tuple[Rig, Caller],
) -> None:
    rig, app = ready
    steps = start_dying(rig, "decide")
    rig.start_all("relay", "events")
    answer = predict(app, 1)
    wrong = other_than(answer.answer["predictions"][0]["label"])
    assert app.correct(str(answer.id), wrong).status == 201
    [item] = rig.wait_for(lambda: app.lease("animals"), 30)
    repeated = until_acknowledged(lambda: app.decide(item, "approve"), 60)
    assert repeated.status == 412  # committed when its process died: no answer told
    assert repeated.answer["own"] is True
    assert count_unanswered(rig, "decide") >= steps
    rig.tried(steps)
    assert count_rows(rig, "SELECT count(*) FROM decisions") == 1
    assert rig.check() == {}


# --- committed, and the reply lost -------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.fault(row=12, tries=2)
def test_a_statement_whose_commit_was_never_heard_of_has_one_row_and_the_same_id(rig: Rig) -> None:
    """The database takes the COMMIT and says so; the connection swallows it."""
    rig.use("served")
    rig.start("api", database_url=rig.proxy_url("postgres"), failpoints="feedback.before_commit=sleep:1")
    app = rig.caller("predict", "feedback")
    first, second = predict(app, 1), predict(app, 2)
    wrong = other_than(first.answer["predictions"][0]["label"])
    lose_the_reply(rig, "corrections", lambda: app.correct(str(first.id), wrong, key="one"))
    lose_the_reply(rig, "confirmations", lambda: app.confirm(str(second.id), key="two"))
    assert rig.check() == {}


def lose_the_reply(rig: Rig, table: str, say: Callable[[], Operation]) -> None:
    before = rig.hit_names().count("feedback.before_commit")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(say)
        rig.wait_for(lambda: rig.hit_names().count("feedback.before_commit") > before)
        rig.proxy("postgres").swallow_answers()
        rig.wait_for(lambda: count_rows(rig, f"SELECT count(*) FROM {table}") == 1)
        assert asked.result().status == 503
    rig.proxy("postgres").heal()
    repeated = until_acknowledged(say)
    assert repeated.status == 201
    with rig.system.db.reading() as session:
        assert [str(row.id) for row in session.execute(text(f"SELECT id FROM {table}"))] == [repeated.id]


# --- two at once -------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.fault(row=30, tries=8)
def test_of_two_reviewers_who_decide_at_once_one_is_told_who_was_first_and_when(rig: Rig) -> None:
    rig.use("served")
    rig.start("api", failpoints="decision.before_commit=sleep:0.2")  # so that they do meet
    rig.start_all("relay", "events")
    app = rig.caller("predict", "feedback")
    for seed in range(8):
        answer = predict(app, seed)
        app.correct(str(answer.id), other_than(answer.answer["predictions"][0]["label"]), key=str(seed))
    alice, bob = (rig.caller("review", name=name) for name in ("alice", "bob"))
    items = rig.wait_for(lambda: (found := alice.lease("animals")) and len(found) == 8 and found, 30)
    for item in items:
        start = threading.Barrier(2)

        def decide(caller: Caller, item: dict = item, start: threading.Barrier = start) -> Operation:
            start.wait()
            return caller.decide(item, "approve")

        with ThreadPoolExecutor(2) as pool:
            made = sorted(pool.map(decide, (alice, bob)), key=lambda done: done.status or 0)
        assert [done.status for done in made] == [200, 412]
        [row] = find_decisions(rig, item["item"])
        assert (made[1].answer["own"], made[1].answer["decided_as"]) == (False, row.label)
        assert made[1].answer["seconds_ago"] <= 5
    assert rig.check() == {}


def find_decisions(rig: Rig, item: str) -> list:
    with rig.system.db.reading() as session:
        return list(session.execute(text("SELECT * FROM decisions WHERE item_id = :item"), {"item": item}))
