"""The review pages: from key press to the next picture in a real browser, and what pages cost the server.

The site is the real app (threads of one process, as in production) over a Postgres of its own, durable as it
comes. The queue's rows are written with SQL; the pictures that the browser shows are real files.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from flask.testing import FlaskClient
from playwright.sync_api import Page, sync_playwright
from sqlalchemy import text

from backtalk import bootstrap, neighbours, schema
from backtalk.config import Settings
from backtalk.servers import PostgresServer
from backtalk.system import System
from services.wsgi import create_app
from tests import factories, showroom
from tests.desks import FLAGS, wait_for_item, wait_until_sent

LABELS = ("cat", "dog", "fox", "hen", "owl", "yak", "zebra")
ITEMS = 200
PAUSE_S = 0.12  # between two keys: about as fast as a person can look at all
SIZES = (1_000, 100_000)
REPEATS = 15
TARGET_KEY_MS = 100.0
TARGET_PAGE_MS = 150.0
WIDTH = 1280

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
    """Milliseconds; `keys` from the browser, `server` by number of pending items and page (medians)."""
    with _site() as system:
        keys = _measure_keys(system)
    return {"keys": keys, "server": {f"{size:,} pending": _measure_server(size) for size in SIZES}}


@contextmanager
def _site() -> Iterator[System]:
    folder = Path(tempfile.mkdtemp(prefix="bt-"))
    server = PostgresServer.start(folder / "postgres")
    try:
        url = server.create_database()
        schema.upgrade(url)
        system = bootstrap.build(Settings(home=folder / "home", database_url=url), pool_size=10)
        showroom.add_person(system, "ada", showroom.EVERYTHING)
        yield system
        system.close()
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


# --- the browser -------------------------------------------------------------------------------
def _measure_keys(system: System) -> dict[str, Any]:
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
    with _site() as system:
        _fill(system, size)
        client = create_app(system=system).test_client()
        client.post("/sign-in", data={"name": "ada", "password": showroom.PASSWORD})
        csrf = client.get("/").text.split('data-csrf="', 1)[1].split('"', 1)[0]
        figures = {name: _time(ask) for name, ask in _list_requests(client, csrf, system).items()}
        if size >= neighbours.INDEX_FROM:
            began = time.monotonic()
            neighbours.make_indexes(str(system.settings.database_url))
            built_s = round(time.monotonic() - began, 1)
            asks = _list_requests(client, csrf, system)
            figures["tiles, similar, indexed"] = _time(asks["tiles, similar"]) | {"index_built_s": built_s}
    for row in figures.values():
        row["met"] = row["median_ms"] < TARGET_PAGE_MS
    return figures


def _list_requests(client: FlaskClient, csrf: str, system: System) -> dict[str, Callable[[], int]]:
    headers = {"Accept": "application/json", "X-CSRF-Token": csrf}
    with system.db.reading() as session:
        some = str(session.scalar(text("SELECT id FROM review_items ORDER BY id OFFSET 500 LIMIT 1")))

    def get(path: str) -> Callable[[], int]:
        return lambda: client.get(path).status_code

    def post(path: str, body: object) -> Callable[[], int]:
        return lambda: client.post(path, json=body, headers=headers).status_code

    def tiles(**selection: str) -> Callable[[], int]:
        return post("/review/animals/grid/lease", {"selection": selection, "hold": []})

    return {
        "home": get("/"),
        "overview": get("/models/animals"),
        "focus view": get("/review/animals"),
        "focus view, one queue": get("/review/animals?queue=corrections"),
        "lease 8": post("/review/animals/lease", {"limit": 8}),
        "lease 8, uncertain": post("/review/animals/lease", {"limit": 8, "queue": "uncertain"}),
        "reviewers": get("/review/animals/reviewers"),
        "grid, pairs": get("/review/animals/grid"),
        "grid, near-duplicates": get("/review/animals/grid?by=likeness"),
        **{
            f"tiles, {sort}": tiles(sort=sort, by="none")
            for sort in ("age", "margin", "doubt", "trust", "size")
        },
        "tiles, one pair": tiles(predicted="cat", reported="owl", sort="margin"),
        "tiles, similar": tiles(like=some, by="none"),
    }


def _time(ask: Callable[[], int]) -> dict[str, Any]:
    took = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        status = ask()
        took.append(1000 * (time.perf_counter() - began))
        if status >= 400:
            raise RuntimeError(f"the page answered {status}")
    return {"median_ms": round(median(took), 1), "max_ms": round(max(took), 1)}


_ROWS = """
WITH made AS (
    INSERT INTO images (id, pixels_sha256, perceptual_hash, width, height, byte_size)
    SELECT gen_random_uuid(), md5(n::text) || md5(n::text), n, 32, 32, 1000 FROM generate_series(1, :size) n
    RETURNING id, perceptual_hash AS n
), predicted AS (
    INSERT INTO predictions (id, model_id, version, image_id, label, scores, key_id)
    SELECT gen_random_uuid(), :model, 1, id, (CAST(:labels AS text[]))[1 + n % 7],
        ARRAY[0.5 + (n % 1000) / 2500.0, 0.1, 0.02, 0.02, 0.02, 0.02, 0.02]::real[], 'app' FROM made
    RETURNING id, label, image_id, scores
), said AS (
    INSERT INTO corrections (id, model_id, prediction_id, label, reporter, key_id, state, prepared_at)
    SELECT gen_random_uuid(), :model, id, (CAST(:labels AS text[]))[1 + (hashtext(id::text) & 1023) % 7],
        'line-' || (hashtext(id::text) & 63), 'app', 'pending', now() FROM predicted
    RETURNING id, prediction_id, label, reporter
)
INSERT INTO review_items (
    id, model_id, prediction_id, kind, queue, correction_id, reported, reporter, predicted, margin, doubt,
    group_id
)
SELECT gen_random_uuid(), :model, p.id, 'correction', 'corrections', s.id, s.label, s.reporter, p.label,
    p.scores[1] - p.scores[2], random(), :group + (hashtext(p.id::text) & 65535) % :groups
FROM predicted p JOIN said s ON s.prediction_id = p.id
"""


def _fill(system: System, size: int) -> None:
    groups = max(size // 4, 1)
    with system.db.transaction() as session:
        session.execute(text("SET LOCAL statement_timeout = 0"))
        factories.make_backbone(session, width=WIDTH)
        model = factories.make_model(session, "animals", labels=list(LABELS))
        showroom.add_history(session, model)
        image = factories.make_image(session)
        first = session.scalar(
            text(
                "INSERT INTO image_groups (model_id, first_image_id, perceptual_hash, side) "
                "VALUES (:model, :image, 0, 'train') RETURNING id"
            ),
            {"model": model.id, "image": image.id},
        )
        session.execute(text("ALTER TABLE review_items DROP CONSTRAINT fk_review_items_group_id"))
        values = {"size": size, "model": model.id, "labels": list(LABELS), "group": first, "groups": groups}
        session.execute(text(_ROWS), values)
        # A few hundred directions with noise, as pictures have: drawn by the server, which is quick.
        session.execute(
            text(
                "INSERT INTO embeddings (image_id, backbone_digest, vector) SELECT p.image_id, :digest, ("
                "  SELECT array_agg(sin(k * (hashtext(p.id::text) & 255)) + random() - 0.5)::vector::halfvec"
                f"  FROM generate_series(1, {WIDTH}) k WHERE p.id IS NOT NULL) FROM predictions p"
            ),
            {"digest": factories.BACKBONE_DIGEST},
        )
    with system.db.statement() as connection:
        connection.execute("SET statement_timeout = 0")
        connection.execute("VACUUM ANALYZE")
        connection.execute("RESET statement_timeout")
