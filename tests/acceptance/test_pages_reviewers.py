"""In real Chromium: several reviewers at once, blind second reviews, gold items, queues by keyboard."""

import re

from playwright.sync_api import expect
from sqlalchemy import func, select

from backtalk.states import Origin, Scope, Split
from backtalk.tables import ClosedView, Decision, Model, Prediction, ReviewItem, Sample
from tests import factories, showroom
from tests.desks import LABELS, list_decisions, shown_picture, wait_for_item, wait_until_sent


def set_policy(system, **policy):  # type: ignore[no-untyped-def]
    with system.db.transaction() as session:
        session.scalars(select(Model)).one().policy = policy


def test_two_who_review_at_once_get_different_pictures_and_a_left_page_gives_its_own_back(desks, system):
    showroom.add_queue(system, n=12, labels=LABELS)
    for name in ("ada", "bob"):
        showroom.add_person(system, name)
    ada, bob = desks[0].sign_in("ada"), desks[1].sign_in("bob")
    wait_for_item(ada)
    wait_for_item(bob)
    assert shown_picture(ada) != shown_picture(bob)
    assert count_held(system) == {"user:ada": 8, "user:bob": 4}
    # ada leaves while a lease is on its way: it comes to the server after the page said that it was left.
    on_its_way = []
    ada.route("**/lease", lambda route: on_its_way.append(route.request))
    ada.keyboard.press("a")
    wait_until_sent(ada)
    with ada.expect_request("**/lease"):
        ada.keyboard.press("a")
    wait_until_sent(ada)
    ada.goto("about:blank")
    wait_until_left(system, bob)
    late = on_its_way[0]
    headers = {name: late.headers[name] for name in ("accept", "content-type", "x-csrf-token")}
    answer = desks[0].context.request.post(late.url, data=late.post_data, headers=headers)
    assert answer.json()["items"] == []
    bob.reload()
    wait_for_item(bob)
    expect(bob.locator("#open-count")).to_have_text("10")
    assert count_held(system) == {None: 4, "user:bob": 8}  # two of the twelve are decided, and free


def wait_until_left(system, page) -> None:  # type: ignore[no-untyped-def]
    """Until some page has said that it was left; another page passes the time."""
    for _ in range(200):
        with system.db.reading() as session:
            if session.scalar(select(func.count()).select_from(ClosedView)):
                return
        page.wait_for_timeout(50)
    raise AssertionError("the page that was left has not said so")


def count_held(system) -> dict[str | None, int]:  # type: ignore[no-untyped-def]
    """Items by who holds them."""
    rows = select(ReviewItem.leased_by, func.count()).group_by(ReviewItem.leased_by)
    with system.db.reading() as session:
        return dict(session.execute(rows).all())


def test_the_second_review_is_blind_and_a_disagreement_goes_to_an_expert(desks, system):
    showroom.add_queue(system, n=1, labels=LABELS)
    set_policy(system, quorum=2)
    for name, scopes in (
        ("ada", (Scope.REVIEW,)),
        ("bob", (Scope.REVIEW,)),
        ("eve", (Scope.REVIEW, Scope.EXPERT)),
    ):
        showroom.add_person(system, name, scopes)
    ada = desks[0].sign_in("ada")
    wait_for_item(ada)
    before = ada.locator("#question").inner_text()
    third = ada.locator(".answer").nth(2).get_attribute("data-label")
    ada.keyboard.press("3")
    expect(ada.locator("#result")).to_have_text("Taken down; a second reviewer must agree.")
    bob = desks[1].sign_in("bob")
    wait_for_item(bob)
    assert bob.locator("#question").inner_text() == before  # nothing of what ada found
    assert "ada" not in bob.locator("body").inner_text()
    bob.keyboard.press("a")
    wait_until_sent(bob)
    desks[0].context.clear_cookies()
    eve = desks[0].sign_in("eve")
    wait_for_item(eve)
    expect(eve.locator("#kind")).to_have_text("Flagged by two reviewers who disagree")
    eve.keyboard.press("a")
    wait_until_sent(eve)
    assert list_decisions(system) == [
        ("user:ada", "relabel", third),
        ("user:bob", "approve", "dog"),
        ("user:eve", "approve", "dog"),
    ]
    with system.db.reading() as session:
        assert session.scalars(select(Sample.label)).all() in (["dog"], [])  # [] where it straddles or judges


def test_a_gold_item_looks_like_an_audit_and_only_an_admin_sees_what_it_measured(desks, system):
    with system.db.transaction() as session:
        model = factories.make_model(session, "animals", labels=list(LABELS), policy={"gold_share": 0.5})
        for place in range(8):
            showroom.add_item(session, system, model, showroom.draw_picture(place), predicted="owl")
        for place in range(4):
            image = showroom.keep_picture(session, system, showroom.draw_picture(100 + place))
            values = {"split": Split.HOLDOUT, "origin": Origin.BASE, "label": "fox"}
            factories.make_sample(session, model, image, **values)
            factories.make_prediction(session, model, image, label="owl", key_id=None)
    showroom.add_person(system, "ada")
    showroom.add_person(system, "root", showroom.EVERYTHING)
    page = desks[0].sign_in("ada")
    expect(page.get_by_role("link", name="Reviewers")).to_have_count(0)
    for _ in range(12):
        wait_for_item(page)
        expect(page.locator("#kind")).to_have_text("Drawn at random")
        expect(page.locator("#ask-line")).to_contain_text("The model says owl. Is the prediction right?")
        page.keyboard.press("a")
        expect(page.locator("#result")).to_have_text("Approved as “owl”.")
        wait_until_sent(page)
        with system.db.reading() as session:
            if not session.scalar(select(func.count()).where(ReviewItem.closed_at.is_(None))):
                break
    with system.db.reading() as session:
        kinds = session.scalars(select(ReviewItem.kind)).all()
        # One that was fetched ahead and not come to is closed unanswered, and may be asked again.
        on_gold = select(func.count(Decision.id)).join(ReviewItem, ReviewItem.id == Decision.item_id)
        asked = session.scalar(on_gold.where(ReviewItem.kind == "gold"))
        assert kinds.count("audit") == 8
        assert 1 <= asked <= 4
        assert session.scalars(select(Sample.label).where(Sample.origin == Origin.BASE)).all() == ["fox"] * 4
        assert all(sample.retracted_at is None for sample in session.scalars(select(Sample)))
    admin = desks[1].sign_in("root", "/review/animals/reviewers")
    row = admin.get_by_role("row", name=re.compile("^ada"))
    expect(row).to_contain_text(re.compile(rf"8\s+{asked}\s+0\.0 %"))
    assert page.goto(desks[0].address + "/review/animals/reviewers").status == 403


def test_queues_are_changed_with_a_key_and_each_says_how_it_stands(desk, system):
    showroom.add_queue(system, n=2, labels=LABELS)
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        showroom.add_item(session, system, model, showroom.draw_picture(50), predicted="owl")
        for place, score in ((60, 0.9), (61, 0.2)):
            image = showroom.keep_picture(session, system, showroom.draw_picture(place))
            factories.make_group(session, model, image)
            rest = (1 - score) / 6
            scores = [score if label == "hen" else rest for label in LABELS]
            factories.make_prediction(session, model, image, label="hen", scores=scores)
        showroom.add_suspected(session, system, model, showroom.draw_picture(70), label="fox", better="yak")
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    expect(page.locator("#queue-line")).to_have_text(re.compile(r"3 open, oldest just now, 0 decided"))
    seen = {}
    for name in ("corrections", "disputed", "audits", "uncertain", "suspected"):
        page.keyboard.press("q")
        page.wait_for_url(re.compile(f"queue={name}"))
        expect(page.locator("main:not([data-state=loading])")).to_be_visible()
        seen[name] = page.locator("#ask-line").inner_text() if name != "disputed" else ""
    assert "Reported as dog" in seen["corrections"]
    assert "The model says owl." in seen["audits"]
    assert "The model says hen, but only just." in seen["uncertain"]
    assert "the model would read it as yak" in seen["suspected"]
    expect(page.locator("#mark-text")).to_contain_text("other samples alone")
    page.keyboard.press("a")  # the label stands
    wait_until_sent(page)
    page.keyboard.press("Backspace")
    wait_for_item(page)
    page.keyboard.press("1")  # the label that the others speak for
    wait_until_sent(page)
    assert list_decisions(system)[-1] == ("user:ada", "relabel", "yak")
    page.keyboard.press("Shift+Q")
    page.wait_for_url(re.compile("queue=uncertain"))
    wait_for_item(page)
    page.keyboard.press("a")
    wait_until_sent(page)
    with system.db.reading() as session:
        labels = dict(
            session.execute(select(Sample.origin, Sample.label).where(Sample.retracted_at.is_(None))).all()
        )
        assert labels == {"base": "yak", "uncertain": "hen"}
        assert session.scalars(select(Prediction).where(Prediction.audit)).all()
    page.goto(desk.address + "/review/animals/grid?queue=uncertain")
    expect(page.locator(".tile-pair")).to_have_text("hen?")  # the other one, of which the model is sure
    assert desk.complaints == []
