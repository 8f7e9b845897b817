"""The OpenAPI document: problems of every route, keys, and what FastAPI leaves out."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from palate.serving.problems import MEDIA_TYPE
from palate.serving.schemas import ProblemDocument

DESCRIPTION = (
    "Recommendations that use feedback at once. Every list says who answered (route), which model, how old it is and "
    "until when feedback is in it. Errors are problem documents (RFC 9457)."
)
STATUSES = {
    "400": "Bad JSON.", "401": "A key is needed.", "403": "The key lacks the scope.", "404": "Unknown id.",
    "408": "Too slow.", "409": "The model cannot answer this, or a key was used twice.", "413": "Too large.",
    "415": "Not JSON.", "421": "Unknown host.", "422": "Not valid.", "429": "Too many requests.",
    "503": "The store is not available, or the service is busy.",
}  # fmt: skip
"""What may go wrong with any request."""

_USER, _ITEM = "$response.body#/results/0/user_id", "$response.body#/results/0/item_id"
LINKS: list[tuple[str, str, str, str, dict[str, str]]] = [
    ("/v1/feedback", "post", "/v1/recommend/{user_id}", "get", {"user_id": _USER}),
    ("/v1/feedback", "post", "/v1/users/{user_id}", "get", {"user_id": _USER}),
    ("/v1/feedback", "post", "/v1/users/{user_id}", "delete", {"user_id": _USER}),
    ("/v1/feedback", "post", "/v1/feedback", "delete", {"user_id": _USER, "item_id": _ITEM}),
    ("/v1/users", "get", "/v1/recommend/{user_id}", "get", {"user_id": "$response.body#/items/0/user_id"}),
    ("/v1/items", "get", "/v1/similar/{item_id}", "get", {"item_id": "$response.body#/items/0/item_id"}),
    ("/v1/items", "get", "/v1/items/{item_id}", "patch", {"item_id": "$response.body#/items/0/item_id"}),
    ("/v1/recommend", "post", "/v1/items/{item_id}", "get", {"item_id": "$response.body#/items/0/item_id"}),
]
"""What an answer leads to: (path, method) of a request, those of the next one, and its parameters."""


def complete(app: FastAPI) -> None:
    """Let the application's document name problems and keys."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(
                title=app.title, version=app.version, openapi_version="3.1.0", description=app.description,
                routes=app.routes,
            )  # fmt: skip
            app.openapi_schema = _completed(found)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _completed(found: dict[str, Any]) -> dict[str, Any]:
    parts = found.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    schemas["ProblemDocument"] = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    parts["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    for path, methods in found["paths"].items():
        for operation in methods.values():
            answers = operation["responses"]
            for status, text in STATUSES.items():
                answers[status] = {"description": text, "content": content}
            for answer in answers.values():
                answer.setdefault("headers", {})["X-Request-ID"] = {"schema": {"type": "string"}}
            if path.startswith("/v1/"):
                # Keys are needed as soon as the store has one.
                operation["security"] = [{}, {"bearer": []}, {"key": []}]
    for path, method, to_path, to_method, parameters in LINKS:
        target = found["paths"][to_path][to_method]["operationId"]
        links = found["paths"][path][method]["responses"]["200"].setdefault("links", {})
        links[target] = {"operationId": target, "parameters": parameters}
    return found
