"""Every error as RFC 9457 problem details: a stable code, and a sentence that says what to do.

Raw exception text never leaves the house: what we did not foresee is `internal`, with the request id under which the
log has the rest.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from hsl_model.protocol.errors import HslError
from hsl_model.protocol.problem import PROBLEM_MEDIA_TYPE, Problem

MAX_SENTENCES = 8  # of one request's validation errors; a body of a thousand wrong keys does not get a thousand

_log = structlog.get_logger(__name__)


class RequestInvalidError(HslError):
    code = "request_invalid"
    http_status = 422
    title = "The request is not acceptable"
    template = "{sentences}"


class NotFoundError(HslError):
    """A resource that does not exist: `what` and `name` say which."""

    code = "not_found"
    http_status = 404
    title = "Not found"
    template = "There is no {what} {name!r}; check the spelling, or list what there is."


class NoSuchPathError(HslError):
    code = "no_such_path"
    http_status = 404
    title = "No such path"
    template = "Nothing answers at {path}; /docs lists every path of this coordinator."


class MethodNotAllowedError(HslError):
    code = "method_not_allowed"
    http_status = 405
    title = "Not this method"
    template = "{method} is not possible at {path}; /docs lists what is."


class BodyTooLargeError(HslError):
    code = "body_too_large"
    http_status = 413
    title = "The request is too large"
    template = "A request may have at most {max_bytes} bytes; files go to the hub, not to the coordinator."


class DatabaseUnavailableError(HslError):
    code = "database_unavailable"
    http_status = 503
    title = "The database does not answer"
    template = "The coordinator's database is busy or does not answer; try again in a few seconds."


class InternalError(HslError):
    template = "An unexpected error occurred; the coordinator's log has it under request {request_id}."


def problem_response(error: HslError) -> JSONResponse:
    data = {key: value if _is_scalar(value) else str(value) for key, value in error.data.items()}
    headers = getattr(error, "headers", None)
    problem = Problem.of(error, data)
    return JSONResponse(problem.model_dump(), error.http_status, headers=headers, media_type=PROBLEM_MEDIA_TYPE)


def problems(*errors: type[HslError]) -> dict[int | str, dict[str, Any]]:
    """For `responses=` of a router or endpoint: which errors it answers, by status, with their codes."""
    by_status: dict[int | str, list[type[HslError]]] = {}
    for error in errors:
        by_status.setdefault(error.http_status, []).append(error)
    return {
        status: {"description": "; ".join(f"`{error.code}`: {error.title}" for error in found)}
        for status, found in by_status.items()
    }


def install_problems(app: FastAPI) -> None:
    """Make `app` answer every error as problem details."""
    app.exception_handler(HslError)(_on_hsl_error)
    app.exception_handler(RequestValidationError)(_on_invalid_request)
    app.exception_handler(HTTPException)(_on_http_exception)
    app.exception_handler(OperationalError)(_on_database_error)
    app.exception_handler(PoolTimeoutError)(_on_database_error)
    app.exception_handler(DataError)(_on_value_error)
    app.exception_handler(OverflowError)(_on_value_error)


def _on_hsl_error(request: Request, error: HslError) -> JSONResponse:
    del request
    if error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.warning("request_failed", code=error.code, reason=error.sentence())
    return problem_response(error)


def _on_invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
    del request
    found = error.errors()
    sentences = "; ".join(sentence_of(entry) for entry in found[:MAX_SENTENCES])
    if len(found) > MAX_SENTENCES:
        sentences += f"; and {len(found) - MAX_SENTENCES} more"
    return problem_response(RequestInvalidError(sentences=sentences, path=path_of(found[0]["loc"])))


def _on_http_exception(request: Request, error: HTTPException) -> JSONResponse:
    path = request.url.path
    if error.status_code == HTTPStatus.NOT_FOUND:
        return problem_response(NoSuchPathError(path=path))
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        response = problem_response(MethodNotAllowedError(method=request.method, path=path))
        response.headers.update(error.headers or {})
        return response
    return problem_response(RequestInvalidError(sentences="the request could not be read; is its body valid JSON?"))


def _on_database_error(request: Request, error: Exception) -> JSONResponse:
    del request
    _log.error("database_unavailable", error=type(error).__name__, exc_info=error)
    return problem_response(DatabaseUnavailableError())


def _on_value_error(request: Request, error: Exception) -> JSONResponse:
    """What a schema lets through and a database cannot hold: a number beyond 64 bits, a NUL in a text."""
    del request
    _log.warning("value_refused", error=type(error).__name__, exc_info=error)
    return problem_response(RequestInvalidError(sentences="a number is out of range, or a text holds a NUL character"))


def path_of(location: Sequence[int | str]) -> str:
    """`('body', 'quorum', 'min_nodes')` -> `quorum.min_nodes`; parameters are named by where they stand."""
    where, *keys = location
    dotted = ".".join(map(str, keys))
    return (dotted or "body") if where == "body" else f"{where} parameter {dotted}"


def sentence_of(entry: dict[str, Any]) -> str:
    """One validation error of pydantic, without the input (which may be a secret)."""
    path, kind = path_of(entry["loc"]), entry["type"]
    if kind == "extra_forbidden":
        return f"{path}: unknown key; remove it or correct its spelling"
    if kind == "missing":
        return f"{path}: required, but missing"
    if kind == "json_invalid":
        return "the body is not valid JSON"
    message = str(entry["msg"]).removeprefix("Value error, ")
    return f"{path}: {message[:1].lower()}{message[1:]}"


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
