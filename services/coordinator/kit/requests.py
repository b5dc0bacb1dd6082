"""Around every request: an id in log and reply, one access line, a bound on the body, and no raw exception outside."""

import re
import uuid

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.kit.problems import BodyTooLargeError, InternalError, problem_response
from hsl_model.protocol.clock import Clock
from hsl_model.protocol.manifest import MAX_MANIFEST_BYTES

REQUEST_ID_HEADER = "X-Request-Id"
MAX_BODY_BYTES = 2 * MAX_MANIFEST_BYTES  # the largest honest body is an announce; more would only fill the memory
_REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
_log = structlog.get_logger(__name__)


class RequestEnvelope:
    """ASGI middleware. Pure ASGI, because it must not stand between a long poll and its waiting."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        watched = _Watched(receive, send, request_id)
        started = self._clock.monotonic()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                if _declared_bytes(scope) > MAX_BODY_BYTES:
                    raise BodyTooLargeError(max_bytes=MAX_BODY_BYTES)
                await self._app(scope, watched.receive, watched.send)
            except BodyTooLargeError as error:
                await self._answer(scope, watched, error)
            except Exception as error:  # noqa: BLE001 - the boundary: logged whole here, answered without its text
                _log.error("request_crashed", path=scope["path"], exc_info=error)
                await self._answer(scope, watched, InternalError(request_id=request_id))
            _log.info(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=watched.status,
                duration_ms=round((self._clock.monotonic() - started) * 1000, 1),
            )

    @staticmethod
    async def _answer(scope: Scope, watched: "_Watched", error: InternalError | BodyTooLargeError) -> None:
        if watched.status is None:
            await problem_response(error)(scope, watched.receive, watched.send)


class _Watched:
    """The two channels of one request: counts what comes in, marks what goes out."""

    def __init__(self, receive: Receive, send: Send, request_id: str) -> None:
        self._receive = receive
        self._send = send
        self._request_id = request_id
        self._num_bytes = 0
        self.status: int | None = None

    async def receive(self) -> Message:
        message = await self._receive()
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > MAX_BODY_BYTES:  # a chunked body that declared no length
            raise BodyTooLargeError(max_bytes=MAX_BODY_BYTES)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            header = (REQUEST_ID_HEADER.lower().encode(), self._request_id.encode())
            message = {**message, "headers": [*message.get("headers", ()), header]}
        await self._send(message)


def _declared_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


def _request_id(scope: Scope) -> str:
    """The caller's, if it is harmless to log, so that both sides' logs can be laid beside each other."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID_HEADER.lower().encode():
            given: str = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(given):
                return given
    return uuid.uuid4().hex
