"""Gold items among the tiles: where they come, what would give them away, and that they measure."""

from uuid import uuid4

import numpy as np
import pytest
from sqlalchemy import select

from backtalk import gold, reviewers
from backtalk.embeddings import save_embeddings
from backtalk.states import Scope, Split
from backtalk.system import System
from backtalk.tables import Decision, Model, Prediction, ReviewItem, Sample
from tests import factories
from tests.integration.test_pages_grid import WIDTH, Queue, ask, list_chips
from tests.integration.test_pages_queue import Reviewer, give

KNOWN = 6  # pictures whose label is known: of half of them the prediction is wrong
SHOWN = ("cat", "dog")


@pytest.fixture
def queue(system: System, monkeypatch) -> Queue:  # type: ignore[no-untyped-def]
    """Eight audits of cats and two reports, and a gold item beside whatever one may stand beside."""
    monkeypatch.setattr(gold, "draw", lambda *_: 0.0)
    queue = Queue(system)
    with system.db.transaction() as session:
        model = session.get_one(Model, queue.model.id)
        model.policy = {"gold_share": 0.1}
        for place in range(2 * KNOWN):
            image = factories.make_image(session, store_key="kept")
            values = {"split": Split.HOLDOUT, "label": SHOWN[(place + place // 4) % 2]}
            factories.make_sample(session, model, image, **values)
            factories.make_prediction(session, model, image, label=SHOWN[place % 2], key_id=None)
    for reported in (None, None, None, None, "dog", "dog", None, None, None, None):
        queue.add(reported=reported)
    return queue


@pytest.fixture
def ada(system: System) -> Reviewer:
    return Reviewer(system, "ada")


def list_gold(system: System) -> dict[str, str]:
    """Open ones, and the right label of each."""
    with system.db.reading() as session:
        rows = session.execute(
            select(ReviewItem.id, Sample.label)
            .join(Sample, Sample.id == ReviewItem.sample_id)
            .where(ReviewItem.kind == "gold", ReviewItem.closed_at.is_(None))
        )
        return {str(item_id): label for item_id, label in rows}


@pytest.mark.parametrize(
    "selection",
    [
        {"by": "none"},
        {"by": "none", "sort": "newest"},
        {"queue": "audits"},
        {"queue": "audits", "predicted": "cat"},
    ],
    ids=str,
)
def test_a_gold_tile_looks_like_its_neighbours_in_all_that_is_sent(system, queue, ada, selection):
    tiles = ask(ada, **selection)["items"]
    golds = list_gold(system)
    hidden = [tile for tile in tiles if tile["item"] in golds]
    audits = [tile for tile in tiles if tile["kind"] == "audit" and tile["item"] not in golds]
    assert len(hidden) >= 3
    assert len(audits) == 8
    told = ("kind", "queue", "disputed", "reported", "reporter", "note", "mark", "flagged", "group", "etag")
    assert {tuple(tile[name] for name in told) for tile in hidden} == {
        tuple(tile[name] for name in told) for tile in audits
    }
    assert set(hidden[0]) == set(audits[0])
    times = [int(tile["item"].replace("-", ""), 16) >> 80 for tile in tiles]
    assert times == sorted(times, reverse=selection.get("sort") == "newest")
    if "predicted" in selection:
        assert {tile["predicted"] for tile in tiles} == {"cat"}


@pytest.mark.parametrize(
    "selection",
    [
        {"predicted": "cat", "reported": "dog"},
        {"by": "none", "reporter": "app"},
        {"by": "none", "queue": "corrections"},
        {"by": "none", "sort": "margin"},
        {"by": "none", "sort": "size"},
    ],
    ids=str,
)
def test_none_comes_where_it_would_be_the_odd_one_out(system, queue, ada, selection):
    assert ask(ada, **selection)["items"]
    assert list_gold(system) == {}


def test_none_comes_among_pictures_that_look_alike(system, queue, ada):
    group = queue.make_group()
    one, other = (queue.add(reported=None, group=group) for _ in range(2))
    assert ask(ada, by="none", like=one)["items"]
    view = {"by": "likeness", "group": str(group)}
    assert {tile["item"] for tile in ask(ada, **view)["items"]} == {one, other}
    assert list_gold(system) == {}


def test_what_is_said_of_a_gold_tile_in_a_batch_measures_and_teaches_nothing(system, queue, ada):
    tiles, batch = ask(ada, queue="audits")["items"], str(uuid4())
    golds = list_gold(system)
    said = ada.answer(*(give(tile, "approve", batch=batch) for tile in tiles))
    assert {(one["state"], one["final"]) for one in said["results"]} == {("taken", True)}
    right = sum(tile["predicted"] == golds[tile["item"]] for tile in tiles if tile["item"] in golds)
    with system.db.reading() as session:
        (record,) = reviewers.measure_reviewers(session, session.get_one(Model, queue.model.id))
        assert (record.rulings, record.gold, record.gold_right) == (8, len(golds), right)
        assert 0 < right < len(golds)
        learned = session.scalars(select(Sample.prediction_id).where(Sample.prediction_id.is_not(None))).all()
        assert not session.scalars(
            select(Decision)
            .join(ReviewItem, ReviewItem.id == Decision.item_id)
            .where(ReviewItem.kind == "gold", Decision.final | Decision.counts)
        ).all()
        assert len(learned) <= 8


def test_a_batch_with_gold_in_it_is_undone_whole(system, queue, ada):
    tiles = ask(ada, queue="audits")["items"]
    given = [give(tile, "approve", batch=str(uuid4())) for tile in tiles]
    ada.answer(*given)
    undone = ada.answer(*(give(t, "undo", undoes=one["id"]) for t, one in zip(tiles, given, strict=True)))
    assert {one["state"] for one in undone["results"]} == {"taken"}
    with system.db.reading() as session:
        (record, *_) = reviewers.measure_reviewers(session, session.get_one(Model, queue.model.id)) or [None]
        assert record is None or (record.rulings, record.gold) == (0, 0)


def test_a_grid_that_is_loaded_anew_shows_the_same_tiles(system, queue, ada):
    def load() -> list[tuple[str, str]]:
        view = str(uuid4())
        body = {"selection": {"queue": "audits"}, "hold": [], "view": view}
        tiles = ada.post("/review/animals/grid/lease", body).json["items"]
        ada.post("/review/animals/release", {"view": view})
        return [(tile["predicted"], tile["image"]) for tile in tiles]

    first = load()
    assert sorted(load()) == sorted(first)
    assert len(first) > 8


@pytest.mark.parametrize("left", [False, True], ids=["the page is open", "the page was left"])
def test_a_gold_tile_is_found_when_somebody_asks_what_looks_like_it(system, queue, ada, left):
    view = str(uuid4())
    body = {"selection": {"queue": "audits"}, "hold": [], "view": view}
    tiles = ada.post("/review/animals/grid/lease", body).json["items"]
    asked = next(tile["item"] for tile in tiles if tile["item"] in list_gold(system))
    with system.db.transaction() as session:
        for item in session.scalars(select(ReviewItem)):
            image_id = session.get_one(Prediction, item.prediction_id).image_id
            save_embeddings(session, factories.BACKBONE_DIGEST, [image_id], np.ones((1, WIDTH), np.float16))
    if left:
        ada.post("/review/animals/release", {"view": view})
    first, *others = ask(ada, by="none", like=asked)["items"]
    assert first["item"] == asked
    assert len(others) >= 2


def test_an_answered_gold_tile_does_not_come_back(system, queue, ada):
    tiles = ask(ada, queue="audits")["items"]
    asked = next(tile for tile in tiles if tile["item"] in list_gold(system))
    assert ada.decide(asked, "approve")["state"] == "taken"
    assert asked["item"] not in {tile["item"] for tile in ask(ada, by="none", like=asked["item"])["items"]}


def test_what_is_held_is_renewed_and_mixed_no_further(system, queue, ada):
    tiles = ask(ada, queue="audits")["items"]
    again = ask(ada, hold=[tile["item"] for tile in tiles], queue="audits")
    assert again["items"] == []
    assert set(again["held"]) == {tile["item"] for tile in tiles}


def test_the_number_on_a_cluster_says_the_gold_tiles_too(system, queue, ada):
    tiles = ask(ada, queue="audits")["items"]
    cats = sum(tile["predicted"] == "cat" for tile in tiles)
    assert cats > 8
    assert any(f"cat, drawn at random {cats}" in chip for chip in list_chips(ada, "?queue=audits"))


def test_a_gold_tile_was_for_one_reviewer_alone(system, queue, ada):
    mine = {tile["item"] for tile in ask(ada, queue="audits")["items"]}
    bob = Reviewer(system, "bob", (Scope.REVIEW,))
    assert not {tile["item"] for tile in ask(bob, by="none")["items"]} & mine
