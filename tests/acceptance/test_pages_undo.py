"""In real Chromium: taking back, flagging, and answers that outlive their tab."""

import re
import time
from collections import Counter
from collections.abc import Callable

from playwright.sync_api import Route, expect
from sqlalchemy import select

from backtalk.states import RunState, Scope, VersionState
from backtalk.system import System
from backtalk.tables import Image, Model, ReviewItem, Sample, Snapshot
from tests import factories, showroom
from tests.desks import LABELS, list_decisions, shown_picture, wait_for_item, wait_until_sent


def test_backspace_shows_the_item_again_at_once_and_writes_the_undo_down(desk, system):
    showroom.add_queue(system, n=3, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    first = shown_picture(page)
    page.keyboard.press("a")
    wait_until_sent(page)
    page.keyboard.press("Backspace")
    assert shown_picture(page) == first
    expect(page.locator("#result")).to_have_text("Taken back: Approved as “dog”.")
    page.keyboard.press("x")
    wait_until_sent(page)
    assert [action for _, action, _ in list_decisions(system)] == ["approve", "undo", "reject"]
    expect(page.locator("#open-count")).to_have_text("2")
    expect(page.locator("#late")).to_be_empty()
    assert desk.complaints == []


def test_ten_answers_can_be_taken_back_one_after_the_other_and_no_more(desk, system):
    showroom.add_queue(system, n=12, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    seen = []
    for _ in range(11):
        wait_for_item(page)
        seen.append(shown_picture(page))
        page.keyboard.press("a")
    wait_until_sent(page)
    for expected in reversed(seen[1:]):
        page.keyboard.press("Backspace")
        assert shown_picture(page) == expected
    page.keyboard.press("Backspace")
    expect(page.locator("#result")).to_contain_text("Nothing to take back")
    wait_until_sent(page)
    expect(page.locator("#open-count")).to_have_text("11")


def test_an_answer_that_was_never_sent_is_taken_back_without_a_trace(desk, system):
    showroom.add_queue(system, n=3, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    held: list[Route] = []
    page.route("**/answers", lambda route: route.continue_() if held else held.append(route))
    page.keyboard.press("a")  # on its way
    second = shown_picture(page)
    page.keyboard.press("x")  # waits behind it
    page.keyboard.press("Backspace")
    assert shown_picture(page) == second
    held[0].continue_()
    wait_until_sent(page)
    assert list_decisions(system) == [("user:ada", "approve", "dog")]


def test_an_answer_given_after_an_undo_waits_until_the_undo_is_through(desk, system):
    showroom.add_queue(system, n=2, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    page.keyboard.press("a")
    wait_until_sent(page)
    page.route("**/answers", lambda route: route.abort())
    page.keyboard.press("Backspace")
    page.keyboard.press("3")
    expect(page.locator("#sync")).to_have_text("2 not sent")
    page.close()  # even a closed tab keeps both, in their order
    again = desk.open()
    again.goto(desk.address + "/review/animals")
    wait_for_item(again)
    wait_until_sent(again)
    assert [action for _, action, _ in list_decisions(system)] == ["approve", "undo", "relabel"]
    expect(again.locator("#open-count")).to_have_text("1")


def test_a_reload_does_not_forget_what_can_be_taken_back(desk, system):
    showroom.add_queue(system, n=2, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    page.keyboard.press("a")
    wait_until_sent(page)
    page.reload()
    wait_for_item(page)
    page.keyboard.press("Backspace")
    wait_until_sent(page)
    expect(page.locator("#open-count")).to_have_text("2")
    assert [action for _, action, _ in list_decisions(system)] == ["approve", "undo"]


def test_who_takes_back_what_a_run_has_learned_is_told_so(desk, system):
    items = showroom.add_queue(system, n=2, labels=LABELS)
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        item = session.get_one(ReviewItem, items[0])
        prediction = session.get_one(factories.tables.Prediction, item.prediction_id)
        factories.make_group(session, model, session.get_one(Image, prediction.image_id), "train")
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    page.keyboard.press("a")
    wait_until_sent(page)
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        ids = [session.scalars(select(Sample.id)).one()]
        factories.add(
            session,
            Snapshot(model_id=model.id, digest="d" * 64, sample_ids=ids, stay_right_ids=[], counts={}),
        )
        run = factories.make_run(session, model, state=RunState.PROMOTED, snapshot_digest="d" * 64, version=2)
        factories.make_version(session, model, 2, VersionState.RETIRED, run_id=run.id)
        model.live_version = 2
    page.keyboard.press("Backspace")
    expect(page.locator("#late li")).to_contain_text(re.compile("Version 2 has learned from it.*rolls back"))


def test_an_undo_that_would_overrule_somebody_is_refused_with_the_reason(desk, system):
    items = showroom.add_queue(system, n=2, labels=LABELS)
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    page.keyboard.press("a")
    wait_until_sent(page)
    with system.db.transaction() as session:
        item = session.get_one(ReviewItem, items[0])
        prediction = session.get_one(factories.tables.Prediction, item.prediction_id)
        factories.make_correction(session, prediction, "fox", reporter="another", state="disputed")
    page.keyboard.press("Backspace")
    expect(page.locator("#late li")).to_contain_text("Not taken back: Approved as “dog”. A new report")
    wait_for_item(page)
    assert items[0] not in (page.evaluate("document.querySelector('#stage img').src"))
    assert [action for _, action, _ in list_decisions(system)] == ["approve"]


def test_f_gives_an_item_to_an_expert_and_to_nobody_else(desks, system):
    showroom.add_queue(system, n=1, labels=LABELS)
    showroom.add_person(system)
    showroom.add_person(system, "eve", (Scope.REVIEW, Scope.EXPERT))
    page = desks[0].sign_in("ada")
    wait_for_item(page)
    page.keyboard.press("f")
    expect(page.locator("#result")).to_have_text("Flagged: an expert decides it.")
    wait_until_sent(page)
    expect(page.get_by_role("heading", name="Nothing for you just now")).to_be_visible()
    expert = desks[1].sign_in("eve")
    wait_for_item(expert)
    expect(expert.locator("#kind")).to_have_text("Flagged by ada")


def test_a_closed_tab_gives_back_what_it_had_leased(desks, system):
    showroom.add_queue(system, n=5, labels=LABELS)
    for name in ("ada", "bob"):
        showroom.add_person(system, name)
    page = desks[0].sign_in("ada")
    wait_for_item(page)
    assert count_holders(system) == {"user:ada": 5}
    page.close()
    desks[1].page.goto(desks[1].address)
    wait_for(lambda: count_holders(system) == {None: 5})
    wait_for_item(desks[1].sign_in("bob"))
    assert count_holders(system) == {"user:bob": 5}


def count_holders(system: System) -> Counter[str | None]:
    with system.db.reading() as session:
        return Counter(session.scalars(select(ReviewItem.leased_by)))


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
