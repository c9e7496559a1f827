"""The pages by touch and by the keyboard alone, in real Chromium."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from playwright.sync_api import Error as PlaywrightError

from backtalk.states import Scope
from tests import factories, showroom
from tests.desks import LABELS, Desk, list_decisions, shown_picture, wait_for_item, wait_until_sent


class Phone(Desk):
    """A browser with a touch screen and nothing else, as wide as a phone."""

    def __init__(self, browser: Browser, address: str, **options: object) -> None:
        super().__init__(browser, address)
        self.context.close()
        self.context = browser.new_context(
            viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, **options
        )
        self.context.set_default_timeout(10_000)
        self.page = self.open()
        self.touches = self.context.new_cdp_session(self.page)

    def touch(self, kind: str, *points: dict[str, float]) -> None:
        self.touches.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": list(points)})

    def drag(self, x: int, y: int, *, let_go: bool = True) -> None:
        """One finger over the middle of the picture, in real touch events."""
        box = self.page.locator("#stage").bounding_box()
        assert box
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        self.touch("touchStart", at)
        for part in (0.2, 0.6, 1):
            self.touch("touchMove", {"x": at["x"] + x * part, "y": at["y"] + y * part})
        if let_go:
            self.touch("touchEnd")


@pytest.fixture
def site(system) -> Iterator[str]:  # type: ignore[no-untyped-def]
    with showroom.serve(system) as address:
        yield address


def test_on_a_phone_a_swipe_answers_and_a_short_or_a_downward_one_does_not(chromium, system, site):
    showroom.add_queue(system, n=5, labels=LABELS)
    showroom.add_person(system)
    phone = Phone(chromium, site)
    page = phone.sign_in("ada")
    wait_for_item(page)
    expect(page.get_by_text("Swipe the picture")).to_be_visible()
    first = shown_picture(page)
    for x, y in ((40, 0), (0, -40), (0, 120), (-20, 90)):
        phone.drag(x, y)
    assert shown_picture(page) == first
    phone.drag(120, 10, let_go=False)
    expect(page.locator("#stage")).to_have_attribute("data-says", "Approve")
    phone.touch("touchEnd")
    expect(page.locator("#result")).to_have_text("Approved as “dog”.")
    phone.drag(-120, 10)
    phone.drag(10, -120)
    wait_until_sent(page)
    assert [action for _, action, _ in list_decisions(system)] == ["approve", "reject", "skip"]
    page.locator("#ask-line").tap()  # the browser takes the first touch after a swipe for its end
    page.get_by_role("button", name="Undo").tap()  # buttons do what swipes do
    expect(page.locator("#result")).to_have_text("Taken back: Skipped: it comes back last.")
    page.get_by_role("button", name="Skip").tap()
    page.get_by_role("button", name="Reject").tap()
    page.get_by_role("button", name="Approve").tap()
    wait_until_sent(page)
    taken = [action for _, action, _ in list_decisions(system)]
    assert taken[3:] == ["undo", "skip", "reject", "approve"]
    assert phone.complaints == []
    phone.context.close()


def test_who_wants_less_motion_gets_the_word_without_the_movement(chromium, system, site):
    showroom.add_queue(system, n=1, labels=LABELS)
    showroom.add_person(system)
    phone = Phone(chromium, site, reduced_motion="reduce")
    page = phone.sign_in("ada")
    wait_for_item(page)
    phone.drag(-120, 0, let_go=False)
    expect(page.locator("#stage")).to_have_attribute("data-says", "Reject")
    assert page.locator("#stage img").get_attribute("style") in (None, "")
    phone.context.close()


def test_a_hundred_labels_are_searched_and_answered_with_the_keyboard_alone(desk, system):
    labels = [f"species {number:03d}" for number in range(120)]
    with system.db.transaction() as session:
        model = factories.make_model(session, "animals", labels=labels)
        showroom.add_item(
            session, system, model, showroom.draw_picture(1), predicted=labels[0], reported=labels[1]
        )
    showroom.add_person(system)
    page = desk.sign_in("ada")
    wait_for_item(page)
    page.keyboard.press("/")
    page.keyboard.type("117")
    expect(page.get_by_role("option")).to_have_text(["species 117"])
    page.keyboard.press("Enter")
    wait_until_sent(page)
    assert list_decisions(system) == [("user:ada", "relabel", "species 117")]


def test_keys_are_switched_off_for_one_person_and_not_for_the_next_at_the_same_browser(desk, system):
    showroom.add_queue(system, n=12, labels=LABELS)
    showroom.add_person(system)
    showroom.add_person(system, "bob")
    page = desk.sign_in("ada")
    wait_for_item(page)
    page.keyboard.press("?")
    page.get_by_label("Answer with single keys").uncheck()
    page.keyboard.press("Escape")
    expect(page.locator("body.keys-off")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    page = desk.sign_in("bob")
    wait_for_item(page)
    page.keyboard.press("a")
    wait_until_sent(page)
    assert [actor for actor, _, _ in list_decisions(system)] == ["user:bob"]


WHERE = """() => {
    const at = document.activeElement, style = getComputedStyle(at), box = at.getBoundingClientRect();
    return at !== document.body && {
        what: (at.textContent || at.id || at.name).trim().slice(0, 40),
        id: [...document.querySelectorAll("*")].indexOf(at),
        seen: box.width >= 1 && style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    };
}"""
REACHABLE = """() => [...document.querySelectorAll("a[href], button, input:not([type=hidden]), select")]
    .filter((e) => e.checkVisibility({visibilityProperty: true}) && !e.disabled && e.tabIndex >= 0).length"""
SMALL = """() => [...document.querySelectorAll("button, a, input, select")].filter((e) => {
    const box = (e.closest("label") ?? e).getBoundingClientRect();
    const inline = e.matches("p a, li a, td a:not(.button)");  // in a sentence (WCAG 2.5.8)
    return !inline && box.width > 1 && (box.width < 24 || box.height < 24);
}).map((e) => e.outerHTML.slice(0, 80))"""


def list_stops(page: Page) -> list[dict[str, object]]:
    """Where the Tab key goes from the top of the page, and whether one sees that it is there."""
    stops: list[dict[str, object]] = []
    for _ in range(80):
        page.keyboard.press("Tab")
        stop = page.evaluate(WHERE)
        if not stop or stop in stops:
            break
        stops.append(stop)
    return stops


@pytest.mark.parametrize(
    "path", ["/review/animals", "/review/animals/grid", "/people", "/people/new", "/keys"]
)
def test_tab_goes_to_everything_and_one_sees_where_it_is(desk, system, path):
    showroom.add_queue(system, n=2, labels=LABELS)
    showroom.add_person(system, scopes=showroom.EVERYTHING)
    page = desk.sign_in("ada", path)
    expect(page.locator("main:not([data-state=loading])")).to_be_visible()
    stops = list_stops(page)
    assert len(stops) >= page.evaluate(REACHABLE)
    assert stops[0]["what"] == "Skip to the content"
    assert [stop for stop in stops if not stop["seen"]] == []


def test_an_admin_adds_a_person_and_a_key_with_the_keyboard_alone(desk, system):
    showroom.add_person(system, scopes=(Scope.ADMIN,))
    page = desk.sign_in("ada", "/people/new")
    page.get_by_label("Name").focus()
    page.keyboard.type("bob")
    page.keyboard.press("Enter")
    secret = page.locator("#secret")
    expect(secret).to_be_visible()
    password = secret.inner_text()
    page.go_back()
    expect(page.get_by_text(password)).to_have_count(0)
    with pytest.raises(PlaywrightError, match="ERR_CACHE_MISS"):  # nothing kept a copy
        page.go_forward()
    page = desk.open()
    page.goto(desk.address + "/keys/new")
    page.get_by_label("Name").focus()
    page.keyboard.type("line 1")
    page.keyboard.press("Enter")
    expect(page.locator("#secret")).to_contain_text("bt_")
    page.get_by_role("link", name="I have it").press("Enter")
    expect(page.get_by_role("row", name="line 1")).to_contain_text("live")


def test_on_a_phone_no_page_is_wider_than_it_and_no_target_is_too_small(desk, system):
    showroom.add_queue(system, n=2, labels=LABELS)
    showroom.add_person(system, scopes=showroom.EVERYTHING)
    page = desk.sign_in("ada", "/")
    page.set_viewport_size({"width": 360, "height": 740})
    paths = ["/", "/account", "/people", "/people/new", "/people/ada/disable", "/keys", "/keys/new"]
    paths += ["/review/animals", "/review/animals/grid", "/models/animals", "/models/animals/policy"]
    for path in paths:
        page.goto(desk.address + path)
        expect(page.locator("main:not([data-state=loading])")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
        assert page.evaluate(SMALL) == [], path
