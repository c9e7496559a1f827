"""Datasets taken in elsewhere: with the same digest, all of it or nothing, and never onto another side."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image as Pictures
from sqlalchemy import select

from backtalk import datasetfiles, deletion, importing, upkeep
from backtalk.callers import CLI
from backtalk.datasetfiles import Dataset, Entry, compare, digest_entries, read_dataset, write_tables
from backtalk.errors import DatasetConflict, DatasetInvalid, UnknownLabel
from backtalk.images import decode, pixels_digest
from backtalk.states import Side, Split
from backtalk.sums import write_sums
from backtalk.system import System
from backtalk.tables import AuditEntry, GroupMember, Image, ImageGroup, Model, Sample, Snapshot
from backtalk.tombstones import bury_images, lock_images
from tests import factories as make
from tests.integration.test_backups import other as other  # noqa: PLC0414
from tests.integration.test_datasets import export, freeze, teach
from tests.integration.test_datasets import taught as taught  # noqa: PLC0414
from tests.served import make_jpeg, make_served_model


@pytest.fixture
def folder(taught: System, tmp_path: Path) -> Path:
    """What `taught` learns from, exported."""
    freeze(taught)
    export(taught, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def beasts(other: System, tiny_folder: Path) -> System:
    """Another installation, whose model `beasts` knows no picture yet."""
    make_served_model(other, tiny_folder, "beasts")
    return other


def take_in(system: System, folder: Path) -> importing.Imported:
    return importing.import_dataset(system, model_name="beasts", folder=folder)


def rewrite(folder: Path, change: Callable[[Entry], Entry]) -> Entry:
    """Change the row of a training picture and make the sums fit; the row before."""
    dataset = read_dataset(folder)
    first = next(entry for entry in dataset.entries if entry.split == Split.TRAIN)
    entries = [change(entry) if entry is first else entry for entry in dataset.entries]
    digest = digest_entries(entries, dataset.description.left_out)
    write_tables(folder, Dataset(replace(dataset.description, digest=digest), entries))
    write_sums(folder)
    return first


def is_untouched(system: System) -> bool:
    with system.db.reading() as session:
        return make.count(session, Image) == make.count(session, Sample) == make.count(session, Snapshot) == 0


def list_kept(system: System) -> set[str]:
    """Pixels of the pictures that have a file."""
    with system.db.reading() as session:
        rows = session.execute(
            select(Image.pixels_sha256, Image.store_key).where(Image.store_key.is_not(None))
        )
        return {row.pixels_sha256 for row in rows if system.images.has(row.store_key)}


def test_taken_in_elsewhere_it_has_the_same_digest_and_the_same_splits(
    taught: System, other: System, tmp_path: Path, tiny_folder: Path
):
    digest = freeze(taught)
    export(taught, tmp_path / "data")
    make_served_model(other, tiny_folder, "beasts")
    made = importing.import_dataset(other, model_name="beasts", folder=tmp_path / "data")
    assert made.digest == digest
    export(other, tmp_path / "again")
    assert compare(read_dataset(tmp_path / "data"), read_dataset(tmp_path / "again")).is_empty
    with other.db.reading() as session:
        assert session.scalars(select(Snapshot.digest)).one() == digest
        sides = session.execute(
            select(Sample.split, ImageGroup.side)
            .join(GroupMember, GroupMember.image_id == Sample.image_id)
            .join(ImageGroup, ImageGroup.id == GroupMember.group_id)
        ).all()
        assert sides
        assert all(split == side for split, side in sides)
        assert make.count(session, AuditEntry, action="dataset.import", actor="cli") == 1
    again = importing.import_dataset(other, model_name="beasts", folder=tmp_path / "data")
    assert (again.new, again.known, again.digest) == (0, made.new, digest)


def test_what_contradicts_is_refused_as_a_whole(
    taught: System, other: System, tmp_path: Path, tiny_folder: Path
):
    freeze(taught)
    export(taught, tmp_path / "data")
    first = next(e for e in read_dataset(tmp_path / "data").entries if e.split == Split.TRAIN)
    make_served_model(other, tiny_folder, "beasts")
    with other.db.transaction() as session:  # what they teach there is judged on here
        model = session.scalars(select(Model)).one()
        image = make.make_image(session, perceptual_hash=first.group_hash ^ 1)
        make.make_group(session, model, image, Side.EVAL)
    with pytest.raises(DatasetConflict, match="another side here") as refused:
        importing.import_dataset(other, model_name="beasts", folder=tmp_path / "data")
    assert first.file in refused.value.extra["files"]
    with other.db.reading() as session:
        assert make.count(session, Sample) == 0
        assert make.count(session, Snapshot) == 0
    with taught.db.transaction() as session:
        sample = session.scalars(select(Sample).where(Sample.split == Split.TRAIN)).first()
        teach(session, session.get_one(Model, sample.model_id), sample.image_id, "owl")
    with pytest.raises(DatasetConflict, match="known otherwise"):
        importing.import_dataset(taught, model_name="animals", folder=tmp_path / "data")


def test_a_model_with_other_labels_takes_nothing_in(
    taught: System, other: System, tmp_path: Path, tiny_folder: Path
):
    freeze(taught)
    export(taught, tmp_path / "data")
    make_served_model(other, tiny_folder, "beasts", labels=["cat", "dog"])
    with pytest.raises(UnknownLabel, match="owl"):
        importing.import_dataset(other, model_name="beasts", folder=tmp_path / "data")


@pytest.mark.parametrize(
    ("column", "value"),
    [("perceptual_hash", 1), ("width", 59), ("height", 41), ("pixels_sha256", "f" * 64)],
)
def test_what_a_row_says_of_its_picture_is_held_against_the_pixels(
    folder: Path, beasts: System, column: str, value: object
) -> None:
    def change(entry: Entry) -> Entry:
        changed = replace(entry, **{column: value})
        renamed = replace(changed, file=datasetfiles.name_file(changed, "jpg"))
        (folder / entry.file).rename(folder / renamed.file)
        return renamed

    rewrite(folder, change)
    with pytest.raises(DatasetInvalid, match=r"train/.*jpg (has the|shows another)"):
        take_in(beasts, folder)
    assert is_untouched(beasts)


def test_a_picture_that_its_metadata_turns_is_refused(folder: Path, beasts: System) -> None:
    turned = Pictures.Exif()
    turned[0x0112] = 6
    data = make_jpeg(77, exif=turned)
    picture = decode(data)

    def change(entry: Entry) -> Entry:
        size = {"width": picture.width, "height": picture.height}
        changed = replace(entry, pixels_sha256=pixels_digest(picture.pixels), **size)
        (folder / entry.file).unlink()
        renamed = replace(changed, file=datasetfiles.name_file(changed, "jpg"))
        (folder / renamed.file).write_bytes(data)
        return renamed

    rewrite(folder, change)
    with pytest.raises(DatasetInvalid, match="turned by its metadata"):
        take_in(beasts, folder)
    assert is_untouched(beasts)


def test_a_picture_near_what_is_judged_on_here_is_refused_whatever_its_group_is(
    folder: Path, beasts: System
) -> None:
    """Four bits lie between it and an image that judges here, eight between that and its group."""
    first = rewrite(folder, lambda entry: replace(entry, group_hash=entry.perceptual_hash ^ 0b1111))
    with beasts.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        judging = make.make_image(session, perceptual_hash=first.perceptual_hash ^ 0b1111_0000)
        make.make_group(session, model, judging, Side.EVAL)
    with pytest.raises(DatasetConflict, match="another side here") as refused:
        take_in(beasts, folder)
    assert refused.value.extra["files"] == [first.file]
    with beasts.db.reading() as session:
        assert make.count(session, Sample) == 0


def test_an_installation_takes_in_what_it_exported_whatever_uploads_may_be(
    folder: Path, beasts: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the pictures lay on its side: as an upright PNG it is larger than what came."""
    limits = {"max_image_bytes": 1024, "max_pixels": 100}
    strict = System(**{**vars(beasts), "settings": beasts.settings.model_copy(update=limits)})
    monkeypatch.setattr(importing, "MAX_WRITTEN_BYTES", 2000)
    with pytest.raises(DatasetInvalid, match=r"png has [\d,]+ bytes; at most 2,000"):
        take_in(strict, folder)
    monkeypatch.undo()
    assert take_in(strict, folder).new > 4


def test_pixels_that_were_dropped_here_come_back(folder: Path, beasts: System, tmp_path: Path) -> None:
    entries = read_dataset(folder).entries
    with beasts.db.transaction() as session:
        for entry in entries:
            known = {"pixels_sha256": entry.pixels_sha256, "perceptual_hash": entry.perceptual_hash}
            make.make_image(session, **known, orientation=6, store_key=None)
            session.add(make.tables.ImageRemoval(pixels_sha256=entry.pixels_sha256))  # its file is yet to go
    take_in(beasts, folder)
    upkeep.sweep(beasts)
    assert list_kept(beasts) == {entry.pixels_sha256 for entry in entries}
    assert export(beasts, tmp_path / "again").description.missing == 0
    assert compare(read_dataset(folder), read_dataset(tmp_path / "again")).is_empty


def test_a_file_that_upkeep_removed_before_its_row_was_there_is_written_again(
    folder: Path, beasts: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = importing._insert

    def insert_late(*given: object) -> importing.Imported:
        for key in list(beasts.images.keys()):
            beasts.images.set_aside(key)
        return insert(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(importing, "_insert", insert_late)
    take_in(beasts, folder)
    assert list_kept(beasts) == {entry.pixels_sha256 for entry in read_dataset(folder).entries}


@pytest.mark.parametrize("swept", [False, True])
def test_a_picture_that_was_deleted_here_does_not_come_back(
    folder: Path, beasts: System, swept: bool
) -> None:
    take_in(beasts, folder)
    entries = read_dataset(folder).entries
    going = next(entry for entry in entries if entry.split == Split.TRAIN)
    with beasts.db.reading() as session:
        image_id = session.scalars(select(Image.id).where(Image.pixels_sha256 == going.pixels_sha256)).one()
    deletion.delete_image(beasts, image_id=str(image_id), caller=CLI)
    if swept:  # by then nothing here remembers its pixels
        upkeep.sweep(beasts)
    with pytest.raises(DatasetConflict, match=r"1 of \d+ pictures were deleted here") as refused:
        take_in(beasts, folder)
    assert refused.value.extra["files"] == [going.file]
    assert list_kept(beasts) == {entry.pixels_sha256 for entry in entries} - {going.pixels_sha256}


def test_a_picture_that_went_by_age_may_come_back(folder: Path, beasts: System) -> None:
    take_in(beasts, folder)
    silent = next(entry for entry in read_dataset(folder).entries if entry.label is None)
    with beasts.db.transaction() as session:
        gone = session.scalars(select(Image.id).where(Image.pixels_sha256 == silent.pixels_sha256)).one()
        bury_images(session, lock_images(session, [gone]))
    upkeep.sweep(beasts)
    take_in(beasts, folder)
    assert silent.pixels_sha256 in list_kept(beasts)
