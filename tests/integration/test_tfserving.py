"""What clients of TensorFlow Serving send, and whether they get what it would answer."""

import json
from base64 import b64encode, encodebytes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

from backtalk import images
from backtalk.runtime import Backbone
from backtalk.tables import Prediction
from tests.clients import Api, assert_problem
from tests.served import LABELS, go_live, make_jpeg, make_served_model

MODEL = "/v1/models/animals"
PATH = f"{MODEL}:predict"
SIZE = 32
PREDICT = "tensorflow/serving/predict"
WANTED = "signature method_name to be tensorflow/serving"


@pytest.fixture
def served(api: Api, tiny_folder: Path) -> Api:
    make_served_model(api.system, tiny_folder, versions=3)
    return api


@pytest.fixture
def promoted(served: Api) -> Api:
    """Version 2 live, version 1 before it, version 3 never loaded."""
    served.post(PATH, data=make_jpeg())
    go_live(served.system, "animals", 2)
    served.app.extensions["backtalk"].live.versions.refresh()
    return served


def as_b64(data: bytes) -> dict[str, str]:
    return {"b64": b64encode(data).decode()}


def as_numbers(seed: int) -> list[Any]:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    numbers: list[Any] = pixels.tolist()
    return numbers


FILE = as_b64(make_jpeg())
BYTES = {"signature_name": "serve_bytes"}


def find_rows(api: Api) -> dict[str, Prediction]:
    with api.system.db.reading() as session:
        return {str(row.id): row for row in session.scalars(select(Prediction))}


def test_files_in_rows_and_in_columns_get_the_scores_alone(served: Api) -> None:
    pictures = [make_jpeg(1), make_jpeg(2)]
    files = [as_b64(data) for data in pictures]
    expected = [served.post(PATH, data=data).get_json()["predictions"][0]["scores"] for data in pictures]
    asked: list[tuple[str, dict[str, Any]]] = [
        ("predictions", {"instances": files}),
        ("predictions", {"instances": [{"image_bytes": one} for one in files]}),
        ("outputs", {"inputs": files}),
        ("outputs", {"inputs": {"image_bytes": files}}),
    ]
    for key, body in asked:
        response = served.post(PATH, json={"signature_name": "serve_bytes"} | body)
        assert response.status_code == 200, response.text
        assert response.mimetype == "application/json"
        said = response.get_json()
        assert said.keys() == {key}
        assert np.array_equal(np.float32(said[key]), np.float32(expected))
    assert len(find_rows(served)) == 2 + 2 * len(asked)


def test_pixels_in_rows_and_in_columns_get_scores_and_embedding(served: Api, tiny_folder: Path) -> None:
    numbers = [as_numbers(1), as_numbers(2)]
    backbone = Backbone(tiny_folder, 1)
    embedding = backbone.embed(np.array(numbers, np.uint8)).astype(np.float32)
    row_wise: list[dict[str, Any]] = [
        {"instances": numbers},
        {"signature_name": "", "instances": numbers},
        {"signature_name": "serving_default", "instances": [{"image": one} for one in numbers]},
    ]
    for body in row_wise:
        said = served.post(PATH, json=body).get_json()
        assert said.keys() == {"predictions"}
        assert [set(one) for one in said["predictions"]] == [{"scores", "embedding"}] * 2
        assert np.array_equal(np.float32([one["embedding"] for one in said["predictions"]]), embedding)
    for value in (numbers, {"image": numbers}):
        said = served.post(PATH, json={"inputs": value}).get_json()
        assert said.keys() == {"outputs"}
        assert np.array_equal(np.float32(said["outputs"]["embedding"]), embedding)
        assert np.shape(said["outputs"]["scores"]) == (2, len(LABELS))


def test_what_was_asked_in_tensors_is_recorded_and_can_be_corrected(served: Api) -> None:
    response = served.post(PATH, json={"instances": [as_numbers(1), as_numbers(2)]})
    ids = response.headers["Backtalk-Predictions"].split(",")
    assert (response.headers["Backtalk-Version"], response.headers["Backtalk-Generation"]) == ("1", "1")
    rows = find_rows(served)
    for place, one in enumerate(ids):
        scores = np.float32(response.get_json()["predictions"][place]["scores"])
        assert np.array_equal(scores, np.float32(rows[one].scores))
        assert rows[one].version == 1
        image = served.get(f"/v1/predictions/{one}").get_json()
        other = next(label for label in LABELS if label != image["label"])
        made = served.post(f"/v1/predictions/{one}/corrections", json={"label": other})
        assert made.status_code == 201
    key = next(served.system.images.keys())
    pixels = images.decode(served.system.images.get(key)).pixels.tolist()
    assert pixels in [as_numbers(1), as_numbers(2)]  # kept without a change


@pytest.mark.parametrize("type_", [None, "application/x-www-form-urlencoded", "text/plain"])
def test_what_curl_sends_in_tensorflow_servings_tutorial_is_json(served: Api, type_: str | None) -> None:
    body = json.dumps({"signature_name": "serve_bytes", "instances": [as_b64(make_jpeg())]})
    response = served.post(PATH, data=body, content_type=type_)
    assert len(response.get_json()["predictions"][0]) == len(LABELS)
    plain = served.post(PATH, data=json.dumps({"instances": [as_b64(make_jpeg())]}), content_type=type_)
    assert plain.get_json()["predictions"][0]["id"]


def test_base64_with_line_ends_or_without_padding_is_read(served: Api) -> None:
    data = make_jpeg(1) + b"\0"  # so that there is padding to leave out
    for text in (encodebytes(data).decode(), b64encode(data).decode().rstrip("=")):
        for named in ({"signature_name": "serve_bytes"}, {}):
            response = served.post(PATH, json={"instances": [{"b64": text}]} | named)
            assert response.status_code == 200, response.text


KEYED = {"Idempotency-Key": "photo-17"}


@pytest.mark.parametrize("place", ["", "/versions/1", "/labels/live"])
@pytest.mark.parametrize(
    "body",
    [
        {"signature_name": "serve_bytes", "instances": [as_b64(make_jpeg(1)), as_b64(make_jpeg(2))]},
        {"instances": [as_numbers(1), as_numbers(1)]},
        {"inputs": [as_numbers(1), as_numbers(2)]},
    ],
    ids=["files", "rows", "columns"],
)
def test_a_repeated_key_gets_the_same_tensors_and_ids(served: Api, place: str, body: dict[str, Any]) -> None:
    path = f"{MODEL}{place}:predict"
    first = served.post(path, json=body, headers=KEYED)
    assert first.status_code == 200, first.text
    for number in (2, 3):  # what answered is not even in memory any more
        go_live(served.system, "animals", number)
        served.app.extensions["backtalk"].live.versions.refresh()
    again = served.post(path, json=body, headers=KEYED)
    assert again.get_json() == first.get_json()
    for name in ("Backtalk-Predictions", "Backtalk-Version", "Backtalk-Generation"):
        assert again.headers[name] == first.headers[name]
    assert first.headers["Backtalk-Version"] == first.headers["Backtalk-Generation"] == "1"
    replayed = [one.headers.get("Idempotency-Replayed") for one in (first, again)]
    assert replayed == [None, "true"]
    assert sorted(find_rows(served)) == sorted(first.headers["Backtalk-Predictions"].split(","))
    assert 'backtalk_predictions_total{model="animals",version="1"} 2.0' in served.client.get("/metrics").text

    plain = served.post(PATH, json=body)
    assert plain.headers["Backtalk-Version"] == "3"
    other = {"instances": [as_numbers(3)]}
    assert_problem(served.post(path, json=other, headers=KEYED), 422, "idempotency-key-reused")


def test_with_a_key_the_answer_is_what_it_is_without(served: Api) -> None:
    for key, body in (("a", {"instances": [as_numbers(1)]}), ("b", BYTES | {"inputs": [FILE]})):
        plain = served.post(PATH, json=body)
        keyed = served.post(PATH, json=body, headers={"Idempotency-Key": key})
        assert keyed.data == plain.data


def test_a_key_of_tensors_that_failed_stays_free(served: Api) -> None:
    assert_problem(served.post(PATH, json=BYTES | {"instances": [as_b64(b"none")]}, headers=KEYED), 400)
    assert_problem(served.post(f"{MODEL}/versions/9:predict", json=BYTES, headers=KEYED), 404)
    assert served.post(PATH, json=BYTES | {"instances": [FILE]}, headers=KEYED).status_code == 200


def test_no_embedding_of_a_deleted_picture_is_left_over_for_a_key(served: Api) -> None:
    pixels, file = {"instances": [as_numbers(1)]}, BYTES | {"instances": [FILE]}
    for body, key in ((pixels, "pixels"), (file, "file")):
        first = served.post(PATH, json=body, headers={"Idempotency-Key": key})
        record = served.get(f"/v1/predictions/{first.headers['Backtalk-Predictions']}").get_json()
        assert served.call("DELETE", f"/v1/images/{record['image']}").status_code == 204
    gone = served.post(PATH, json=pixels, headers={"Idempotency-Key": "pixels"})
    assert_problem(gone, 409, "image-deleted")
    again = served.post(PATH, json=file, headers={"Idempotency-Key": "file"})
    assert again.headers["Idempotency-Replayed"] == "true"  # the scores stay with the prediction's row


def test_versions_in_memory_answer_by_number_and_by_label(promoted: Api) -> None:
    body = {"signature_name": "serve_bytes", "instances": [as_b64(make_jpeg(7))]}
    found = {}
    for place in ("versions/1", "labels/previous", "versions/2", "labels/live"):
        response = promoted.post(f"{MODEL}/{place}:predict", json=body)
        assert response.status_code == 200, response.text
        assert response.headers["Backtalk-Generation"] == "2"
        row = find_rows(promoted)[response.headers["Backtalk-Predictions"]]
        assert response.headers["Backtalk-Version"] == str(row.version)
        found[place] = (row.version, str(response.get_json()))
    assert [version for version, _ in found.values()] == [1, 1, 2, 2]
    assert found["versions/1"] == found["labels/previous"] != found["versions/2"] == found["labels/live"]
    assert promoted.post(PATH, json=body).headers["Backtalk-Version"] == "2"


def test_previous_is_what_was_live_before_here_also_after_a_rollback(served: Api) -> None:
    body = {"instances": [as_numbers(1)]}
    problem = assert_problem(served.post(f"{MODEL}/labels/previous:predict", json=body), 400)
    assert problem["error"] == "Unrecognized servable version label: previous. There is live."
    for number, previous in ((2, "1"), (1, "2")):
        go_live(served.system, "animals", number)
        served.app.extensions["backtalk"].live.versions.refresh()
        response = served.post(f"{MODEL}/labels/previous:predict", json=body)
        assert response.headers["Backtalk-Version"] == previous


def test_a_pinned_version_heeds_the_policy_of_today(promoted: Api) -> None:
    promoted.put(f"{MODEL}/policy", json={"keep_images": "none"})
    promoted.app.extensions["backtalk"].live.versions.refresh()
    before = list(promoted.system.images.keys())
    response = promoted.post(f"{MODEL}/versions/1:predict", json={"instances": [as_numbers(5)]})
    assert response.status_code == 200
    assert list(promoted.system.images.keys()) == before


def test_what_is_not_in_memory_cannot_be_asked(promoted: Api) -> None:
    body = {"instances": [as_numbers(1)]}
    cases = [
        (f"{MODEL}/versions/3:predict", 404, "Servable not found for request: Specific(animals, 3)"),
        ("/v1/models/plants/versions/1:predict", 404, "Servable not found for request: Specific(plants, 1)"),
        (f"{MODEL}/labels/stable:predict", 400, "Unrecognized servable version label: stable"),
        ("/v1/models/plants:classify", 404, "Servable not found for request: Latest(plants)"),
        (f"{MODEL}:classify", 400, f"Expected classification {WANTED}/classify. Was: {PREDICT}"),
        (f"{MODEL}/versions/2:regress", 400, f"Expected regression {WANTED}/regress. Was: {PREDICT}"),
        (f"{MODEL}/labels/live:regress", 400, f"Expected regression {WANTED}/regress. Was: {PREDICT}"),
    ]
    for path, status, sentence in cases:
        problem = assert_problem(promoted.post(path, json=body), status)
        assert problem["error"] == problem["detail"]
        assert problem["error"].startswith(sentence), problem["error"]
    assert (
        "In memory are 2 (live), 1 (previous)"
        in assert_problem(promoted.post(cases[0][0], json=body), 404)["error"]
    )


REFUSED: list[tuple[Any, str]] = [
    ("{", "not valid JSON"),
    ({"signature_name": "regress", "instances": [1]}, 'Serving signature name: "regress" not found'),
    ({"signature_name": 7, "instances": [1]}, "'signature_name' key must be a string value"),
    (BYTES, "Missing 'inputs' or 'instances' key"),
    (BYTES | {"instances": [FILE], "inputs": [FILE]}, "only one of 'inputs' or 'instances'"),
    (BYTES | {"instances": FILE}, "'instances' to be an list/array"),
    (BYTES | {"instances": []}, "No values in 'instances'"),
    (BYTES | {"inputs": []}, "between 1 and 64"),
    (BYTES | {"instances": [FILE] * 65}, "between 1 and 64"),
    (BYTES | {"inputs": FILE}, "image_bytes has shape []"),
    (BYTES | {"inputs": {"image": [FILE]}}, "Missing named input: image_bytes"),
    (BYTES | {"instances": [{"image": FILE}]}, "keys must be equal to: image_bytes"),
    (BYTES | {"instances": [{"image_bytes": FILE}, FILE]}, "Expecting object but got list at item 1"),
    (BYTES | {"instances": [FILE, {"b64": 7}]}, "item 1 is not formatted correctly for base64"),
    (BYTES | {"instances": [7]}, "not of expected type: string"),
    (BYTES | {"instances": [{"b64": "A"}]}, "Unable to base64 decode"),
    (BYTES | {"instances": [{"b64": "aGkgdGhlcmU="}]}, "not a"),
    (BYTES | {"instances": ["no picture"]}, "not a"),
    ({"signature_name": "serving_default", "instances": [FILE]}, "not of expected type: uint8"),
    ({"instances": [[1.0, 2.0, 5.0]]}, "not of expected type: uint8"),
    ({"instances": [[1, 2, 5]]}, "image has shape [1,3], and [-1,32,32,3] is expected"),
    ({"instances": [[[1, 2], [3]]]}, "no tensor of the shape"),
    ({"instances": [[[[256, 0, 0]] * 32] * 32]}, "whole numbers of 0 to 255"),
    ({"instances": [[[[-1, 0, 0]] * 32] * 32]}, "whole numbers of 0 to 255"),
    ('{"inputs": [NaN]}', "not of expected type: uint8"),
]


def test_what_is_malformed_is_400_with_the_reason_and_leaves_nothing(served: Api) -> None:
    for body, sentence in REFUSED:
        text = body if isinstance(body, str) else json.dumps(body)
        problem = assert_problem(served.post(PATH, data=text, content_type="application/json"), 400)
        assert sentence in problem["error"], (text[:100], problem["error"])
    assert find_rows(served) == {}
    for path in (f"{MODEL}/versions/1:predict", f"{MODEL}/labels/live:predict"):
        assert_problem(served.post(path, data=b"[1]"), 400)
        assert_problem(served.post(path, data=b""), 400)


# What api_rest.md itself shows, and other bodies that say nothing of a signature.
PLAIN: list[tuple[str, str]] = [
    ('{"instances": [1.0, 2.0, 5.0]}', "not of expected type: uint8"),
    ('{"instances": ["foo", "bar"]}', "not of expected type: uint8"),
    ('{"instances": [null]}', "not of expected type: uint8"),
    ('{"instances": [{"b64": "aGk="}, [1, 2]]}', ""),
    ('{"instances": [{"b64": "aGk=", "tag": "x"}]}', "keys must be equal to: image"),
    ('{"instances": [{"b64": 7}]}', "keys must be equal to: image"),
    ('{"instances": [{"tag": "foo", "signal": [1, 2]}]}', "keys must be equal to: image"),
    ('{"instances": 1}', "Excepting 'instances' to be an list/array"),
    ('{"instances": null}', "Excepting 'instances' to be an list/array"),
    ('{"instances": []}', "No values in 'instances' array"),
    ('{"instances": [{"b64": "aGk="}], "inputs": [1]}', "expecting only one of 'inputs' or 'instances' keys"),
    ('{"inputs": 1}', "image has shape []"),
    ('{"examples": [{"x": 1.0}]}', "Missing 'inputs' or 'instances' key"),
    ("{}", "Missing 'inputs' or 'instances' key"),
]


@pytest.mark.parametrize("type_", ["application/json", "application/x-www-form-urlencoded"])
def test_what_is_not_files_alone_is_answered_as_tensorflow_serving_does(served: Api, type_: str) -> None:
    missing = "/v1/models/half:predict"
    for body, sentence in PLAIN:
        problem = assert_problem(served.post(PATH, data=body, content_type=type_), 400, "malformed-tensor")
        assert sentence in problem["error"], body
        problem = assert_problem(served.post(missing, data=body, content_type=type_), 404)
        assert problem["error"] == "Servable not found for request: Latest(half)"
    # Its own documentation's second example, and what it refuses before it looks for the model.
    problem = assert_problem(served.post(missing, data='{"instances": [1.0, 5.0]}', content_type=type_), 404)
    assert problem["error"] == "Servable not found for request: Latest(half)"
    for path in (PATH, missing, "/v1/models/half/versions/1:predict"):
        problem = assert_problem(served.post(path, data="[1, 2]", content_type=type_), 400)
        assert problem["error"] == "JSON Value: [1, 2] Is not object"
        body = '{"signature_name": 1, "instances": [1]}'
        problem = assert_problem(served.post(path, data=body, content_type=type_), 400)
        assert "'signature_name' key must be a string value" in problem["error"]
    assert find_rows(served) == {}


def test_files_alone_keep_backtalks_shape_and_its_codes(served: Api) -> None:
    file = as_b64(make_jpeg())
    for rows in ([file], [{"image_bytes": file}, file], [{"image": file}]):
        answered = served.post(PATH, json={"instances": rows, "note": "passed over"}).get_json()[
            "predictions"
        ]
        assert [set(one) for one in answered] == [{"id", "label", "score", "scores"}] * len(rows)
    assert_problem(served.post(PATH, json={"instances": [file] * 65}), 422, "invalid-input")
    assert_problem(served.post(PATH, json={"instances": [file, {"b64": "A"}]}), 422, "invalid-input")
    assert_problem(served.post(PATH, json={"instances": [as_b64(b"no picture")]}), 415, "unsupported-image")
    large = as_b64(bytes(served.system.settings.max_image_bytes + 1))
    assert_problem(served.post(PATH, json={"instances": [large]}), 413, "image-too-large")
    assert_problem(served.post("/v1/models/half:predict", json={"instances": [file]}), 404, "model-not-found")


@pytest.mark.parametrize(
    ("version", "status", "sentence"),
    [
        ("0", 404, "Servable not found for request: Specific(animals, 0)"),
        (str(2**53), 404, f"Servable not found for request: Specific(animals, {2**53})"),
        (str(2**63 - 1), 404, f"Servable not found for request: Specific(animals, {2**63 - 1})"),
        (str(2**63), 400, f"Failed to convert version: {2**63} to numeric."),
        ("9" * 23, 400, f"Failed to convert version: {'9' * 23} to numeric."),
    ],
)
def test_versions_that_cannot_be_are_told_as_tensorflow_serving_does(
    served: Api, version: str, status: int, sentence: str
) -> None:
    path = f"{MODEL}/versions/{version}"
    for verb in ("predict", "classify", "regress"):
        problem = assert_problem(served.post(f"{path}:{verb}", json=BYTES | {"instances": [FILE]}), status)
        assert problem["error"].startswith(sentence)
    for place in ("", "/metadata"):
        problem = assert_problem(served.get(path + place), status)
        assert status == 404 or problem["error"] == sentence


def test_paths_and_methods_that_are_none_keep_the_codes_of_this_api(served: Api) -> None:
    for path in (PATH, f"{MODEL}:classify", f"{MODEL}/versions/1:predict", f"{MODEL}/labels/live:predict"):
        refused = served.get(path)
        assert assert_problem(refused, 405)["error"]
        assert "POST" in refused.headers["Allow"]
    for path in (MODEL, f"{MODEL}/metadata", f"{MODEL}/versions/1"):
        assert assert_problem(served.post(path, json=BYTES), 405)["error"]
    for path in (f"{MODEL}:explain", f"{MODEL}/versions/abc:predict", f"{MODEL}/versions/-1:predict"):
        assert_problem(served.post(path, json=BYTES), 404)


def test_status_tells_of_every_version_in_memory(promoted: Api) -> None:
    ok = {"error_code": "OK", "error_message": ""}
    live, previous = ({"version": number, "state": "AVAILABLE", "status": ok} for number in "21")
    for path, expected in {
        "": [live, previous],
        "/versions/1": [previous],
        "/labels/previous": [previous],
        "/labels/live": [live],
    }.items():
        assert promoted.get(MODEL + path).get_json()["model_version_status"] == expected
    for path, status in {"/versions/9": 404, "/labels/stable": 400, "/labels/stable/metadata": 400}.items():
        assert assert_problem(promoted.get(MODEL + path), status)["error"]
    assert assert_problem(promoted.get("/v1/models/plants"), 404)["error"]
    assert "error" not in assert_problem(promoted.get("/v1/predictions/x"), 404)


def test_metadata_describes_the_signatures(promoted: Api, tiny_folder: Path) -> None:
    width = Backbone(tiny_folder, 1).width
    for path, number in {"": "2", "/versions/1": "1", "/labels/previous": "1"}.items():
        shown = promoted.get(f"{MODEL}{path}/metadata").get_json()
        assert shown["model_spec"] == {"name": "animals", "signature_name": "", "version": number}
        described = shown["metadata"]["signature_def"]["signature_def"]
        assert described.keys() == {"serving_default", "serve_bytes"}
        tensor, files = described["serving_default"], described["serve_bytes"]
        assert find_shape(tensor["inputs"]["image"]) == ("DT_UINT8", [-1, 32, 32, 3])
        assert find_shape(tensor["outputs"]["embedding"]) == ("DT_FLOAT", [-1, width])
        assert find_shape(files["inputs"]["image_bytes"]) == ("DT_STRING", [-1])
        assert find_shape(files["outputs"]["scores"]) == ("DT_FLOAT", [-1, len(LABELS)])
        assert {one["method_name"] for one in described.values()} == {"tensorflow/serving/predict"}


def find_shape(tensor: dict[str, Any]) -> tuple[str, list[int]]:
    return tensor["dtype"], [int(side["size"]) for side in tensor["tensor_shape"]["dim"]]


def test_a_key_is_asked_for_and_counts_are_kept(served: Api) -> None:
    problem = assert_problem(served.client.post(PATH, json={"instances": []}), 401)
    assert problem["error"]
    served.post(f"{MODEL}/versions/1:predict", json={"instances": [as_numbers(1)]})
    said = served.client.get("/metrics").text
    assert 'backtalk_predictions_total{model="animals",version="1"} 1.0' in said
    with served.system.db.reading() as session:
        assert session.scalar(select(func.count()).select_from(Prediction)) == 1
