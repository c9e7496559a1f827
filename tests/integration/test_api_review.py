"""The review queue over HTTP: leases, decisions that meet, and pictures that are safe to show."""

import threading
from io import BytesIO
from uuid import UUID

import numpy as np
import pytest
from PIL import Image as Pillow

from backtalk import images
from backtalk.db import Database
from backtalk.system import System
from backtalk.tables import Correction, Image, Model
from tests import factories
from tests.clients import Api, assert_problem


@pytest.fixture
def model(database: Database) -> Model:
    with database.transaction() as session:
        return factories.make_model(session)


def make_item(system: System, model: Model, image: Image | None = None, *, audit: bool = False) -> str:
    """An open item about a prediction `cat`; a correction says `dog`, unless it is an audit."""
    with system.db.transaction() as session:
        prediction = factories.make_prediction(session, model, image, audit=audit)
        correction = None if audit else factories.make_correction(session, prediction, "dog", note="it barks")
        return str(factories.make_item(session, prediction, correction).id)


def make_picture(system: System, **values: object) -> Image:
    """Kept in the store: 60 wide and 30 high, red."""
    file = BytesIO()
    Pillow.fromarray(np.full((30, 60, 3), (200, 30, 30), np.uint8)).save(file, "JPEG")
    digest = images.pixels_digest(images.decode(file.getvalue()).pixels)
    given = {"width": 60, "height": 30, "store_key": system.images.put(digest, file.getvalue())}
    with system.db.transaction() as session:
        return factories.make_image(session, **(given | values))


def lease(api: Api, query: str = "") -> list[dict[str, object]]:
    response = api.get(f"/v1/models/animals/review{query}")
    assert response.status_code == 200, response.text
    return response.get_json()["items"]


def decide(api: Api, item: str, action: str, etag: str | None = '"1"', **values: object):  # type: ignore[no-untyped-def]
    headers = {} if etag is None else {"If-Match": etag}
    return api.post(f"/v1/review/{item}/decisions", json={"action": action} | values, headers=headers)


# --- leases ------------------------------------------------------------------------------------
def test_a_leased_item_shows_all_that_a_reviewer_needs(api: Api, model: Model) -> None:
    item = make_item(api.system, model)
    (shown,) = lease(api)
    assert shown["item"] == item
    assert (shown["kind"], shown["predicted"], shown["reported"]) == ("correction", "cat", "dog")
    assert shown["scores"] == pytest.approx([0.8, 0.2])
    assert (shown["note"], shown["image_url"]) == ("it barks", f"/v1/review/{item}/image")
    assert isinstance(shown["etag"], str)
    assert shown["etag"].startswith('"')
    assert str(shown["lease_until"]).endswith("Z")
    assert UUID(str(shown["correction"]))
    assert UUID(str(shown["prediction"]))


def test_an_audit_has_neither_correction_nor_reported_label(api: Api, model: Model) -> None:
    make_item(api.system, model, audit=True)
    (shown,) = lease(api)
    assert (shown["kind"], shown["correction"], shown["reported"]) == ("audit", None, None)


def test_asking_again_returns_the_own_items_and_nobody_elses(api: Api, model: Model) -> None:
    items = [make_item(api.system, model) for _ in range(4)]
    first = [shown["item"] for shown in lease(api, "?limit=2")]
    assert first == items[:2]
    assert [shown["item"] for shown in lease(api, "?limit=2")] == first
    other = api.as_key("review", name="other")
    assert [shown["item"] for shown in lease(other)] == items[2:]


def test_the_queue_names_labels_and_generation(api: Api, model: Model) -> None:
    response = api.get("/v1/models/animals/review")
    assert response.get_json() == {"items": [], "labels": ["cat", "dog"]}
    assert response.headers["Backtalk-Generation"] == "1"


# --- decisions ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("action", "values", "label", "final"),
    [
        ("approve", {}, "dog", True),
        ("relabel", {"label": "cat"}, "cat", True),
        ("reject", {}, None, True),
        ("skip", {}, None, False),
    ],
)
def test_each_action_is_taken_down(
    api: Api, model: Model, action: str, values: dict[str, str], label: str | None, final: bool
) -> None:
    item = make_item(api.system, model)
    response = decide(api, item, action, **values)
    assert response.status_code == 200, response.text
    said = response.get_json()
    assert (said["item"], said["label"], said["final"]) == (item, label, final)
    assert len(lease(api)) == (0 if final else 1)


def test_an_approved_correction_is_approved(api: Api, model: Model, database: Database) -> None:
    decide(api, make_item(api.system, model), "approve")
    with database.reading() as session:
        assert session.query(Correction).one().state == "approved"


def test_a_decision_without_if_match_is_428(api: Api, model: Model) -> None:
    assert_problem(decide(api, make_item(api.system, model), "approve", None), 428, "etag-missing")


@pytest.mark.parametrize("etag", ['"7"', "1", "*", "x", 'W/"1"'])
def test_a_decision_about_an_item_that_changed_is_412(api: Api, model: Model, etag: str) -> None:
    response = decide(api, make_item(api.system, model), "approve", etag)
    if response.status_code != 200:  # `*` may stand for whatever the item is now
        assert_problem(response, 412, "item-changed")


def test_the_second_decision_is_412_and_says_who_was_first(api: Api, model: Model) -> None:
    item = make_item(api.system, model)
    decide(api.as_key("review", name="ann"), item, "approve")
    problem = assert_problem(decide(api, item, "reject"), 412, "item-changed")
    assert (problem["action"], problem["own"]) == ("approve", False)
    assert repr(problem["decided_as"]) in problem["detail"]
    assert 0 <= problem["seconds_ago"] < 60


def test_of_two_reviewers_at_once_one_gets_200_and_the_other_412(api: Api, model: Model) -> None:
    item = make_item(api.system, model)
    start = threading.Barrier(2)
    found: list[int] = []

    def call(own: Api) -> None:
        start.wait()
        found.append(decide(own, item, "approve").status_code)

    threads = [threading.Thread(target=call, args=(api.as_key("review", name=n),)) for n in ("ann", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [200, 412]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"action": "delete"},
        {"action": "relabel"},
        {"action": "relabel", "label": "bird"},
        {"action": "approve", "labels": "dog"},
    ],
)
def test_a_decision_that_cannot_be_made_is_422(api: Api, model: Model, body: dict[str, str]) -> None:
    item = make_item(api.system, model)
    response = api.post(f"/v1/review/{item}/decisions", json=body, headers={"If-Match": '"1"'})
    assert_problem(response, 422)


# --- pictures ----------------------------------------------------------------------------------
def test_a_picture_is_reencoded_and_shut_in(api: Api, model: Model) -> None:
    picture = make_picture(api.system)
    response = api.get(f"/v1/review/{make_item(api.system, model, picture)}/image")
    assert response.status_code == 200
    assert response.mimetype == "image/jpeg"
    assert Pillow.open(BytesIO(response.data)).size == (60, 30)
    headers = response.headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert headers["Content-Disposition"] == f'inline; filename="{picture.id}.jpg"'
    assert headers["Cache-Control"].startswith("private")
    assert response.data != api.system.images.get(picture.store_key)


def test_a_picture_is_turned_as_its_camera_was_held(api: Api, model: Model) -> None:
    picture = make_picture(api.system, orientation=6, width=30, height=60)
    response = api.get(f"/v1/review/{make_item(api.system, model, picture)}/image")
    assert Pillow.open(BytesIO(response.data)).size == (30, 60)


@pytest.mark.parametrize("gone", [{"store_key": None}, {"store_key": "ab/" + "ab" * 32 + "-" + "ab" * 8}])
def test_a_picture_that_is_gone_is_404(api: Api, model: Model, gone: dict[str, object]) -> None:
    item = make_item(api.system, model, make_picture(api.system, **gone))
    assert_problem(api.get(f"/v1/review/{item}/image"), 404, "image-not-found")
