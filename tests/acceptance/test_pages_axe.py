"""axe-core finds nothing to object to on any page: by day, at night, and on a phone."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select

from backtalk.tables import Image, Run, Sample
from tests import exhibits, factories, showroom, tunings
from tests.desks import LABELS, wait_for_item

AXE = (Path(__file__).parents[1] / "vendor" / "axe.min.js").read_text(encoding="utf-8")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
LOOKS = {"light": ("light", 1280), "dark": ("dark", 1280), "phone": ("light", 390)}


OF_A_MODEL = (
    "",
    "/versions",
    "/versions/5",
    "/versions/3/promote",
    "/compare",
    "/compare?before=2&after=5",
    "/compare/flips?before=2&after=5&way=fixed",
    "/runs",
    "/triggers",
    "/ledger",
    "/ledger?action=rollback",
    "/policy",
    "/run-now",
    "/roll-back",
)


def find_violations(page: Page) -> list[str]:
    page.evaluate(AXE)  # by the driver, which no content policy stops
    found = page.evaluate(
        "(tags) => axe.run(document, {runOnly: {type: 'tag', values: tags}, resultTypes: ['violations']})",
        RULES,
    )
    return [
        f"{one['id']}: {node['html'][:120]} {node['failureSummary']}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


@pytest.fixture
def paths(system) -> list[str]:  # type: ignore[no-untyped-def]
    """Every page that can be asked for, of a model with a queue and of one with a history."""
    showroom.add_queue(system, n=3, labels=LABELS)
    showroom.add_person(system, scopes=showroom.EVERYTHING)
    with system.db.transaction() as session:
        model = factories.make_model(session, "cells")
        showroom.add_history(session, model)
        exhibits.add_traffic(session, model, days=3, a_day=20)
        tunings.add_failures(session, model)
        factories.make_model(session, "hens", labels=list(LABELS))  # with nothing yet
        runs = [str(run.id) for run in session.scalars(select(Run))]
        judged = session.scalars(select(Run.id).where(Run.version == 5)).one()
    exhibits.add_exhibits(system, "cells", [showroom.draw_picture(i, 80) for i in range(4)])
    with system.db.reading() as session:
        picture = session.scalars(select(Image.id).where(Image.store_key.is_not(None))).first()
        shown = session.scalars(select(Sample.image_id).where(Sample.split == "holdout")).first()
    cells = [f"/models/cells{name}" for name in OF_A_MODEL]
    cells += [f"/models/cells/images/{shown}", f"/models/animals/images/{picture}"]
    cells += [f"/models/cells/runs/{judged}/flips?way={way}" for way in ("broken", "fixed")]
    cells += [f"/models/hens{name}" for name in ("", "/versions", "/versions/1", "/compare")]
    grids = [
        f"/review/animals/grid{query}"
        for query in ("", "?by=likeness", "?by=none&sort=doubt", "?queue=audits", "?queue=suspected")
    ]
    return [
        "/",
        "/audit",
        "/audit?actor=user:nobody",
        "/models/nowhere",
        "/review/cells",
        "/review/animals?queue=uncertain",
        "/review/animals/reviewers",
        *grids,
        *cells,
        *(f"/models/cells/runs/{run}" for run in runs),
    ]


@pytest.mark.parametrize(
    "look",
    ["light", pytest.param("dark", marks=pytest.mark.slow), pytest.param("phone", marks=pytest.mark.slow)],
)
def test_axe_finds_no_violation_on_any_page(desk, system, paths, look):
    scheme, width = LOOKS[look]
    desk.page.emulate_media(color_scheme=scheme)
    desk.page.set_viewport_size({"width": width, "height": 844})
    desk.page.goto(desk.address + "/sign-in")
    found = {"/sign-in": find_violations(desk.page)}
    page = desk.sign_in("ada", "/review/animals")
    wait_for_item(page)
    found["focus"] = find_violations(page)
    page.keyboard.press("/")
    found["focus, searching"] = find_violations(page)
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    found["focus, keys"] = find_violations(page)
    for path in paths:
        page.goto(desk.address + path)
        expect(page.locator("main:not([data-state=loading])")).to_be_visible()
        found[path] = find_violations(page)
    page.goto(desk.address + "/review/animals/grid")
    page.locator(".tile-button").first.click()
    page.keyboard.press("a")
    found["grid, answered"] = find_violations(page)
    assert {path: said for path, said in found.items() if said} == {}


def test_axe_does_find_what_is_wrong(desk):
    desk.page.goto(desk.address + "/sign-in")
    desk.page.evaluate("document.querySelector('main').insertAdjacentHTML('beforeend', '<img src=\"/x\">')")
    assert any(said.startswith("image-alt") for said in find_violations(desk.page))
