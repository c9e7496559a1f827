"""Browsers for the tests that need one."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from backtalk.system import System
from tests import showroom
from tests.desks import FLAGS, Desk


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path, "these tests need Chromium on the PATH (Debian: apt-get install chromium)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def desks(chromium: Browser, system: System) -> Iterator[list[Desk]]:
    """Two browsers at the same site."""
    with showroom.serve(system) as address:
        made = [Desk(chromium, address) for _ in range(2)]
        yield made
        for desk in made:
            desk.context.close()


@pytest.fixture
def desk(desks: list[Desk]) -> Desk:
    return desks[0]
