"""An image that is deleted is gone: rows, files, copies; and everything that knew it copes."""

import threading
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import func, select, update

from backtalk import deletion, doorbells, feedback, images, removals, review, snapshots, upkeep
from backtalk.callers import Caller
from backtalk.errors import ImageDeleted, ImageNotFound
from backtalk.golden import read_golden, write_golden
from backtalk.image_files import ImageStore
from backtalk.recording import record_predictions
from backtalk.serving import LiveModels
from backtalk.states import CorrectionState, Scope, Split
from backtalk.system import System
from backtalk.tables import (
    AuditEntry,
    Correction,
    Embedding,
    Image,
    ImageGroup,
    ImageRemoval,
    Prediction,
    ReviewItem,
    Sample,
)
from backtalk.tombstones import bury_images, lock_images
from backtalk.verification import verify
from tests import factories
from tests.served import make_jpeg, make_served_model

ADMIN = Caller(actor="key:app", name="app", scopes=frozenset(Scope), key_id="app", trusted=True)


@pytest.fixture
def live(system: System, tiny_folder: Path) -> LiveModels:
    make_served_model(system, tiny_folder)
    return LiveModels(system)


def predict(live: LiveModels, seed: int = 1) -> str:
    return live.predict("animals", [make_jpeg(seed)], ADMIN).predictions[0].id


def find_image(system: System, prediction: str) -> Image:
    with system.db.reading() as session:
        row = session.get_one(Prediction, UUID(prediction))
        return session.get_one(Image, row.image_id)


def correct(system: System, prediction: str) -> None:
    with system.db.transaction() as session:
        said = session.get_one(Prediction, UUID(prediction)).label
        label = next(one for one in ("cat", "dog", "owl") if one != said)
        feedback.record_correction(session, caller=ADMIN, prediction_id=prediction, label=label)
    with system.db.transaction() as session:
        review.prepare_prediction(session, prediction)


def count(system: System, *conditions: object) -> int:
    with system.db.reading() as session:
        return session.scalar(select(func.count()).where(*conditions)) or 0


def test_pixels_hashes_and_embeddings_are_gone_and_the_rows_stay(system: System, live: LiveModels) -> None:
    prediction = predict(live)
    image = find_image(system, prediction)
    deletion.delete_image(system, image_id=str(image.id), caller=ADMIN)
    left = find_image(system, prediction)
    assert left.id == image.id
    assert left.deleted_at is not None
    assert (left.pixels_sha256, left.perceptual_hash, left.store_key) == (None, None, None)
    assert list(system.images.keys()) == system.images.list_aside() == []
    assert count(system, Embedding.image_id == image.id) == 0
    assert count(system, AuditEntry.action == "image.delete", AuditEntry.actor == "key:app") == 1


def test_deleting_again_changes_nothing_and_an_unknown_image_is_not_found(
    system: System, live: LiveModels
) -> None:
    image = find_image(system, predict(live))
    for _ in range(2):
        deletion.delete_image(system, image_id=str(image.id), caller=ADMIN)
    assert count(system, AuditEntry.action == "image.delete") == 1
    for unknown in ("nonsense", "01890000-0000-7000-8000-000000000000"):
        with pytest.raises(ImageNotFound):
            deletion.delete_image(system, image_id=unknown, caller=ADMIN)


def test_what_was_said_of_it_is_withdrawn_and_nobody_is_asked_any_more(
    system: System, live: LiveModels
) -> None:
    prediction = predict(live)
    correct(system, prediction)
    assert count(system, ReviewItem.closed_at.is_(None)) == 1
    deletion.delete_image(system, image_id=str(find_image(system, prediction).id), caller=ADMIN)
    assert count(system, ReviewItem.closed_at.is_(None)) == 0
    assert count(system, Correction.state == CorrectionState.RETRACTED) == 1
    with system.db.transaction() as session:
        assert doorbells.ring_unprepared(session) == 0
        review.prepare_prediction(session, prediction)  # its message came late
    assert count(system, ReviewItem.closed_at.is_(None)) == 0


@pytest.mark.parametrize("statement", ["correction", "confirmation"])
def test_nothing_can_be_said_of_a_deleted_image(system: System, live: LiveModels, statement: str) -> None:
    prediction = predict(live)
    deletion.delete_image(system, image_id=str(find_image(system, prediction).id), caller=ADMIN)
    with system.db.transaction() as session, pytest.raises(ImageDeleted):
        if statement == "correction":
            feedback.record_correction(session, caller=ADMIN, prediction_id=prediction, label="cat")
        else:
            feedback.record_confirmation(session, caller=ADMIN, prediction_id=prediction)


def test_samples_are_retracted_and_no_later_snapshot_has_them(system: System, live: LiveModels) -> None:
    image = find_image(system, predict(live))
    with system.db.transaction() as session:
        model = session.scalars(select(factories.tables.Model)).one()
        factories.make_group(session, model, session.get_one(Image, image.id))
        gone = factories.make_sample(session, model, session.get_one(Image, image.id))
        stays = factories.make_sample(session, model)
    deletion.delete_image(system, image_id=str(image.id), caller=ADMIN)
    assert count(system, Sample.retracted_at.is_(None)) == 1
    with system.db.transaction() as session:
        model = session.scalars(select(factories.tables.Model)).one()
        frozen = snapshots.take_snapshot(session, model, factories.BACKBONE_DIGEST)
    assert gone.id not in frozen.snapshot.sample_ids
    assert stays.split == Split.TRAIN


def test_the_same_pixels_may_come_again_as_another_image(system: System, live: LiveModels) -> None:
    first = find_image(system, predict(live))
    deletion.delete_image(system, image_id=str(first.id), caller=ADMIN)
    second = find_image(system, predict(live))
    assert second.id != first.id
    assert second.pixels_sha256 == first.pixels_sha256
    assert system.images.has(second.store_key or "")


def test_a_deletion_that_broke_off_before_the_files_is_finished_by_upkeep(
    system: System, live: LiveModels
) -> None:
    image = find_image(system, predict(live))
    with system.db.transaction() as session:
        bury_images(session, lock_images(session, [image.id]))
    assert list(system.images.keys()) == [image.store_key]
    assert count(system, ImageRemoval.pixels_sha256 == image.pixels_sha256) == 1
    upkeep.sweep(system)
    assert list(system.images.keys()) == []
    assert count(system, ImageRemoval.pixels_sha256.is_not(None)) == 0


def test_a_file_that_a_broken_off_removal_moved_away_goes_or_comes_back(
    system: System, live: LiveModels
) -> None:
    gone, stays = find_image(system, predict(live, 1)), find_image(system, predict(live, 2))
    deletion.delete_image(system, image_id=str(gone.id), caller=ADMIN)
    system.images.put(gone.pixels_sha256 or "", b"as if the kill had come before the removal")
    for key in list(system.images.keys()):
        system.images.set_aside(key)
    upkeep.sweep_images(system)
    assert list(system.images.keys()) == [stays.store_key]
    assert system.images.list_aside() == []


def test_a_prediction_that_overtakes_the_removal_keeps_its_file(system: System, live: LiveModels) -> None:
    """The rows of the old image are gone, its file is not; the same pixels come; then the file is to go."""
    old = find_image(system, predict(live))
    with system.db.transaction() as session:
        bury_images(session, lock_images(session, [old.id]))
    new = find_image(system, predict(live))
    removals.remove_pending(system)
    assert system.images.has(new.store_key or "")


def test_a_row_that_comes_while_the_file_is_out_of_sight_gets_it_back(
    system: System, live: LiveModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file was written before the removal began, and its row is committed in the middle of it."""
    old = find_image(system, predict(live))
    set_aside = ImageStore.set_aside

    def set_aside_and_record(store: ImageStore, key: str) -> None:
        set_aside(store, key)
        with system.db.transaction() as session:
            factories.make_image(session, pixels_sha256=old.pixels_sha256, store_key=key)

    monkeypatch.setattr(ImageStore, "set_aside", set_aside_and_record)
    deletion.delete_image(system, image_id=str(old.id), caller=ADMIN)
    assert list(system.images.keys()) == [old.store_key]
    assert system.images.list_aside() == []


def test_a_removal_between_writing_and_recording_does_not_cost_the_picture(
    system: System, live: LiveModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = find_image(system, predict(live))

    def record_after_a_deletion(*arguments: object) -> None:
        deletion.delete_image(system, image_id=str(old.id), caller=ADMIN)
        assert list(system.images.keys()) == []
        record_predictions(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("backtalk.serving.record_predictions", record_after_a_deletion)
    new = find_image(system, predict(live))
    assert new.id != old.id
    assert system.images.has(new.store_key or "")


def test_other_encodings_of_the_same_pixels_go_too(system: System, live: LiveModels) -> None:
    image = find_image(system, predict(live))
    assert image.pixels_sha256
    system.images.put(image.pixels_sha256, b"the same pixels, in another encoding")
    deletion.delete_image(system, image_id=str(image.id), caller=ADMIN)
    assert list(system.images.keys()) == []


def test_a_group_goes_on_around_those_who_are_left(system: System) -> None:
    with system.db.transaction() as session:
        model = factories.make_model(session)
        first, heir = factories.make_image(session), factories.make_image(session)
        group = factories.make_group(session, model, first)
        session.add(factories.tables.GroupMember(model_id=model.id, image_id=heir.id, group_id=group.id))
    deletion.delete_image(system, image_id=str(first.id), caller=ADMIN)
    with system.db.reading() as session:
        row = session.get_one(ImageGroup, group.id)
        assert (row.first_image_id, row.perceptual_hash) == (heir.id, heir.perceptual_hash)
    deletion.delete_image(system, image_id=str(heir.id), caller=ADMIN)
    with system.db.reading() as session:
        assert session.get_one(ImageGroup, group.id).perceptual_hash is None


def test_the_copies_that_versions_are_verified_on_go_too(system: System, live: LiveModels) -> None:
    image = find_image(system, predict(live))
    other = make_jpeg(2)
    path = system.versions.golden_path("animals")
    pictures = [make_jpeg(1), other]
    inputs = np.stack([images.to_input(images.decode(one).pixels, 8) for one in pictures])
    write_golden(path, inputs, pictures)
    deletion.delete_image(system, image_id=str(image.id), caller=ADMIN)
    upkeep.sweep(system)
    left = read_golden(path)
    assert left.encoded == (other,)
    assert np.array_equal(left.inputs, inputs[1:])


def test_a_file_that_no_row_names_goes_once_it_is_old(system: System, live: LiveModels) -> None:
    import os

    kept = find_image(system, predict(live)).store_key
    young = system.images.put("ab" + "0" * 62, b"its row may be about to come")
    old = system.images.put("cd" + "0" * 62, b"broken off long ago")
    os.utime(system.images.root / old, (1, 1))
    os.utime(system.images.root / (kept or ""), (1, 1))
    said = {finding.subject: finding for finding in verify(system)}
    assert said["image files without a row"].note == "1 for the hourly sweep"
    upkeep.sweep_images(system)
    assert sorted(system.images.keys()) == sorted([kept, young])


def test_verify_tells_of_a_file_that_a_row_names_and_that_is_gone_or_damaged(
    system: System, live: LiveModels
) -> None:
    image = find_image(system, predict(live))

    def problem(**options: bool) -> str | None:
        return next(f.problem for f in verify(system, **options) if f.subject == "images")

    assert problem(every_byte=True) is None
    (system.images.root / (image.store_key or "")).write_bytes(b"rotten")
    assert problem() is None
    assert "1 files are gone or damaged" in (problem(every_byte=True) or "")
    system.images.set_aside(image.store_key or "")
    assert "1 files are gone or damaged" in (problem() or "")


def test_predictions_and_deletions_of_the_same_pixels_at_once_leave_rows_and_files_in_agreement(
    system: System, live: LiveModels
) -> None:
    stopping = threading.Event()
    failures: list[BaseException] = []

    def keep_predicting() -> None:
        try:
            while not stopping.is_set():
                predict(live)
        except BaseException as error:  # noqa: BLE001  # the test reads it
            failures.append(error)

    threads = [threading.Thread(target=keep_predicting) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(25):
        deletion.delete_image(system, image_id=str(find_image(system, predict(live)).id), caller=ADMIN)
    stopping.set()
    for thread in threads:
        thread.join()
    assert failures == []
    removals.remove_pending(system)
    with system.db.reading() as session:
        named = list(session.scalars(select(Image.store_key).where(Image.store_key.is_not(None))))
        assert (
            session.scalar(
                select(func.count()).select_from(Embedding).join(Image).where(Image.deleted_at.is_not(None))
            )
            == 0
        )
    assert sorted(system.images.keys()) == sorted(named)
    assert len(named) <= 1


# --- by age ------------------------------------------------------------------------------------
def age(system: System, days: float) -> None:
    """As if everything had happened so long ago."""
    with system.db.transaction() as session:
        for table in (Prediction, Image):
            session.execute(update(table).values(created_at=table.created_at - timedelta(days=days)))


def set_policy(system: System, **values: object) -> None:
    with system.db.transaction() as session:
        model = session.scalars(select(factories.tables.Model)).one()
        model.policy = {"audit_share": 0.0} | values


def living(system: System) -> int:
    return count(system, Image.deleted_at.is_(None))


def test_predictions_without_feedback_pass_their_retention_days(system: System, live: LiveModels) -> None:
    silent, spoken = predict(live, 1), predict(live, 2)
    correct(system, spoken)
    age(system, 89)
    upkeep.retain_images(system)
    assert living(system) == 2
    age(system, 2)
    upkeep.retain_images(system)
    assert find_image(system, silent).deleted_at is not None
    assert find_image(system, spoken).deleted_at is None
    assert list(system.images.keys()) == [find_image(system, spoken).store_key]


def test_an_image_that_is_predicted_on_again_starts_anew(system: System, live: LiveModels) -> None:
    predict(live)
    age(system, 100)
    predict(live)
    upkeep.retain_images(system)
    assert living(system) == 1


@pytest.mark.parametrize("why", ["audit", "confirmation", "sample", "another model"])
def test_what_somebody_still_wants_is_not_deleted_by_age(system: System, live: LiveModels, why: str) -> None:
    prediction = predict(live)
    with system.db.transaction() as session:
        row = session.get_one(Prediction, UUID(prediction))
        model = session.get_one(factories.tables.Model, row.model_id)
        if why == "audit":
            row.audit = True
        elif why == "confirmation":
            factories.make_confirmation(session, row)
        elif why == "sample":
            factories.make_sample(session, model, session.get_one(Image, row.image_id))
        else:
            other = factories.make_model(session, "longer", live=False, policy={"retention_days": 365})
            factories.make_prediction(session, other, session.get_one(Image, row.image_id), version=1)
    age(system, 100)
    upkeep.retain_images(system)
    assert living(system) == 1


def test_under_feedback_pixels_go_when_it_is_clear_that_nobody_spoke(
    system: System, live: LiveModels
) -> None:
    set_policy(system, keep_images="feedback")
    live.versions.refresh()
    silent, spoken = predict(live, 1), predict(live, 2)
    correct(system, spoken)
    upkeep.retain_images(system)
    assert len(list(system.images.keys())) == 2
    age(system, 8)
    upkeep.retain_images(system)
    left = find_image(system, silent)
    assert left.deleted_at is None
    assert (left.store_key, left.pixels_sha256 is not None) == (None, True)
    assert count(system, Embedding.image_id == left.id) == 1
    assert list(system.images.keys()) == [find_image(system, spoken).store_key]
    predict(live, 1)  # seen again: kept again, for somebody may speak now
    assert find_image(system, silent).store_key is not None


def test_a_model_that_keeps_all_keeps_what_another_would_drop(system: System, live: LiveModels) -> None:
    prediction = predict(live)
    with system.db.transaction() as session:
        image = session.get_one(Prediction, UUID(prediction)).image_id
        other = factories.make_model(session, "frugal", live=False, policy={"keep_images": "none"})
        factories.make_prediction(session, other, session.get_one(Image, image), version=1)
    age(system, 30)
    upkeep.retain_images(system)
    assert find_image(system, prediction).store_key is not None


def test_more_images_than_one_batch_pass_in_one_go(
    system: System, live: LiveModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backtalk.retention.LOOKED_AT", 3)
    monkeypatch.setattr("backtalk.retention.CHANGED", 2)
    monkeypatch.setattr("backtalk.removals.BATCH", 2)
    correct(system, predict(live, 0))
    for seed in range(1, 9):
        predict(live, seed)
    age(system, 100)
    upkeep.retain_images(system)
    assert living(system) == 1
    assert len(list(system.images.keys())) == 1
