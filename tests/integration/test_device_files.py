"""Versions as single files for devices: made once, checked, and run by nothing of Backtalk's."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sqlalchemy import func, select, update
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from backtalk import devicebuild, devicecheck, devicefiles, failpoints, upkeep
from backtalk.cli import main
from backtalk.client import Client, Problem, Unreachable
from backtalk.devicecheck import check_file, read_labels
from backtalk.errors import ArtefactInvalid
from backtalk.golden import read_golden, write_golden
from backtalk.heads import Head
from backtalk.images import decode, to_input
from backtalk.runtime import Backbone
from backtalk.states import DeviceForm, Scope, VersionState
from backtalk.system import System
from backtalk.tables import AuditEntry, DeviceFile, OutboxEvent, Version
from backtalk.tables import Backbone as BackboneRow
from demo.stack import Stack
from tests import showroom
from tests.acceptance.digits import Digits
from tests.clients import Api, assert_problem
from tests.integration.test_pages_sign_in import sign_in
from tests.served import LABELS, make_jpeg, make_served_model

DOCS = Path(__file__).parents[2] / "docs" / "devices.md"
GOLDEN = 24
FLOAT_FORMS = (DeviceForm.FLOAT32, DeviceForm.FLOAT16, DeviceForm.DYNAMIC)
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


# --- outside of Backtalk -----------------------------------------------------------------------
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


@pytest.mark.parametrize("form", DeviceForm)
def test_each_form_runs_outside_of_backtalk_and_says_what_the_api_says(
    form: DeviceForm, request: pytest.FixtureRequest, write: Write, tmp_path: Path
) -> None:
    api: Api = request.getfixturevalue("small_animals" if form is DeviceForm.INT8 else "animals")
    file = write(api.system, form)
    picture = make_jpeg(501, (90, 70))
    answer = api.post("/v1/models/animals:predict", data=picture, content_type="image/jpeg")
    (said,) = answer.get_json()["predictions"]
    label, scores = run_outside(tmp_path, file, picture)
    assert label == said["label"]
    assert np.abs(scores - said["scores"]).max() < (1e-3 if form is DeviceForm.FLOAT32 else 0.05)


@pytest.mark.parametrize("form", [*FLOAT_FORMS, DeviceForm.INT8])
def test_each_form_agrees_with_what_serves_on_the_golden_images(
    form: DeviceForm, request: pytest.FixtureRequest, write: Write
) -> None:
    api: Api = request.getfixturevalue("small_animals" if form is DeviceForm.INT8 else "animals")
    head = Head.load(api.system.versions.root / "animals" / "1" / "head.npz")
    backbone = Backbone(api.system.versions.backbone_dir(head.backbone_digest), 1)
    golden = read_golden(api.system.versions.golden_path("animals"))
    found = check_file(write(api.system, form), form, head, backbone, golden)
    assert found["n"] == GOLDEN
    assert found["same_label"] >= 0.95
    assert found["max_abs_diff"] < (1e-3 if form is DeviceForm.FLOAT32 else 0.1)


def test_smaller_forms_are_smaller_and_the_integer_one_knows_no_float(
    animals: Api, write: Write, integer_folder: Path, tiny_folder: Path
) -> None:
    sizes = [write(animals.system, form).stat().st_size for form in FLOAT_FORMS]
    assert sizes == sorted(sizes, reverse=True)
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    integers = pytest.importorskip("backtalk.learn.integers")
    head = Head(
        np.ones((3, 16), np.float32), np.zeros(3, np.float32), 1.0, LABELS, integer_folder.name
    )  # only its shape counts here
    backbone = (integer_folder / "backbone.tflite").read_bytes()
    joined = integers.join_integer_head(backbone, head, np.ones((2, 3), np.float32))
    graph = schema.ModelT.InitFromPackedBuf(joined, 0).subgraphs[0]
    used = {int(n) for operator in graph.operators for n in [*operator.inputs, *operator.outputs]}
    floats = [graph.tensors[n].name for n in used if graph.tensors[n].type == schema.TensorType.FLOAT32]
    assert floats == []
    with pytest.raises(ArtefactInvalid, match="does not begin"):
        integers.join_integer_head((tiny_folder / "backbone.tflite").read_bytes(), head, np.ones((2, 3)))


def find_misaligned(data: bytes) -> list[int]:
    """Buffers of weights that do not begin at a multiple of 16 bytes, as the schema wants them to."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    model = schema.Model.GetRootAs(data, 0)
    start = np.frombuffer(data, np.uint8).ctypes.data
    buffers = [model.Buffers(number) for number in range(model.BuffersLength())]
    return [n for n, one in enumerate(buffers) if one.DataLength() and _offset(one, start) % 16]


def _offset(buffer: Any, start: int) -> int:
    return int(buffer.DataAsNumpy().ctypes.data) - start


def test_the_file_tells_its_labels_and_what_it_is_by_the_published_convention(
    animals: Api, write: Write
) -> None:
    file = write(animals.system, DeviceForm.FLOAT32)
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.testzip() is None
    assert read_labels(file) == LABELS
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromPackedBuf(file.read_bytes(), 0)
    (entry,) = [one for one in model.metadata if one.name == b"TFLITE_METADATA"]
    metadata = model.buffers[entry.buffer].data.tobytes()
    assert metadata[4:8] == b"M001"
    for word in (b"animals", b"Cats, dogs and owls.", b"Ada", b"CC0-1.0", b"labels.txt", b"scores"):
        assert word in metadata
    (signature,) = model.signatureDefs
    assert [one.name for one in (*signature.inputs, *signature.outputs)] == [b"image", b"scores"]
    first = file.read_bytes()
    assert find_misaligned(first) == []
    file.unlink()
    assert write(animals.system, DeviceForm.FLOAT32).read_bytes() == first  # the same version, the same bytes
    file.write_bytes(first[:-40])
    with pytest.raises(ArtefactInvalid, match="no labels"):
        read_labels(file)


# --- over the API ------------------------------------------------------------------------------
def test_a_file_is_promised_then_made_once_then_sent_to_whoever_asks(animals: Api, write_here: None) -> None:
    first = ask(animals, "float16")
    assert (first.status_code, first.get_json()) == (
        202,
        {"model": "animals", "version": 1, "form": "float16"},
    )
    assert first.headers["Location"] == path_of("float16")
    assert int(first.headers["Retry-After"]) > 0
    assert ask(animals, "float16").status_code == 202
    assert work(animals.system) == 1  # asked for twice, rung for once
    answer = ask(animals, "float16")
    assert answer.status_code == 200
    digest = hashlib.sha256(answer.data).hexdigest()
    assert answer.headers["ETag"] == f'"{digest}"'
    assert answer.headers["Content-Disposition"] == "attachment; filename=animals-1-float16.tflite"
    same = ask(animals, "float16", headers={"If-None-Match": answer.headers["ETag"]})
    assert (same.status_code, same.data) == (304, b"")
    rest = ask(animals, "float16", headers={"Range": "bytes=100-"})
    assert (rest.status_code, rest.data) == (206, answer.data[100:])
    with animals.system.db.reading() as session:
        row = session.scalars(select(DeviceFile)).one()
        entries = session.scalars(select(AuditEntry).where(AuditEntry.action == "version.download")).all()
    assert (row.sha256, row.byte_size, row.checked["n"]) == (digest, len(answer.data), GOLDEN)
    assert len(entries) == 2  # whoever had it already took nothing
    assert entries[0].detail == {"version": 1, "form": "float16"}
    assert work(animals.system) == 0


def test_a_file_that_is_gone_or_damaged_is_never_sent_but_made_anew(animals: Api, write_here: None) -> None:
    def fetch() -> bytes:
        assert ask(animals, "dynamic").status_code == 202
        assert work(animals.system) == 1
        return ask(animals, "dynamic").data

    whole = fetch()
    (path,) = animals.system.versions.root.glob("animals/.devices/*")
    path.write_bytes(whole[:-1] + b"!")
    assert fetch() == whole
    path.unlink()
    assert fetch() == whole


def test_whoever_asks_again_after_a_minute_rings_a_lost_doorbell_again(
    animals: Api, write_here: None
) -> None:
    assert ask(animals, "float32").status_code == 202
    with animals.system.db.transaction() as session:
        session.execute(update(OutboxEvent).values(published_at=func.now()))  # rung for; nobody heard it
        session.execute(update(DeviceFile).values(asked_at=func.now() - timedelta(seconds=61)))
    assert ask(animals, "float32").status_code == 202
    assert work(animals.system) == 1
    assert ask(animals, "float32").status_code == 200


def test_many_who_ask_at_once_ring_one_doorbell(animals: Api, write_here: None) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(animals, "float16").status_code, range(8)))
    assert answers == [202] * 8
    assert work(animals.system) == 1


def test_a_form_that_does_not_agree_is_refused_with_the_reason_and_leaves_nothing(
    animals: Api, write_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = devicecheck.Bound(1.01, 0.0, None)
    monkeypatch.setitem(devicecheck.BOUNDS, DeviceForm.DYNAMIC, strict)
    assert ask(animals, "dynamic").status_code == 202
    work(animals.system)
    problem = assert_problem(ask(animals, "dynamic"), 409, "artefact-invalid")
    assert "golden images the label that it gives here" in problem["detail"]
    assert list(animals.system.versions.root.glob("animals/.devices/*")) == []
    assert work(animals.system) == 0
    monkeypatch.undo()
    with animals.system.db.transaction() as session:  # ten minutes later it is tried again
        session.execute(update(DeviceFile).values(settled_at=func.now() - timedelta(minutes=11)))
    assert ask(animals, "dynamic").status_code == 202


def test_a_worker_whose_disk_is_full_says_so_and_leaves_nothing_half(animals: Api, write_here: None) -> None:
    folder = animals.system.versions.root / "animals" / ".devices"
    for place in ("devicefile.before_sync", "devicefile.before_rename"):
        failpoints.arm(f"{place}=disk-full")
        try:
            assert ask(animals, "float16").status_code == 202
            work(animals.system)
        finally:
            failpoints.arm(None)
        problem = assert_problem(ask(animals, "float16"), 409, "artefact-invalid")
        assert "The disk is full. Make room" in problem["detail"]
        assert list(folder.iterdir()) == []
        with animals.system.db.transaction() as session:
            session.execute(update(DeviceFile).values(settled_at=func.now() - timedelta(minutes=11)))
    assert ask(animals, "float16").status_code == 202
    work(animals.system)
    assert ask(animals, "float16").status_code == 200


def test_what_cannot_be_had_is_refused_at_once_in_a_sentence(animals: Api) -> None:
    assert_problem(ask(animals, "int4"), 422)
    assert_problem(ask(animals, "float16", 9), 404, "version-not-found")
    assert_problem(animals.get("/v1/models/plants/versions/1/files/float16"), 404, "model-not-found")
    assert_problem(animals.as_key("predict", "promote").get(path_of("float16")), 403)
    problem = assert_problem(ask(animals, "int8"), 422, "invalid-input")
    assert "recipe int8" in problem["detail"]
    with animals.system.db.transaction() as session:
        rows = {row.number: row for row in session.scalars(select(Version))}
        rows[2].pruned_at = func.now()
    animals.system.versions.discard("animals/2")
    problem = assert_problem(ask(animals, "float16", 2), 409, "artefact-invalid")
    assert "pruned to save room" in problem["detail"]
    with animals.system.db.transaction() as session:
        session.execute(update(Version).where(Version.number == 1).values(state=VersionState.QUARANTINED))
    assert "quarantined" in assert_problem(ask(animals, "float16"), 409)["detail"]
    with animals.system.db.reading() as session:
        assert session.scalar(select(func.count()).select_from(DeviceFile)) == 0


def test_an_8_bit_version_has_the_one_form_and_a_pruned_one_its_head(
    small_animals: Api, write_here: None
) -> None:
    problem = assert_problem(ask(small_animals, "float32"), 422)
    assert "has the form int8" in problem["detail"]
    with small_animals.system.db.transaction() as session:  # its SavedModel is gone, its head is not
        session.execute(update(Version).where(Version.number == 1).values(pruned_at=func.now()))
    assert ask(small_animals, "int8").status_code == 202
    work(small_animals.system)
    assert ask(small_animals, "int8").status_code == 200


def test_old_files_make_room_and_torn_ones_are_swept(animals: Api, write_here: None) -> None:
    folder = animals.system.versions.root / "animals" / ".devices"
    folder.mkdir()
    for number in range(20, 32):
        (folder / f"{number}-float16.tflite").write_bytes(b"old")
    torn = folder / f".1-float16.tflite.{'a' * 32}"
    torn.write_bytes(b"half")
    assert ask(animals, "float16").status_code == 202
    work(animals.system)
    assert len(list(folder.glob("*.tflite"))) == devicefiles.KEPT
    assert ask(animals, "float16").status_code == 200
    upkeep.sweep(animals.system)
    assert torn.exists()  # somebody may be at it
    os.utime(torn, (1, 1))
    upkeep.sweep(animals.system)
    assert not torn.exists()


# --- on the command line -----------------------------------------------------------------------
@pytest.fixture
def backtalk(animals: Api, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    settings = animals.system.settings
    monkeypatch.setenv("BACKTALK_DATABASE_URL", str(settings.database_url))
    monkeypatch.setenv("BACKTALK_HOME", str(settings.home))
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


def test_the_command_line_writes_a_file_by_a_real_trainer_and_says_how_it_agrees(
    backtalk: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKTALK_LICENCE", "CC-BY-4.0")
    out = tmp_path / "out"
    out.mkdir()
    done = backtalk("export-device", "animals", out, "--form", "float16")
    assert done.exit_code == 0, done.output
    file = out / "animals-1-float16.tflite"
    assert list(out.iterdir()) == [file]
    assert hashlib.sha256(file.read_bytes()).hexdigest() in done.stdout
    assert "100.0%" in done.stdout
    assert b"CC-BY-4.0" in file.read_bytes()


def test_the_command_line_refuses_in_one_sentence_and_leaves_nothing_behind(
    backtalk: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()

    def refuse(*words: object) -> str:
        done = backtalk("export-device", *words)
        assert done.exit_code == 1
        assert list(out.iterdir()) == []
        (sentence,) = done.stderr.strip().splitlines()
        return str(sentence)

    file = out / "a.tflite"
    assert "no form 'tiny'" in refuse("animals", file, "--form", "tiny")
    assert "no version 7" in refuse("animals", file, "--version", "7")
    assert "no model 'plants'" in refuse("plants", file)
    assert "no folder" in refuse("animals", out / "there" / "a.tflite")
    monkeypatch.setenv("BACKTALK_FAILPOINTS", "devicefile.before_sync=disk-full")
    try:
        assert "The disk is full. Make room" in refuse("animals", file)
    finally:
        failpoints.arm(None)  # the command armed them in this process, too


# --- as it is told ------------------------------------------------------------------------------
def test_the_openapi_document_says_what_the_call_answers(animals: Api) -> None:
    document = json.loads(animals.get("/openapi.json").data)
    (path,) = [one for one in document["paths"] if "/files/" in one]
    answers = document["paths"][path]["get"]["responses"]
    assert {"200", "202", "206", "304", "404", "409", "416", "422"} <= set(answers)
    assert "Retry-After" in answers["202"]["headers"]


def test_the_client_waits_until_the_file_is_made(animals: Api, write_here: None) -> None:
    server = make_server("127.0.0.1", 0, animals.app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    worker = threading.Timer(0.5, work, [animals.system])
    worker.start()
    try:
        with Client(f"http://127.0.0.1:{server.port}", animals.token) as client:
            data = client.device_file("animals", 1, "dynamic")
            with pytest.raises(Problem, match="recipe int8"):
                client.device_file("animals", 1, "int8")
            with pytest.raises(Unreachable, match="not made within"):
                client.device_file("animals", 2, "dynamic", wait_s=0)
    finally:
        worker.join()
        server.shutdown()
        server.server_close()
    assert data == ask(animals, "dynamic").data


# --- on the page -------------------------------------------------------------------------------
def test_the_page_lists_the_forms_waits_for_a_file_and_saves_it(animals: Api, write_here: None) -> None:
    showroom.add_person(animals.system, scopes=(Scope.PROMOTE,))
    browser = animals.app.test_client()
    sign_in(browser)
    page = browser.get("/models/animals/versions/1").text
    assert re.findall(r"device/(\w+)\.tflite", page) == ["float32", "float16", "dynamic"]
    address = "/models/animals/versions/1/device/dynamic.tflite"
    waiting = browser.get(address)
    assert waiting.status_code == 202
    assert "is being made" in waiting.text
    assert int(waiting.headers["Refresh"]) > 0
    work(animals.system)
    saved = browser.get(address, buffered=True)
    assert saved.status_code == 200
    assert saved.headers["X-Content-Type-Options"] == "nosniff"
    assert saved.data == ask(animals, "dynamic").data
    assert browser.get("/models/animals/versions/1/device/float64.tflite").status_code == 422
    chinese = {"Accept-Language": "zh"}
    assert "配方 int8" in browser.get(address.replace("dynamic", "int8"), headers=chinese).text
    with animals.system.db.transaction() as session:
        session.execute(update(Version).where(Version.number == 1).values(state=VersionState.QUARANTINED))
    assert browser.get(address).status_code == 409
    showroom.add_person(animals.system, "bob", (Scope.FEEDBACK,))
    reader = animals.app.test_client()
    sign_in(reader, "bob")
    assert reader.get(address).status_code == 403


@pytest.mark.slow
def test_a_running_stack_makes_the_file_by_its_own_workers(tmp_path: Path) -> None:
    with Stack(tmp_path / "home", {"BACKTALK_WARM_TRAINER": "false"}) as stack:
        images = Digits().write_folder(120, tmp_path / "digits")
        stack.run("models", "create", "digits", "--from", images, "--backbone", "tiny")
        key = stack.create_key("fleet", "train", "predict", "feedback")
        with Client(stack.address, key) as client:
            file = tmp_path / "digits.tflite"
            file.write_bytes(client.device_file("digits", 1, "float16"))
            picture = Digits().take(150, inverted=False)[-1].png  # not one that the model was made from
            label, scores = run_outside(tmp_path, file, picture)
            assert label == client.predict("digits", picture).label
            recorded = client.record("digits", picture, label, version=1, scores=scores.tolist())
            other = next(one for one in client.model("digits")["labels"] if one != label)
            assert client.correct(recorded, other).state == "pending"
