"""What more than one channel for a file would give, beside the one that the exchange uses: the same 94.9 MB in two
halves, over two channels of one connection, two connections, or two processes with one each.

Only the bytes move, with the exchange's own requests and answers (`node_agent/exchange/pipeline.py`); looking, hashing
and renaming are the same whatever carries them. The ways take turns; medians of `num_runs`. On SFTPGo, else on the
embedded hub; loopback, and 50 ms away.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from benchmarks.delay import delayed
from benchmarks.servers import NODE, Server, embedded, sftpgo, why_no_sftpgo
from hsl_model.protocol.messages import HubAddress
from hsl_model.protocol.paths import part_path
from node_agent.exchange.link import STALL_S, Link
from node_agent.exchange.pace import Pace
from node_agent.exchange.pipeline import OpenMode, Patience, RemoteFile
from node_agent.keys import ensure_keys

NUM_BYTES = 94_900_000
HALVES = ((0, NUM_BYTES // 2), (NUM_BYTES // 2, NUM_BYTES))
ROUND_TRIPS_S = (0.0, 0.05)
REMOTE = part_path(NODE, "0" * 64)
Op = Literal["put", "get"]


@dataclass(frozen=True)
class _Place:
    address: HubAddress
    ssh_key: Path
    local: Path


_LINKS: dict[object, Link] = {}
"""Of this process, by what they are for: a connection is made once, before the time is taken."""


def _move(place: _Place, link: object, op: Op | None, span: tuple[int, int]) -> float:
    """Processor seconds of this process. `op` None: only connect."""
    begun_s = time.process_time()
    if link not in _LINKS:
        _LINKS[link] = Link(place.address, place.ssh_key, STALL_S, None)
    channel = _LINKS[link].sftp_channel()
    remote = RemoteFile(channel, Patience(STALL_S, lambda: False), Pace(), "A benchmark")
    if op is not None:
        remote.open(REMOTE, OpenMode.CREATE if op == "put" else OpenMode.READ)
        with place.local.open("rb" if op == "put" else "r+b") as file:
            file.seek(span[0])
            if op == "put":
                remote.write(file, span, lambda _: None)
            else:
                for piece in remote.read(*span):
                    file.write(piece)
        remote.close()
    channel.close()
    return time.process_time() - begun_s


@dataclass(frozen=True)
class _Way:
    """`links`: for each part of the file, the connection it goes over. A pool holds as many workers as parts."""

    name: str
    links: tuple[str, ...]
    pool: Callable[[], Executor]
    counts_itself: bool  # processor seconds come from the workers: they are processes of their own

    def spans(self) -> tuple[tuple[int, int], ...]:
        return HALVES if len(self.links) > 1 else ((0, NUM_BYTES),)


def _ways() -> tuple[_Way, ...]:
    two_threads = partial(ThreadPoolExecutor, 2)
    processes = partial(ProcessPoolExecutor, 1, get_context("spawn"))
    return (
        _Way("one channel", ("a",), two_threads, counts_itself=False),
        _Way("two channels of one connection", ("a", "a"), two_threads, counts_itself=False),
        _Way("two connections", ("a", "b"), two_threads, counts_itself=False),
        _Way("two processes", ("a", "b"), processes, counts_itself=True),
    )


def measure(num_runs: int = 5, folder: Path | None = None) -> Iterator[dict[str, Any]]:
    """One record for each round trip, direction and way; `of_one`: its speed over that of one channel."""
    start = embedded if why_no_sftpgo() else sftpgo
    with tempfile.TemporaryDirectory(dir=folder) as workdir:
        keys = ensure_keys(Path(workdir) / "keys")
        local = Path(workdir) / "file"
        local.write_bytes(os.urandom(NUM_BYTES))
        with start(Path(workdir), keys) as server:
            for round_trip_s in ROUND_TRIPS_S:
                with delayed(server.address().port, round_trip_s) as port:
                    address = server.address().model_copy(update={"port": port})
                    found = _taken(_Place(address, keys.ssh_key, local), server, num_runs)
                yield from _records(found, server.name, round_trip_s)


def _taken(place: _Place, server: Server, num_runs: int) -> dict[tuple[str, Op], list[tuple[float, float]]]:
    """Wall and processor seconds of each run, by way and direction."""
    found: dict[tuple[str, Op], list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        pools: dict[str, list[Executor]] = {}
        for way in _ways():
            count = len(way.links) if way.counts_itself else 1
            made = [stack.enter_context(way.pool()) for _ in range(count)]
            pools[way.name] = made * (len(way.links) // count)
        for turn in range(num_runs + 1):
            for way in _ways():
                names = [(way.name, place.address.port, link) for link in way.links]
                parts = list(zip(pools[way.name], names, way.spans(), strict=True))
                if turn == 0:
                    for pool, name, span in parts:
                        pool.submit(_move, place, name, None, span).result()
                    continue
                for op in ("put", "get"):
                    wall_s, cpu_s = time.perf_counter(), time.process_time()
                    moved = [pool.submit(_move, place, name, op, span) for pool, name, span in parts]
                    told_s = [one.result() for one in moved]
                    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
                    found.setdefault((way.name, op), []).append((wall_s, sum(told_s) if way.counts_itself else cpu_s))
                server.clear()
    for link in _LINKS.values():
        link.close()
    _LINKS.clear()
    return found


def _records(
    found: dict[tuple[str, Op], list[tuple[float, float]]], server: str, round_trip_s: float
) -> Iterator[dict[str, Any]]:
    median_s = {key: statistics.median(wall_s for wall_s, _ in runs) for key, runs in found.items()}
    for (way, op), runs in found.items():
        yield {
            "case": f"{op} over {way}",
            "server": server,
            "round_trip_s": round_trip_s,
            "num_bytes": NUM_BYTES,
            "num_runs": len(runs),
            "mb_per_s": round(NUM_BYTES / 1e6 / median_s[way, op], 1),
            "of_one": round(median_s["one channel", op] / median_s[way, op], 2),
            "client_cpu_s_per_gb": round(statistics.median(cpu_s for _, cpu_s in runs) / NUM_BYTES * 1e9, 2),
        }
