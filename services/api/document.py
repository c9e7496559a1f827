"""What the OpenAPI document says beyond what each view says of itself: links, headers, refusals of bodies."""

from typing import Any

from services.api.shapes import problem_response

#: What an answer gives to the calls that come next: operation and status, the operation that follows, and
#: where its parameters are in the answer.
LINKS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("list_models", "200", "predict", {"model": "$response.body#/items/0/model"}),
    ("list_models", "200", "lease_items", {"model": "$response.body#/items/0/model"}),
    ("list_models", "200", "list_versions", {"model": "$response.body#/items/0/model"}),
    ("predict", "200", "create_correction", {"prediction": "$response.body#/predictions/0/id"}),
    ("predict", "200", "create_confirmation", {"prediction": "$response.body#/predictions/0/id"}),
    ("predict", "200", "get_prediction", {"prediction": "$response.body#/predictions/0/id"}),
    ("create_correction", "201", "get_receipt", {"correction": "$response.body#/id"}),
    ("get_receipt", "200", "delete_image", {"image": "$response.body#/image"}),
    ("get_prediction", "200", "delete_image", {"image": "$response.body#/image"}),
    ("lease_items", "200", "get_image", {"item": "$response.body#/items/0/item"}),
    (
        "lease_items",
        "200",
        "decide_item",
        {"item": "$response.body#/items/0/item", "header.If-Match": "$response.body#/items/0/etag"},
    ),
    ("create_run", "202", "get_run", {"run": "$response.body#/id"}),
    ("list_runs", "200", "get_run", {"run": "$response.body#/items/0/id"}),
    (
        "get_policy",
        "200",
        "set_policy",
        {"model": "$request.path.model", "header.If-Match": "$response.header.ETag"},
    ),
    (
        "list_versions",
        "200",
        "promote_version",
        {"model": "$request.path.model", "number": "$response.body#/items/0/number"},
    ),
    (
        "list_versions",
        "200",
        "get_device_file",
        {"model": "$request.path.model", "number": "$response.body#/items/0/number"},
    ),
    ("promote_version", "200", "rollback_model", {"model": "$request.path.model"}),
)
_REQUEST_ID = {"description": "Finds the call in the log.", "schema": {"type": "string"}}
_RETRY_AFTER = {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}


def complete(document: dict[str, Any]) -> None:
    """Change it in place, once, before anybody asks for it."""
    operations = {
        operation["operationId"]: (method, operation)
        for methods in document["paths"].values()
        for method, operation in methods.items()
    }
    for method, operation in operations.values():
        _drop_refusals_that_cannot_be(operation)
        if method != "get":
            _add_refusals_of_bodies(operation)
        _add_refusals_of_heads(operation)
        _add_headers(operation)
    for source, status, target, parameters in LINKS:
        links = operations[source][1]["responses"][status].setdefault("links", {})
        links[target] = {"operationId": target, "parameters": parameters}


def _drop_refusals_that_cannot_be(operation: dict[str, Any]) -> None:
    """flask-openapi says 422 of every operation, also where nothing is asked that could be wrong."""
    if "application/json" in operation["responses"]["422"]["content"]:
        del operation["responses"]["422"]


def _add_refusals_of_bodies(operation: dict[str, Any]) -> None:
    """A body is read, wanted or not: it may be broken off, too slow or too large."""
    for status in (400, 408, 413):
        operation["responses"].setdefault(str(status), problem_response(status))


def _add_refusals_of_heads(operation: dict[str, Any]) -> None:
    """By gunicorn, before the API sees the call."""
    for status in (414, 431):
        operation["responses"].setdefault(str(status), problem_response(status))


def _add_headers(operation: dict[str, Any]) -> None:
    for status, response in operation["responses"].items():
        headers = response.setdefault("headers", {})
        if status not in {"414", "431"}:
            headers["X-Request-Id"] = _REQUEST_ID
        waits = status == "202" and operation["operationId"] in {"get_device_file", "promote_version"}
        if waits or status in {"429", "503"}:
            headers["Retry-After"] = _RETRY_AFTER
