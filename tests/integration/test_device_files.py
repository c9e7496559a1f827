"""Files for devices as one asks for them: promised, made once by a worker, sent to whoever asks again."""

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import func, select, update
from werkzeug.serving import make_server

from backtalk import devicecheck, devicefiles, failpoints, upkeep
from backtalk.cli import main
from backtalk.client import Client, Problem, Unreachable
from backtalk.states import DeviceForm, Scope, VersionState
from backtalk.tables import AuditEntry, DeviceFile, OutboxEvent, Version
from demo.stack import Stack
from tests import showroom
from tests.acceptance.digits import Digits
from tests.clients import Api, assert_problem
from tests.device_files import GOLDEN, ask, path_of, run_outside, work
from tests.device_files import animals as animals  # noqa: PLC0414
from tests.device_files import integer_folder as integer_folder  # noqa: PLC0414
from tests.device_files import small_animals as small_animals  # noqa: PLC0414
from tests.device_files import write as write  # noqa: PLC0414
from tests.device_files import write_here as write_here  # noqa: PLC0414
from tests.integration.test_pages_sign_in import sign_in


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
