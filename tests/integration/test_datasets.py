"""Datasets: a snapshot as a folder, listed, and held against another."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from PIL import Image as Pictures
from pyarrow import parquet
from sqlalchemy import select

from backtalk import catalogue, datasets, snapshots
from backtalk.callers import Caller
from backtalk.dataset import Labelled, put_sample
from backtalk.datasetfiles import read_dataset
from backtalk.errors import Conflict, DatasetInvalid, SnapshotNotFound
from backtalk.groups import Candidate, Source, place_images
from backtalk.images import decode, pixels_digest
from backtalk.serving import LiveModels
from backtalk.states import Origin, Scope, Side, Split
from backtalk.sums import write_sums
from backtalk.system import System
from backtalk.tables import (
    Image,
    Model,
    Prediction,
    Sample,
)
from tests import factories as make
from tests.integration.test_backups import other as other  # noqa: PLC0414
from tests.integration.test_cli import backtalk as backtalk  # noqa: PLC0414
from tests.served import make_jpeg, make_served_model

APP = Caller("key:app", "app", frozenset(Scope), key_id="app", trusted=True)
LABELLED = range(14)


@pytest.fixture
def taught(system: System, tiny_folder: Path) -> System:
    """A model that predicted thirty pictures, was taught fourteen, and heard nothing of the others."""
    make_served_model(system, tiny_folder)
    with_orientation = Pictures.Exif()
    with_orientation[0x0112] = 6
    pictures = [make_jpeg(seed) for seed in range(29)] + [make_jpeg(29, exif=with_orientation)]
    live = LiveModels(system)
    answers = [live.predict("animals", [picture], APP).predictions[0] for picture in pictures]
    live.close()
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        make.add(
            session, make.tables.ApiKey(id="app", name="app", secret_sha256="0" * 64, scopes=["predict"])
        )
        rows = [session.get_one(Prediction, UUID(answer.id)) for answer in answers]
        make.make_correction(session, rows[0], "owl")  # the key speaks: its silence says something
        for number in [*LABELLED, 29]:
            teach(session, model, rows[number].image_id, model.labels[number % 3])
    return system


def teach(session, model: Model, image_id: UUID, label: str) -> Sample | None:
    image = session.get_one(Image, image_id)
    [side] = place_images(
        session, model, [Candidate(image.id, image.pixels_sha256, image.perceptual_hash)], Source.TRAFFIC
    ).values()
    labelled = Labelled(image_id, label, Origin.CORRECTION, by_person=True, audited=False)
    return put_sample(session, model, side or Side.TRAIN, labelled)


def freeze(system: System) -> str:
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        version = catalogue.get_version(session, model, 1)
        return snapshots.take_snapshot(session, model, version.backbone_digest).snapshot.digest


def export(system: System, folder: Path, wanted: str | None = None) -> datasets.Exported:
    with system.db.reading() as session:
        model = session.scalars(select(Model)).one()
        snapshot = datasets.find_snapshot(session, model, wanted)
    return datasets.export_dataset(system, model, snapshot, folder)


def test_a_snapshot_becomes_a_folder_that_says_the_same(taught: System, tmp_path: Path):
    digest = freeze(taught)
    made = export(taught, tmp_path / "data")
    assert made.description.digest == made.description.snapshot == digest
    read = read_dataset(tmp_path / "data")
    assert len(read.entries) == made.files
    splits = made.description.counts["splits"]
    assert splits["train"] > 4
    assert splits["unlabelled"] > 4
    for entry in read.entries:  # upright for whoever reads them, also where a column held the orientation
        assert (
            pixels_digest(decode((tmp_path / "data" / entry.file).read_bytes()).pixels) == entry.pixels_sha256
        )
    table = parquet.read_table(tmp_path / "data" / "samples.parquet").to_pylist()
    assert {row["label"] for row in table} == {"cat", "dog", "owl", None}
    first = {p.name: p.read_bytes() for p in (tmp_path / "data").rglob("*") if p.is_file()}
    export(taught, tmp_path / "data")  # again, in its place: the same bytes
    assert {p.name: p.read_bytes() for p in (tmp_path / "data").rglob("*") if p.is_file()} == first
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".data")] == []


DAMAGE = {
    "samples.parquet was changed": lambda folder: (folder / "samples.parquet").write_bytes(b"PAR1"),
    "jpg was changed": lambda folder: next(folder.glob("train/*/*.jpg")).write_bytes(b"x"),
    "is missing": lambda folder: next(folder.glob("train/*/*")).unlink(),
    "does not belong": lambda folder: (folder / "train" / "more.jpg").write_bytes(b"x"),
    "is no dataset": lambda folder: (folder / "dataset.json").unlink(),
    "has no SHA256SUMS": lambda folder: (folder / "SHA256SUMS").unlink(),
}


def test_a_damaged_dataset_is_refused_with_the_file_s_name(taught: System, tmp_path: Path):
    freeze(taught)
    export(taught, tmp_path / "data")
    for number, (said, damage) in enumerate(DAMAGE.items()):
        copy = shutil.copytree(tmp_path / "data", tmp_path / f"copy-{number}")
        damage(copy)
        with pytest.raises(DatasetInvalid, match=said):
            read_dataset(copy)
    relabelled = shutil.copytree(tmp_path / "data", tmp_path / "relabelled")
    described = json.loads((relabelled / "dataset.json").read_text())
    (relabelled / "dataset.json").write_text(json.dumps(described | {"digest": "0" * 64}))
    write_sums(relabelled)  # by somebody who knows how
    with pytest.raises(DatasetInvalid, match="says that its digest is 0000"):
        read_dataset(relabelled)


def test_deleted_pictures_are_missing_and_the_digest_says_so(taught: System, tmp_path: Path):
    digest = freeze(taught)
    with taught.db.transaction() as session:
        sample = session.scalars(select(Sample).where(Sample.split == Split.TRAIN)).first()
        image = session.get_one(Image, sample.image_id)
        image.pixels_sha256, image.perceptual_hash, image.store_key = None, None, None
        image.deleted_at = image.created_at
    made = export(taught, tmp_path / "data", digest[:8])
    assert made.description.missing == 1
    assert made.description.digest != made.description.snapshot == digest
    read_dataset(tmp_path / "data")


def test_an_export_overwrites_nothing_but_an_export(taught: System, tmp_path: Path):
    freeze(taught)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "precious.jpg").write_bytes(b"mine")
    with pytest.raises(Conflict, match="no dataset"):
        export(taught, tmp_path / "photos")
    assert (tmp_path / "photos" / "precious.jpg").read_bytes() == b"mine"
    with pytest.raises(SnapshotNotFound, match="dataset list"):
        export(taught, tmp_path / "data", "v9")


def make_another_tool_s(folder: Path) -> None:
    shutil.rmtree(folder)
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "imagesTr" / "scan.nii").write_bytes(b"precious")
    (folder / "dataset.json").write_text('{"name": "BrainTumour", "labels": {"0": "background"}}')


def make_later_release_s(folder: Path) -> None:
    (folder / "dataset.json").write_text('{"format": 7}')
    write_sums(folder)


#: What may lie where an export is to go, beside an export as it was written; and what the refusal says of it.
FOREIGN = {
    "no samples.parquet": make_another_tool_s,
    "no SHA256SUMS": lambda folder: (folder / "SHA256SUMS").unlink(),
    "notes.txt does not belong": lambda folder: (folder / "notes.txt").write_text("mine"),
    "jpg was changed": lambda folder: next(folder.glob("train/*/*.jpg")).write_bytes(b"mine"),
    "jpg is missing": lambda folder: next(folder.glob("train/*/*.jpg")).unlink(),
    "format 7": make_later_release_s,
}


@pytest.mark.parametrize("said", FOREIGN)
def test_an_export_replaces_only_what_an_export_wrote(taught: System, tmp_path: Path, said: str):
    freeze(taught)
    export(taught, tmp_path / "data")
    FOREIGN[said](tmp_path / "data")
    before = read_files(tmp_path)
    with pytest.raises(Conflict, match=said):
        export(taught, tmp_path / "data")
    assert read_files(tmp_path) == before


def read_files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_export_that_cannot_take_its_place_leaves_the_one_before(
    taught: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    freeze(taught)
    folder = tmp_path / "out" / "data"
    export(taught, folder)
    before = read_files(folder.parent)
    rename = Path.rename

    def refuse_the_new_one(self: Path, target: Path) -> Path:
        if target == folder and not self.name.endswith(".old"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new_one)
    with pytest.raises(OSError, match="Input/output"):
        export(taught, folder)
    assert read_files(folder.parent) == before


def test_an_export_killed_between_its_renames_is_undone_by_the_next_one(taught: System, tmp_path: Path):
    freeze(taught)
    folder = tmp_path / "out" / "data"
    export(taught, folder)
    before = read_files(folder)
    aside = folder.with_name(f".data.{'a' * 32}")
    shutil.copytree(folder, aside)
    old = folder.rename(folder.with_name(f"{aside.name}.old"))
    (old / "notes.txt").write_text("mine")
    mine = folder.with_name(".data.backup.old")
    mine.mkdir()
    with pytest.raises(Conflict, match=r"notes\.txt"):
        export(taught, folder)
    (folder / "notes.txt").unlink()
    assert read_files(folder) == before
    assert {path.name for path in folder.parent.iterdir()} == {"data", mine.name}
    export(taught, folder)
    assert read_files(folder) == before


def test_a_link_stays_one_and_the_export_lies_where_it_leads(taught: System, tmp_path: Path):
    freeze(taught)
    export(taught, tmp_path / "disk" / "data")
    before = read_files(tmp_path / "disk")
    (tmp_path / "data").symlink_to(tmp_path / "disk" / "data")
    export(taught, tmp_path / "data")
    assert (tmp_path / "data").is_symlink()
    assert read_files(tmp_path / "disk") == before


def test_the_command_line_lists_exports_and_compares(taught: System, backtalk, tmp_path: Path):
    before = freeze(taught)
    folder = tmp_path / "data"
    assert f"digest {before}" in backtalk_at(backtalk, taught, "dataset", "export", "animals", str(folder))
    with taught.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        sample = session.scalars(
            select(Sample).where(Sample.split == Split.TRAIN, Sample.label == "cat")
        ).first()
        teach(session, model, sample.image_id, "dog")
    after = freeze(taught)
    listed = backtalk_at(backtalk, taught, "dataset", "list", "animals").splitlines()
    assert [line.split("\t")[0] for line in listed] == [after[:12], before[:12]]
    shown = backtalk_at(backtalk, taught, "dataset", "diff", str(folder), after, "--model", "animals")
    assert "~ cat -> dog" in shown
    assert "0 added, 0 removed, 1 relabelled, 0 moved" in shown
    told = json.loads(
        backtalk_at(backtalk, taught, "dataset", "diff", before, after, "--model", "animals", "--json")
    )
    assert (told["before"], told["after"], len(told["relabelled"])) == (before, after, 1)


def backtalk_at(backtalk, system: System, *words: str) -> str:
    result = backtalk(*words, "--home", str(system.settings.home))
    assert result.exit_code == 0, result.output
    return str(result.stdout)


@pytest.mark.slow
def test_dvc_takes_the_folder_and_sees_no_change_where_there_is_none(taught: System, tmp_path: Path):
    freeze(taught)
    export(taught, tmp_path / "data")

    def dvc(*words: str) -> str:
        command = [sys.executable, "-m", "dvc", *words]
        env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "DVC_NO_ANALYTICS": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    dvc("init", "--no-scm")
    dvc("add", "data")
    export(taught, tmp_path / "data")
    assert "up to date" in dvc("status")
    with taught.db.transaction() as session:
        sample = session.scalars(select(Sample).where(Sample.split == Split.TRAIN)).first()
        teach(session, session.get_one(Model, sample.model_id), sample.image_id, "owl")
    freeze(taught)
    export(taught, tmp_path / "data")
    assert "modified" in dvc("status")
