"""Buttons with weight: each says first what will happen, is for those who may, and happens once."""

import html
import re

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select

from backtalk.states import RunKind, RunState, Scope
from backtalk.system import System
from backtalk.tables import AuditEntry, LedgerEntry, Model, Run, Version
from services.wsgi import create_app
from tests import exhibits, factories, showroom
from tests.integration.test_pages_sign_in import read_csrf, sign_in


@pytest.fixture
def client(system: System) -> FlaskClient:
    """Signed in as somebody who may do everything, with a model `cells` whose versions lie on disk."""
    showroom.add_person(system, scopes=showroom.EVERYTHING)
    with system.db.transaction() as session:
        model = factories.make_model(session, "cells", labels=["good", "bad"])
        showroom.add_history(session, model)
    exhibits.add_exhibits(system, "cells")
    client = create_app(system=system).test_client()
    sign_in(client)
    return client


@pytest.fixture
def model(system: System) -> Model:
    """A model without any history."""
    showroom.add_person(system, scopes=showroom.EVERYTHING)
    with system.db.transaction() as session:
        return factories.make_model(session, "cells", labels=["good", "bad"])


@pytest.fixture
def newcomer(model: Model, system: System) -> FlaskClient:
    client = create_app(system=system).test_client()
    sign_in(client)
    return client


def ask(client: FlaskClient, path: str) -> tuple[str, dict[str, str]]:
    """The question as it reads, and the form as a browser would send it."""
    page = client.get(path).text
    form = page.split('<form class="confirm"')[1].split("</form>")[0]
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form))
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", form))
    return text, hidden


def press(client: FlaskClient, path: str, **form: str):  # type: ignore[no-untyped-def]
    return client.post(path, data={"csrf_token": read_csrf(client)} | form)


def read_model(system: System) -> Model:
    with system.db.reading() as session:
        return session.scalars(select(Model)).one()


# --- runs --------------------------------------------------------------------------------------
def test_run_now_asks_first_and_then_queues_one_run_however_often_it_is_sent(newcomer, system):
    path = "/models/cells/run-now"
    question, form = ask(newcomer, path)
    for said in ("trained on all 0 training samples", "judged against version 1", "Head", "Full"):
        assert said in question
    assert "<html" not in newcomer.get(path, headers={"HX-Request": "true"}).text
    first, second = (press(newcomer, path, **form, kind="head") for _ in range(2))
    assert first.status_code == second.status_code == 303
    assert first.location == second.location
    assert "The run is queued" in newcomer.get(first.location).text
    with system.db.transaction() as session:
        run = session.scalars(select(Run)).one()
        assert (run.state, run.requested_by, run.kind) == (RunState.QUEUED, "user:ada", RunKind.HEAD)
        assert len(session.scalars(select(AuditEntry).where(AuditEntry.action == "run.request")).all()) == 1
        run.state = RunState.FAILED
    # A reload after it has ended starts no other one either; a new question does.
    assert press(newcomer, path, **form, kind="head").location == first.location
    _, anew = ask(newcomer, path)
    assert press(newcomer, path, **anew, kind="head").location != first.location


def test_another_run_of_an_active_kind_is_refused_but_a_full_run_has_its_own_place(newcomer, system):
    path = "/models/cells/run-now"
    press(newcomer, path, **ask(newcomer, path)[1], kind="head")
    refused = press(newcomer, path, **ask(newcomer, path)[1], kind="head")
    assert refused.status_code == 409
    assert "active" in refused.text
    assert press(newcomer, path, **ask(newcomer, path)[1], kind="full", recipe="quick").status_code == 303
    with system.db.reading() as session:
        full = session.scalars(select(Run).where(Run.kind == RunKind.FULL)).one()
    assert full.recipe == {"name": "quick"}


@pytest.mark.parametrize(
    "bad", [{"kind": "sideways"}, {"kind": ""}, {"request": "x"}, {"kind": "full", "recipe": "none"}]
)
def test_a_form_that_cannot_be_meant_is_refused(newcomer, bad):
    form = {"kind": "head"} | ask(newcomer, "/models/cells/run-now")[1] | bad
    assert press(newcomer, "/models/cells/run-now", **form).status_code == 422


def test_each_button_is_for_those_alone_who_may(newcomer, system):
    showroom.add_person(system, "bob", (Scope.REVIEW,))
    bob = create_app(system=system).test_client()
    sign_in(bob, "bob")
    for path in ("run-now", "roll-back", "versions/1/promote", "lift-hold"):
        assert bob.get(f"/models/cells/{path}").status_code == 403, path
        assert press(bob, f"/models/cells/{path}", generation="1").status_code == 403, path
    assert press(bob, "/models/cells/policy", min_approved="1").status_code == 403
    page = bob.get("/models/cells").text
    assert "Run now" not in page
    assert "Roll back" not in page


# --- the live version --------------------------------------------------------------------------
def test_a_promotion_says_in_numbers_what_it_changes_and_happens_once(client, system):
    path = "/models/cells/versions/3/promote"
    question, form = ask(client, path)
    for said in (
        "Make version 3 live?",
        "Version 3 answers instead of version 5",
        "Of the 340 holdout pictures of now, 2 that version 5 gets wrong are fixed, and 25",
        "Right on the holdout: 85.3 % (81.1 to 88.7), against 92.1 % (88.7 to 94.5) of version 5",
        "The gate left it inconclusive",
        "not on hold",
    ):
        assert said in question
    answers = [press(client, path, **form) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {303}
    model = read_model(system)
    assert (model.live_version, model.generation) == (3, 4)
    with system.db.reading() as session:
        entry = session.scalars(select(LedgerEntry).order_by(LedgerEntry.seq.desc())).first()
        assert (entry.action, entry.version, entry.actor) == ("promote", 3, "user:ada")


def test_a_form_about_a_champion_that_is_gone_changes_nothing(client, system):
    promote, roll_back = "/models/cells/versions/3/promote", "/models/cells/roll-back"
    _, first = ask(client, promote)
    _, second = ask(client, roll_back)
    assert press(client, promote, **first).status_code == 303
    late = press(client, roll_back, **second)
    assert late.status_code == 409
    assert "Version 3 went live meanwhile" in late.text
    assert press(client, "/models/cells/versions/1/promote", **first).status_code == 409
    assert read_model(system).live_version == 3
    assert press(client, promote).status_code == 422
    assert (system.versions.resolve("cells/1")).is_dir()


def test_what_is_not_promoted_gets_no_number_that_tensorflow_serving_would_load(client, system):
    with system.db.transaction() as session:
        version = session.scalars(select(Version).where(Version.number == 3)).one()
        version.path = f"cells/.candidates/{version.run_id}-1"
        moved, hidden = system.versions.resolve("cells/3"), system.versions.resolve(version.path)
    hidden.parent.mkdir(parents=True)
    moved.rename(hidden)
    assert press(client, "/models/cells/versions/3/promote", generation="1").status_code == 409
    assert hidden.is_dir()
    assert not moved.exists()
    _, form = ask(client, "/models/cells/versions/3/promote")
    (hidden / "head.npz").write_bytes(b"other")
    assert "cannot be told" in client.get("/models/cells/versions/3/promote").text
    assert press(client, "/models/cells/versions/3/promote", **form).status_code == 409
    assert read_model(system).live_version == 5


def test_a_rollback_says_where_to_happens_once_and_sets_the_hold_which_can_be_lifted(client, system):
    path = "/models/cells/roll-back"
    question, form = ask(client, path)
    for said in ("Roll back to version 2?", "16 that version 5 gets wrong are fixed, and 37", "goes on hold"):
        assert said in question
    for _ in range(2):  # the second click must not go back to version 1
        assert press(client, path, **form).status_code == 303
    assert read_model(system).live_version == 2
    page = client.get("/models/cells").text
    assert "On hold." in page
    assert "Lift hold" in page
    assert press(client, "/models/cells/lift-hold").status_code == 303
    model = read_model(system)
    assert (model.live_version, model.hold) == (2, False)


def test_the_first_version_has_nothing_to_roll_back_to(newcomer):
    answer = newcomer.get("/models/cells/roll-back")
    assert answer.status_code == 409
    assert "is the first" in answer.text


# --- the policy --------------------------------------------------------------------------------
def change_policy(client: FlaskClient, **form: str):  # type: ignore[no-untyped-def]
    """As a browser does: the form, then the question, then yes."""
    page = press(client, "/models/cells/policy", before=read_before(client), **form)
    assert page.status_code == 200
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.text)
    return page.text, {name: html.unescape(value) for name, value in found}


def read_before(client: FlaskClient) -> str:
    """The policy that a form is made from now, as the form carries it."""
    page = client.get("/models/cells/policy").text
    return html.unescape(re.search(r'name="before" value="([^"]*)"', page)[1])


def test_the_policy_form_says_what_will_change_and_changes_only_that(newcomer, model, system):
    with system.db.transaction() as session:
        for _ in range(31):
            factories.make_decision(session, session.get(Model, model.id))
    form = {"min_approved": "30", "nightly": "null", "review": "trusted", "four_eyes": "true", "quorum": "2"}
    said, hidden = change_policy(newcomer, **form, margin="0.02")
    assert "min_approved becomes 30; it was 50." in said
    assert "31 statements are approved, so a run is due at once." in said
    assert "margin becomes" not in said
    assert read_model(system).policy == {}  # nothing is changed by the question
    answers = [press(newcomer, "/models/cells/policy", **hidden) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 303]
    assert read_model(system).policy == {
        "min_approved": 30,
        "nightly": None,
        "review": "trusted",
        "four_eyes": True,
        "quorum": 2,
    }
    with system.db.reading() as session:
        assert len(session.scalars(select(AuditEntry).where(AuditEntry.action == "policy.set")).all()) == 1
    page = newcomer.get("/models/cells/policy").text
    assert 'value="30"' in page
    assert "Default: 50" in page


def test_an_old_policy_form_comes_again_with_the_news_and_what_was_typed(newcomer, system):
    opened = read_before(newcomer)
    _, theirs = change_policy(newcomer, min_approved="30", margin="0.05")
    assert press(newcomer, "/models/cells/policy", **theirs).status_code == 303
    with system.db.transaction() as session:
        session.scalars(select(Model)).one().hold = True  # as a rollback does
    typed = {"min_approved": "50", "margin": "0.1", "hold": "false", "quorum": "2"}
    stale = press(newcomer, "/models/cells/policy", before=opened, sure="yes", **typed)
    assert stale.status_code == 412
    for news in (
        "min_approved</code> was 50 and is now <strong>30",
        "is now <strong>0.05",
        "is now <strong>true",
    ):
        assert news in stale.text
    assert 'name="margin" value="0.1"' in stale.text  # typed
    assert 'name="min_approved" value="30"' in stale.text  # not touched by this person
    assert "<option selected>true</option>" in stale.text  # the hold, likewise
    assert read_model(system).policy == {"min_approved": 30, "margin": 0.05}
    _, mine = change_policy(newcomer, margin="0.1", quorum="2", hold="true")
    assert press(newcomer, "/models/cells/policy", **mine).status_code == 303
    changed = read_model(system)
    assert (changed.policy, changed.hold) == ({"min_approved": 30, "margin": 0.1, "quorum": 2}, True)


def test_a_policy_form_that_does_not_say_what_it_was_made_from_is_refused(newcomer):
    assert press(newcomer, "/models/cells/policy", min_approved="30").status_code == 428


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"min_approved": "none at all"}, "min_approved"),
        ({"margin": "nan"}, "margin"),
        ({"timezone": "Mars/Olympus"}, "time zone"),
        ({"nightly_kind": "huge"}, "nightly_kind"),
    ],
)
def test_a_bad_policy_comes_back_with_what_was_typed_and_the_reason(newcomer, system, form, said):
    answer = press(newcomer, "/models/cells/policy", before=read_before(newcomer), **form)
    assert answer.status_code == 422
    assert said in answer.text
    assert read_model(system).policy == {}
