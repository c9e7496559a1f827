"""The JSON API as a Flask app; `services.wsgi` joins the pages to it."""

from flask_openapi import Info, OpenAPI, SecurityScheme
from werkzeug.routing import BaseConverter

from backtalk import __version__
from services.api import (
    admission,
    auth,
    broker,
    decisions,
    devicefiles,
    devices,
    docs_page,
    document,
    errors,
    feedback,
    health,
    images,
    intake,
    limits,
    metrics,
    models,
    policy,
    predict,
    retractions,
    review,
    runs,
    tfserving,
    triggers,
    versions,
)
from services.api.shapes import Problem
from services.backend import EXTENSION, Backend

OPENAPI_VERSION = "3.1.0"
_DESCRIPTION = """\
Send images, get predictions, and talk back when one is wrong.

Errors are problem details (RFC 9457). Lists are `{"items": […], "next": cursor or null}`, newest first.
Every answer carries `X-Request-Id`; answers about a model carry `Backtalk-Generation`.
"""


class NameConverter(BaseConverter):
    """A part of a path without a colon, so that `/models/cats:predict` is never a model called that."""

    regex = "[^/:]+"


class MethodConverter(BaseConverter):
    """The methods that TensorFlow Serving has beside `predict`."""

    regex = "|".join(tfserving.Method)


def make_app(backend: Backend) -> OpenAPI:
    """The API over `backend`, whose models are (or will be) started by the caller."""
    app = OpenAPI(
        "services.api",
        static_folder=None,
        info=Info(title="Backtalk", version=__version__, description=_DESCRIPTION),
        security_schemes={"key": SecurityScheme(type="http", scheme="bearer", description="bt_…")},
        openapi_extensions={"security": [{"key": []}]},
        validation_error_model=Problem,
        validation_error_callback=errors.answer_validation,
        doc_ui=False,  # its page would have to live below its own prefix
    )
    app.openapi_version = OPENAPI_VERSION
    app.extensions[EXTENSION] = backend
    app.url_map.converters["name"] = NameConverter
    app.url_map.converters["method"] = MethodConverter
    app.url_map.merge_slashes = False  # a redirect would be HTML, and a POST would lose its body
    _register_hooks(app, backend)
    errors.register(app)
    for resource in (
        predict,
        tfserving,
        devices,
        devicefiles,
        feedback,
        retractions,
        images,
        review,
        decisions,
        models,
        versions,
        runs,
        policy,
        triggers,
        health,
        metrics,
    ):
        app.register_api(resource.blueprint)
    app.register_blueprint(docs_page.blueprint)
    document.complete(app.api_doc)  # made now: later, two requests could make it at once
    return app


def _register_hooks(app: OpenAPI, backend: Backend) -> None:
    settings = backend.system.settings
    # Hooks run in this order: count and name the request; room; who calls, how often; the body; its turn.
    metrics.register(app, backend)
    intake.register(app, settings)
    admission.register(app, settings)
    auth.register(app)
    broker.register(app, settings.redis_url)
    limits.register(app, settings)
    intake.register_reading(app)
    admission.register_turns(app)
