"""A backup of a system that goes on working, restored into an empty one: the same rows, the same answers."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import numpy as np
import psycopg
import pytest
from sqlalchemy import func, select

from backtalk import (
    backups,
    bootstrap,
    deletion,
    feedback,
    images,
    removals,
    restoring,
    schema,
    upkeep,
    verification,
)
from backtalk.backupfiles import DESCRIPTION, Description
from backtalk.callers import Caller
from backtalk.champions import rewrite_models_config
from backtalk.db import get_driver
from backtalk.dumps import dump_tables, list_tables
from backtalk.errors import BackupInvalid, Conflict
from backtalk.golden import write_golden
from backtalk.image_files import ImageStore
from backtalk.servers import PostgresServer
from backtalk.serving import LiveModels
from backtalk.states import Scope
from backtalk.system import System
from backtalk.tables import Correction, Image, Model, Prediction
from tests import factories
from tests.served import make_jpeg, make_served_model

ADMIN = Caller(actor="key:app", name="app", scopes=frozenset(Scope), key_id="app", trusted=True)


def say_nothing(_part: str, _done: float, _total: float) -> None:
    pass


@pytest.fixture
def live(system: System, tiny_folder: Path) -> LiveModels:
    make_served_model(system, tiny_folder)
    golden = [make_jpeg(99)]
    inputs = np.stack([images.to_input(images.decode(one).pixels, 8) for one in golden])
    write_golden(system.versions.golden_path("animals"), inputs, golden)
    rewrite_models_config(system)
    return LiveModels(system)


@pytest.fixture
def other(system: System, postgres_server: PostgresServer, tmp_path: Path) -> Iterator[System]:
    """An empty system: another home, another database."""
    with psycopg.connect(postgres_server.url().replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS restored WITH (FORCE)")
    url = postgres_server.create_database("restored")
    schema.prepare(url)
    settings = system.settings.model_copy(update={"database_url": url, "home": tmp_path / "other"})
    built = bootstrap.build(settings, pool_size=5)
    yield built
    built.close()


def restore(other: System, folder: Path) -> Description:
    return restoring.restore(other, other.settings.database_url or "", folder, say_nothing)


def predict(live: LiveModels, seed: int) -> str:
    return live.predict("animals", [make_jpeg(seed)], ADMIN).predictions[0].id


def correct(system: System, prediction: str) -> str:
    with system.db.transaction() as session:
        said = session.get_one(Prediction, UUID(prediction)).label
        label = next(one for one in ("cat", "dog", "owl") if one != said)
        made = feedback.record_correction(session, caller=ADMIN, prediction_id=prediction, label=label)
    return str(made.id)


def read_all(system: System) -> dict[str, list[str]]:
    """Every row of every table, as text."""
    with system.db.reading() as session:
        connection = get_driver(session.connection())
        return {
            table: sorted(row[0] for row in connection.execute(f'SELECT t::text FROM "{table}" t'))
            for table in list_tables(connection)
        }


def list_files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_what_is_restored_is_what_was_there_and_answers_alike(
    system: System, live: LiveModels, other: System, tmp_path: Path
) -> None:
    predictions = [predict(live, seed) for seed in range(4)]
    correction = correct(system, predictions[0])
    deletion.delete_image(system, image_id=str(image_of(system, predictions[3]).id), caller=ADMIN)
    before = read_all(system)
    made = backups.back_up(system, tmp_path / "backup", say_nothing)
    assert read_all(system) == before
    answer = live.predict("animals", [make_jpeg(1)], ADMIN)
    files = list_files(system.images.root)
    said = [(f.model, f.subject, f.problem) for f in verification.verify(system)]
    shutil.rmtree(system.settings.home)

    restore(other, tmp_path / "backup")
    assert {name: table["rows"] for name, table in made.dump.tables.items() if name in before} == {
        name: len(rows) for name, rows in before.items()
    }
    assert read_all(other) == before
    assert list_files(other.images.root) == files
    assert [(f.model, f.subject, f.problem) for f in verification.verify(other, every_byte=True)] == said
    again = LiveModels(other).predict("animals", [make_jpeg(1)], ADMIN)
    assert again.predictions[0].scores == answer.predictions[0].scores
    with other.db.reading() as session:
        assert session.get_one(Correction, UUID(correction)).state == "pending"
    with other.db.transaction() as session:  # numbers go on where they were
        model = factories.make_model(session, "another", live=False)
        assert model.id > session.scalars(select(Model.id).where(Model.name == "animals")).one()


def image_of(system: System, prediction: str) -> Image:
    with system.db.reading() as session:
        return session.get_one(Image, session.get_one(Prediction, UUID(prediction)).image_id)


def test_a_backup_under_traffic_is_of_one_moment(
    system: System, live: LiveModels, other: System, tmp_path: Path
) -> None:
    stopping, failures = threading.Event(), []

    def work() -> None:
        seed = 0
        try:
            while not stopping.is_set():
                seed += 1
                correct(system, predict(live, seed))
                upkeep.sweep(system)
        except Exception as error:  # noqa: BLE001  # the test reads it
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    for number in range(3):
        backups.back_up(system, tmp_path / f"backup{number}", say_nothing)
    stopping.set()
    thread.join()
    assert failures == []
    restore(other, tmp_path / "backup2")
    found = [f for f in verification.verify(other, every_byte=True) if f.subject == "images"]
    assert [finding.problem for finding in found] == [None]
    with other.db.reading() as session:
        predictions = session.scalar(select(func.count()).select_from(Prediction)) or 0
        corrections = session.scalar(select(func.count()).select_from(Correction)) or 0
    assert 0 <= predictions - corrections <= 1
    assert 0 < predictions < (count(system, Prediction) or 0) + 1


def count(system: System, table: type) -> int | None:
    with system.db.reading() as session:
        return session.scalar(select(func.count()).select_from(table))


def test_upkeep_removes_nothing_while_a_backup_runs(system: System, live: LiveModels) -> None:
    image = image_of(system, predict(live, 1))
    from backtalk.tombstones import drop_pixels, lock_images

    with system.db.transaction() as session:
        drop_pixels(session, lock_images(session, [image.id]))
    with backups._nothing_removed(system):
        assert removals.remove_pending(system) == 0
        assert removals.sweep_orphans(system) == 0
        assert list(system.images.keys()) == [image.store_key]
    assert removals.remove_pending(system) == 1
    assert list(system.images.keys()) == []


def test_an_image_that_is_deleted_during_a_backup_is_deleted_in_it(
    system: System, live: LiveModels, other: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prediction = predict(live, 1)
    image = image_of(system, prediction)
    locate = ImageStore.locate

    def locate_too_late(store: ImageStore, key: str) -> Path:
        deletion.delete_image(system, image_id=str(image.id), caller=ADMIN)
        return locate(store, key)

    monkeypatch.setattr(ImageStore, "locate", locate_too_late)
    made = backups.back_up(system, tmp_path / "backup", say_nothing)
    assert (made.deleted_meanwhile, made.missing) == ([image.store_key], [])
    monkeypatch.undo()
    restore(other, tmp_path / "backup")
    found = image_of(other, prediction)
    assert found.deleted_at is not None
    assert (found.pixels_sha256, found.store_key) == (None, None)


def test_an_image_that_was_lost_before_is_named(system: System, live: LiveModels, tmp_path: Path) -> None:
    image = image_of(system, predict(live, 1))
    system.images.set_aside(image.store_key or "")
    assert backups.back_up(system, tmp_path / "backup", say_nothing).missing == [image.store_key]


# --- refusals ----------------------------------------------------------------------------------
def test_a_backup_goes_into_an_empty_folder_only(system: System, live: LiveModels, tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "letter").touch()
    with pytest.raises(Conflict, match="not empty"):
        backups.back_up(system, tmp_path / "backup", say_nothing)


@pytest.mark.parametrize("what", ["rows", "images", "versions"])
def test_nothing_is_restored_over_what_is_there(
    system: System, live: LiveModels, other: System, tmp_path: Path, what: str
) -> None:
    backups.back_up(system, tmp_path / "backup", say_nothing)
    if what == "rows":
        with other.db.transaction() as session:
            factories.make_model(session, "mine", live=False)
    elif what == "images":
        other.images.put("ab" * 32, b"mine")
    else:
        (other.versions.root / "mine").mkdir(parents=True)
        (other.versions.root / "mine" / "head.npz").touch()
    with pytest.raises(Conflict, match="not empty"):
        restore(other, tmp_path / "backup")
    assert (count(other, Model) or 0) == (1 if what == "rows" else 0)


@pytest.mark.parametrize("harm", ["no description", "a changed byte", "a missing file", "changed sums"])
def test_a_backup_that_is_not_whole_is_refused_before_anything_is_touched(
    system: System, live: LiveModels, other: System, tmp_path: Path, harm: str
) -> None:
    predict(live, 1)
    folder = tmp_path / "backup"
    backups.back_up(system, folder, say_nothing)
    victim = next(path for path in sorted((folder / "images").rglob("*")) if path.is_file())
    if harm == "no description":
        (folder / DESCRIPTION).unlink()
    elif harm == "a changed byte":
        victim.write_bytes(victim.read_bytes()[:-1] + b"\0")
    elif harm == "a missing file":
        victim.unlink()
    else:
        (folder / "SHA256SUMS").write_text("")
    with pytest.raises(BackupInvalid):
        restore(other, folder)
    assert count(other, Model) == 0
    assert list_files(other.settings.home) == {}


def test_a_backup_of_a_later_release_is_refused(
    system: System, live: LiveModels, other: System, tmp_path: Path
) -> None:
    folder = tmp_path / "backup"
    made = backups.back_up(system, folder, say_nothing)
    said = (folder / DESCRIPTION).read_text()
    (folder / DESCRIPTION).write_text(said.replace(f'"{made.dump.revision}"', '"9999"'))
    with pytest.raises(BackupInvalid, match="later one"):
        restore(other, folder)


def test_a_restore_that_broke_off_is_begun_again(
    system: System, live: LiveModels, other: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prediction = predict(live, 1)
    folder = tmp_path / "backup"
    backups.back_up(system, folder, say_nothing)
    for step in ("_load", "_bury_deleted", "rewrite_models_config"):
        with monkeypatch.context() as broken:
            broken.setattr(restoring, step, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                restore(other, folder)
    restore(other, folder)
    assert image_of(other, prediction).store_key is not None
    assert not (other.settings.home / restoring.MARK).exists()
    with pytest.raises(Conflict, match="not empty"):
        restore(other, folder)


def test_a_backup_of_an_earlier_schema_is_brought_up_to_date(
    postgres_server: PostgresServer, other: System, tmp_path: Path
) -> None:
    url = other.settings.database_url or ""
    schema.downgrade(url)
    schema.upgrade(url, "0004")
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute(
            "INSERT INTO models (name, labels, salt, eval_share) VALUES ('old', '{cat,dog}', 'salt', 0.2)"
        )
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        dump = dump_tables(connection, tmp_path / "tables", say_nothing)
    assert dump.revision == "0004"
    restoring._load(url, Description("now", "0", dump), tmp_path, say_nothing)
    schema.prepare(url)
    with other.db.reading() as session:
        assert schema.find_revision(session) == schema.newest_revision()
        assert session.scalars(select(Model.name)).all() == ["old"]
