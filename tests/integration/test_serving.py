"""Real versions on the small backbone, real rows: what is answered, and what is written down about it."""

import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, select

from backtalk import embeddings, images
from backtalk.callers import Caller
from backtalk.draws import draw
from backtalk.errors import ImageTooLarge, ModelNotFound, NoVersionInService, RefusedImage, Unavailable
from backtalk.heads import Head
from backtalk.serving import LiveModels, PredictedBatch
from backtalk.system import System
from backtalk.tables import Embedding, Image, Model, OutboxEvent, Prediction, Replica, Version
from tests import factories
from tests.served import LABELS, go_live, make_jpeg, make_served_model

APP = Caller("key:app", "app", frozenset(), key_id="app")


@pytest.fixture
def model(system: System, tiny_folder: Path) -> Model:
    return make_served_model(system, tiny_folder)


@pytest.fixture
def live(system: System, model: Model) -> LiveModels:
    """In service without the thread: the tests say when it polls."""
    live = LiveModels(system)
    live.versions.refresh()
    return live


def count(system: System, table: type) -> int:
    with system.db.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def set_policy(system: System, model: Model, **policy: object) -> None:
    with system.db.transaction() as session:
        session.get_one(Model, model.id).policy = policy


def replay(system: System, prediction_id: str) -> tuple[Prediction, np.ndarray]:
    """The recorded prediction, and the scores that its version gives for the stored embedding."""
    with system.db.reading() as session:
        row = session.get_one(Prediction, prediction_id)
        version = session.scalars(
            select(Version).where(Version.model_id == row.model_id, Version.number == row.version)
        ).one()
        head = Head.load(system.versions.resolve(version.path) / "head.npz")
        width = head.weights.shape[1]
        stored = embeddings.load_embeddings(session, version.backbone_digest, [row.image_id], width)
    return row, head.scores(stored)[0]


# --- what is answered --------------------------------------------------------------------------
def test_the_answer_is_what_was_recorded_and_a_replay_gives_the_same_bits(
    system: System, live: LiveModels
) -> None:
    batch = live.predict("animals", [make_jpeg(seed) for seed in range(5)], APP)
    assert (batch.model, batch.version, batch.generation, len(batch.predictions)) == ("animals", 1, 1, 5)
    for answer in batch.predictions:
        row, replayed = replay(system, answer.id)
        recorded = np.array(row.scores, np.float32)
        assert recorded.tobytes() == np.array(answer.scores, np.float32).tobytes() == replayed.tobytes()
        assert (row.label, row.version, row.key_id) == (answer.label, 1, "app")
        assert answer.label == LABELS[int(recorded.argmax())]
        assert answer.score == max(answer.scores)
        assert sum(answer.scores) == pytest.approx(1)


def test_a_picture_gets_the_same_scores_alone_and_in_a_batch(live: LiveModels) -> None:
    pictures = [make_jpeg(seed) for seed in range(4)]
    together = live.predict("animals", pictures, APP).predictions
    alone = [live.predict("animals", [picture], APP).predictions[0] for picture in pictures]
    assert [one.scores for one in together] == [one.scores for one in alone]


def test_equal_pixels_are_one_image_even_if_their_metadata_differ(system: System, live: LiveModels) -> None:
    live.predict("animals", [make_jpeg(1), make_jpeg(1, comment=b"of my holidays")], APP)
    live.predict("animals", [make_jpeg(1)], APP)
    assert (count(system, Image), count(system, Embedding), count(system, Prediction)) == (1, 1, 3)


def test_the_kept_file_decodes_to_the_same_pixels_without_its_metadata(
    system: System, live: LiveModels
) -> None:
    data = make_jpeg(
        2,
        comment=b"secret",
        exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + bytes(4),
    )
    live.predict("animals", [data], APP)
    with system.db.reading() as session:
        row = session.scalars(select(Image)).one()
    assert row.store_key is not None
    kept = system.images.get(row.store_key)
    assert b"secret" not in kept
    assert (row.orientation, row.width, row.height, row.byte_size) == (6, 40, 60, len(kept))
    again = images.decode(kept, orientation=row.orientation)
    assert images.pixels_digest(again.pixels) == row.pixels_sha256
    assert images.perceptual_hash(again.pixels) == row.perceptual_hash  # without it no group, so no sample


@pytest.mark.parametrize(("keep", "kept"), [("all", True), ("feedback", True), ("none", False)])
def test_the_policy_decides_whether_pixels_are_kept(
    system: System, model: Model, live: LiveModels, keep: str, kept: bool
) -> None:
    set_policy(system, model, keep_images=keep)
    live.versions.refresh()
    live.predict("animals", [make_jpeg(3)], APP)
    with system.db.reading() as session:
        row = session.scalars(select(Image)).one()
    assert (row.store_key is not None) == kept == bool(list(system.images.keys()))


def test_audits_are_drawn_by_the_models_salt_and_bring_their_event(
    system: System, model: Model, live: LiveModels
) -> None:
    set_policy(system, model, audit_share=0.3)
    live.versions.refresh()
    pictures = [make_jpeg(seed) for seed in range(60)]
    answers = live.predict("animals", pictures, APP).predictions
    expected = {one.id for one in answers if draw(bytes(model.salt), "audit", one.id) < 0.3}
    with system.db.reading() as session:
        audited = {str(key) for key in session.scalars(select(Prediction.id).where(Prediction.audit))}
        events = session.scalars(select(OutboxEvent)).all()
    assert audited == expected == {event.payload["prediction_id"] for event in events}
    assert 0 < len(audited) < 60
    assert {event.event for event in events} == {"AuditDrawn"}


def test_one_bad_picture_leaves_the_whole_batch_unanswered_and_unrecorded(
    system: System, live: LiveModels
) -> None:
    with pytest.raises(RefusedImage):
        live.predict("animals", [make_jpeg(1), make_jpeg(2)[:400]], APP)
    assert count(system, Prediction) == 0


def test_the_pictures_of_one_call_may_not_have_more_pixels_than_a_few_of_the_largest(
    system: System, model: Model
) -> None:
    settings = system.settings.model_copy(update={"max_pixels": 60 * 40})
    narrow = LiveModels(System(settings, system.db, system.images, system.versions))
    pictures = [make_jpeg(seed) for seed in range(5)]
    assert len(narrow.predict("animals", pictures[:4], APP).predictions) == 4
    with pytest.raises(ImageTooLarge) as caught:
        narrow.predict("animals", pictures, APP)
    assert caught.value.reason == "too-many-pixels"


def test_a_picture_beyond_the_limits_of_the_settings_is_refused(system: System, model: Model) -> None:
    limited = System(
        system.settings.model_copy(update={"max_pixels": 1000}), system.db, system.images, system.versions
    )
    with pytest.raises(ImageTooLarge):
        LiveModels(limited).predict("animals", [make_jpeg(1)], APP)


# --- what cannot be answered -------------------------------------------------------------------
def test_an_unknown_model_is_not_found(live: LiveModels) -> None:
    with pytest.raises(ModelNotFound, match="plants"):
        live.predict("plants", [make_jpeg()], APP)


def test_a_model_that_no_poll_has_shown_is_found_when_asked(
    system: System, live: LiveModels, tiny_folder: Path
) -> None:
    make_served_model(system, tiny_folder, "plants")
    assert live.predict("plants", [make_jpeg()], APP).version == 1


def test_a_model_whose_first_version_is_still_being_made_is_not_in_service(
    system: System, live: LiveModels
) -> None:
    with system.db.transaction() as session:
        factories.make_model(session, "unborn", live=False)
    with pytest.raises(NoVersionInService, match="first version"):
        live.predict("unborn", [make_jpeg()], APP)
    live.versions.refresh()
    assert [state.model for state in live.states()] == ["animals"]


def test_a_prediction_that_cannot_be_recorded_is_not_answered(
    system: System, model: Model, live: LiveModels
) -> None:
    with system.db.transaction() as session:  # the model vanishes under it: its row cannot be referred to
        session.query(Replica).delete()
        session.query(Version).delete()
        session.query(Model).delete()
    with pytest.raises(Unavailable, match="could not be recorded"):
        live.predict("animals", [make_jpeg()], APP)
    assert (count(system, Prediction), count(system, Image), count(system, Embedding)) == (0, 0, 0)


def test_an_image_that_cannot_be_kept_leaves_the_prediction_unanswered(
    system: System, live: LiveModels
) -> None:
    system.images.root.parent.mkdir(parents=True, exist_ok=True)
    system.images.root.write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match="could not be kept"):
        live.predict("animals", [make_jpeg()], APP)
    assert count(system, Prediction) == 0


# --- under load --------------------------------------------------------------------------------
def test_swaps_under_load_fail_no_prediction_and_misname_no_version(system: System, live: LiveModels) -> None:
    swaps, clients = 12, 4
    pictures = [make_jpeg(seed) for seed in range(16)]
    stop = threading.Event()
    batches: list[PredictedBatch] = []
    failed: list[Exception] = []

    def ask(number: int) -> None:
        for turn in itertools.count(number):
            if stop.is_set():
                return
            try:
                batches.append(live.predict("animals", [pictures[turn % len(pictures)]], APP))
            except Exception as error:  # noqa: BLE001 - whatever a caller would have seen
                failed.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for swap in range(swaps):
        asked_before = len(batches)
        generation = go_live(system, "animals", 2 if swap % 2 == 0 else 1)
        live.versions.refresh()
        assert live.get_version("animals").generation == generation
        while len(batches) < asked_before + 2 * clients and not failed:
            threads[0].join(0.01)  # until each client has asked the new version
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed
    assert {batch.version for batch in batches} == {1, 2}
    for batch in batches:  # the version named in the row gives just these scores for the stored embedding
        row, replayed = replay(system, batch.predictions[0].id)
        assert row.version == batch.version == (1 if batch.generation % 2 else 2)
        assert replayed.tolist() == batch.predictions[0].scores
