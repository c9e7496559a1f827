"""The home folder is destroyed and comes back: the same answers and receipts, and everything verifies."""

import json
import os
import shutil
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from backtalk.home import find_stack
from tests.acceptance.digits import Digits
from tests.acceptance.test_up import Up, backtalk
from tests.acceptance.test_up import home as home  # noqa: PLC0414  # a fixture
from tests.acceptance.test_up import started as started  # noqa: PLC0414

pytestmark = pytest.mark.slow


def call(home: Path, key: str, path: str, body: bytes | None = None) -> dict[str, Any]:
    stack = find_stack(home)
    assert stack is not None
    headers = {"Authorization": f"Bearer {key}"}
    if path.endswith("corrections"):
        headers["Content-Type"] = "application/json"
    asked = urllib.request.Request(f"{stack.address}{path}", data=body, headers=headers)
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return dict(json.loads(answer.read()))


def predict(home: Path, key: str, png: bytes) -> dict[str, Any]:
    return dict(call(home, key, "/v1/models/digits:predict", png)["predictions"][0])


def run(home: Path, *words: str) -> str:
    done = backtalk(home, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_destroyed_home_comes_back_from_its_backup(
    home: Path, started: Callable[..., Up], tmp_path: Path
) -> None:
    digits, folder = Digits(), tmp_path / "backup"
    up = started(home)
    up.wait_until_ready()
    run(home, "models", "create", "digits", "--from", str(digits.write_folder(120, tmp_path / "base")))
    key = run(home, "keys", "create", "--name", "app", "--scopes", "predict,feedback").strip()
    shown = digits.take(1, inverted=False)[0]
    first = predict(home, key, shown.png)
    wrong = json.dumps({"label": "one" if first["label"] == "zero" else "zero"}).encode()
    said = call(home, key, f"/v1/predictions/{first['id']}/corrections", wrong)
    receipt = call(home, key, f"/v1/corrections/{said['id']}")

    assert "rows and" in run(home, "backup", str(folder))  # the stack runs on
    assert "not empty" in backtalk(home, "backup", str(folder)).stderr
    assert "stop it, then restore" in backtalk(home, "restore", str(folder)).stderr
    below = up.descendants()
    os.kill(up.process.pid, signal.SIGKILL)
    up.process.wait(30)
    assert not psutil.wait_procs(below, timeout=30)[1]
    shutil.rmtree(home)

    assert "checks hold" in run(home, "restore", str(folder))
    assert "not empty" in backtalk(home, "restore", str(folder)).stderr
    assert "BAD" not in run(home, "verify", "--every-byte")
    started(home).wait_until_ready()
    again = predict(home, key, shown.png)
    assert (again["label"], again["scores"]) == (first["label"], first["scores"])
    assert again["id"] != first["id"]
    assert call(home, key, f"/v1/corrections/{said['id']}") == receipt
    assert call(home, key, f"/v1/predictions/{first['id']}")["image"] == receipt["image"]
