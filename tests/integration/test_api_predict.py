"""Predictions over HTTP: every way to send an image, and every way to send something else."""

from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import func, select
from werkzeug.test import TestResponse

from backtalk.incoming import MAX_BATCH
from backtalk.tables import IdempotencyKey, Prediction
from tests.clients import Api, assert_problem
from tests.served import LABELS, go_live, make_jpeg, make_served_model

PATH = "/v1/models/animals:predict"


@pytest.fixture
def served(api: Api, tiny_folder: Path) -> Api:
    make_served_model(api.system, tiny_folder)
    return api


def count_predictions(api: Api) -> int:
    with api.system.db.reading() as session:
        return session.scalar(select(func.count()).select_from(Prediction)) or 0


def encode(kind: str, size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    file = BytesIO()
    Image.new("RGB", size, "teal").save(file, kind, **options)
    return file.getvalue()


def as_json(*pictures: bytes) -> dict[str, object]:
    return {"instances": [{"b64": b64encode(picture).decode()} for picture in pictures]}


# --- what is taken -----------------------------------------------------------------------------
@pytest.mark.parametrize("type_", ["image/jpeg", "application/octet-stream", "image/png", None])
def test_raw_bytes_are_taken_whatever_they_are_called(served: Api, type_: str | None) -> None:
    response = served.post(PATH, data=make_jpeg(), content_type=type_)
    assert response.status_code == 200
    body = response.json
    assert body.keys() == {"model", "version", "predictions"}
    assert (body["model"], body["version"]) == ("animals", 1)
    (answer,) = body["predictions"]
    assert answer.keys() == {"id", "label", "score", "scores"}
    assert answer["label"] == LABELS[int(np.argmax(answer["scores"]))]
    assert answer["score"] == max(answer["scores"])
    assert response.headers["Backtalk-Generation"] == "1"
    assert count_predictions(served) == 1


def test_what_curl_sends_by_default_is_taken(served: Api) -> None:
    response = served.post(PATH, data=make_jpeg(), content_type="application/x-www-form-urlencoded")
    assert response.status_code == 200


def test_a_form_is_taken(served: Api) -> None:
    response = served.post(PATH, data={"image": (BytesIO(make_jpeg()), "photo.jpg")})
    assert response.status_code == 200


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_each_format_is_taken(served: Api, kind: str) -> None:
    assert served.post(PATH, data=encode(kind)).status_code == 200


def test_the_ways_to_send_one_image_give_one_answer(served: Api) -> None:
    picture = make_jpeg(5)
    answers = [
        served.post(PATH, data=picture),
        served.post(PATH, data={"image": (BytesIO(picture), "photo.jpg")}),
        served.post(PATH, json=as_json(picture)),
    ]
    assert len({str(answer.json["predictions"][0]["scores"]) for answer in answers}) == 1


def test_files_may_be_named_as_tensorflow_servings_clients_do(served: Api) -> None:
    instances = as_json(make_jpeg(1), make_jpeg(2))["instances"]
    response = served.post(PATH, json={"instances": [{"image_bytes": one} for one in instances]})
    assert response.status_code == 200
    assert [set(one) for one in response.json["predictions"]] == [{"id", "label", "score", "scores"}] * 2
    assert count_predictions(served) == 2


def test_the_generation_in_the_header_follows_a_promotion(served: Api) -> None:
    served.post(PATH, data=make_jpeg())
    generation = go_live(served.system, "animals", 2)
    served.app.extensions["backtalk"].live.versions.refresh()
    response = served.post(PATH, data=make_jpeg())
    assert (response.json["version"], response.headers["Backtalk-Generation"]) == (2, str(generation))


# --- what is not taken -------------------------------------------------------------------------
def test_an_empty_body_is_refused(served: Api) -> None:
    assert_problem(served.post(PATH), 400)
    assert_problem(served.post(PATH, data={"image": (BytesIO(b""), "photo.jpg")}), 400)
    assert_problem(served.post(PATH, data={"picture": (BytesIO(make_jpeg()), "photo.jpg")}), 400)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (encode("GIF"), 415),
        (b"Dear reader, this is a text.", 415),
        (make_jpeg()[:300], 422),
        (b"\xff\xd8\xff" + bytes(500), 422),
    ],
    ids=["gif", "text", "truncated", "fake"],
)
def test_what_is_no_good_image_is_refused_with_a_reason(served: Api, data: bytes, status: int) -> None:
    problem = assert_problem(served.post(PATH, data=data, content_type="image/jpeg"), status)
    assert problem["reason"]
    assert count_predictions(served) == 0


def test_thirty_megabytes_are_too_much(served: Api) -> None:
    assert_problem(served.post(PATH, data=bytes(30 * 2**20)), 413)
    assert_problem(served.post(PATH, data={"image": (BytesIO(bytes(30 * 2**20)), "photo.jpg")}), 413)


def test_a_hundred_megapixels_are_too_many(served: Api) -> None:
    file = BytesIO()
    Image.new("1", (10_000, 10_000)).save(file, "PNG")
    assert_problem(served.post(PATH, data=file.getvalue()), 413)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 400),
        ("[" * 100_000, 400),
        ("[]", 400),
        ("{}", 400),
        ('{"instances": []}', 400),
        ('{"instances": {"b64": ""}}', 400),
        ('{"instances": ["aGk="]}', 400),
        ('{"instances": [{"b64": 7}]}', 400),
        ('{"instances": [{"b64": "not base64!"}]}', 422),
        ('{"instances": [{"b64": "é"}]}', 422),
        ('{"instances": [{"b64": ""}]}', 422),
        ('{"instances": [{"b64": "aGkgdGhlcmU="}]}', 415),
    ],
)
def test_json_of_another_shape_is_refused(served: Api, body: str, status: int) -> None:
    response = served.post(PATH, data=body.encode(), content_type="application/json")
    assert_problem(response, status)
    assert count_predictions(served) == 0


def test_more_images_than_a_call_may_bring_are_refused(served: Api) -> None:
    response = served.post(PATH, json=as_json(*[make_jpeg()] * (MAX_BATCH + 1)))
    assert_problem(response, 422)


def test_an_unknown_model_is_not_found(served: Api) -> None:
    assert_problem(served.post("/v1/models/plants:predict", data=make_jpeg()), 404)


@pytest.mark.parametrize("scope", ["feedback", "review", "train", "promote"])
def test_a_key_without_the_scope_may_not_predict(served: Api, scope: str) -> None:
    assert_problem(served.as_key(scope).post(PATH, data=make_jpeg()), 403)
    assert served.as_key("predict").post(PATH, data=make_jpeg()).status_code == 200


# --- Idempotency-Key ---------------------------------------------------------------------------
KEYED = {"Idempotency-Key": "photo-17"}


def count_keys(api: Api) -> int:
    with api.system.db.reading() as session:
        return session.scalar(select(func.count()).select_from(IdempotencyKey)) or 0


@pytest.mark.parametrize("pictures", [1, 3])
def test_a_repeated_key_gets_the_same_predictions_and_leaves_no_others(served: Api, pictures: int) -> None:
    body = as_json(*(make_jpeg(seed) for seed in range(pictures)))
    first = served.post(PATH, json=body, headers=KEYED)
    go_live(served.system, "animals", 2)
    served.app.extensions["backtalk"].live.versions.refresh()
    again = served.post(PATH, json=body, headers=KEYED)
    assert again.json == first.json
    assert (first.headers.get("Idempotency-Replayed"), again.headers["Idempotency-Replayed"]) == (
        None,
        "true",
    )
    assert again.headers["Backtalk-Generation"] == first.headers["Backtalk-Generation"] == "1"
    assert (count_predictions(served), count_keys(served)) == (pictures, 1)
    assert served.post(PATH, json=body).headers["Backtalk-Generation"] == "2"
    assert (count_predictions(served), count_keys(served)) == (2 * pictures, 1)  # no key, no row


def test_a_form_may_be_repeated_whatever_separates_its_parts(served: Api) -> None:
    answers = []
    for boundary in ("one", "two"):
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="photo.jpg"\r\n\r\n'
        body = head.encode() + make_jpeg() + f"\r\n--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        answers.append(served.post(PATH, data=body, content_type=kind, headers=KEYED))
    assert answers[0].status_code == 200
    assert answers[0].json == answers[1].json
    assert count_predictions(served) == 1


def test_a_key_with_another_picture_is_refused_and_one_that_failed_stays_free(served: Api) -> None:
    assert_problem(served.post(PATH, data=b"no picture", headers=KEYED), 415)
    assert count_keys(served) == 0
    assert served.post(PATH, data=make_jpeg(1), headers=KEYED).status_code == 200
    assert_problem(served.post(PATH, data=make_jpeg(2), headers=KEYED), 422, "idempotency-key-reused")
    assert count_predictions(served) == 1


def predict_apart(api: Api) -> TestResponse:
    """With a client of this thread's own."""
    return Api(api.app, api.system, api.app.test_client(), api.token).post(
        PATH, data=make_jpeg(), headers=KEYED
    )


def test_two_with_one_key_at_the_same_time_are_predicted_once(served: Api) -> None:
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(predict_apart, served) for _ in range(4)]
    answers = [call.result() for call in calls]
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert len({answer.json["predictions"][0]["id"] for answer in answers if answer.status_code == 200}) == 1
    assert (count_predictions(served), count_keys(served)) == (1, 1)
