"""Every error of the site API as problem details (RFC 9457), as at the coordinator."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from hsl_model.protocol.errors import HslError
from hsl_model.protocol.problem import PROBLEM_MEDIA_TYPE, Problem


def answer_with_problems(app: FastAPI) -> None:
    app.add_exception_handler(HslError, _on_hsl_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)


def _on_hsl_error(request: Request, error: Exception) -> JSONResponse:
    del request
    assert isinstance(error, HslError)  # noqa: S101 - registered for it
    return JSONResponse(Problem.of(error).model_dump(), error.http_status, media_type=PROBLEM_MEDIA_TYPE)


class _RequestInvalidError(HslError):
    code = "request_invalid"
    http_status = 422
    title = "The request is not acceptable"
    template = "{where}: {why}."


def _on_invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    first = error.errors()[0]
    return _on_hsl_error(request, _RequestInvalidError(where=".".join(map(str, first["loc"])), why=first["msg"]))


class _NotServedError(HslError):
    code = "not_served"
    http_status = 404
    title = "Nothing is served there"
    template = "{method} {path} is not a request this agent answers."


def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    """What the framework refuses by itself: a path or method nobody has, a body that is no JSON at all."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    if error.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
        return _on_hsl_error(request, _NotServedError(method=request.method, path=request.url.path))
    return _on_hsl_error(request, _RequestInvalidError(where="body", why="the request could not be read; is it JSON?"))
