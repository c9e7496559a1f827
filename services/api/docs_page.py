"""The document at /openapi.json and a page to read it at /docs, which loads nothing from elsewhere."""

from importlib.resources import files

from flask import Blueprint, Response, current_app, jsonify, send_from_directory

blueprint = Blueprint("docs", __name__)

_ASSETS = files("flask_openapi_swagger") / "templates" / "swagger"
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Backtalk: the API</title>
<link rel="icon" href="/docs/assets/images/swagger.svg">
<link rel="stylesheet" href="/docs/assets/css/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/assets/js/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
# Swagger UI asks validator.swagger.io about every document unless it is told not to.
_START = """SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
"""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@blueprint.get("/openapi.json")
def get_document() -> Response:
    return jsonify(current_app.api_doc)  # type: ignore[attr-defined]


@blueprint.get("/docs")
def get_page() -> Response:
    response = Response(_PAGE, mimetype="text/html")
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


@blueprint.get("/docs/start.js")
def get_start() -> Response:
    return Response(_START, mimetype="text/javascript")


@blueprint.get("/docs/assets/<path:name>")
def get_asset(name: str) -> Response:
    return send_from_directory(str(_ASSETS), name, max_age=86400)
