"""Evidence and its buttons in a real browser: with and without scripts, twice pressed, on a phone."""

import pytest
from playwright.sync_api import Browser, expect
from sqlalchemy import select

from backtalk.states import RunState
from backtalk.system import System
from backtalk.tables import LedgerEntry, Model, Run
from tests import exhibits, factories, showroom, tunings
from tests.desks import Desk

PHONE = {"width": 390, "height": 844}


@pytest.fixture
def site(system: System) -> System:
    """A model `cells` with a history whose versions lie on disk; ada may do everything."""
    showroom.add_person(system, scopes=showroom.EVERYTHING)
    with system.db.transaction() as session:
        model = factories.make_model(session, "cells", labels=["good", "bad"])
        showroom.add_history(session, model)
        exhibits.add_traffic(session, model, days=3, a_day=20)
    exhibits.add_exhibits(system, "cells", [showroom.draw_picture(i, 80) for i in range(4)])
    return system


def list_changes(system: System) -> list[tuple[str, int]]:
    with system.db.reading() as session:
        entries = session.scalars(select(LedgerEntry).order_by(LedgerEntry.seq))
        return [(entry.action, entry.version) for entry in entries][3:]


def test_a_promotion_is_asked_for_in_numbers_and_two_presses_make_one(site, desk):
    page = desk.sign_in("ada", "/models/cells")
    page.get_by_role("row", name="inconclusive").get_by_role("link", name="Promote").click()
    dialog = page.get_by_role("dialog", name="Make version 3 live?")
    expect(dialog).to_contain_text("2 that version 5 gets wrong are fixed, and 25")
    dialog.get_by_role("link", name="Leave it").click()
    expect(dialog).to_be_hidden()
    assert list_changes(site) == []
    page.get_by_role("row", name="inconclusive").get_by_role("link", name="Promote").click()
    dialog.get_by_role("button", name="Promote version 3").dblclick()
    expect(page.get_by_role("status").first).to_contain_text("The version is live")
    page.go_back()
    page.reload()
    assert list_changes(site) == [("promote", 3)]
    assert desk.complaints == []


def test_without_scripts_every_button_is_a_page_and_a_rollback_goes_back_once(site, desk, chromium: Browser):
    context = chromium.new_context(java_script_enabled=False)
    context.set_default_timeout(10_000)
    page = context.new_page()
    page.goto(desk.address + "/models/cells")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(showroom.PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="Roll back").click()
    expect(page.get_by_role("heading", name="Roll back to version 2?")).to_be_visible()
    other = context.new_page()  # the same question in another tab
    other.goto(page.url)
    for tab in (page, other):
        tab.get_by_role("button", name="Roll back to 2").click()
        expect(tab.get_by_text("On hold.", exact=True)).to_be_visible()
    assert list_changes(site) == [("rollback", 2)]
    page.goto(desk.address + "/models/cells/compare?before=2&after=5")
    expect(page.get_by_text("+6.2 pt")).to_be_visible()
    context.close()


@pytest.mark.slow
def test_a_flipped_picture_is_seen_followed_and_fits_a_phone(site, desk: Desk):
    with site.db.reading() as session:
        run = session.scalars(select(Run).where(Run.version == 5)).one()
        model = session.scalars(select(Model)).one()
    page = desk.sign_in("ada", f"/models/{model.name}/runs/{run.id}")
    first = page.locator(".flip img").first
    first.scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelector('.flip img').naturalWidth > 0")
    first.click()
    expect(page.get_by_role("heading", name="A picture")).to_be_visible()
    page.wait_for_function("() => document.querySelector('.whole').naturalWidth > 0")
    expect(page.get_by_text("judging (holdout)")).to_be_visible()
    page.set_viewport_size(PHONE)
    for path in ("", f"/runs/{run.id}", "/versions", "/versions/5", "/compare", "/ledger", "/run-now"):
        page.goto(f"{desk.address}/models/cells{path}")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, path
    assert desk.complaints == []


def test_the_curve_of_a_run_grows_while_it_is_looked_at_and_its_table_stays_open(site, desk: Desk):
    with site.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        run = tunings.add_full_run(session, model, RunState.TRAINING, progress=tunings.make_progress(2))
    page = desk.sign_in("ada", f"/models/cells/runs/{run.id}")
    expect(page.get_by_role("img", name="Log loss on the validation images")).to_be_visible()
    expect(page.locator(".chart-dot")).to_have_count(4)
    page.get_by_text("The figures as a table").click()
    rows = page.get_by_role("region", name="Table of epochs").get_by_role("row")
    expect(rows).to_have_count(3)
    with site.db.transaction() as session:
        session.get_one(Run, run.id).progress = tunings.make_progress(3)
    expect(page.locator(".chart-dot")).to_have_count(6)  # polled, not reloaded
    expect(rows).to_have_count(4)
    expect(rows.last).to_be_visible()
    expect(page.locator("#epochs-summary")).to_be_focused()
    page.set_viewport_size(PHONE)
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0
    first, second = (chart.bounding_box() for chart in page.locator(".curve").all())
    assert first["y"] + first["height"] <= second["y"]  # one below the other
    assert desk.complaints == []


@pytest.mark.slow
def test_a_saved_model_is_downloaded_by_a_click(site, desk: Desk, tmp_path):
    page = desk.sign_in("ada", "/models/cells/versions/5")
    with page.expect_download() as begun:
        page.get_by_role("link", name="SavedModel").click()
    begun.value.save_as(tmp_path / "taken.tar")
    assert begun.value.suggested_filename == "cells-5-saved-model.tar"
    assert (tmp_path / "taken.tar").stat().st_size > 150_000
    page.get_by_role("button", name="Verify now").click()
    expect(page.get_by_role("status")).to_contain_text("every file was read")
    assert desk.complaints == []
