"""The frame of a hub's admin API: one bearer token, problems as answers, a server beside the hub's own."""

import asyncio
import hmac
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from hsl_model.protocol.errors import HslError
from hsl_model.protocol.problem import PROBLEM_MEDIA_TYPE, Problem
from hub_kit.errors import TokenWrongError

END_WITHIN_S = 2  # a request that is still answered must not keep the hub from ending


async def authorised(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]
) -> None:
    """A dependency; the token is `app.state.token`."""
    if given is None or not hmac.compare_digest(given.credentials.encode(), request.app.state.token.encode()):
        raise TokenWrongError


def problem(error: HslError) -> JSONResponse:
    return JSONResponse(Problem.of(error).model_dump(), error.http_status, media_type=PROBLEM_MEDIA_TYPE)


def on_error(request: Request, error: Exception) -> JSONResponse:
    """The handler of `HslError`."""
    del request
    return problem(error if isinstance(error, HslError) else HslError())


class _AdminServer(uvicorn.Server):
    """Leaves the signals to the hub, which has two servers to end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(app: FastAPI, host: str, port: int) -> AsyncIterator[int]:
    """The admin API; yields its port once it answers."""
    with socket.create_server((host, port)) as listener:
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=END_WITHIN_S
        )
        server = _AdminServer(config)
        task = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
        try:
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = True
            await task
