"""What devices predicted: recorded once, corrected like anything else, and never replayed."""

import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from werkzeug.test import TestResponse

from backtalk import review
from backtalk.tables import Correction, Embedding, Image, OutboxEvent, Prediction, ReviewItem
from tests.clients import Api, assert_problem
from tests.faults import checker
from tests.served import LABELS, go_live, make_jpeg, make_served_model

PATH = "/v1/models/animals/predictions"


@pytest.fixture
def served(api: Api, tiny_folder: Path) -> Api:
    make_served_model(api.system, tiny_folder)
    return api


def send(api: Api, picture: bytes = make_jpeg(1), **fields: Any) -> TestResponse:
    return api.post(PATH, data={"image": (BytesIO(picture), "photo.jpg"), "label": "cat"} | fields)


def find_rows(api: Api, table: type[Any] = Prediction) -> list[Any]:
    with api.system.db.reading() as session:
        return list(session.scalars(select(table)))


def test_a_devices_mistake_is_recorded_and_corrected_like_any_other(served: Api) -> None:
    phone = served.as_key("predict", "feedback", name="phone")
    response = send(phone, version=2, scores="[0.5, 0.25, 0.25]", client_ref="roll-7/3")
    assert response.status_code == 201, response.text
    said = response.get_json()
    assert (said["version"], said["label"]) == (2, "cat")
    shown = phone.get(f"/v1/predictions/{said['id']}").get_json()
    assert (shown["version"], shown["label"], shown["scores"]) == (2, "cat", [0.5, 0.25, 0.25])
    assert (shown["made_elsewhere"], shown["client_ref"]) == (True, "roll-7/3")
    made = phone.post(f"/v1/predictions/{said['id']}/corrections", json={"label": "owl"})
    assert made.status_code == 201
    with served.system.db.transaction() as session:
        review.prepare_prediction(session, said["id"])
    (item,) = served.get("/v1/models/animals/review").get_json()["items"]
    assert (item["predicted"], item["reported"]) == ("cat", "owl")
    decided = served.post(
        f"/v1/review/{item['item']}/decisions",
        json={"action": "approve"},
        headers={"If-Match": item["etag"]},
    )
    assert decided.get_json()["final"]
    receipt = phone.get(f"/v1/corrections/{made.get_json()['id']}").get_json()
    assert receipt["state"] == "approved"


def test_without_version_and_scores_it_is_of_the_live_version_and_has_none(served: Api) -> None:
    said = send(served).get_json()
    assert said["version"] == 1
    shown = served.get(f"/v1/predictions/{said['id']}").get_json()
    assert (shown["scores"], shown["client_ref"]) == ([], None)
    assert send(served).get_json()["id"] != said["id"]  # nothing says that they are one
    (embedding,) = find_rows(served, Embedding)
    assert embedding.backbone_digest
    made = served.post(f"/v1/predictions/{said['id']}/corrections", json={"label": "dog"})
    with served.system.db.transaction() as session:
        review.prepare_prediction(session, said["id"])
    assert made.status_code == 201
    (item,) = served.get("/v1/models/animals/review").get_json()["items"]
    assert item["scores"] == []


def test_the_same_sent_again_is_the_same_prediction(served: Api) -> None:
    fields = {"scores": "[0.1, 0.2, 0.7]", "label": "owl", "client_ref": "a"}
    first = send(served, **fields)
    go_live(served.system, "animals", 2)  # that another version is live now makes it no other prediction
    served.app.extensions["backtalk"].live.versions.refresh()
    again = send(served, **fields)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.get_json() == again.get_json()
    others: list[dict[str, Any]] = [
        {"label": "cat"},
        {"scores": "[0.1, 0.3, 0.6]"},
        {"version": 2},
        {"picture": make_jpeg(2)},
    ]
    for other in others:
        problem = assert_problem(send(served, **fields | other), 409, "client-ref-taken")
        assert problem["prediction"] == first.get_json()["id"]
    other_key = served.as_key("predict", name="phone")
    assert send(other_key, **fields).status_code == 201
    assert len(find_rows(served)) == 2
    image = served.get(f"/v1/predictions/{first.get_json()['id']}").get_json()["image"]
    assert served.call("DELETE", f"/v1/images/{image}").status_code == 204
    gone = send(served, **fields)
    assert (gone.status_code, gone.get_json()["id"]) == (200, first.get_json()["id"])
    assert not list(served.system.images.keys())  # what was deleted did not come back


def test_sent_at_once_from_many_threads_it_is_recorded_once(served: Api) -> None:
    answers: list[TestResponse] = []
    callers = [Api(served.app, served.system, served.app.test_client(), served.token) for _ in range(6)]
    threads = [
        threading.Thread(target=lambda api=api: answers.append(send(api, client_ref="b")))  # type: ignore[misc]
        for api in callers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} <= {200, 201}
    assert len({answer.get_json()["id"] for answer in answers}) == 1
    assert len(find_rows(served)) == 1


@pytest.mark.parametrize(
    ("fields", "status", "kind"),
    [
        ({"label": "bird"}, 422, "unknown-label"),
        ({"version": 9}, 422, "unknown-version"),
        ({"version": 2**70}, 422, "unknown-version"),
        ({"version": 0}, 422, "invalid-input"),
        ({"version": "two"}, 422, "invalid-input"),
        ({"scores": "[0.5, 0.5]"}, 422, "invalid-input"),
        ({"scores": "[0.5, 0.5, 0.5]"}, 422, "invalid-input"),
        ({"scores": "[1.5, -0.5, 0]"}, 422, "invalid-input"),
        ({"scores": "[NaN, 0.5, 0.5]"}, 422, "invalid-input"),
        ({"scores": "0.1,0.2,0.7"}, 422, "invalid-input"),
        ({"scores": "[]"}, 422, "invalid-input"),
        ({"client_ref": ""}, 422, "invalid-input"),
        ({"client_ref": "x" * 201}, 422, "invalid-input"),
        ({"cleint_ref": "x"}, 422, "invalid-input"),
        ({"picture": b"no picture at all"}, 415, "unsupported-image"),
        ({"picture": make_jpeg()[:300]}, 422, "refused-image"),
        ({"picture": b""}, 400, "bad-request"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_and_leaves_nothing(
    served: Api, fields: dict[str, Any], status: int, kind: str
) -> None:
    assert_problem(send(served, **fields), status, kind)
    assert find_rows(served) == []
    assert find_rows(served, Image) == []


def test_bodies_that_are_no_form_and_models_that_are_not_there_are_refused(served: Api) -> None:
    assert_problem(served.post(PATH, data=make_jpeg()), 415)
    assert_problem(served.post(PATH, data={"label": "cat"}, content_type="multipart/form-data"), 400)
    assert_problem(served.post(PATH, data={"image": (BytesIO(make_jpeg()), "x")}), 422)
    response = served.post(
        "/v1/models/plants/predictions", data={"image": (BytesIO(make_jpeg()), "x"), "label": "cat"}
    )
    assert_problem(response, 404, "model-not-found")
    assert_problem(send(served.as_key("feedback")), 403)


def test_the_policy_says_what_is_kept_and_audited(served: Api) -> None:
    served.put("/v1/models/animals/policy", json={"keep_images": "none", "audit_share": 1.0})
    served.app.extensions["backtalk"].live.versions.refresh()
    said = send(served).get_json()
    (row,) = find_rows(served)
    assert row.audit
    assert not list(served.system.images.keys())
    assert [event.event for event in find_rows(served, OutboxEvent)] == ["AuditDrawn"]
    with served.system.db.transaction() as session:
        review.prepare_prediction(session, said["id"])
    (item,) = find_rows(served, ReviewItem)
    assert item.kind == "audit"
    assert find_rows(served, Correction) == []
    assert said["label"] in LABELS


def test_the_check_that_replays_predictions_leaves_out_what_devices_made(served: Api) -> None:
    send(served, scores="[0.5, 0.25, 0.25]")
    served.post("/v1/models/animals:predict", data=make_jpeg(3))
    with served.system.db.transaction() as session:
        assert list(checker._replay(session, served.system)) == []
        row = session.scalars(select(Prediction).where(Prediction.made_elsewhere)).one()
        row.made_elsewhere = False
        session.flush()
        assert "replays with other scores" in next(checker._replay(session, served.system))
