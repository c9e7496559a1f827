"""A person at the pages, in real Chromium: signs in, decides with the keyboard, looks around."""

import re

from playwright.sync_api import expect
from sqlalchemy import select

from backtalk.states import CorrectionState, Scope
from backtalk.tables import Correction, Model, Run
from tests import factories, showroom
from tests.desks import LABELS, list_decisions, shown_picture, wait_for_item, wait_until_sent


def test_a_reviewer_signs_in_and_approves_with_the_keyboard(desk, system):
    showroom.add_queue(system, n=3, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    expect(page.locator("#ask-line")).to_contain_text("Reported as dog. Is the report right?")
    first = shown_picture(page)
    page.keyboard.press("a")
    expect(page.locator("#result")).to_have_text("Approved as “dog”.")
    assert shown_picture(page) != first
    wait_until_sent(page)
    expect(page.locator("#open-count")).to_have_text("2")
    expect(page.locator("#today-count")).to_have_text("1")
    assert list_decisions(system) == [("user:ada", "approve", "dog")]
    with system.db.reading() as session:
        states = sorted(session.scalars(select(Correction.state)))
    assert states == [CorrectionState.APPROVED, CorrectionState.PENDING, CorrectionState.PENDING]
    assert desk.complaints == []


def test_a_wrong_password_is_said_and_the_name_is_kept(desk, system):
    showroom.add_person(system)
    page = desk.page
    page.goto(desk.address)
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill("wrong horse battery")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text(re.compile("The name or the password is wrong"))
    expect(page.get_by_label("Name")).to_have_value("ada")


def test_digits_relabel_x_rejects_and_space_skips(desk, system):
    showroom.add_queue(system, n=4, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    third = page.locator(".answer").nth(2).get_attribute("data-label")
    for key in ("3", "x", " ", "2"):  # the second label is the reported one: to choose it is to approve it
        page.keyboard.press(key)
    wait_until_sent(page)
    assert list_decisions(system) == [
        ("user:ada", "relabel", third),
        ("user:ada", "reject", None),
        ("user:ada", "skip", None),
        ("user:ada", "approve", "dog"),
    ]
    wait_for_item(page)  # what was skipped comes back last
    expect(page.locator("#open-count")).to_have_text("1")


def test_another_label_is_found_by_searching_with_the_keyboard_alone(desk, system):
    showroom.add_queue(system, n=1, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    page.keyboard.press("/")
    page.keyboard.type("a")  # typed, not taken for approve
    expect(page.get_by_role("option")).to_have_count(3)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    wait_until_sent(page)
    assert list_decisions(system) == [("user:ada", "relabel", "yak")]
    expect(page.get_by_role("heading", name="Nothing to review")).to_be_visible()


def test_an_audit_says_so_and_approving_it_confirms_the_prediction(desk, system):
    with system.db.transaction() as session:
        model = factories.make_model(session, "animals", labels=list(LABELS))
        showroom.add_item(session, system, model, showroom.draw_picture(1), predicted="owl")
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    expect(page.locator("#kind")).to_have_text("Drawn at random")
    expect(page.locator("#ask-line")).to_contain_text("The model says owl. Is the prediction right?")
    page.get_by_role("button", name="Approve “owl”").click()
    wait_until_sent(page)
    assert list_decisions(system) == [("user:ada", "approve", "owl")]


def test_a_reported_label_outside_the_top_five_is_offered_first(desk, system):
    with system.db.transaction() as session:
        model = factories.make_model(session, "animals", labels=list(LABELS))
        item = showroom.add_item(
            session,
            system,
            model,
            showroom.draw_picture(1),
            predicted="cat",
            reported="zebra",
            note="<b>Stripes</b>",
        )
        prediction = session.get_one(factories.tables.Prediction, item.prediction_id)
        prediction.scores = [0.5, 0.2, 0.1, 0.1, 0.06, 0.04, 0.0]
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    expect(page.locator(".answer")).to_have_count(6)
    expect(page.locator(".answer.chosen .answer-label")).to_have_text("zebra")
    expect(page.locator(".answer").first.locator("kbd")).to_have_text("a")
    expect(page.locator("#note-text")).to_have_text("<b>Stripes</b>")


def test_a_post_without_the_sessions_token_is_refused_and_changes_nothing(desk, system):
    showroom.add_queue(system, n=1, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    status = page.evaluate(
        """async (address) => (await fetch(address, {
            method: "POST",
            headers: {"Content-Type": "application/json", "Accept": "application/json"},
            body: '{"answers": []}',
        })).status""",
        "/review/animals/answers",
    )
    assert status == 403
    assert list_decisions(system) == []


def test_single_keys_can_be_switched_off_and_stay_off(desk, system):
    showroom.add_queue(system, n=2, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    page.keyboard.press("?")
    page.get_by_label("Answer with single keys").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    page.reload()
    wait_for_item(page)
    page.keyboard.press("a")
    expect(page.locator("#open-count")).to_have_text("2")
    page.get_by_role("button", name="Approve “dog”").click()
    wait_until_sent(page)
    assert len(list_decisions(system)) == 1


def test_after_a_click_the_space_key_skips_and_does_not_press_the_button_again(desk, system):
    showroom.add_queue(system, n=3, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    page.get_by_role("button", name="Approve “dog”").click()
    page.keyboard.press(" ")
    wait_until_sent(page)
    assert [action for _, action, _ in list_decisions(system)] == ["approve", "skip"]


def test_an_empty_queue_shows_what_comes_in_without_a_reload(desk, system):
    with system.db.transaction() as session:
        factories.make_model(session, "animals", labels=list(LABELS))
    showroom.add_person(system)
    page = desk.sign_in("ada")
    expect(page.get_by_role("heading", name="Nothing to review")).to_be_visible()
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        showroom.add_item(session, system, model, showroom.draw_picture(1), predicted="cat", reported="dog")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # as on coming back to the tab
    wait_for_item(page)


def test_a_confirmation_opens_in_a_dialog_and_does_what_it_said(desk, system):
    showroom.add_queue(system, n=1, labels=LABELS)
    showroom.add_person(system, scopes=(Scope.TRAIN,))
    page = desk.sign_in("ada", "/models/animals")
    page.get_by_role("link", name="Run now").click()
    dialog = page.get_by_role("dialog", name="Train a candidate now?")
    expect(dialog).to_contain_text("It is judged against version 1")
    dialog.get_by_role("link", name="Leave it").click()
    expect(dialog).to_be_hidden()
    page.get_by_role("link", name="Run now").click()
    page.get_by_role("dialog").get_by_role("button", name="Run now").click()
    expect(page.get_by_role("heading", name="Head run")).to_be_visible()
    with system.db.transaction() as session:
        run = session.scalars(select(Run)).one()
        run.state, run.reason = "failed", "The trainer was stopped."
    expect(page.get_by_text("The trainer was stopped.")).to_be_visible()  # polled, not reloaded
    assert desk.complaints == []


def test_no_page_makes_the_browser_complain(desk, system):
    showroom.add_queue(system, n=2, labels=LABELS)
    showroom.add_person(system, scopes=showroom.EVERYTHING)
    with system.db.transaction() as session:
        model = factories.make_model(session, "cells")
        showroom.add_history(session, model)
        runs = [str(run.id) for run in session.scalars(select(Run))]
    page = desk.sign_in("ada", "/")
    paths = ["/", "/review/animals", "/review/cells", "/models/cells", "/models/cells/run-now"]
    paths += [f"/models/cells/{name}" for name in ("runs", "triggers", "ledger", "policy", "roll-back")]
    paths += [f"/models/cells/runs/{run}" for run in runs]
    for path in paths:
        page.goto(desk.address + path)
        expect(page.locator("main")).to_be_visible()
        overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0, path
    assert desk.complaints == []


def test_no_page_is_wider_than_a_phone(chromium, desk, system):
    showroom.add_queue(system, n=2, labels=LABELS)
    showroom.add_person(system, scopes=showroom.EVERYTHING)
    with system.db.transaction() as session:
        model = factories.make_model(session, "cells")
        showroom.add_history(session, model)
        run = session.scalars(select(Run)).first()
    page = desk.sign_in("ada", "/")
    page.set_viewport_size({"width": 360, "height": 740})
    for path in (
        "/",
        "/review/animals",
        "/models/cells",
        f"/models/cells/runs/{run.id}",
        "/models/cells/policy",
    ):
        page.goto(desk.address + path)
        expect(page.locator("main")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    page.goto(desk.address + "/review/animals")
    wait_for_item(page)
    small = page.evaluate(
        """() => [...document.querySelectorAll("button, a, input")].filter((e) => {
            const box = e.getBoundingClientRect();
            return box.width && (box.width < 24 || box.height < 24);
        }).map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert small == []
