"""The loopback API by which the coordinator manages nodes. One bearer token; nothing here is for nodes.

GET  /address                 how nodes reach the hub, with the host key to pin
PUT  /nodes/{id}              make folder and user; again is fine
PUT  /nodes/{id}/key          let this key in, and no other; a changed key ends the old one's connections
POST /nodes/{id}/cut          remove the key and end live connections, before the answer is sent
GET  /nodes/{id}/files        names and sizes
POST /nodes/{id}/release      delete these files, of revoked nodes too
"""

from typing import Annotated, cast

import structlog
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import Field

from embedded_hub.server import HubParts
from hsl_model.protocol.config import Message, NodeId
from hsl_model.protocol.errors import HslError
from hub_kit.admin import authorised, on_error, problem
from hub_kit.errors import HubError

_log = structlog.get_logger(__name__)


class Address(Message):
    host: str
    port: int
    host_key: str


class KeyRequest(Message):
    ssh_public_key: str = Field(max_length=1000)


class CutReply(Message):
    num_connections: int = Field(description="live connections that were ended")


class FileEntry(Message):
    name: str
    num_bytes: int


class FilesReply(Message):
    files: tuple[FileEntry, ...]


class ReleaseRequest(Message):
    names: tuple[str, ...] = Field(max_length=10_000)


class RequestInvalidError(HubError):
    code = "request_invalid"
    http_status = 422
    title = "The request is not acceptable"
    template = "{where}: {reason}"


def create_admin(token: str, address: Address, parts: HubParts) -> FastAPI:
    """Endpoints are coroutines of the hub's one loop: each runs whole, between two packets of the nodes."""
    app = FastAPI(title="HeteroSync embedded hub", openapi_url=None)
    app.state.token, app.state.address, app.state.parts = token, address, parts
    app.include_router(router)
    app.add_exception_handler(HslError, on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    return app


async def _parts(request: Request) -> HubParts:
    return cast(HubParts, request.app.state.parts)


Parts = Annotated[HubParts, Depends(_parts)]
router = APIRouter(dependencies=[Depends(authorised)])


@router.get("/address")
async def read_address(request: Request) -> Address:
    return cast(Address, request.app.state.address)


@router.put("/nodes/{node_id}", status_code=204)
async def ensure_node(parts: Parts, node_id: NodeId) -> None:
    parts.files.make_folder(node_id)  # before the user: who can log in has a folder
    parts.users.ensure(node_id)


@router.put("/nodes/{node_id}/key", status_code=204)
async def set_key(parts: Parts, node_id: NodeId, body: KeyRequest) -> None:
    if parts.users.set_key(node_id, body.ssh_public_key):
        _log.info("key_set", node_id=node_id, num_ended=parts.connections.end(node_id))


@router.post("/nodes/{node_id}/cut")
async def cut(parts: Parts, node_id: NodeId) -> CutReply:
    parts.users.remove_key(node_id)  # first: nobody may log in between
    ended = parts.connections.end(node_id)
    _log.info("node_cut", node_id=node_id, num_ended=ended)
    return CutReply(num_connections=ended)


@router.get("/nodes/{node_id}/files")
async def list_files(parts: Parts, node_id: NodeId) -> FilesReply:
    return FilesReply(files=tuple(FileEntry(name=name, num_bytes=size) for name, size in parts.files.names(node_id)))


@router.post("/nodes/{node_id}/release", status_code=204)
async def release(parts: Parts, node_id: NodeId, body: ReleaseRequest) -> None:
    for name in body.names:
        parts.files.release(node_id, name)


def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    del request
    if not isinstance(error, RequestValidationError):
        return problem(HslError())
    first = error.errors()[0]
    return problem(RequestInvalidError(where=".".join(map(str, first["loc"])), reason=first["msg"]))
