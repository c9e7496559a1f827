"""Deleting an image over HTTP, looking up what it belongs to, and how pictures leave."""

import inspect
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image

from backtalk.system import System
from tests.clients import Api, assert_problem
from tests.served import make_jpeg, make_served_model

PREDICT = "/v1/models/animals:predict"


@pytest.fixture
def api(api: Api, system: System, tiny_folder: Path) -> Api:
    make_served_model(system, tiny_folder, policy={"audit_share": 1.0})
    return api


def predict(api: Api, seed: int = 1) -> str:
    return str(api.post(PREDICT, data=make_jpeg(seed)).get_json()["predictions"][0]["id"])


def test_a_prediction_can_be_looked_up_and_names_its_image(api: Api) -> None:
    first, again, other = predict(api), predict(api), predict(api, 2)
    shown = [api.as_key("predict").get(f"/v1/predictions/{one}").get_json() for one in (first, again, other)]
    assert shown[0]["id"] == first
    assert (shown[0]["model"], shown[0]["version"]) == ("animals", 1)
    assert shown[0]["label"] in {"cat", "dog", "owl"}
    assert shown[0]["image"] == shown[1]["image"] != shown[2]["image"]
    assert shown[0]["image_deleted_at"] is None
    assert_problem(api.get("/v1/predictions/nonsense"), 404, "prediction-not-found")


def test_an_image_is_deleted_once_and_for_all(api: Api) -> None:
    prediction = predict(api)
    image = api.get(f"/v1/predictions/{prediction}").get_json()["image"]
    for _ in range(2):
        answer = api.call("DELETE", f"/v1/images/{image}")
        assert (answer.status_code, answer.data) == (204, b"")
    shown = api.get(f"/v1/predictions/{prediction}").get_json()
    assert shown["image"] == image
    assert shown["image_deleted_at"] is not None
    refused = api.post(f"/v1/predictions/{prediction}/corrections", json={"label": "cat"})
    assert_problem(refused, 409, "image-deleted")
    assert_problem(api.call("DELETE", "/v1/images/nonsense"), 404, "image-not-found")


def test_only_an_admin_deletes_images(api: Api) -> None:
    image = api.get(f"/v1/predictions/{predict(api)}").get_json()["image"]
    key = api.as_key("predict", "feedback", "review", "train", "promote")
    assert_problem(key.call("DELETE", f"/v1/images/{image}"), 403, "not-allowed")
    assert api.get(f"/v1/predictions/{predict(api)}").get_json()["image"] == image


def test_receipts_and_review_items_name_the_image(api: Api, system: System) -> None:
    prediction = predict(api)
    image = api.get(f"/v1/predictions/{prediction}").get_json()["image"]
    said = api.get(f"/v1/predictions/{prediction}").get_json()["label"]
    label = next(one for one in ("cat", "dog", "owl") if one != said)
    made = api.post(f"/v1/predictions/{prediction}/corrections", json={"label": label}).get_json()
    assert api.get(f"/v1/corrections/{made['id']}").get_json()["image"] == image
    _prepare(system, prediction)
    [item] = api.get("/v1/models/animals/review").get_json()["items"]
    assert item["image"] == image


def _prepare(system: System, prediction: str) -> None:
    from backtalk import review

    with system.db.transaction() as session:
        review.prepare_prediction(session, prediction)


# --- how pictures leave ------------------------------------------------------------------------
SERVICES = Path(__file__).parents[2] / "services"


def list_picture_routes(app: Flask) -> Iterator[str]:
    """Rules whose views answer with a picture."""
    for rule in app.url_map.iter_rules():
        if "answer_picture(" in inspect.getsource(inspect.unwrap(app.view_functions[rule.endpoint])):
            yield rule.rule


def test_only_one_function_makes_answers_of_pictures() -> None:
    making = re.compile(r"images\.thumbnail\(|images\.get\(|mimetype\W+image/|send_file\(")
    files = [path for path in SERVICES.rglob("*.py") if making.search(path.read_text(encoding="utf-8"))]
    names = sorted(path.relative_to(SERVICES).as_posix() for path in files)
    assert names == ["downloads.py", "pictures.py"]
    (sent,) = re.findall(r"send_file\((.*?)\n        \)", (SERVICES / "downloads.py").read_text(), re.DOTALL)
    assert 'mimetype="application/octet-stream"' in sent  # flatbuffers, saved and never shown
    assert "as_attachment=True" in sent


#: Every one of them, and how it is filled in.
PICTURES = {
    "/v1/review/<name:item>/image": "/v1/review/{item}/image",
    "/review/<model_name>/images/<image_id>": "/review/animals/images/{image}",
}


def test_every_route_that_shows_pictures_is_known_and_re_encodes_under_strict_headers(
    api: Api, system: System
) -> None:
    assert sorted(list_picture_routes(api.app)) == sorted(PICTURES)
    for path, got in fetch_pictures(api, system):
        assert got.status_code == 200, path
        assert got.mimetype == "image/jpeg"
        assert "charset" not in got.headers["Content-Type"]
        assert got.headers["X-Content-Type-Options"] == "nosniff"
        assert got.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
        assert got.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert re.fullmatch(r'inline; filename="[0-9a-f-]{36}\.jpg"', got.headers["Content-Disposition"])
        assert got.headers["Cache-Control"].startswith("private")
        assert b"<script>" not in got.data
        assert Image.open(BytesIO(got.data)).size == (60, 40)


def fetch_pictures(api: Api, system: System) -> Iterator[tuple[str, object]]:
    """A polyglot goes in, a page behind a JPEG; what each route makes of it comes out."""
    polyglot = make_jpeg(7) + b"<script>alert(1)</script>"
    prediction = api.post(PREDICT, data=polyglot).get_json()["predictions"][0]["id"]
    _prepare(system, prediction)
    [item] = api.get("/v1/models/animals/review").get_json()["items"]
    browser = sign_in(api)
    for path in PICTURES.values():
        client = api if path.startswith("/v1/") else browser
        yield path, client.get(path.format(**item))


def sign_in(api: Api) -> FlaskClient:
    from backtalk import identity

    with api.system.db.transaction() as session:
        identity.create_user(session, name="rita", password="correct horse battery", scopes=["review"])
    browser = api.app.test_client()
    page = browser.get("/sign-in").text
    token = re.search(r'name="csrf_token" value="([^"]+)"', page)
    form = {"name": "rita", "password": "correct horse battery", "csrf_token": token[1] if token else ""}
    assert browser.post("/sign-in", data=form).status_code in {302, 303}
    return browser


def test_a_deleted_picture_is_shown_nowhere(api: Api, system: System) -> None:
    prediction = predict(api)
    _prepare(system, prediction)
    [item] = api.get("/v1/models/animals/review").get_json()["items"]
    api.call("DELETE", f"/v1/images/{item['image']}")
    assert_problem(api.get(item["image_url"]), 404, "image-not-found")
    assert sign_in(api).get(f"/review/animals/images/{item['image']}").status_code == 404
    assert api.get("/v1/models/animals/review").get_json()["items"] == []
