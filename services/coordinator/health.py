"""For supervisors and load balancers: is the process alive, and can it do its work?"""

from fastapi import APIRouter
from sqlalchemy.exc import SQLAlchemyError

from coordinator.kit.problems import problems
from coordinator.kit.session import KernelDep
from hsl_model.protocol.config import Message
from hsl_model.protocol.errors import HslError

router = APIRouter(tags=["health"])


class Alive(Message):
    alive: bool = True


class Ready(Message):
    database: bool
    hub: bool


class NotReadyError(HslError):
    code = "not_ready"
    http_status = 503
    title = "The coordinator cannot do its work now"
    template = "database reachable: {database}; hub reachable: {hub}. Start what is missing; the coordinator waits."


@router.get("/healthz", summary="The process answers")
def healthz() -> Alive:
    return Alive()


@router.get("/readyz", summary="Database and hub answer too", responses=problems(NotReadyError))
def readyz(kernel: KernelDep) -> Ready:
    try:
        kernel.database.ping()
        database = True
    except SQLAlchemyError:
        database = False
    ready = Ready(database=database, hub=kernel.hub.healthy())
    if not (ready.database and ready.hub):
        raise NotReadyError(**ready.model_dump())
    return ready
