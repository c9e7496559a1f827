"""In real Chromium: answers that meet other reviewers, a lost network or a closed tab."""

import re

from playwright.sync_api import Route, expect
from sqlalchemy import select

from backtalk.tables import Model, ReviewItem
from tests import factories, showroom
from tests.desks import LABELS, list_decisions, shown_picture, wait_for_item, wait_until_sent


def test_two_browsers_never_get_the_same_item(desks, system):
    showroom.add_queue(system, n=20, labels=LABELS)
    pages = []
    for desk, name in zip(desks, ("ada", "bob"), strict=True):
        showroom.add_person(system, name)
        pages.append(desk.sign_in(name))
        wait_for_item(pages[-1])
    with system.db.reading() as session:
        holders = [row.leased_by for row in session.scalars(select(ReviewItem))]
    assert holders.count("user:ada") == 8
    assert holders.count("user:bob") == 8
    seen: set[str] = set()
    while len(seen) < 20:
        for page in pages:
            expect(page.locator("main:not([data-state=loading])")).to_be_visible()
            if page.locator("main[data-state=item]").count():
                seen.add(shown_picture(page))
                page.keyboard.press("a")
    for page in pages:
        wait_until_sent(page)
        expect(page.locator("#late")).to_be_empty()
    decided = list_decisions(system)
    assert len(seen) == len(decided) == 20
    assert desks[0].complaints == desks[1].complaints == []


def test_who_is_late_gets_a_card_that_names_the_other_reviewer(desk, system):
    items = showroom.add_queue(system, n=2, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    with system.db.transaction() as session:  # bob's lease had run out, and he answered after all
        item = session.get_one(ReviewItem, items[0])
        factories.make_decision(
            session, session.scalars(select(Model)).one(), "fox", item=item, actor="user:bob"
        )
        item.closed_at = item.created_at
    page.keyboard.press("x")
    card = page.locator("#late li")
    expect(card).to_contain_text(
        re.compile(r"Decided as “fox” by another reviewer \d+ s ago\. Yours did not count")
    )
    wait_for_item(page)  # the next one is there all the same
    card.get_by_role("button", name="Got it").click()
    expect(card).to_have_count(0)


def test_answers_given_without_a_network_are_kept_marked_and_sent_later(desk, system):
    showroom.add_queue(system, n=4, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    page.route("**/answers", lambda route: route.abort())
    page.keyboard.press("a")
    page.keyboard.press("3")
    expect(page.locator("#sync")).to_have_text("2 not sent")
    expect(page.locator("#stuck")).to_be_visible()
    assert list_decisions(system) == []
    page.unroute("**/answers")
    page.get_by_role("button", name="Send now").click()
    wait_until_sent(page)
    expect(page.locator("#stuck")).to_be_hidden()
    assert [action for _, action, _ in list_decisions(system)] == ["approve", "relabel"]


def test_a_closed_tab_loses_no_answer(desk, system):
    showroom.add_queue(system, n=3, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    page.route("**/answers", lambda route: route.abort())
    page.keyboard.press("a")
    expect(page.locator("#sync")).to_have_text("1 not sent")
    page.close()
    again = desk.open()
    again.goto(desk.address + "/review/animals")
    wait_for_item(again)
    wait_until_sent(again)
    expect(again.locator("#open-count")).to_have_text("2")
    assert list_decisions(system) == [("user:ada", "approve", "dog")]


def test_an_answer_that_arrived_although_its_reply_was_lost_counts_once_and_silently(desk, system):
    showroom.add_queue(system, n=3, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    lost = []

    def lose_first_reply(route: Route) -> None:
        if lost:
            route.continue_()
            return
        lost.append(route.fetch())
        route.abort()

    page.route("**/answers", lose_first_reply)
    page.keyboard.press("a")
    expect(page.locator("#sync[data-state=stuck]")).to_be_visible()
    wait_until_sent(page)
    expect(page.locator("#late")).to_be_empty()
    assert list_decisions(system) == [("user:ada", "approve", "dog")]


def test_signed_out_in_the_middle_the_answers_wait_for_the_next_sign_in(desk, system):
    showroom.add_queue(system, n=3, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    desk.context.clear_cookies()
    page.keyboard.press("a")
    expect(page.locator("#stuck-text")).to_contain_text("You are signed out. 1 of your answers are kept here")
    page.get_by_role("link", name="Sign in").click()
    desk.page = page
    desk.sign_in("ada")
    wait_until_sent(page)
    wait_for_item(page)
    assert list_decisions(system) == [("user:ada", "approve", "dog")]
