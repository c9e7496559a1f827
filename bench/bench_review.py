"""The review pages: from key press to the next picture in a real browser, and what pages cost the server.

The site is the real app (threads of one process, as in production) over a Postgres of its own, durable as it
comes. The rows of the long queue are written with SQL; the pictures that the browser shows are real files.
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright

from backtalk import bootstrap, neighbours, schema
from backtalk.config import Settings
from backtalk.servers import PostgresServer
from backtalk.serving import LiveModels
from backtalk.system import System
from bench.page_requests import list_requests
from bench.page_times import time_request
from bench.queue_filling import LABELS, fill_queue
from services.wsgi import create_app
from tests import showroom
from tests.desks import FLAGS, wait_for_item, wait_until_sent

ITEMS = 200
PAUSE_S = 0.12  # between two keys: about as fast as a person can look at all
SIZES = (1_000, 100_000)
TARGET_KEY_MS = 100.0

#: Measures from the key's own time stamp to the frame after the one in which the next picture is shown.
_WATCH = """() => {
    window.took = [];
    let pressed = null;
    addEventListener("keydown", (event) => { pressed = event.timeStamp; }, true);
    new MutationObserver(() => {
        const began = pressed;
        const picture = document.querySelector("#stage img");
        if (began === null || !picture) return;
        pressed = null;
        const note = () => took.push(performance.now() - began);
        const painted = () => requestAnimationFrame(() => requestAnimationFrame(note));
        picture.complete && picture.naturalWidth ? painted() : picture.decode().then(painted);
    }).observe(document.getElementById("stage"), {childList: true});
}"""


def measure_review() -> dict[str, Any]:
    """Milliseconds; `keys` from the browser, `server` by number of pending items and request."""
    with _site() as (system, _, _):
        keys = _measure_keys(system)
    return {"keys": keys, "server": {f"{size:,} pending": _measure_server(size) for size in SIZES}}


@contextmanager
def _site() -> Iterator[tuple[System, PostgresServer, str]]:
    folder = Path(tempfile.mkdtemp(prefix="bt-"))
    server = PostgresServer.start(folder / "postgres")
    try:
        url = server.create_database()
        schema.upgrade(url)
        system = bootstrap.build(Settings(home=folder / "home", database_url=url), pool_size=10)
        showroom.add_person(system, "ada", showroom.EVERYTHING)
        yield system, server, url
        system.close()
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


# --- the browser -------------------------------------------------------------------------------
def _measure_keys(system: System) -> dict[str, Any]:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request is none of the figures
    showroom.add_queue(system, n=ITEMS + 1, labels=LABELS)
    path = shutil.which("chromium")
    with showroom.serve(system) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        page = browser.new_page()
        page.goto(f"{address}/review/animals")
        page.get_by_label("Name").fill("ada")
        page.get_by_label("Password").fill(showroom.PASSWORD)
        page.keyboard.press("Enter")
        wait_for_item(page)
        page.evaluate(_WATCH)
        began = time.monotonic()
        took = [_press(page, "a" if place % 5 else "2", place) for place in range(ITEMS)]
        seconds = time.monotonic() - began
        wait_until_sent(page)
        browser.close()
    p95 = float(np.percentile(took, 95))
    return {
        "items": len(took),
        "p50_ms": round(median(took), 1),
        "p95_ms": round(p95, 1),
        "max_ms": round(max(took), 1),
        "decisions_per_minute": round(60 * ITEMS / seconds),
        "target_p95_ms": TARGET_KEY_MS,
        "met": p95 < TARGET_KEY_MS,
    }


def _press(page: Page, key: str, place: int) -> float:
    page.keyboard.press(key)
    page.wait_for_function("(n) => took.length > n", arg=place)
    took: float = page.evaluate("took.at(-1)")
    time.sleep(PAUSE_S)
    return took


# --- the server --------------------------------------------------------------------------------
def _measure_server(size: int) -> dict[str, Any]:
    with _site() as (system, server, url):
        fill_queue(system, url, size)
        client = create_app(system=system, live=LiveModels(system)).test_client()
        asks = list_requests(client, system)
        figures = {name: time_request(ask, server.process.pid) for name, ask in asks.items()}
        if neighbours.make_indexes(url):
            figures["tiles, similar, indexed"] = time_request(asks["tiles, similar"], server.process.pid)
    return figures
