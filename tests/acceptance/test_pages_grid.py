"""In real Chromium: many items at once."""

import re

from playwright.sync_api import expect

from backtalk.tables import ReviewItem
from tests import factories, showroom
from tests.desks import LABELS, list_decisions, wait_for_item, wait_until_sent

GRID = "/review/animals/grid"


def wait_for_tiles(page, n: int) -> None:  # type: ignore[no-untyped-def]
    expect(page.locator(".tile")).to_have_count(n)


def press_tile(page, place: int, **options) -> None:  # type: ignore[no-untyped-def]
    page.locator(".tile-button").nth(place).click(**options)


def list_pressed(page) -> list[bool]:  # type: ignore[no-untyped-def]
    return [tile.get_attribute("aria-pressed") == "true" for tile in page.locator(".tile-button").all()]


def test_exceptions_are_clicked_out_the_rest_is_approved_and_the_batch_is_undone_as_one(desk, system):
    showroom.add_queue(system, n=6, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada", GRID)
    wait_for_tiles(page, 6)
    press_tile(page, 1)
    press_tile(page, 4)
    expect(page.locator("#selected")).to_have_text("4 of 6 selected")
    page.get_by_role("button", name="Approve 4").click()
    wait_for_tiles(page, 2)
    wait_until_sent(page)
    expect(page.locator("#open-count")).to_have_text("2")
    assert list_decisions(system) == [("user:ada", "approve", "dog")] * 4
    with system.db.reading() as session:
        batches = {row.batch_id for row in session.query(factories.tables.Decision)}
    assert len(batches) == 1
    page.keyboard.press("Backspace")
    wait_for_tiles(page, 6)
    wait_until_sent(page)
    expect(page.locator("#open-count")).to_have_text("6")
    assert [action for _, action, _ in list_decisions(system)] == ["approve"] * 4 + ["undo"] * 4
    assert desk.complaints == []


def test_a_batch_can_be_taken_back_from_the_focus_view_too(desk, system):
    showroom.add_queue(system, n=3, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada", GRID)
    wait_for_tiles(page, 3)
    page.keyboard.press("x")
    wait_until_sent(page)
    page.get_by_role("link", name="Review").click()
    expect(page.get_by_role("heading", name="Nothing to review")).to_be_visible()
    page.keyboard.press("Backspace")
    wait_for_item(page)
    expect(page.locator("#open-count")).to_have_text("3")


def test_tiles_are_reached_chosen_and_answered_with_the_keyboard_alone(desk, system):
    showroom.add_queue(system, n=5, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada", GRID)
    wait_for_tiles(page, 5)
    page.keyboard.press("n")
    page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ ")
    assert list_pressed(page) == [True, True, True, False, False]
    page.keyboard.press("i")
    assert list_pressed(page) == [False, False, False, True, True]
    page.keyboard.press("/")
    page.keyboard.type("fox")
    page.keyboard.press("Enter")
    wait_until_sent(page)
    assert list_decisions(system) == [("user:ada", "relabel", "fox")] * 2
    wait_for_tiles(page, 3)
    page.keyboard.press("s")
    page.keyboard.press("f")
    expect(page.locator("#result")).to_have_text("Flagged 3 for an expert.")
    expect(page.get_by_role("heading", name="Nothing here")).to_be_visible()


def test_a_click_with_shift_takes_a_whole_range_out(desk, system):
    showroom.add_queue(system, n=5, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada", GRID)
    wait_for_tiles(page, 5)
    press_tile(page, 1)
    press_tile(page, 3, modifiers=["Shift"])
    assert list_pressed(page) == [True, False, False, False, True]


def test_to_relabel_as_what_was_reported_is_to_approve(desk, system):
    showroom.add_queue(system, n=2, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada", GRID)
    wait_for_tiles(page, 2)
    page.keyboard.press("/")
    page.keyboard.type("dog")
    page.keyboard.press("Enter")
    wait_until_sent(page)
    assert list_decisions(system) == [("user:ada", "approve", "dog")] * 2


def test_who_is_late_in_the_grid_is_told_which_answer_stood_first(desk, system):
    items = showroom.add_queue(system, n=2, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada", GRID)
    wait_for_tiles(page, 2)
    with system.db.transaction() as session:
        item = session.get_one(ReviewItem, items[0])
        model = session.get_one(factories.tables.Model, item.model_id)
        factories.make_decision(session, model, "fox", item=item, actor="user:bob")
        item.closed_at = item.created_at
    page.keyboard.press("a")
    expect(page.locator("#late li")).to_contain_text(
        re.compile(r"Decided as “fox” by another reviewer \d+ s ago\. Yours did not count")
    )
    wait_until_sent(page)
    assert [actor for actor, _, _ in list_decisions(system)] == ["user:bob", "user:ada"]


def test_filters_stand_in_the_address_and_a_colleague_sees_the_same_view(desks, system):
    showroom.add_queue(system, n=2, labels=LABELS)
    with system.db.transaction() as session:
        model = session.query(factories.tables.Model).one()
        for i in range(2):
            showroom.add_item(session, system, model, showroom.draw_picture(50 + i), predicted="owl")
    showroom.add_person(system)
    showroom.add_person(system, "bob")
    page = desks[0].sign_in("ada", GRID)
    wait_for_tiles(page, 2)
    page.keyboard.press("q")  # through corrections and disputed to the audits
    page.wait_for_url(re.compile("queue=corrections"))
    page.keyboard.press("q")
    page.wait_for_url(re.compile("queue=disputed"))
    page.get_by_role("link", name="Audits").click()
    page.wait_for_url(re.compile("queue=audits"))
    page.get_by_label("Order").select_option("newest")
    page.wait_for_url(re.compile("sort=newest"))
    address = page.url.removeprefix(desks[0].address)
    page.goto("about:blank")
    other = desks[1].sign_in("bob", address)
    wait_for_tiles(other, 2)
    expect(other.get_by_role("link", name="Audits")).to_have_attribute("aria-current", "true")
    expect(other.get_by_label("Order")).to_have_value("newest")
    expect(other.locator(".tile-pair").first).to_have_text("owl?")


def test_find_similar_says_so_where_the_live_version_has_not_seen_the_picture(desk, system):
    showroom.add_queue(system, n=3, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada", GRID)
    wait_for_tiles(page, 3)
    page.get_by_role("link", name="Find similar").first.click()
    page.wait_for_url(re.compile("like="))
    expect(page.locator("#remark")).to_contain_text("Shown are its near-duplicates.")
    page.get_by_role("link", name="Back to the clusters").click()
    wait_for_tiles(page, 3)
