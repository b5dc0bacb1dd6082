"""The supervisor's own small API, for the coordinator alone. One bearer token.

GET  /address     how nodes reach the hub, with the host key to pin; how the coordinator reaches SFTPGo's REST API
POST /restart     end every connection; answered when a new SFTPGo serves

Users and files are SFTPGo's matter: the coordinator speaks with its REST API. Here is only what that cannot do.
"""

from typing import cast

import structlog
from fastapi import APIRouter, Depends, FastAPI, Request

from hsl_model.protocol.config import Message
from hsl_model.protocol.errors import HslError
from hub_kit.admin import authorised, on_error
from sftpgo_hub.supervisor import Supervisor

_log = structlog.get_logger(__name__)


class Address(Message):
    host: str
    port: int
    host_key: str
    rest_port: int
    files_folder: str


def create_admin(token: str, address: Address, supervisor: Supervisor) -> FastAPI:
    app = FastAPI(title="HeteroSync SFTPGo hub", openapi_url=None)
    app.state.token, app.state.address, app.state.supervisor = token, address, supervisor
    app.include_router(router)
    app.add_exception_handler(HslError, on_error)
    return app


router = APIRouter(dependencies=[Depends(authorised)])


@router.get("/address")
async def read_address(request: Request) -> Address:
    return cast(Address, request.app.state.address)


@router.post("/restart", status_code=204)
async def restart(request: Request) -> None:
    _log.info("restart_asked")
    await cast(Supervisor, request.app.state.supervisor).restart()
