"""The session of a request. One transaction a request, committed here alone, and before the reply is sent."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from coordinator.kernel import Kernel
from hsl_model.protocol.clock import Clock


async def kernel_of(request: Request) -> Kernel:
    kernel: Kernel = request.app.state.kernel
    return kernel


KernelDep = Annotated[Kernel, Depends(kernel_of)]


async def _clock(kernel: KernelDep) -> Clock:
    return kernel.clock


def _transaction(kernel: KernelDep) -> Iterator[Session]:
    with kernel.transaction() as session:
        yield session


def _snapshot(kernel: KernelDep) -> Iterator[Session]:
    with kernel.snapshot() as session:
        yield session


ClockDep = Annotated[Clock, Depends(_clock)]
# scope="function": the dependency ends, and so commits, before the reply leaves. What was answered is durable.
SessionDep = Annotated[Session, Depends(_transaction, scope="function")]
SnapshotDep = Annotated[Session, Depends(_snapshot, scope="function")]
