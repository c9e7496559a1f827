"""What the review view asks of the server: leases, decisions, pictures."""

from io import BytesIO
from uuid import UUID, uuid4

import pytest
from flask.testing import FlaskClient
from PIL import Image as Pillow
from sqlalchemy import select

from backtalk.states import CorrectionState, Scope
from backtalk.system import System
from backtalk.tables import Correction, Decision, Image, Model, Prediction, ReviewItem
from services.wsgi import create_app
from tests import factories, showroom
from tests.integration.test_pages_sign_in import read_csrf, sign_in


class Reviewer:
    """A signed-in person who talks JSON as the view does."""

    def __init__(self, system: System, name: str, scopes=(Scope.REVIEW,)) -> None:  # type: ignore[no-untyped-def]
        showroom.add_person(system, name, scopes)
        self.client: FlaskClient = create_app(system=system).test_client()
        sign_in(self.client, name)
        self.headers = {"Accept": "application/json", "X-CSRF-Token": read_csrf(self.client)}

    def post(self, path: str, body: object, **headers: str):  # type: ignore[no-untyped-def]
        return self.client.post(path, json=body, headers=self.headers | headers)

    def lease(self, limit: int = 5, **more: str):  # type: ignore[no-untyped-def]
        return self.post("/review/animals/lease", {"limit": limit} | more).json

    def answer(self, *answers, model: str = "animals"):  # type: ignore[no-untyped-def]
        return self.post(f"/review/{model}/answers", {"answers": list(answers)}).json

    def decide(self, item, action: str, label: str | None = None, **values):  # type: ignore[no-untyped-def]
        """What became of one answer, with the counts that came along."""
        body = give(item, action, label, **values)
        said = self.answer(body)
        return said["results"][0] | {"counts": said["counts"]}


def give(item, action: str, label: str | None = None, **values):  # type: ignore[no-untyped-def]
    body = {"id": str(uuid4()), "item": item["item"], "etag": item["etag"], "action": action, "label": label}
    return body | values


@pytest.fixture
def ada(system: System) -> Reviewer:
    return Reviewer(system, "ada")


@pytest.fixture
def bob(system: System) -> Reviewer:
    return Reviewer(system, "bob")


def test_a_lease_brings_what_the_view_shows(system, ada):
    showroom.add_queue(system, n=3)
    leased = ada.lease(2)
    assert leased["counts"] == {"open": 3, "today": 0}
    first = leased["items"][0]
    assert (first["kind"], first["predicted"], first["reported"]) == ("correction", "cat", "dog")
    assert first["reporter"] == "app"
    assert first["scores"] == pytest.approx([0.8, 0.2])
    assert ada.client.get(first["image"]).mimetype == "image/jpeg"


def test_asking_again_brings_the_same_items_and_another_reviewer_gets_others(system, ada, bob):
    showroom.add_queue(system, n=4)
    mine = [item["item"] for item in ada.lease(2)["items"]]
    assert [item["item"] for item in ada.lease(2)["items"]] == mine
    theirs = [item["item"] for item in bob.lease(5)["items"]]
    assert len(theirs) == 2
    assert not set(mine) & set(theirs)


def test_an_approval_becomes_a_decision_and_is_counted_for_today(system, ada):
    showroom.add_queue(system, n=2)
    item = ada.lease()["items"][0]
    answer = ada.decide(item, "approve")
    assert (answer["state"], answer["label"], answer["final"]) == ("taken", "dog", True)
    assert answer["counts"] == {"open": 1, "today": 1}
    with system.db.reading() as session:
        decision = session.scalars(select(Decision)).one()
        assert (decision.actor, decision.action, decision.label) == ("user:ada", "approve", "dog")
        correction = session.scalars(select(Correction).where(Correction.decision_id == decision.id)).one()
        assert correction.state == CorrectionState.APPROVED


def test_a_skip_is_no_decision_of_today(system, ada):
    showroom.add_queue(system, n=1)
    item = ada.lease()["items"][0]
    assert ada.decide(item, "skip")["counts"] == {"open": 1, "today": 0}


def test_who_comes_late_is_told_what_was_decided_and_by_whom(system, ada, bob):
    showroom.add_queue(system, n=1)
    item = ada.lease()["items"][0]
    ada.decide(item, "relabel", "cat")
    late = bob.decide(item, "approve")
    assert late["state"] == "late"
    assert late["decided"]["said"].startswith("Decided as “cat” by another reviewer ")
    assert late["decided"]["own"] is False
    again = ada.decide(item, "relabel", "cat")
    assert again["decided"]["own"] is True


def test_a_decision_on_an_item_that_has_changed_is_not_taken(system, ada):
    showroom.add_queue(system, n=1)
    item = ada.lease()["items"][0]
    answer = ada.decide(item, "approve", etag='"7"')
    assert answer["state"] == "changed"
    with system.db.reading() as session:
        assert factories.count(session, Decision) == 0


def test_an_answer_that_is_sent_twice_is_taken_down_once_and_answered_alike(system, ada):
    showroom.add_queue(system, n=1)
    body = give(ada.lease()["items"][0], "approve")
    assert ada.answer(body)["results"] == ada.answer(body)["results"] == ada.answer(body, body)["results"][:1]
    with system.db.reading() as session:
        assert factories.count(session, Decision) == 1


def test_of_many_answers_each_is_taken_for_itself(system, ada, bob):
    showroom.add_queue(system, n=4)
    first, second, third, fourth = ada.lease()["items"]
    bob.decide(second, "reject")
    said = ada.answer(
        give(first, "approve"),
        give(second, "approve"),
        give(third, "relabel", "fish"),
        {"nonsense": True},
        give(fourth, "reject"),
    )
    assert [one["state"] for one in said["results"]] == ["taken", "late", "refused", "refused", "taken"]
    assert said["results"][1]["decided"]["said"].startswith(
        "Decided as teaching nothing by another reviewer "
    )
    assert said["counts"] == {"open": 1, "today": 2}


def test_an_undo_opens_the_item_says_its_new_etag_and_takes_it_off_todays_count(system, ada):
    showroom.add_queue(system, n=1)
    item = ada.lease()["items"][0]
    body = give(item, "approve")
    said = ada.answer(body, give(item, "undo", undoes=body["id"]))
    assert [one["state"] for one in said["results"]] == ["taken", "taken"]
    assert said["counts"] == {"open": 1, "today": 0}
    etag = said["results"][1]["etag"]
    assert ada.lease()["items"][0]["etag"] == etag
    assert ada.decide(item | {"etag": etag}, "relabel", "cat")["state"] == "taken"


def test_an_undo_of_what_never_counted_is_refused_with_a_sentence(system, ada):
    showroom.add_queue(system, n=1)
    item = ada.lease()["items"][0]
    said = ada.decide(item, "undo", undoes=str(uuid4()))
    assert (said["state"], said["condition"]) == ("refused", "DecisionNotFound")


def test_what_a_page_gives_back_is_free_for_others_at_once(system, ada, bob):
    showroom.add_queue(system, n=2)
    view = str(uuid4())
    assert len(ada.lease(2, view=view)["items"]) == 2
    assert bob.lease()["items"] == []
    assert ada.post("/review/animals/release", {"view": view}).status_code == 204
    assert len(bob.lease()["items"]) == 2


def test_a_lease_that_arrives_after_its_page_was_left_leases_nothing(system, ada, bob):
    showroom.add_queue(system, n=1)
    view = str(uuid4())
    ada.post("/review/animals/release", {"view": view})
    assert ada.lease(view=view)["items"] == []
    grid = {"selection": {}, "hold": [], "view": view}
    assert ada.post("/review/animals/grid/lease", grid).json["items"] == []
    assert len(bob.lease()["items"]) == 1


def test_nobody_gives_back_what_another_holds(system, ada, bob):
    showroom.add_queue(system, n=1)
    view = str(uuid4())
    ada.lease(view=view)
    bob.post("/review/animals/release", {"view": view})
    assert bob.lease()["items"] == []


def test_a_page_that_closes_late_does_not_give_back_what_the_next_page_has_leased(system, ada, bob):
    showroom.add_queue(system, n=1)
    first, second = str(uuid4()), str(uuid4())
    ada.lease(view=first)
    ada.lease(view=second)  # the next page of the same person
    ada.post("/review/animals/release", {"view": first})
    assert bob.lease()["items"] == []


@pytest.mark.parametrize("body", [{}, {"view": None}, {"view": "x"}, {"view": 7}])
def test_giving_back_needs_the_id_of_the_page(system, ada, body):
    showroom.add_queue(system, n=1)
    assert ada.post("/review/animals/release", body).status_code == 422


def test_a_flagged_item_says_who_asks_for_an_expert_and_only_experts_get_it(system, ada, bob):
    showroom.add_queue(system, n=1)
    assert ada.decide(ada.lease()["items"][0], "flag")["state"] == "taken"
    assert bob.lease()["items"] == []
    expert = Reviewer(system, "eve", (Scope.REVIEW, Scope.EXPERT))
    assert expert.lease()["items"][0]["flagged"] == "ada"


def test_a_disputed_correction_is_marked(system, ada):
    showroom.add_queue(system, n=1)
    with system.db.transaction() as session:
        session.scalars(select(Correction)).one().state = CorrectionState.DISPUTED
    assert ada.lease()["items"][0]["disputed"] is True


@pytest.mark.parametrize(
    "body",
    [
        {"action": "relabel", "label": "fish"},
        {"action": "relabel"},
        {"action": "explode"},
        {"action": ["approve"]},
        {"action": "undo"},
        {"action": "approve", "label": 7},
        {"id": "seven"},
        {"item": "x"},
        {"etag": None},
        {"etag": 1},
    ],
)
def test_a_decision_that_makes_no_sense_is_refused_with_a_sentence(system, ada, body):
    showroom.add_queue(system, n=1)
    item = ada.lease()["items"][0]
    said = ada.answer(give(item, "approve") | body)["results"][0]
    assert said["state"] == "refused"
    assert said["message"].endswith(".")
    with system.db.reading() as session:
        assert factories.count(session, Decision) == 0


@pytest.mark.parametrize("answers", [[], None, "approve", [{}] * 101])
def test_a_request_brings_one_to_a_hundred_answers(ada, system, answers):
    showroom.add_queue(system, n=1)
    assert ada.post("/review/animals/answers", {"answers": answers}).status_code == 422


@pytest.mark.parametrize("limit", [0, 51, "five", None, True])
def test_a_lease_is_bounded(system, ada, limit):
    showroom.add_queue(system, n=1)
    answer = ada.post("/review/animals/lease", {"limit": limit})
    assert answer.status_code == 422


def test_items_and_pictures_of_another_model_are_not_to_be_had(system, ada):
    showroom.add_queue(system, n=1)
    item = ada.lease()["items"][0]
    with system.db.transaction() as session:
        factories.make_model(session, "plants", labels=["oak", "elm"])
        image_id = session.scalars(select(Prediction.image_id)).one()
    said = ada.answer(give(item, "approve"), model="plants")["results"][0]
    assert (said["state"], said["condition"]) == ("refused", "ItemNotFound")
    assert ada.client.get(f"/review/plants/images/{image_id}").status_code == 404
    assert ada.client.get(f"/review/animals/images/{image_id}").status_code == 200


@pytest.mark.parametrize(
    "path", ["/review/none", "/review/animals/images/x", f"/review/animals/images/{UUID(int=7)}"]
)
def test_what_is_not_there_gets_a_page_that_says_so(system, ada, path):
    showroom.add_queue(system, n=1)
    answer = ada.client.get(path)
    assert answer.status_code == 404
    assert "Not found" in answer.text


def test_a_picture_is_encoded_anew_with_a_fixed_type_and_can_run_nothing(system, ada):
    showroom.add_queue(system, n=1)
    kept = showroom.draw_picture(0, side=3000)
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        showroom.add_item(session, system, model, kept, predicted="cat", reported="dog")
    address = ada.lease()["items"][1]["image"]
    answer = ada.client.get(address)
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    picture = Pillow.open(BytesIO(answer.data))
    assert picture.format == "JPEG"
    assert max(picture.size) == 1024


def test_a_picture_that_was_cut_from_its_orientation_stands_upright(system, ada):
    """The store keeps the file without its metadata; the column says how to turn it."""
    showroom.add_queue(system, n=1)
    with system.db.transaction() as session:
        session.scalars(select(Image)).one().orientation = 6
    turned = Pillow.open(BytesIO(ada.client.get(ada.lease()["items"][0]["image"]).data))
    assert turned.size == (180, 240)


def test_a_picture_whose_pixels_are_gone_is_not_found(system, ada):
    showroom.add_queue(system, n=1)
    with system.db.transaction() as session:
        session.scalars(select(Image)).one().store_key = None
    assert ada.client.get(ada.lease()["items"][0]["image"]).status_code == 404


def test_nobody_signed_out_sees_a_picture(system, ada):
    showroom.add_queue(system, n=1)
    address = ada.lease()["items"][0]["image"]
    stranger = create_app(system=system).test_client()
    assert stranger.get(address).status_code == 303


def test_the_queue_says_how_many_are_open(system, ada):
    items = showroom.add_queue(system, n=3)
    with system.db.transaction() as session:
        session.get_one(ReviewItem, items[0])
    assert '<strong class="number" id="open-count">3</strong>' in ada.client.get("/review/animals").text
