"""The report that names a bad source."""

from sqlalchemy.orm import Session

from backtalk import reporters
from backtalk.callers import Caller
from backtalk.db import Database
from backtalk.states import Action, Scope
from backtalk.tables import Model
from tests import factories as make
from tests.clients import Api, assert_problem
from tests.integration.test_feedback import confirm, correct, predict
from tests.integration.test_retraction import add_key, approve, learn, model_of


def speaker(session: Session, name: str) -> Caller:
    add_key(session, name)
    return Caller(f"key:{name}", name, frozenset({Scope.FEEDBACK}), key_id=name)


def report(
    session: Session, caller: Caller, count: int, score: float, **values
) -> list[make.tables.Prediction]:
    """Corrections of predictions that gave the reported label `score`."""
    made = []
    for _ in range(count):
        prediction = predict(session, scores=[1 - score, score], key_id=caller.key_id, **values)
        correct(session, prediction, "dog", caller)
        made.append(prediction)
    return made


def test_the_report_names_the_key_that_people_contradict(database: Database):
    with database.reading() as session:
        alice, mallory = speaker(session, "alice"), speaker(session, "mallory")
        for prediction in report(session, alice, 6, 0.4):
            approve(session, prediction)
        for number, prediction in enumerate(report(session, mallory, 6, 0.4)):
            approve(session, prediction, Action.APPROVE if number < 3 else Action.REJECT)
        first, second = reporters.list_sources(session, session.query(Model).one())
    assert (first.app, first.approved, first.rejected) == ("mallory", 3, 3)
    assert first.warnings == ["People found 3 of 6 statements wrong."]
    assert (second.app, second.warnings, second.contradicted_by_people) == ("alice", [], 0)


def test_without_any_person_it_names_the_key_whose_reports_nothing_supports(database: Database):
    with database.reading() as session:
        alice, mallory = speaker(session, "alice"), speaker(session, "mallory")
        report(session, alice, 12, 0.4, policy={"review": "auto"})
        report(session, mallory, 12, 0.001)
        first, second = reporters.list_sources(session, session.query(Model).one())
    assert (first.app, first.marked, first.marked_share, first.approved_by_policy) == ("mallory", 12, 1.0, 12)
    assert "12 of 12 corrections are marked" in first.warnings[0]
    assert "of another key's 0%" in first.warnings[0]
    assert second.warnings == []


def test_where_everybodys_reports_look_strange_nobody_is_named(database: Database):
    with database.reading() as session:
        for name in ("alice", "bob"):
            report(session, speaker(session, name), 12, 0.001)
        assert [s.warnings for s in reporters.list_sources(session, session.query(Model).one())] == [[], []]


def test_a_relabel_contradicts_and_an_undecided_statement_says_nothing(database: Database):
    with database.reading() as session:
        alice = speaker(session, "alice")
        prediction, _open = report(session, alice, 2, 0.4)
        approve(session, prediction, Action.RELABEL, label="cat")
        confirmed = predict(session, key_id="alice")
        confirm(session, confirmed, alice)
        (source,) = reporters.list_sources(session, model_of(session, prediction))
    assert (source.corrections, source.confirmations, source.pending) == (2, 1, 1)
    assert (source.answered_by_people, source.contradicted_by_people) == (1, 1)


def test_the_report_lists_versions_that_learned_from_the_key(api: Api, database: Database):
    with database.transaction() as session:
        alice = speaker(session, "alice")
        (prediction,) = report(session, alice, 1, 0.4, policy={"review": "auto"})
        learn(session, model_of(session, prediction), 2)
    (item,) = api.get("/v1/models/animals/reporters").get_json()["items"]
    assert (item["key"], item["app"], item["versions"]) == ("alice", "alice", [2])
    refused = api.as_key("predict", "feedback").get("/v1/models/animals/reporters")
    assert_problem(refused, 403, "not-allowed")


def report_mistakes_and_lies(
    session: Session, caller: Caller, review: str = "auto"
) -> list[make.tables.Prediction]:
    """Thirty corrections where the model was unsure, and six where it was sure; the latter."""
    for _ in range(30):
        prediction = predict(session, scores=[0.4, 0.6], key_id=caller.key_id, policy={"review": review})
        prediction.label = "dog"
        session.flush()
        correct(session, prediction, "cat", caller)
    return report(session, caller, 6, 0.001)


def test_lies_about_one_class_do_not_drown_in_what_else_a_key_says(database: Database):
    with database.reading() as session:
        report_mistakes_and_lies(session, speaker(session, "mallory"))
        (source,) = reporters.list_sources(session, session.query(Model).one())
    assert source.marked_share == 6 / 36
    (warning,) = source.warnings
    assert warning.startswith(
        "6 corrections of 'cat' to 'dog' stand out: the champion held its answer 999 times"
    )
    assert warning.endswith("as likely as that label, in other corrections 1.5 times. Look at a few.")


def test_who_stands_out_is_cleared_when_people_have_upheld_a_few(database: Database):
    with database.reading() as session:
        mallory = speaker(session, "mallory")
        for prediction in report_mistakes_and_lies(session, mallory, "required")[:5]:
            approve(session, prediction)
        report(session, mallory, 5, 0.001)
        (source,) = reporters.list_sources(session, session.query(Model).one())
    assert (source.answered_by_people, source.contradicted_by_people) == (5, 0)
    assert not any("stand out" in warning for warning in source.warnings)


def test_a_majority_that_colludes_does_not_hide_itself(database: Database):
    with database.reading() as session:
        report(session, speaker(session, "alice"), 12, 0.4, policy={"review": "auto"})
        for name in ("mallory", "trudy", "eve"):
            report(session, speaker(session, name), 12, 0.001)
        named = {s.app for s in reporters.list_sources(session, session.query(Model).one()) if s.warnings}
    assert named == {"mallory", "trudy", "eve"}
