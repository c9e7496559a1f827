"""A served model with golden images, and its files for devices, written in the tests' own process."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select
from werkzeug.test import TestResponse

from backtalk import devicebuild, devicefiles
from backtalk.golden import write_golden
from backtalk.images import decode, to_input
from backtalk.states import DeviceForm
from backtalk.system import System
from backtalk.tables import Backbone as BackboneRow
from backtalk.tables import OutboxEvent
from tests.clients import Api
from tests.served import make_jpeg, make_served_model

DOCS = Path(__file__).parents[1] / "docs" / "devices.md"
GOLDEN = 24
Write = Callable[..., Path]


def path_of(form: str, number: int = 1) -> str:
    return f"/v1/models/animals/versions/{number}/files/{form}"


def ask(api: Api, form: str, number: int = 1, **values: Any) -> TestResponse:
    """The answer, read to its end and closed, as servers do."""
    return api.get(path_of(form, number), buffered=True, **values)


def add_golden(system: System) -> None:
    pictures = [make_jpeg(seed) for seed in range(GOLDEN)]
    inputs = np.stack([to_input(decode(one).pixels, 32) for one in pictures])
    write_golden(system.versions.golden_path("animals"), inputs, pictures)


@pytest.fixture(scope="module")
def integer_folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """The tiny backbone in 8-bit integers."""
    backbones = pytest.importorskip("backtalk.learn.backbones")
    store = tmp_path_factory.mktemp("integer")
    images = [to_input(decode(make_jpeg(seed)).pixels, 32) for seed in range(100, 140)]
    made = backbones.put_quantised(store, tiny_folder, images)
    return store / "_backbones" / str(made.digest)


@pytest.fixture
def animals(api: Api, tiny_folder: Path) -> Api:
    make_served_model(api.system, tiny_folder)
    add_golden(api.system)
    return api


@pytest.fixture
def small_animals(api: Api, integer_folder: Path, tiny_folder: Path) -> Api:
    """The same with an 8-bit backbone."""
    make_served_model(api.system, integer_folder)
    with api.system.db.transaction() as session:
        session.get_one(BackboneRow, integer_folder.name).quantised_from = tiny_folder.name
    add_golden(api.system)
    return api


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file in this process, which has TensorFlow loaded: a trainer takes five seconds to start."""
    wholemodel = pytest.importorskip("backtalk.learn.wholemodel")

    def do(system: System, form: DeviceForm, number: int = 1) -> Path:
        target = tmp_path / f"{form}.tflite"
        command = {
            "head": str(system.versions.root / "animals" / str(number) / "head.npz"),
            "store": str(system.versions.root),
            "golden": str(system.versions.golden_path("animals")),
            "form": str(form),
            "target": str(target),
            "name": "animals",
            "version": str(number),
            "text": "Cats, dogs and owls.",
            "author": "Ada",
            "licence": "CC0-1.0",
        }
        assert wholemodel.write_whole_model(command) == {"byte_size": target.stat().st_size}
        return target

    return do


@pytest.fixture
def write_here(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in the place of the trainer."""
    wholemodel = pytest.importorskip("backtalk.learn.wholemodel")

    class Here:
        @classmethod
        def start(cls) -> "Here":
            return cls()

        def call(self, command: dict[str, Any], **_: Any) -> dict[str, Any]:
            return wholemodel.write_whole_model(command)

        def close(self) -> None:
            pass

    monkeypatch.setattr(devicebuild, "Trainer", Here)


def work(system: System) -> int:
    """What relay and worker do with the doorbells that were not rung; how many there were."""
    with system.db.transaction() as session:
        rows = session.scalars(select(OutboxEvent).where(OutboxEvent.published_at.is_(None))).all()
        asked = [row.payload["device_file_id"] for row in rows if row.event == "DeviceFileAsked"]
        for row in rows:
            row.published_at = func.now()
    for number in asked:
        devicefiles.make_file(system, int(str(number)), lambda: False)
    return len(asked)


def run_outside(folder: Path, model: Path, picture: bytes) -> tuple[str, np.ndarray]:
    """The lines of docs/devices.md in a fresh Python that knows nothing of Backtalk."""
    (code,) = re.findall(r"```python\n(import sys, zipfile.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    guard = 'assert not any(name.split(".")[0] in ("backtalk", "tensorflow") for name in sys.modules)\n'
    (folder / "run.py").write_text(code + guard, encoding="utf-8")
    (folder / "photo.jpg").write_bytes(picture)
    command = [sys.executable, "-I", "run.py", model, "photo.jpg"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    label, *scores = done.stdout.split()
    return label, np.array(scores, float)
