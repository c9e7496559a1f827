"""The pages of evidence and their buttons, on rows with a history and artefacts on disk."""

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select

from backtalk import ledger
from backtalk.boards import name_board
from backtalk.states import RunKind, RunState
from backtalk.system import System
from backtalk.tables import Model, Run, TriggerCheck
from services.review import outlook
from services.wsgi import create_app
from tests import exhibits, factories, showroom
from tests.integration.test_pages_sign_in import sign_in


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


# --- pages -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "page", ["", "/versions", "/compare", "/runs", "/triggers", "/ledger", "/policy", "/live", "/live-runs"]
)
def test_each_page_of_a_model_with_a_history_can_be_read(client, page):
    answer = client.get(f"/models/cells{page}")
    assert answer.status_code == 200
    assert "Undefined" not in answer.text


@pytest.mark.parametrize("page", ["", "/versions", "/compare", "/runs", "/triggers", "/ledger", "/policy"])
def test_each_page_of_a_model_with_nothing_yet_says_what_will_come(client, system, page):
    with system.db.transaction() as session:
        factories.make_model(session, "fresh", live=False)
    answer = client.get(f"/models/fresh{page}")
    assert answer.status_code == 200
    if page != "/policy":
        assert re.search(r'class="(sheet )?empty"', answer.text)


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


def test_a_run_that_has_begun_links_to_its_own_curves(client, system):
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        waiting = factories.make_run(session, model, state=RunState.QUEUED)
    assert "runFilter" not in client.get(f"/models/cells/runs/{waiting.id}").text
    with system.db.transaction() as session:
        session.get_one(Run, waiting.id).state = RunState.TRAINING
    page = client.get(f"/models/cells/runs/{waiting.id}").text
    (link,) = re.findall(r'href="http://127\.0\.0\.1:6006/\?runFilter=([^"#]+)#timeseries"', page)
    board = name_board("cells", waiting.kind, waiting.id, waiting.created_at)
    assert unquote(link) == board
    assert "backtalk tensorboard" in page


def test_a_full_run_says_how_its_training_stands(client, system):
    told = {"part": "tune", "fraction": 0.4, "epoch": 5, "epochs": 12, "step": 1640, "steps": 4000}
    figures = {"loss": 0.3127, "accuracy": 0.913, "time_left_s": 1190.0}
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        run = factories.make_run(
            session, model, kind=RunKind.FULL, state=RunState.TRAINING, progress=told | figures
        )
    page = client.get(f"/models/cells/runs/{run.id}").text
    for said in ("5 of 12", "1\u202f640 of 4\u202f000", "0.3127", "91.3 %", "about 20 min"):
        assert said in page
    assert re.search(r'<li class="now">.*?moving the backbone', page)
    with system.db.transaction() as session:
        session.get_one(Run, run.id).progress = {"part": "export", "fraction": 0.0}
    page = client.get(f"/models/cells/runs/{run.id}").text
    assert re.search(r'<li class="now">.*?moving the backbone', page)  # the backbone's export, not the head's
    assert "0.3127" not in page


def test_the_overview_shows_live_accuracy_and_corrections_with_promotions_marked(client, system):
    page = client.get("/models/cells").text
    assert "No audit is answered yet" in page
    assert "No prediction in the last 30 days" in page
    with system.db.transaction() as session:
        exhibits.add_traffic(session, session.scalars(select(Model)).one(), days=3, a_day=30)
    page = client.get("/models/cells").text
    assert re.search(r"Version 5: \d+ of \d+ answered audits. With 95&nbsp;% confidence between", page)
    chart = page.split('<svg class="chart rates"')[1].split("</svg>")[0]
    assert chart.count("<rect") == 3
    assert "corrections per 1,000 predictions (" in chart
    assert "<title" in chart
    assert re.search(r'class="chart-mark".*?>v1 … 5<', chart, re.DOTALL)
    assert page.count('<th scope="row" class="nowrap">') == 30  # and all of it as a table


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
