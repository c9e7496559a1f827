"""A person at a browser: what the tests of the pages share."""

from playwright.sync_api import Browser, BrowserContext, Page, expect
from sqlalchemy import select

from backtalk.system import System
from backtalk.tables import Decision
from tests import showroom

LABELS = ("cat", "dog", "fox", "hen", "owl", "yak", "zebra")
#: Headless, and asking nobody for anything.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Desk:
    """One person's browser. What the console complains of is collected."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.address = address
        self.context: BrowserContext = browser.new_context()
        self.context.set_default_timeout(10_000)
        self.complaints: list[str] = []
        self.page = self.open()

    def open(self) -> Page:
        page = self.context.new_page()
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        return page

    def _note(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"}:
            self.complaints.append(text)

    def sign_in(self, name: str, path: str = "/review/animals") -> Page:
        self.page.goto(self.address + path)
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Password").fill(showroom.PASSWORD)
        self.page.keyboard.press("Enter")
        self.page.wait_for_url(self.address + path)
        return self.page


def wait_for_item(page: Page) -> None:
    expect(page.locator("main[data-state=item]")).to_be_visible()


def wait_until_sent(page: Page) -> None:
    expect(page.locator("#sync[data-state=sent]")).to_be_visible()


def list_decisions(system: System) -> list[tuple[str, str, str | None]]:
    with system.db.reading() as session:
        rows = session.scalars(select(Decision).order_by(Decision.id))
        return [(row.actor, row.action, row.label) for row in rows]


def shown_picture(page: Page) -> str:
    return page.locator("#stage img").get_attribute("src") or ""
