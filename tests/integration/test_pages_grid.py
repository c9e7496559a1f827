"""What the grid asks of the server: clusters, orders, filters, similar pictures."""

import re
from itertools import count
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest
from sqlalchemy import select, text

from backtalk import neighbours, upkeep
from backtalk.embeddings import save_embeddings
from backtalk.states import Scope
from backtalk.system import System
from backtalk.tables import Backbone, Model, Prediction, ReviewItem
from tests import factories
from tests.integration.test_pages_queue import Reviewer

LABELS = ["cat", "dog", "owl"]
WIDTH = 16


class Queue:
    """A model `animals` with rows to look for; pictures are not drawn."""

    def __init__(self, system: System) -> None:
        self.system = system
        with system.db.transaction() as session:
            self.model: Model = factories.make_model(session, "animals", labels=LABELS)

    def add(self, predicted: str = "cat", reported: str | None = "dog", **values) -> str:  # type: ignore[no-untyped-def]
        with self.system.db.transaction() as session:
            scores = values.pop("scores", None) or [0.8 if label == predicted else 0.1 for label in LABELS]
            group = values.pop("group", None)
            image = factories.make_image(session)
            prediction = factories.make_prediction(session, self.model, image, label=predicted, scores=scores)
            correction = (
                factories.make_correction(session, prediction, reported, **values) if reported else None
            )
            item = factories.make_item(session, prediction, correction)
            if group is not None:
                item.group_id = group
            return str(item.id)

    def make_group(self) -> int:
        with self.system.db.transaction() as session:
            return factories.make_group(session, self.model, factories.make_image(session)).id

    def embed(self, item_id: str, vector: list[float]) -> None:
        with self.system.db.transaction() as session:
            item = session.get_one(ReviewItem, UUID(item_id))
            image_id = session.get_one(Prediction, item.prediction_id).image_id
            padded = np.zeros((1, WIDTH), np.float16)
            padded[0, : len(vector)] = vector
            save_embeddings(session, factories.BACKBONE_DIGEST, [image_id], padded)


@pytest.fixture
def queue(system: System) -> Queue:
    return Queue(system)


@pytest.fixture
def ada(system: System) -> Reviewer:
    return Reviewer(system, "ada")


def ask(reviewer: Reviewer, hold=(), **selection):  # type: ignore[no-untyped-def]
    body = {"selection": selection, "hold": list(hold)}
    return reviewer.post("/review/animals/grid/lease", body).json


def ids(reviewer: Reviewer, **selection) -> list[str]:  # type: ignore[no-untyped-def]
    return [item["item"] for item in ask(reviewer, by="none", **selection)["items"]]


def list_chips(reviewer: Reviewer, query: str = "") -> list[str]:
    page = reviewer.client.get(f"/review/animals/grid{query}").text
    return [
        re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", chip)).strip()
        for chip in re.findall(r'<a class="chip".*?</a>', page, re.DOTALL)
    ]


def test_pairs_are_listed_with_their_sizes_the_largest_first_and_the_largest_is_shown(queue, ada):
    queue.add("cat", "owl")
    for _ in range(3):
        queue.add("cat", "dog")
    queue.add("owl", None)
    queue.add("owl", None)
    assert list_chips(ada) == ["cat → dog 3", "owl, drawn at random 2", "cat → owl 1"]
    page = ada.client.get("/review/animals/grid").text
    assert re.search(r'aria-current="true">\s*<span>cat → dog', page)
    assert '"selection": {"predicted": "cat", "reported": "dog"}' in page


def test_near_duplicates_are_listed_as_clusters_and_single_pictures_are_none(queue, ada):
    pair, triple = queue.make_group(), queue.make_group()
    for group in (pair, pair, triple, triple, triple, queue.make_group(), None):
        queue.add(group=group)
    assert list_chips(ada, "?by=likeness") == ["3 alike", "2 alike"]
    assert len(ids(ada, group=pair)) == 2


def test_filters_narrow_what_is_leased(queue, ada):
    first = queue.add("cat", "dog", reporter="line-1")
    second = queue.add("dog", "owl", reporter="line-2")
    third = queue.add("owl", None)
    assert ids(ada, predicted="cat") == [first]
    assert ids(ada, reported="owl") == [second]
    assert ids(ada, reporter="line-2") == [second]
    assert ids(ada, queue="audits") == [third]
    assert ids(ada) == [first, second, third]


def test_items_come_in_the_order_that_is_asked_for(queue, ada):
    sure = queue.add(scores=[0.9, 0.06, 0.04])
    unsure = queue.add(scores=[0.5, 0.4, 0.1])
    doubtful = queue.add(scores=[0.7, 0.02, 0.28])
    assert ids(ada, sort="age") == [sure, unsure, doubtful]
    assert ids(ada, sort="newest") == [doubtful, unsure, sure]
    assert ids(ada, sort="margin") == [unsure, doubtful, sure]
    assert ids(ada, sort="doubt") == [doubtful, sure, unsure]


def test_a_correction_that_was_weighed_is_sorted_by_its_suspicion(queue, ada):
    likely = queue.add(scores=[0.9, 0.05, 0.05], suspicion=0.1)
    unlikely = queue.add(scores=[0.5, 0.5, 0.0], suspicion=0.99)
    assert ids(ada, sort="doubt") == [unlikely, likely]


def test_trust_is_what_people_found_of_a_reporter_and_strangers_lie_between(system, queue, ada):
    items = {name: queue.add(reporter=name) for name in ("liar", "stranger", "expert")}
    audit = queue.add("owl", None)
    with system.db.transaction() as session:
        for name, state in (("liar", "rejected"), ("expert", "approved")) * 3:
            decision = factories.make_decision(session, queue.model)
            item = session.get_one(ReviewItem, decision.item_id)
            item.closed_at = item.created_at
            prediction = session.get_one(Prediction, item.prediction_id)
            factories.make_correction(
                session, prediction, "dog", reporter=name, state=state, decision_id=decision.id
            )
    order = [items["expert"], items["stranger"], items["liar"]]
    assert ids(ada, sort="trust") == [*order, audit]
    assert ids(ada, sort="distrust") == [*reversed(order), audit]


def test_the_largest_clusters_can_come_first(queue, ada):
    rare = queue.add("cat", "owl")
    common = [queue.add("cat", "dog") for _ in range(2)]
    assert ids(ada, sort="size") == [*common, rare]


def test_two_who_open_the_same_view_get_different_items(system, queue, ada):
    for _ in range(60):
        queue.add()
    mine, theirs = ids(ada), ids(Reviewer(system, "bob"))
    assert (len(mine), len(theirs)) == (48, 12)
    assert not set(mine) & set(theirs)


def test_tiles_that_are_shown_are_renewed_and_those_decided_by_others_are_named_no_more(system, queue, ada):
    first, second, third = (queue.add() for _ in range(3))
    ask(ada, by="none")
    Reviewer(system, "bob").answer(
        {"id": str(uuid4()), "item": first, "etag": '"1"', "action": "reject", "label": None}
    )
    again = ask(ada, hold=[first, second], by="none")
    assert list(again["held"]) == [second]
    assert [item["item"] for item in again["items"]] == [third]


def test_what_was_flagged_is_shown_to_experts_alone(system, queue, ada):
    flagged = queue.add()
    ada.answer({"id": str(uuid4()), "item": flagged, "etag": '"1"', "action": "flag", "label": None})
    assert ids(ada) == []
    assert list_chips(ada) == []
    expert = Reviewer(system, "eve", (Scope.REVIEW, Scope.EXPERT))
    assert ids(expert, flagged="1") == [flagged]
    assert list_chips(expert) == ["cat → dog 1"]


@pytest.mark.parametrize(
    "query", ["by=colour", "sort=luck", "queue=x", "queue=gold", "group=x", "group=-1", "like=x"]
)
def test_an_address_that_makes_no_sense_is_refused_with_a_page(queue, ada, query):
    answer = ada.client.get(f"/review/animals/grid?{query}")
    assert answer.status_code == 422
    assert "That does not fit" in answer.text


@pytest.mark.parametrize(
    "body", [{}, {"selection": []}, {"selection": {}, "hold": ["x"] * 49}, {"selection": {"by": 7}}]
)
def test_a_lease_that_makes_no_sense_is_refused(queue, ada, body):
    assert ada.post("/review/animals/grid/lease", body).status_code == 422


def test_a_label_is_text_in_the_address_and_never_markup(queue, ada):
    page = ada.client.get("/review/animals/grid", query_string={"reporter": "<script>alert(1)</script>"}).text
    assert "<script>alert" not in page


def test_the_most_similar_come_first_as_the_live_backbone_sees_them(queue, ada):
    asked, far, near = queue.add(), queue.add(), queue.add()
    queue.embed(asked, [1, 0])
    queue.embed(far, [0, 1])
    queue.embed(near, [1, 0.2])
    queue.add()  # never embedded: it is not there
    assert ids(ada, like=asked) == [asked, near, far]


def test_without_an_embedding_near_duplicates_are_shown_and_it_is_said(queue, ada):
    group = queue.make_group()
    asked, other = queue.add(group=group), queue.add(group=group)
    queue.add()
    found = ask(ada, by="none", like=asked)
    assert [item["item"] for item in found["items"]] == [asked, other]
    assert found["remark"] == "alikeByHash"


def test_an_item_that_is_gone_finds_nothing_and_it_is_said(queue, ada):
    queue.add()
    assert ask(ada, like=str(uuid4()))["remark"] == "alikeGone"


def test_the_index_finds_what_comparing_one_by_one_finds_and_is_used(
    system, queue, ada, owner_url, monkeypatch
):
    draw = np.random.default_rng(1)
    items = [queue.add() for _ in range(40)]
    for item in items:
        queue.embed(item, list(draw.normal(size=WIDTH)))
    exact = ids(ada, like=items[0])
    assert neighbours.make_indexes(owner_url) == []  # too few to need one
    monkeypatch.setattr(neighbours, "INDEX_FROM", 40)
    name = neighbours.name_index(factories.BACKBONE_DIGEST)
    try:
        assert neighbours.make_indexes(owner_url) == [name]
        assert neighbours.make_indexes(owner_url) == []
        assert ids(ada, like=items[0]) == exact
        assert name in explain_search(system)
    finally:
        with psycopg.connect(owner_url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(f"DROP INDEX IF EXISTS {name}")


def test_a_role_that_may_make_no_index_leaves_the_search_as_it_is(system, queue, ada, monkeypatch):
    item = queue.add()
    queue.embed(item, [1])
    monkeypatch.setattr(neighbours, "INDEX_FROM", 1)
    upkeep.index_embeddings(system)
    assert ids(ada, like=item) == [item]


def explain_search(system: System) -> str:
    """The plan of the search where nothing cheaper is at hand, as it is not among very many."""
    with system.db.reading() as session:
        for name in ("seqscan", "sort", "bitmapscan"):
            session.execute(text(f"SET LOCAL enable_{name} = off"))
        model = session.scalars(select(Model)).one()
        backbone = session.scalars(select(Backbone)).one()
        rows = neighbours._near(model, backbone, []).params(asked=str([1.0] * WIDTH)).limit(3)
        statement = rows.compile(session.get_bind(), compile_kwargs={"literal_binds": True})
        return "\n".join(session.scalars(text(f"EXPLAIN {statement}")))


def test_without_an_index_a_long_queue_is_compared_in_part_and_it_is_said(queue, ada, monkeypatch):
    monkeypatch.setattr(neighbours, "EXACT_MOST", 2)
    items = [queue.add() for _ in range(3)]
    for place, item in zip(count(), items, strict=False):
        queue.embed(item, [1, place])
    found = ask(ada, by="none", like=items[0])
    assert [item["item"] for item in found["items"]] == items[:2]
    assert found["remark"] == "alikeOldest"
