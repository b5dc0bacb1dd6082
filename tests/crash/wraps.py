"""The hook around the doors to disk and network, from outside: what goes through them is named and reported.

os.fsync, replace, rename, unlink, link      every file of every process
sqlite3 connections                          commits that change a row, named by tables or events
httpx                                        before a request, when it is sent, when its reply is there
RemoteFile, SFTPClient                       blocks, CLOSE, rename and removal on the hub
the coordinator's application                a request before it is handled, and between its commit and its reply
HubFiles                                     the hub's own writes
"""

import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import paramiko
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embedded_hub.files import HubFiles
from hsl_model.protocol.states import NodePhase
from node_agent.exchange import pipeline
from node_agent.phases import PhaseFunction
from tests.crash.points import Watch, doing

_DIGEST = re.compile(r"[0-9a-f]{32,64}")
_NUMBER = re.compile(r"\d+")
_RUN = re.compile(r"runs/[^/]+")
_RUN_ID = re.compile(r"run-[0-9a-f]{8}")
_WRITE = re.compile(r"\s*(?:INSERT(?: OR \w+)? INTO|UPDATE|DELETE FROM)\s+(\w+)")
_EVENT = re.compile(r"'((?:run|round|participation|member|hub|node|plan|fusion|update|file)\.[a-z_]+)'")
_ROUND_OF_EVENT = re.compile(r"INSERT INTO events .*?'[a-z]+\.[a-z_]+', '[^']*', '[^']*', (\d+)", re.DOTALL)


def named(path: str | os.PathLike[str]) -> str:
    """A file's name in its machine's folder, without what differs from run to run: digests, runs and numbers."""
    place = Path(os.fsdecode(os.fspath(path)))
    if place.is_relative_to(Path.cwd()):
        place = place.relative_to(Path.cwd())
    return _NUMBER.sub("N", _RUN_ID.sub("run", _DIGEST.sub("*", str(place))))


def wrap_files(watch: Watch) -> None:
    fsync = os.fsync

    def fsync_reached(descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        watch.reached(f"fsync {named(Path(f'/proc/self/fd/{number}').readlink())}")
        fsync(number)

    os.fsync = fsync_reached
    for name in ("replace", "rename", "unlink", "link"):
        setattr(os, name, _around_file(watch, name, getattr(os, name)))


def _around_file(watch: Watch, name: str, call: Callable[..., None]) -> Callable[..., None]:
    def run(path: Any, *rest: Any, **options: Any) -> None:
        what = f"{name} {named(path)}"
        if name != "unlink" or os.path.lexists(path):
            watch.reached(f"before {what}")
        call(path, *rest, **options)
        watch.reached(f"after {what}")

    return run


# --- SQL -------------------------------------------------------------------------------------------------------------


def wrap_sqlite(watch: Watch) -> None:  # noqa: C901 - one class inside
    class Watched(sqlite3.Connection):
        """Collects what a transaction writes; a commit that changed something is two points."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._written: set[str] = set()
            self._changes = 0
            self.set_trace_callback(self._seen)

        def _seen(self, statement: str) -> None:
            if found := _WRITE.match(statement):
                self._written.add(found[1])
                if found[1] == "events":
                    self._written.update(_EVENT.findall(statement))
                    rounds = _ROUND_OF_EVENT.findall(statement)
                    if rounds and watch.role == "coordinator":
                        watch.round_number = max(watch.round_number, *map(int, rounds))
            elif statement.startswith("BEGIN"):
                self._written, self._changes = set(), self.total_changes

        def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:  # type: ignore[override]
            if statement != "COMMIT":
                return super().execute(statement, *arguments)
            with self._around_commit():
                return super().execute(statement)

        def commit(self) -> None:
            with self._around_commit():
                super().commit()

        def _around_commit(self) -> "_Around":
            changed = self.total_changes != self._changes
            return _Around(watch, "commit " + _summary(self._written) if changed else None)

    connect = sqlite3.connect

    def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return connect(*arguments, **{"factory": Watched, **options})

    sqlite3.connect = sqlite3.dbapi2.connect = connected  # type: ignore[attr-defined,assignment]


def _summary(written: set[str]) -> str:
    """The kinds of events where there are some: they say what was decided; else the tables."""
    events = sorted(name for name in written if "." in name)
    return " ".join(events or sorted(written))


class _Around:
    def __init__(self, watch: Watch, step: str | None) -> None:
        self._watch, self._step = watch, step

    def __enter__(self) -> None:
        if self._step is not None:
            self._watch.reached(f"before {self._step}")

    def __exit__(self, kind: object, *_: object) -> None:
        if self._step is not None and kind is None:
            self._watch.reached(f"after {self._step}")


# --- HTTP ------------------------------------------------------------------------------------------------------------


def of_request(path: str) -> str:
    return _NUMBER.sub("N", _DIGEST.sub("*", _RUN.sub("runs/ID", path.removeprefix("/api/v1"))))


def wrap_http(watch: Watch) -> None:
    handle = httpx.HTTPTransport.handle_request

    def handled(self: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        what = f"{request.method} {of_request(request.url.path)}"

        def trace(event: str, _: Mapping[str, Any]) -> None:
            if event == "http11.send_request_body.complete":
                watch.reached(f"sent {what}")

        watch.reached(f"before {what}")
        request.extensions = {**request.extensions, "trace": trace}
        response = handle(self, request)
        watch.reached(f"reply to {what}")
        return response

    httpx.HTTPTransport.handle_request = handled  # type: ignore[method-assign]


class Requests:
    """ASGI: each request is a phase of the coordinator; a point before it is handled, and one before its reply."""

    def __init__(self, app: ASGIApp, watch: Watch) -> None:
        self._app, self._watch = app, watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not _is_of_a_node(path, scope["method"]):
            await self._app(scope, receive, send)
            return
        if found := re.search(r"/rounds/(\d+)/", path):
            self._watch.round_number = max(self._watch.round_number, int(found[1]))
        token = doing.set(of_request(path))
        try:
            self._watch.reached("received")

            async def replying(message: Message) -> None:
                if message["type"] == "http.response.start":
                    self._watch.reached(f"before reply {message['status']}")
                await send(message)
                if message["type"] == "http.response.body" and not message.get("more_body"):
                    self._watch.reached("after reply")

            await self._app(scope, receive, replying)
        finally:
            doing.reset(token)


def _is_of_a_node(path: str, method: str) -> bool:
    """What the runner itself asks while it watches is no step of the product; its POST that starts the run is one."""
    return method == "POST" and "/api/" in path


# --- the transfer ----------------------------------------------------------------------------------------------------


def wrap_transfer(watch: Watch) -> None:
    remote = pipeline.RemoteFile
    write, send, read, close = remote.write, remote._send, remote.read, remote.close

    def watched_write(self: Any, source: Any, span: tuple[int, int], moved: Any) -> None:
        self.watched = _Blocks(watch, f"upload of {_what(self)}", *span)
        write(self, source, span, moved)

    def watched_send(self: Any, message: bytes) -> None:
        send(self, message)
        if len(message) > 5 and message[4] == pipeline._Packet.WRITE:
            self.watched.passed(len(message))

    def watched_read(self: Any, start: int, end: int) -> Iterator[memoryview]:
        blocks = _Blocks(watch, f"download of {_what(self)}", start, end)
        for piece in read(self, start, end):
            yield piece
            blocks.passed(len(piece))

    def watched_close(self: Any) -> None:
        with _Around(watch, f"CLOSE of {_what(self)}"):
            close(self)

    remote.write, remote._send, remote.close = watched_write, watched_send, watched_close  # type: ignore[method-assign]
    remote.read = watched_read  # type: ignore[method-assign]
    for name in ("posix_rename", "remove"):
        setattr(paramiko.SFTPClient, name, _on_hub(watch, name, getattr(paramiko.SFTPClient, name)))


def _what(remote: Any) -> str:
    return "manifest" if "manifest" in remote._doing else "update"


class _Blocks:
    """First, middle and last block of a transfer."""

    def __init__(self, watch: Watch, what: str, start: int, end: int) -> None:
        self._watch, self._what, self._size, self._done = watch, what, end - start, 0

    def passed(self, num_bytes: int) -> None:
        before, self._done = self._done, self._done + num_bytes
        if before == 0:
            self._watch.reached(f"first block, {self._what}")
        if self._done >= self._size:
            self._watch.reached(f"last block, {self._what}")
        elif before < self._size / 2 <= self._done:
            self._watch.reached(f"middle block, {self._what}")


def _on_hub(watch: Watch, name: str, call: Callable[..., None]) -> Callable[..., None]:
    def run(self: paramiko.SFTPClient, path: str, *rest: str) -> None:
        with _Around(watch, f"{name} on the hub of {named(path)}"):
            call(self, path, *rest)

    return run


# --- whole processes -------------------------------------------------------------------------------------------------


def wrap_phases(phases: Mapping[NodePhase, PhaseFunction], watch: Watch) -> dict[NodePhase, PhaseFunction]:
    def named_phase(phase: NodePhase, function: PhaseFunction) -> PhaseFunction:
        def run(context: Any, facts: Any) -> Any:
            watch.enter(str(phase), facts.round_number)
            return function(context, facts)

        return run

    return {phase: named_phase(phase, function) for phase, function in phases.items()}


def wrap_hub(watch: Watch) -> None:
    """The hub knows no rounds: its points are the steps themselves."""
    watch.phase = "serving"
    for name in ("write", "close", "sha256", "open_for_reading"):
        setattr(HubFiles, name, _in_hub(watch, name, getattr(HubFiles, name)))


def _in_hub(watch: Watch, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def run(self: HubFiles, *arguments: Any) -> Any:
        watch.reached(f"before {name}")
        result = call(self, *arguments)
        watch.reached(f"after {name}")
        return result

    return run
