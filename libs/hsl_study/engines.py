"""An engine runs cells and yields how they ended, as they end: as processes of this machine, or as tasks of Ray.

    local    threads that wait for processes
    ray      a Ray of our own on this machine, whose workers wait for the same processes

Either way a cell is `cell_work.run_process`, so the rows are the same to the byte, and the driver alone writes them.
No more than `jobs` cells are under way, so that an error ends the study soon.
"""

import logging
import os
import secrets
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from importlib.util import find_spec
from ipaddress import ip_address
from tempfile import TemporaryDirectory
from typing import Any

from hsl_model.device import is_gpu
from hsl_model.protocol.errors import ConfigError, HslError
from hsl_study.cell_work import FORESEEN, CellWork, Ended, run_process
from hsl_study.cells import CellReply

Engine = Callable[[Iterator[CellWork], int], Iterator[tuple[CellWork, CellReply]]]
"""Takes a cell only when it can begin it, `jobs` at a time. Raises `CellFailedError`."""
_OBJECT_STORE_BYTES = 80_000_000  # the least Ray takes; a reply has some kB
_RAY_SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # its word for: listen on 127.0.0.1 alone, on any system
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # cells give way to other programs as much as local ones, not more
}


class CellFailedError(HslError):
    code = "study_cell_failed"
    http_status = 500
    title = "A cell of the study failed"
    template = "{cell} ended with status {status}: {said} The same command continues with the cells that are left."


class RayMissingError(HslError):
    code = "ray_missing"
    http_status = 422
    title = "Ray is not installed"
    template = (
        "--engine ray needs Ray, which is not installed here: pip install 'heterosync[ray]', or use --engine local."
    )


class RayOpenError(HslError):
    """Its ports run whatever they are told, so nobody else may reach them."""

    code = "ray_open"
    http_status = 500
    title = "Ray listens to the network"
    template = "Ray listens on {address} in place of 127.0.0.1 and was stopped; use --engine local."


def local(works: Iterator[CellWork], jobs: int) -> Iterator[tuple[CellWork, CellReply]]:
    with ThreadPoolExecutor(jobs) as threads:
        yield from _in_turn(lambda work: threads.submit(run_process, work.model_dump_json()), works, jobs)


def on_ray(works: Iterator[CellWork], jobs: int) -> Iterator[tuple[CellWork, CellReply]]:
    """On GPUs a cell has an equal share of one: Ray fills one card after the other. A task that Ray loses is an error,
    as a process that dies is."""
    with _own_ray(jobs) as ray:
        task = ray.remote(max_retries=0)(run_process)

        def submit(work: CellWork) -> Future[Ended]:
            share = 1 / jobs if is_gpu(work.options.device) else 0
            found: Future[Ended] = task.options(num_gpus=share).remote(work.model_dump_json()).future()
            return found

        yield from _in_turn(submit, works, jobs, lost=(ray.exceptions.RayError,))


ENGINES: Mapping[str, Engine] = {"local": local, "ray": on_ray}


def engine_named(name: str) -> Engine:
    """Raises `ConfigError`, or `RayMissingError` before anything is trained."""
    if name not in ENGINES:
        raise ConfigError(reason=f"there is no engine {name!r}; choose one of {', '.join(ENGINES)}")
    if name == "ray" and find_spec("ray") is None:
        raise RayMissingError
    return ENGINES[name]


def _in_turn(
    submit: Callable[[CellWork], Future[Ended]],
    works: Iterator[CellWork],
    jobs: int,
    lost: tuple[type[Exception], ...] = (),
) -> Iterator[tuple[CellWork, CellReply]]:
    running: dict[Future[Ended], CellWork] = {}
    while True:
        while len(running) < jobs and (work := next(works, None)) is not None:
            running[submit(work)] = work
        if not running:
            return
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            work = running.pop(future)
            try:
                yield work, _reply(work, future.result())
            except lost as error:
                said = f"Ray lost it ({type(error).__name__})."
                raise CellFailedError(cell=work.title, status="none", said=said) from error


def _reply(work: CellWork, ended: Ended) -> CellReply:
    if ended.status:
        raise CellFailedError(cell=work.title, status=ended.status, said=_told(work, ended))
    return CellReply.model_validate_json(ended.said)


def _told(work: CellWork, ended: Ended) -> str:
    """What we foresaw is a sentence. Of anything else the last line, and the file with all of it."""
    last = (ended.error.strip().splitlines() or ["it said nothing."])[-1]
    if ended.status == FORESEEN:
        return last
    if ended.status == -signal.SIGKILL:
        return "somebody killed it, the system perhaps for want of memory: fewer --jobs need less."
    path = work.folder / "failed.log"
    path.write_text(f"{work.title}\n{ended.error}")
    return f"{last} All that it said is in {path}."


@contextmanager
def _own_ray(num_cpus: int) -> Iterator[Any]:
    """The module, while a Ray of ours runs; it leaves neither processes nor files. Raises `RayOpenError`."""
    settings = _RAY_SETTINGS | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        import ray
        import torch

        with TemporaryDirectory(prefix="hsl-ray-", dir="/tmp") as folder:  # short: a socket's path has 107 bytes
            try:
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    num_gpus=torch.cuda.device_count(),
                    object_store_memory=_OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    _temp_dir=folder,
                )
                address = ray.util.get_node_ip_address()
                if not ip_address(address).is_loopback:
                    raise RayOpenError(address=address)
                yield ray
            finally:
                ray.shutdown()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
