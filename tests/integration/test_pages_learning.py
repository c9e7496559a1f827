"""How it learned, on the page of a full run: its curves and its facts, going on, ended, and broken off."""

import re
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select

from backtalk.states import RunKind, RunState, VersionState
from backtalk.system import System
from backtalk.tables import Model, Run
from services.wsgi import create_app
from tests import factories, showroom, tunings
from tests.integration.test_pages_sign_in import sign_in

NO_CURVE = {
    "It ended before an epoch was over, so there are no curves.": {"part": "decode"},
    "One epoch is over: log loss 0.6124, 68.4 % right on validation. Curves need two.": tunings.make_progress(
        1
    ),
    "Fewer than 20 validation images could be read": tunings.make_progress(3, measured=False),
    "No figures of its epochs were kept.": {"part": "tune", "step": 900, "steps": 1000, "accuracy": 0.9},
}


@pytest.fixture
def client(system: System) -> FlaskClient:
    """Signed in, with a model `cells` whose version 2 was made by a full run."""
    showroom.add_person(system)
    with system.db.transaction() as session:
        showroom.add_history(session, factories.make_model(session, "cells"))
    client = create_app(system=system).test_client()
    sign_in(client)
    return client


def add_run(system: System, state: RunState, **values: Any) -> str:
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        return str(tunings.add_full_run(session, model, state, **values).id)


def read_section(client: FlaskClient, run_id: str) -> str:
    page = client.get(f"/models/cells/runs/{run_id}").text
    assert "Undefined" not in page
    return page.split('aria-labelledby="learning"')[1].split("</section>")[0]


def read_facts(section: str) -> dict[str, str]:
    return dict(re.findall(r'<dt>(.*?)</dt><dd class="number">(.*?)</dd>', section))


def test_a_full_run_that_was_promoted_shows_its_curves_and_what_it_was_made_with(client, system):
    with system.db.reading() as session:
        run = session.scalars(select(Run).where(Run.kind == RunKind.FULL)).one()
    section = read_section(client, str(run.id))
    assert "Recipe <strong>surfaces</strong>. As default, with flips both ways" in section
    assert section.count("<svg") == section.count("<polyline") == 2
    assert section.count('class="chart-dot"') == 24
    for name in ("log-loss", "right"):
        assert f'aria-labelledby="{name}-title {name}-about"' in section
        assert f'<title id="{name}-title">' in section
        assert f'<desc id="{name}-about">' in section
    assert section.count(">Best: epoch 9, 0.3102<") == section.count(">Best: epoch 9, 91.1 %<") == 2
    rows = re.findall(r'<th scope="row" class="nowrap">(\d+)', section)
    assert rows == [str(n) for n in range(12, 0, -1)]
    assert read_facts(section) == {
        "Method": "fine-tuning",
        "Begins with": "pretrained weights",
        "Layers": "all of them",
        "Learning rate": "0.0002",
        "Epochs": "12 of 12",
        "Best epoch": "9",
        "Steps": "132",
        "Images learned from": "340",
        "Validation images": "79",
        "Images left out": "2",
        "Device": "CPU",
        "Threads": "8",
        "Most memory": "2\u202f684 MB",
        "Waited for images": "1.3 %",
        "Training time": "11 min",
    }


def test_head_runs_say_nothing_of_it(client, system):
    with system.db.reading() as session:
        run = session.scalars(select(Run).where(Run.kind == RunKind.HEAD)).first()
    assert "How it learned" not in client.get(f"/models/cells/runs/{run.id}").text


def test_the_curve_of_a_run_that_goes_on_grows_with_each_epoch(client, system):
    recipe = tunings.read_recipe("quick", epochs=12)
    run_id = add_run(
        system, RunState.TRAINING, recipe=recipe, tuned_from=5, progress=tunings.make_progress(1)
    )
    assert "One epoch is over" in read_section(client, run_id)
    for epochs in (2, 3):
        with system.db.transaction() as session:
            session.scalars(
                select(Run).where(Run.state == RunState.TRAINING)
            ).one().progress = tunings.make_progress(epochs)
        section = read_section(client, run_id)
        assert section.count('class="chart-dot"') == 2 * epochs
        assert re.search(r'<text class="chart-text" x="438.0" y="184"[^>]*>12<', section)  # room for all
    facts = read_facts(section)
    assert (facts["Begins with"], facts["Layers"]) == ("version 5&#39;s weights", "the upper 30")
    assert (facts["Epochs"], facts["Best epoch"], facts["Device"]) == ("3 of 12", "3", "CPU")
    assert facts["Memory at the beginning"] == "612 MB"


def test_a_run_that_waits_names_its_recipe(client, system):
    section = read_section(client, add_run(system, RunState.QUEUED, recipe={"name": "quick"}, progress={}))
    assert "Recipe <strong>quick</strong>" in section
    assert "The curves begin once two epochs are over." in section
    assert "<dl" not in section


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.CANCELLED])
def test_a_run_that_broke_off_keeps_the_curve_it_had(client, system, state):
    section = read_section(client, add_run(system, state, progress=tunings.make_progress(5)))
    assert section.count('class="chart-dot"') == 10
    assert read_facts(section)["Steps"] == "59 of 132"


@pytest.mark.parametrize("said", NO_CURVE)
def test_where_there_is_no_curve_it_says_why(client, system, said):
    section = read_section(client, add_run(system, RunState.FAILED, progress=NO_CURVE[said]))
    assert said in section
    assert "<svg" not in section


def test_a_version_without_figures_says_so_and_has_no_best_epoch(client, system):
    run_id = add_made(
        system, tunings.make_metrics(best_epoch=None) | {"history": [{"epoch": 1}, {"epoch": 2}]}
    )
    section = read_section(client, run_id)
    assert "no epoch has figures: nothing stops early, and the last weights count" in section
    assert "Best epoch" not in read_facts(section)


def test_of_a_quantisation_it_says_how_many_images_and_what_it_took(client, system):
    tuning = {"images": 200, "seconds": 41.2, "memory_mb": 1873}
    section = read_section(client, add_made(system, tuning, recipe=tunings.read_recipe("int8")))
    assert "The backbone learns nothing here, so there are no curves" in section
    assert "The champion&#39;s backbone in 8-bit integers" in section
    assert read_facts(section) == {
        "Method": "8-bit integers",
        "Images learned from": "200",
        "Most memory": "1\u202f873 MB",
        "Training time": "41.2 s",
    }


def test_of_a_distillation_it_names_the_student_and_its_teachers(client, system):
    recipe = tunings.read_recipe("faster-surfaces")
    recipe["content"]["distil"]["teachers"] = ["champion", "3", "seedlings/7"]
    section = read_section(client, add_made(system, tunings.make_metrics(), recipe=recipe, tuned_from=5))
    facts = read_facts(section)
    assert facts["Method"] == "distillation"
    assert facts["Student"] == "efficientnet-lite0, 160 pixels a side"
    assert facts["Teachers"] == "version 5, version 3, version 7 of seedlings"
    assert "Begins with" not in facts


def test_what_a_recipe_says_of_itself_is_never_read_as_html(client, system):
    recipe = tunings.read_recipe("quick", description="<b onclick=x>100 % mine</b>")
    section = read_section(client, add_run(system, RunState.FAILED, recipe=recipe, progress={}))
    assert "&lt;b onclick=x&gt;100 % mine&lt;/b&gt;" in section


def test_the_section_is_said_in_chinese(client, system):
    run_id = add_run(system, RunState.FAILED, progress=tunings.make_progress(3))
    page = client.get(f"/models/cells/runs/{run_id}", headers={"Accept-Language": "zh"}).text
    section = page.split('aria-labelledby="learning"')[1].split("</section>")[0]
    assert "配方 <strong>surfaces</strong>。同 default，但双向翻转" in section
    assert "最佳：第 3 轮，79.7 %" in section


def add_made(system: System, tuning: dict[str, Any], **values: Any) -> str:
    """A full run that made version 6."""
    values = {"recipe": tunings.read_recipe(epochs=12), "version": 6, "base_version": 5} | values
    run_id = add_run(system, RunState.PASSED, **values)
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        metrics = {"tuning": tuning}
        factories.make_version(session, model, 6, VersionState.CANDIDATE, run_id=run_id, metrics=metrics)
    return run_id
