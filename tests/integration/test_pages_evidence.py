"""The pages of evidence and their buttons, on rows with a history and artefacts on disk."""

import html
import re
from datetime import UTC, datetime, timedelta

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select

from backtalk import ledger, sums
from backtalk.states import RunState, Scope
from backtalk.system import System
from backtalk.tables import LedgerEntry, Model, Run, TriggerCheck, Version
from services.review import outlook
from services.wsgi import create_app
from tests import factories, showroom
from tests.integration.test_pages_sign_in import read_csrf, sign_in


@pytest.fixture
def client(system: System) -> FlaskClient:
    """Signed in as somebody who may do everything, with a model `cells` that has a history."""
    showroom.add_person(system, scopes=showroom.EVERYTHING)
    with system.db.transaction() as session:
        model = factories.make_model(session, "cells", labels=["good", "bad"])
        showroom.add_history(session, model)
    client = create_app(system=system).test_client()
    sign_in(client)
    return client


def press(client: FlaskClient, path: str, **form: str):  # type: ignore[no-untyped-def]
    return client.post(path, data={"csrf_token": read_csrf(client)} | form)


def write_artefacts(system: System) -> None:
    """Files for each version, such that their sums verify."""
    with system.db.transaction() as session:
        for version in session.scalars(select(Version)):
            folder = system.versions.resolve(version.path)
            folder.mkdir(parents=True)
            (folder / "head.npz").write_bytes(b"head")
            version.artefact_digest = sums.write_sums(folder)


# --- pages -------------------------------------------------------------------------------------
@pytest.mark.parametrize("page", ["", "/runs", "/triggers", "/ledger", "/policy", "/live"])
def test_each_page_of_a_model_with_a_history_can_be_read(client, page):
    answer = client.get(f"/models/cells{page}")
    assert answer.status_code == 200
    assert "Undefined" not in answer.text


@pytest.mark.parametrize("page", ["", "/runs", "/triggers", "/ledger", "/policy"])
def test_each_page_of_a_model_with_nothing_yet_says_what_will_come(client, system, page):
    with system.db.transaction() as session:
        factories.make_model(session, "fresh", live=False)
    answer = client.get(f"/models/fresh{page}")
    assert answer.status_code == 200
    if page in {"/runs", "/triggers", "/ledger"}:
        assert 'class="empty"' in answer.text


def test_home_without_a_model_says_how_to_make_one(system):
    showroom.add_person(system)
    client = create_app(system=system).test_client()
    sign_in(client)
    assert "backtalk models create" in client.get("/").text


def test_home_lists_each_model_with_what_there_is_to_review(client, system):
    showroom.add_queue(system, n=3)
    page = client.get("/").text
    assert "cells" in page
    assert "Review 3" in page
    assert "Nothing to review" in page


@pytest.mark.parametrize("path", ["/models/none", "/models/cells/runs/x", "/models/none/runs/x"])
def test_what_is_not_there_is_said(client, path):
    assert client.get(path).status_code == 404


def test_a_run_is_shown_only_under_its_own_model(client, system):
    with system.db.transaction() as session:
        factories.make_model(session, "other")
        run = session.scalars(select(Run)).first()
    assert client.get(f"/models/cells/runs/{run.id}").status_code == 200
    assert client.get(f"/models/other/runs/{run.id}").status_code == 404


def test_a_bad_cursor_is_no_fault_of_the_server(client):
    assert client.get("/models/cells/runs?cursor=nonsense").status_code == 422


def test_a_run_shows_its_verdict_and_every_check_in_words(client, system):
    with system.db.reading() as session:
        run = session.scalars(select(Run).where(Run.state == RunState.REJECTED)).one()
    page = client.get(f"/models/cells/runs/{run.id}").text
    for said in ("Rejected.", "Accuracy against the champion", "failed", "passed", "too few", "shown only"):
        assert said in page
    assert '<svg class="bar"' in page
    assert "hx-get" not in page.split("<main")[1].split("What the gate")[0]  # it has ended: no polling


def test_a_run_that_goes_on_asks_for_itself_until_it_ends(client, system):
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        run = factories.make_run(session, model, state=RunState.TRAINING, progress={"part": "fit"})
    page = client.get(f"/models/cells/runs/{run.id}").text
    address = re.search(r'hx-get="([^"]+/live\?seen=\w+)"', page)
    assert address
    assert client.get(address[1]).status_code == 204
    with system.db.transaction() as session:
        session.get_one(Run, run.id).state = RunState.FAILED
    ended = client.get(address[1])
    assert ended.status_code == 200
    assert "hx-get" not in ended.text


def test_no_page_has_inline_script_or_style(client, system):
    with system.db.reading() as session:
        run = session.scalars(select(Run)).first()
    for path in (
        "/",
        "/models/cells",
        f"/models/cells/runs/{run.id}",
        "/models/cells/policy",
        "/review/cells",
    ):
        page = client.get(path).text
        assert not re.search(r"\sstyle=|\son[a-z]+=|<style|javascript:", page), path
        scripts = re.findall(r"<script[^>]*>", page)
        assert all("src=" in tag or 'type="application/json"' in tag for tag in scripts), path


def test_what_people_wrote_is_never_read_as_html(client, system):
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        factories.make_run(session, model, state=RunState.FAILED, reason="<b onclick=x>boom</b>")
    page = client.get("/models/cells").text
    assert "<b onclick" not in page
    assert "&lt;b onclick=x&gt;boom" in page


# --- buttons -----------------------------------------------------------------------------------
def test_run_now_asks_first_and_then_queues_a_run(client, system):
    question = client.get("/models/cells/run-now", headers={"HX-Request": "true"}).text
    assert "<html" not in question
    assert "It is judged against version 5" in question
    answer = press(client, "/models/cells/run-now", kind="head")
    assert answer.status_code == 303
    assert "The run is queued" in client.get(answer.location).text
    with system.db.reading() as session:
        run = session.scalars(select(Run).order_by(Run.id.desc())).first()
        assert (run.state, run.requested_by) == (RunState.QUEUED, "user:ada")


def test_a_second_run_of_the_kind_is_refused_with_a_sentence(client):
    press(client, "/models/cells/run-now", kind="head")
    answer = press(client, "/models/cells/run-now", kind="head")
    assert answer.status_code == 409
    assert "active" in answer.text


@pytest.mark.parametrize("kind", ["sideways", ""])
def test_a_run_of_a_kind_that_cannot_be_made_is_refused(client, kind):
    assert press(client, "/models/cells/run-now", kind=kind).status_code == 422


def test_a_person_promotes_an_inconclusive_version_in_their_own_name(client, system):
    write_artefacts(system)
    question = client.get("/models/cells/versions/3/promote").text
    assert "Make version 3 live?" in question
    assert "The gate left it inconclusive" in question
    assert press(client, "/models/cells/versions/3/promote").status_code == 303
    with system.db.reading() as session:
        assert session.scalars(select(Model)).one().live_version == 3
        entry = session.scalars(select(LedgerEntry).order_by(LedgerEntry.seq.desc())).first()
        assert (entry.action, entry.version, entry.actor) == ("promote", 3, "user:ada")


def test_a_version_whose_files_do_not_match_is_not_promoted(client, system):
    write_artefacts(system)
    with system.db.reading() as session:
        version = session.scalars(select(Version).where(Version.number == 3)).one()
    (system.versions.resolve(version.path) / "head.npz").write_bytes(b"other")
    assert press(client, "/models/cells/versions/3/promote").status_code == 409
    with system.db.reading() as session:
        assert session.scalars(select(Model)).one().live_version == 5


def test_a_rollback_says_where_to_and_sets_the_hold_which_can_be_lifted(client, system):
    write_artefacts(system)
    assert "Roll back to version 2?" in client.get("/models/cells/roll-back").text
    assert press(client, "/models/cells/roll-back").status_code == 303
    page = client.get("/models/cells").text
    assert "On hold." in page
    assert "Lift hold" in page
    assert press(client, "/models/cells/lift-hold").status_code == 303
    with system.db.reading() as session:
        model = session.scalars(select(Model)).one()
        assert (model.live_version, model.hold) == (2, False)


def test_the_first_version_has_nothing_to_roll_back_to(client, system):
    with system.db.transaction() as session:
        factories.make_model(session, "fresh")
    answer = client.get("/models/fresh/roll-back")
    assert answer.status_code == 409
    assert "is the first" in answer.text


def save_policy(client: FlaskClient, before: str | None = None, **form: str):  # type: ignore[no-untyped-def]
    """With the policy that the form was opened on, or one that was opened `before`."""
    before = before or read_before(client)
    return press(client, "/models/cells/policy", before=before, **form)


def read_before(client: FlaskClient) -> str:
    page = client.get("/models/cells/policy").text
    return html.unescape(re.search(r'name="before" value="([^"]*)"', page)[1])


def test_the_policy_form_changes_only_what_was_changed(client, system):
    form = {"min_approved": "30", "nightly": "null", "review": "trusted", "four_eyes": "true", "quorum": "2"}
    answer = save_policy(client, **form)
    assert answer.status_code == 303
    with system.db.reading() as session:
        stored = session.scalars(select(Model)).one().policy
    assert stored == {
        "min_approved": 30,
        "nightly": None,
        "review": "trusted",
        "four_eyes": True,
        "quorum": 2,
    }
    page = client.get("/models/cells/policy").text
    assert 'value="30"' in page
    assert "Default: 50" in page


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"min_approved": "none at all"}, "min_approved"),
        ({"margin": "nan"}, "margin"),
        ({"timezone": "Mars/Olympus"}, "time zone"),
        ({"nightly_kind": "huge"}, "nightly_kind"),
    ],
)
def test_a_bad_policy_comes_back_with_what_was_typed_and_the_reason(client, system, form, said):
    answer = save_policy(client, **form)
    assert answer.status_code == 422
    assert said in answer.text
    with system.db.reading() as session:
        assert session.scalars(select(Model)).one().policy == {}


def test_an_old_policy_form_comes_again_with_the_news_and_what_was_typed(client, system):
    opened = read_before(client)
    assert save_policy(client, min_approved="30", margin="0.05").status_code == 303
    with system.db.transaction() as session:
        session.scalars(select(Model)).one().hold = True  # as a rollback does
    typed = {"min_approved": "50", "margin": "0.1", "hold": "false", "quorum": "2"}
    stale = save_policy(client, opened, **typed)
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
    with system.db.reading() as session:
        assert session.scalars(select(Model)).one().policy == {"min_approved": 30, "margin": 0.05}
    again = html.unescape(re.search(r'name="before" value="([^"]*)"', stale.text)[1])
    assert save_policy(client, again, margin="0.1", quorum="2", hold="true").status_code == 303
    with system.db.reading() as session:
        model = session.scalars(select(Model)).one()
        assert (model.policy, model.hold) == ({"min_approved": 30, "margin": 0.1, "quorum": 2}, True)


def test_a_policy_form_that_does_not_say_what_it_was_made_from_is_refused(client):
    assert press(client, "/models/cells/policy", min_approved="30").status_code == 428


def test_the_policy_can_be_read_by_all_and_changed_by_admins(client, system):
    showroom.add_person(system, "bob", (Scope.TRAIN,))
    bob = create_app(system=system).test_client()
    sign_in(bob, "bob")
    assert "Save the policy" not in bob.get("/models/cells/policy").text
    assert press(bob, "/models/cells/policy", min_approved="1").status_code == 403


# --- words -------------------------------------------------------------------------------------
def say(model: Model, system: System) -> outlook.Outlook:
    with system.db.reading() as session:
        return outlook.find_outlook(session, session.get_one(Model, model.id))


def test_the_outlook_counts_what_is_approved_and_names_what_is_in_the_way(system):
    with system.db.transaction() as session:
        model = factories.make_model(session, "cells")
        for _ in range(3):
            factories.make_decision(session, model)
    found = say(model, system)
    assert (found.approved, found.wanted) == (3, 50)
    assert found.sentence.startswith("Next night 02:00 UTC, in ")
    with system.db.transaction() as session:
        ended = datetime.now(UTC) - timedelta(seconds=20)
        run = factories.make_run(session, model, state=RunState.FAILED, ended_at=ended)
    assert say(model, system).sentence.startswith("Cooldown ")
    with system.db.transaction() as session:
        session.get_one(Run, run.id).state = RunState.TRAINING
    assert "A run is going on" in say(model, system).sentence
    with system.db.transaction() as session:
        session.get_one(Run, run.id).state = RunState.CANCELLED
        session.get_one(Model, model.id).hold = True
    assert say(model, system).sentence == "On hold: no run starts by itself."


def test_the_outlook_repeats_why_the_last_consideration_started_nothing(system):
    with system.db.transaction() as session:
        model = factories.make_model(session, "cells", policy={"min_approved": 1, "nightly": None})
        factories.make_decision(session, model)
        check = {"sentence": "48 runs today are enough."}
        factories.add(
            session,
            TriggerCheck(model_id=model.id, kind="head", policy={}, counts=check, fired=False, reason="day"),
        )
    assert say(model, system).sentence == "48 runs today are enough."


def test_the_ledger_of_the_history_is_whole(client, system):
    with system.db.reading() as session:
        model = session.scalars(select(Model)).one()
        assert ledger.find_breaks(session, model.id, model.generation) == []
