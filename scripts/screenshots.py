"""Pictures of every page by day and at night, and of the main ones on a phone, into docs/pages.

python -m scripts.screenshots                       # of a model with an invented history
python -m scripts.screenshots --address http://127.0.0.1:8000 --user ada --model solar-cells
                                                    # of a running stack; asks for the password
python -m scripts.screenshots --only run-full runs  # those pictures alone
"""

import argparse
import getpass
import shutil
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from scripts.gallery import Visit, run_showroom
from tests.desks import FLAGS

OUT = Path(__file__).resolve().parent.parent / "docs" / "pages"
COLOURS = 96


@dataclass(frozen=True)
class Look:
    name: str
    scheme: str
    width: int
    height: int
    pages: frozenset[str] = frozenset()  # all of them where it is empty


LOOKS = (
    Look("light", "light", 1280, 800),
    Look("dark", "dark", 1280, 800),
    Look(
        "phone",
        "light",
        390,
        844,
        frozenset({"model", "run-promoted", "run-full", "version", "compare", "review", "grid"}),
    ),
)


# --- pictures ----------------------------------------------------------------------------------
def shoot_all(visit: Visit, out: Path, only: frozenset[str] = frozenset()) -> None:
    """`only`: names of the pictures to be taken; all of them where it is empty."""
    path = shutil.which("chromium")
    if path is None:
        raise SystemExit("Chromium is not on the PATH (Debian: apt-get install chromium).")
    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        for look in LOOKS:
            shoot_look(browser, visit, look, out, only)
        browser.close()


def shoot_look(browser: Browser, visit: Visit, look: Look, out: Path, only: frozenset[str]) -> None:
    context = browser.new_context(
        color_scheme=look.scheme,  # type: ignore[arg-type]
        viewport={"width": look.width, "height": look.height},
    )
    page = context.new_page()

    def save(name: str, *, whole: bool = True) -> None:
        file = out / f"{name}-{look.name}.png"
        if (look.pages and name not in look.pages) or (only and name not in only):
            return
        page.evaluate("document.querySelectorAll('img[loading=lazy]').forEach(one => one.loading = 'eager')")
        page.wait_for_load_state("networkidle")
        page.screenshot(path=str(file), full_page=whole)
        # So many colours are enough for pages, and for photographs in grey.
        Image.open(file).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
        print(file.relative_to(out.parent.parent))

    page.goto(f"{visit.address}/sign-in")
    save("sign-in", whole=False)
    page.get_by_label("Name").fill(visit.user)
    page.get_by_label("Password").fill(visit.password)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{visit.address}/")
    save("home", whole=False)
    model = f"{visit.address}/models/{visit.model}"
    for name in ("", "/versions", "/runs", "/triggers", "/ledger", "/policy", "/compare"):
        page.goto(model + name)
        page.wait_for_load_state("networkidle")
        save(name.strip("/") or "model")
    shoot_version(page, visit, model, save)
    shoot_runs(page, model, save)
    shoot_admin(page, visit, save)
    shoot_review(page, visit, save)
    context.close()


def shoot_version(page: Page, visit: Visit, model: str, save) -> None:  # type: ignore[no-untyped-def]
    """The live version, the pictures that flipped with it, one of them, and the audit log."""
    page.goto(f"{model}/versions")
    page.locator("tbody tr", has=page.locator(".badge.good")).locator("th a").first.click()
    page.wait_for_load_state("networkidle")
    save("version")
    page.goto(f"{model}/compare")
    more = page.locator(".shelf .all")
    if more.count():
        more.first.click()
        page.wait_for_load_state("networkidle")
        save("flips")
        page.locator(".flip a").first.click()
        page.wait_for_load_state("networkidle")
        save("image")
    page.goto(f"{visit.address}/audit")
    save("audit")
    for name in ("promote", "roll-back"):  # asked about, never done
        address = f"{model}/versions/1/promote" if name == "promote" else f"{model}/roll-back"
        page.goto(address)
        save(name)


def shoot_runs(page: Page, model: str, save) -> None:  # type: ignore[no-untyped-def]
    """The newest run, the newest of each end, and the newest full one that went live."""
    page.goto(f"{model}/runs")
    seen: dict[str, str] = {}
    for row in page.locator("tbody tr").all():
        state = row.locator(".badge").inner_text().strip().replace(", ", "-")
        address = row.locator("a").first.get_attribute("href") or ""
        seen.setdefault(state, address)
        if state == "promoted" and row.get_by_role("cell", name="full", exact=True).count():
            seen.setdefault("full", address)
    for state, address in seen.items():
        page.goto(model.split("/models/", maxsplit=1)[0] + address)
        save(f"run-{state}")
    page.goto(model)
    run_now = page.get_by_role("link", name="Run now")
    if run_now.count():  # only for those who may
        run_now.click()
        page.get_by_role("dialog").wait_for()
        save("run-now", whole=False)


def shoot_admin(page: Page, visit: Visit, save) -> None:  # type: ignore[no-untyped-def]
    """Forms are shown, never sent: the stack may be somebody's own."""
    for name in ("account", "people", "people/new", "keys", "keys/new"):
        page.goto(f"{visit.address}/{name}")
        save(name.replace("/", "-"))


def shoot_review(page: Page, visit: Visit, save) -> None:  # type: ignore[no-untyped-def]
    page.goto(f"{visit.address}/review/{visit.model}")
    page.locator("main:not([data-state=loading])").wait_for()
    page.wait_for_load_state("networkidle")
    save("review", whole=False)
    if page.locator("main[data-state=item]").count():
        page.keyboard.press(" ")
        page.locator("#sync[data-state=sent]").wait_for()
        save("review-audit", whole=False)
    page.keyboard.press("?")
    save("review-keys", whole=False)
    page.goto(f"{visit.address}/review/{visit.model}/grid")
    page.locator("main:not([data-state=loading])").wait_for()
    tiles = page.locator(".tile-button")
    for place in (1, 3):
        if tiles.count() > place:
            tiles.nth(place).click()
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_load_state("networkidle")
    save("grid", whole=False)
    page.goto(f"{visit.address}/review/{visit.model}/grid?queue=audits&by=likeness")
    page.locator("main:not([data-state=loading])").wait_for()
    page.wait_for_load_state("networkidle")
    save("grid-audits", whole=False)
    page.goto(f"{visit.address}/review/{visit.model}/reviewers")
    save("reviewers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--address", help="of a running stack")
    parser.add_argument("--user", default="ada")
    parser.add_argument("--password", help="of the user; asked for if not given")
    parser.add_argument("--model", default="solar-cells")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", nargs="*", default=(), metavar="NAME", help="pictures to be taken")
    given = parser.parse_args()
    only = frozenset(given.only)
    if given.address:
        password = given.password or getpass.getpass(f"Password of {given.user}: ")
        shoot_all(Visit(given.address.rstrip("/"), given.user, password, given.model), given.out, only)
    else:
        with run_showroom() as visit:
            shoot_all(visit, given.out, only)


if __name__ == "__main__":
    main()
