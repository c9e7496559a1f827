"""One statement writes a prediction with everything around it, or nothing."""

import threading
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import func, select

from backtalk import embeddings
from backtalk.db import Database, make_engine, new_id
from backtalk.errors import Unavailable
from backtalk.recording import Recordable, record_predictions
from backtalk.tables import Embedding, Image, Model, OutboxEvent, Prediction
from tests import factories

WIDTH = 16


@pytest.fixture
def model(database: Database) -> Model:
    with database.transaction() as session:
        return factories.make_model(session)


def make_record(model: Model, **values: object) -> Recordable:
    given: dict[str, object] = {
        "prediction_id": new_id(),
        "model_id": model.id,
        "version": 1,
        "label": "cat",
        "scores": np.array([0.7, 0.3], np.float32).tolist(),
        "key_id": "app",
        "audit": False,
        "pixels_sha256": "a" * 64,
        "perceptual_hash": -7,
        "width": 40,
        "height": 30,
        "orientation": 1,
        "store_key": None,
        "byte_size": 1234,
        "backbone_digest": factories.BACKBONE_DIGEST,
        "embedding": np.linspace(-3, 3, WIDTH).astype(np.float16),
    }
    return Recordable(**(given | values))  # type: ignore[arg-type]


def count(database: Database, table: type) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_scores_and_embedding_come_back_bit_for_bit(database: Database, model: Model) -> None:
    vector = np.random.default_rng(3).normal(size=WIDTH).astype(np.float16)
    scores = np.random.default_rng(4).dirichlet([1, 1]).astype(np.float32)
    record = make_record(model, embedding=vector, scores=scores.tolist())
    record_predictions(database, [record])
    with database.reading() as session:
        row = session.get_one(Prediction, record.prediction_id)
        stored = embeddings.load_embeddings(session, factories.BACKBONE_DIGEST, [row.image_id], WIDTH)
    assert np.array_equal(np.array(row.scores, np.float32), scores)
    assert stored.tobytes() == vector.tobytes()
    assert (row.version, row.label, row.key_id, row.audit) == (1, "cat", "app", False)


def test_equal_pixels_share_one_image_and_one_embedding(database: Database, model: Model) -> None:
    for _ in range(3):
        record_predictions(database, [make_record(model)])
    record_predictions(database, [make_record(model), make_record(model)])
    assert (count(database, Image), count(database, Embedding), count(database, Prediction)) == (1, 1, 5)


def test_a_batch_is_recorded_whole_or_not_at_all(database: Database, model: Model) -> None:
    good = make_record(model, pixels_sha256="a" * 64)
    bad = make_record(model, pixels_sha256="b" * 64, model_id=model.id + 1000)
    with pytest.raises(Unavailable, match="could not be recorded"):
        record_predictions(database, [good, bad])
    assert (count(database, Image), count(database, Prediction)) == (0, 0)


def test_an_audited_prediction_brings_its_event(database: Database, model: Model) -> None:
    silent, drawn = make_record(model), make_record(model, audit=True)
    record_predictions(database, [silent, drawn])
    with database.reading() as session:
        events = session.scalars(select(OutboxEvent)).all()
    assert [(event.event, event.payload) for event in events] == [
        ("AuditDrawn", {"model_id": model.id, "prediction_id": str(drawn.prediction_id)})
    ]


def test_a_kept_file_is_noted_on_an_image_that_had_none(database: Database, model: Model) -> None:
    record_predictions(database, [make_record(model)])
    record_predictions(database, [make_record(model, store_key="aa/first", orientation=6)])
    record_predictions(database, [make_record(model, store_key="aa/second", orientation=1)])
    with database.reading() as session:
        image = session.scalars(select(Image)).one()
    assert (image.store_key, image.orientation) == ("aa/first", 6)


def test_pixels_that_were_deleted_come_back_as_a_new_image(database: Database, model: Model) -> None:
    record_predictions(database, [make_record(model)])
    with database.transaction() as session:
        tombstone = session.scalars(select(Image)).one()
        tombstone.pixels_sha256, tombstone.deleted_at = None, func.now()
    record = make_record(model)
    record_predictions(database, [record])
    with database.reading() as session:
        assert session.get_one(Prediction, record.prediction_id).image_id != tombstone.id
    assert count(database, Image) == 2


def test_many_writers_of_the_same_new_pixels_all_succeed(database: Database, model: Model) -> None:
    writers, rounds = 8, 20
    together = threading.Barrier(writers)
    failed: list[Unavailable] = []

    def write() -> None:
        for turn in range(rounds):
            together.wait()
            try:
                record_predictions(database, [make_record(model, pixels_sha256=f"{turn:064d}")])
            except Unavailable as error:
                failed.append(error)

    threads = [threading.Thread(target=write) for _ in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert (count(database, Image), count(database, Prediction)) == (rounds, writers * rounds)


def test_batches_with_the_same_pixels_in_another_order_do_not_block_each_other(
    database: Database, model: Model
) -> None:
    names = [f"{number:064d}" for number in range(20)]
    failed: list[Unavailable] = []

    def write(order: list[str]) -> None:
        try:
            record_predictions(database, [make_record(model, pixels_sha256=name) for name in order])
        except Unavailable as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(names[:: 1 if i % 2 else -1],)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert (count(database, Image), count(database, Prediction)) == (20, 120)


def test_nothing_is_answered_while_the_database_is_away(model: Model) -> None:
    nowhere = Database(make_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing"))
    with pytest.raises(Unavailable):
        record_predictions(nowhere, [make_record(model)])
    nowhere.close()


def test_prediction_ids_are_ordered_by_time(database: Database, model: Model) -> None:
    ids: list[UUID] = []
    for _ in range(5):
        record = make_record(model)
        record_predictions(database, [record])
        ids.append(record.prediction_id)
    assert ids == sorted(ids)
