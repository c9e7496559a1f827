"""The pages in Chinese, in real Chromium: no English sentence is left, and axe objects to nothing."""

import re

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select

from backtalk.states import Scope
from backtalk.system import System
from backtalk.tables import Image, Run, Sample
from tests import exhibits, factories, showroom, tunings
from tests.acceptance.test_pages_axe import OF_A_MODEL, find_violations
from tests.desks import LABELS, Desk, list_decisions, wait_for_item, wait_until_sent

#: Everything that is seen or spoken, but code, keys, and what people wrote themselves.
SAID = """() => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const said = [document.title];
    while (walker.nextNode()) {
        const inside = walker.currentNode.parentElement.closest(
            "script, style, code, pre, kbd, blockquote, template, noscript, [lang=en]");
        if (!inside) said.push(walker.currentNode.textContent);
    }
    for (const name of ["aria-label", "title", "placeholder", "alt"])
        for (const element of document.querySelectorAll(`[${name}]`)) said.push(element.getAttribute(name));
    return said;
}"""
ENGLISH = re.compile(r"[A-Za-z]{2,}[ ,]+[a-z]{2,}")
#: Names of things, which stay.
NAMES = re.compile(r"backtalk [a-z]+( [a-z]+)?|Authorization: Bearer")


def find_english(page: Page) -> list[str]:
    return [said.strip() for said in page.evaluate(SAID) if ENGLISH.search(NAMES.sub("", said))]


@pytest.fixture
def chinese(chromium, desk, system):  # type: ignore[no-untyped-def]
    """Somebody whose browser asks for Chinese, with a queue and a history to look at."""
    showroom.add_queue(system, n=3, labels=LABELS)
    showroom.add_person(system, scopes=(*showroom.EVERYTHING, Scope.EXPERT))
    with system.db.transaction() as session:
        model = factories.make_model(session, "cells")
        showroom.add_history(session, model)
        exhibits.add_traffic(session, model, days=3, a_day=20)
        tunings.add_failures(session, model)
        factories.make_model(session, "hens", labels=list(LABELS))  # with nothing yet
    exhibits.add_exhibits(system, "cells", [showroom.draw_picture(i, 80) for i in range(4)])
    made = Desk(chromium, desk.address)
    made.context.close()
    made.context = chromium.new_context(locale="zh-CN")
    made.context.set_default_timeout(10_000)
    made.page = made.open()
    yield made
    made.context.close()


def sign_in(desk: Desk) -> Page:
    page = desk.page
    page.goto(desk.address + "/")
    page.get_by_label("名称").fill("ada")
    page.get_by_label("密码").fill(showroom.PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(desk.address + "/")
    return page


def list_paths(system: System) -> list[str]:
    """Every page, of a model with a queue, of one with a history, and of one with nothing yet."""
    with system.db.reading() as session:
        runs = [str(run.id) for run in session.scalars(select(Run))]
        judged = session.scalars(select(Run.id).where(Run.version == 5)).one()
        picture = session.scalars(select(Image.id).where(Image.store_key.is_not(None))).first()
        shown = session.scalars(select(Sample.image_id).where(Sample.split == "holdout")).first()
    people = ("", "/new", "/ada/roles", "/ada/disable")
    bare = ("", "/versions", "/versions/1", "/compare", "/ledger?action=promote")
    queues = ("", "/grid", "/grid?by=likeness", "/grid?queue=suspected", "/reviewers", "?queue=uncertain")
    return [
        "/",
        "/account",
        *(f"/people{name}" for name in people),
        "/keys",
        "/keys/new",
        "/audit",
        "/audit?actor=user:nobody",
        "/models/nowhere",
        "/review/cells",
        *(f"/review/animals{query}" for query in queues),
        f"/models/animals/images/{picture}",
        *(f"/models/cells{name}" for name in OF_A_MODEL),
        *(f"/models/cells/runs/{run}" for run in runs),
        *(f"/models/cells/runs/{judged}/flips?way={way}" for way in ("broken", "fixed")),
        f"/models/cells/images/{shown}",
        *(f"/models/hens{name}" for name in bare),
    ]


#: Where Chinese is laid out otherwise than English: the rest is looked at in English.
LOOKED_AT = ("/people/new", "/keys", "/audit", "/review/animals", "/models/cells", "/models/cells/versions/5")


def test_no_page_has_an_english_sentence_left_and_axe_finds_nothing(chinese, system):
    page = chinese.page
    page.goto(chinese.address + "/sign-in")
    english, wrong = {"/sign-in": find_english(page)}, {"/sign-in": find_violations(page)}
    sign_in(chinese)
    for path in list_paths(system):
        page.goto(chinese.address + path)
        expect(page.locator("main:not([data-state=loading])")).to_be_visible()
        assert page.locator("html").get_attribute("lang") == "zh-Hans"
        english[path] = find_english(page)
        if path in LOOKED_AT:
            wrong[path] = find_violations(page)
    assert [(path, said) for path, lines in english.items() for said in lines] == []
    assert [(path, said) for path, lines in wrong.items() for said in lines] == []


def test_answers_are_said_in_chinese_and_the_switch_leads_to_english_and_stays(chinese, system):
    page = sign_in(chinese)
    page.goto(chinese.address + "/review/animals")
    wait_for_item(page)
    expect(page.locator("#ask-line")).to_contain_text("报告为 dog。报告正确吗？")
    page.keyboard.press("a")
    expect(page.locator("#result")).to_have_text("已核准为“dog”。")
    wait_until_sent(page)
    expect(page.locator("#sync-text")).to_have_text("全部已发送")
    assert list_decisions(system)[-1] == ("user:ada", "approve", "dog")
    page.goto(chinese.address + "/models/cells/runs")
    expect(page.get_by_role("heading", name="训练")).to_be_visible()
    page.get_by_role("button", name="English").click()
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    assert page.url == chinese.address + "/models/cells/runs"
    page.goto(chinese.address + "/")
    assert page.locator("html").get_attribute("lang") == "en"
    page.get_by_role("button", name="简体中文").click()
    expect(page.get_by_role("heading", name="模型")).to_be_visible()
    assert chinese.complaints == []
