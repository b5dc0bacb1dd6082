"""The OpenAPI document says of every operation how its errors look: problem details, never FastAPI's own shape."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from hsl_model.protocol.problem import PROBLEM_MEDIA_TYPE, Problem

_REFERENCE = "#/components/schemas/{model}"
_EVERYWHERE = {
    "422": "`request_invalid`: the request does not fit its schema; the sentence names the key",
    "500": "`internal`: a mistake of the coordinator's; the log has it under the request id",
    "503": "`database_unavailable`: try again in a few seconds",
}


def describe(app: FastAPI) -> None:
    """Replace `app.openapi` by one that knows our errors. The document is made once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _with_problems(
                get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            )
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _with_problems(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = Problem.model_json_schema(ref_template=_REFERENCE)
    content = {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": _REFERENCE.format(model="Problem")}}}
    for operations in document["paths"].values():
        for operation in operations.values():
            responses = operation["responses"]
            for status, description in _EVERYWHERE.items():
                known = responses.get(status, {}).get("description", description)
                responses[status] = {"description": description if known == "Validation Error" else known}
            for status, response in responses.items():
                if int(status) >= 400:
                    response["content"] = content
    return document
