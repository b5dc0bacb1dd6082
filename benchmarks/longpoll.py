"""A coordinator with 200, 500 and 1,000 nodes in a long poll: how soon all are told, and what others feel meanwhile.

The coordinator is the real process on SQLite. Its tables are filled directly with one run of so many members, all of
which but one have announced round 1. Each node holds one connection with a long poll and polls again as soon as it is
answered. Then things change: the last node announces, which freezes the plan (every node is told a plan with an entry
for each member); after that an admin pauses and resumes the run, once a second. Beside this others ask, one after the
other, as they do in life: heartbeats of the nodes (each a committed write) at the rate that 200 nodes have, ten a
second, and now and then a health check, a node and the whole run as a dashboard sees them.

    told_s       from sending the change until the last node has the whole answer
    other_ms     the latency of the other requests from the first change to the end
"""

import asyncio
import hashlib
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.record import ROOT, Record
from coordinator.db import Database
from coordinator.kit.auth import digest_of
from coordinator.migrations.upgrade import upgrade_database
from coordinator.tables import MemberRow, NodeRow, ParticipationRow, RoundRow, RunRow
from hsl_cli.demo.ports import free_ports
from hsl_model.protocol import PROTOCOL_HEADER, PROTOCOL_VERSION, transport
from hsl_model.protocol.clock import SystemClock
from hsl_model.protocol.config import MethodConfig, RunConfig, TaskConfig
from hsl_model.protocol.manifest import (
    SignedManifest,
    TensorSpec,
    UpdateManifest,
    UpdateMetrics,
    canonical_json,
    public_key_text,
    sign,
)
from hsl_model.protocol.messages import AnnounceRequest, DesiredRequest, Heartbeat
from hsl_model.protocol.states import NodePhase

NODES = (200, 500, 1000)
TARGET_TOLD_S = 1.0
TARGET_OTHER_P99_MS = 50.0
TARGET_NODES = 200
CHANGES = 20
PAUSE_S = 0.05  # between two of the other requests
RUN_ID = "run-benchmark"
ADMIN_TOKEN = "benchmark-Hq7vK2mPz9-Ld4xWc8"
TENSORS = (TensorSpec(name="weight", dtype="F32", shape=(3, 3)),)
KEY = Ed25519PrivateKey.generate()  # of all nodes: only one of them signs anything here


def measure() -> Iterator[Record]:
    for num_nodes in NODES:
        with tempfile.TemporaryDirectory() as folder:
            database_url = f"sqlite:///{Path(folder) / 'coordinator.db'}"
            names = [f"node-{index:04d}" for index in range(num_nodes)]
            _fill(database_url, names)
            with _coordinator(database_url, folder) as (process, port):
                yield asyncio.run(_measure(names, port, psutil.Process(process.pid)))


# --- the tables ------------------------------------------------------------------------------------------------------


def _fill(database_url: str, names: list[str]) -> None:
    database = Database(database_url)
    upgrade_database(database)
    now = SystemClock().now()
    config = RunConfig(
        name="benchmark",
        task=TaskConfig(task_id="t", positive_class="yes", negative_class="no", modality="radiograph"),
        nodes=tuple(names),
        method=MethodConfig(name="swarm"),
    )
    with database.writing() as session:
        session.add_all(_node(name, now) for name in names)
        session.add(
            RunRow(
                run_id=RUN_ID,
                name=config.name,
                status="running",
                config=config.model_dump(mode="json"),
                created_at=now,
                started_at=now,
            )
        )
        session.flush()
        session.add_all(MemberRow(run_id=RUN_ID, node_id=name, status="accepted") for name in names)
        session.add(_completed_round_0(now))
        session.add(RoundRow(run_id=RUN_ID, round_number=1, status="open", opened_at=now))
        session.flush()
        session.add(_announced(names[0], 0, now))
        session.add_all(_announced(name, 1, now) for name in names[:-1])
        session.add(ParticipationRow(run_id=RUN_ID, round_number=1, node_id=names[-1], status="assigned"))
    database.close()


def _node(name: str, now: object) -> NodeRow:
    return NodeRow(
        node_id=name,
        display_name=name,
        status="enrolled",
        token_hash=digest_of(_token(name)),
        token_used_at=now,
        signing_public_key=public_key_text(KEY),
        hub_ready_at=now,
        boot_number=1,
        boot_id="boot",
        boot_at=now,
        last_seen_at=now,
        created_at=now,
    )


def _token(name: str) -> str:
    return f"hsln_{name}_{_sha(name)}"


def _sha(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()


def _completed_round_0(now: object) -> RoundRow:
    return RoundRow(
        run_id=RUN_ID,
        round_number=0,
        status="completed",
        opened_at=now,
        completed_at=now,
        fused_digest=_sha("fused"),
        fused_file_sha256=_sha("file"),
        fused_file_bytes=1000,
    )


def _signed(name: str, round_number: int) -> SignedManifest:
    manifest = UpdateManifest(
        run_id=RUN_ID,
        round_number=round_number,
        node_id=name,
        update_sha256=_sha(name, round_number),
        update_bytes=1000,
        tensors=TENSORS,
        start_digest=_sha("fused") if round_number else None,
        num_cases=100,
        metrics=UpdateMetrics(validation_auc=0.7, shared_epoch=1, num_steps=50),
    )
    return sign(manifest, KEY)


def _announced(name: str, round_number: int, now: object) -> ParticipationRow:
    signed = _signed(name, round_number)
    return ParticipationRow(
        run_id=RUN_ID,
        round_number=round_number,
        node_id=name,
        status="announced" if round_number else "fused",
        update_sha256=signed.manifest.update_sha256,
        update_bytes=1000,
        num_cases=100,
        num_steps=50,
        manifest=signed.model_dump(mode="json"),
        manifest_sha256=signed.sha256,
        announced_at=now,
        redo_fusion=0,
    )


# --- the process -----------------------------------------------------------------------------------------------------


class _coordinator:  # noqa: N801 - used like a function
    """The coordinator's process on a free port, ended with the block."""

    def __init__(self, database_url: str, folder: str) -> None:
        (self._port,) = free_ports(1)
        self._environment = {
            **os.environ,
            "HSL_COORDINATOR_DATABASE_URL": database_url,
            "HSL_COORDINATOR_PORT": str(self._port),
            "HSL_COORDINATOR_ADMIN_TOKEN": ADMIN_TOKEN,
            "HSL_COORDINATOR_HUB_ADMIN_URL": "http://127.0.0.1:9",
            "HSL_COORDINATOR_HUB_ADMIN_TOKEN": "benchmark-Rt6bN3kYf8-Qs5zGj",
            "HSL_COORDINATOR_WORKDIR": folder,
            "HSL_COORDINATOR_LOG_LEVEL": "warning",
        }

    def __enter__(self) -> tuple[subprocess.Popen[bytes], int]:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "coordinator"], env=self._environment, cwd=ROOT, stdout=subprocess.DEVNULL
        )
        give_up_at = perf_counter() + 60
        while perf_counter() < give_up_at:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except OSError:
                continue
            return self._process, self._port
        self._process.kill()
        raise RuntimeError("the coordinator does not start")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)


# --- the clients -----------------------------------------------------------------------------------------------------


@dataclass
class _Line:
    """One kept connection that speaks just enough HTTP/1.1, so that the clients cost little beside the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    token: str

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: c\r\nAuthorization: Bearer {self.token}\r\n"
            f"{PROTOCOL_HEADER}: {PROTOCOL_VERSION}\r\n{transport.BOOT_NUMBER_HEADER}: 1\r\n"
            f"{transport.BOOT_ID_HEADER}: boot\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)
        reply = await self.reader.readuntil(b"\r\n\r\n")
        status = int(reply[9:12])
        length = next((line for line in reply.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
        return status, await self.reader.readexactly(int(length.split(b":")[1]))


@asynccontextmanager
async def _connected(port: int, token: str) -> AsyncIterator[_Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    try:
        yield _Line(reader, writer, token)
    finally:
        writer.close()


@dataclass
class _Watch:
    """What the waiting nodes have been told: one entry for each answer that was new to a node."""

    told_at: list[float] = field(default_factory=list)
    num_bytes: int = 0
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    num_polls: int = 0


async def _poll_for_ever(name: str, port: int, watch: _Watch) -> None:
    version: str | None = None
    async with _connected(port, _token(name)) as line:
        while True:
            body = canonical_json(DesiredRequest(known_version=version, wait_s=50.0))
            watch.num_polls += 1
            status, reply = await line.ask("POST", transport.DESIRED, body)
            if status != 200:
                raise RuntimeError(f"poll of {name}: {status} {reply[:300]!r}")
            told = json.loads(reply[: reply.index(b",")] + b"}")["version"]
            if told != version:
                version = told
                watch.told_at.append(perf_counter())
                watch.num_bytes = len(reply)


async def _ask_for_ever(names: list[str], port: int, taken: dict[str, list[float]]) -> None:
    """One request after the other: six heartbeats, a health check, a node, the run."""
    beat = canonical_json(Heartbeat(phase=NodePhase.TRAINING, run_id=RUN_ID, round_number=1))
    speakers = itertools.cycle(names)
    async with _connected(port, ADMIN_TOKEN) as line:
        while True:
            for kind, method, path, body in (
                *(("heartbeat", "POST", transport.HEARTBEAT, beat),) * 6,
                ("health", "GET", "/healthz", b""),
                ("node", "GET", f"{transport.API}/nodes/{names[0]}", b""),
                ("run", "GET", f"{transport.API}/runs/{RUN_ID}", b""),
            ):
                line.token = _token(next(speakers)) if kind == "heartbeat" else ADMIN_TOKEN
                began = perf_counter()
                status, _ = await line.ask(method, path, body)
                if status >= 300:
                    raise RuntimeError(f"{kind}: {status}")
                taken[kind].append((perf_counter() - began) * 1000)
                await asyncio.sleep(PAUSE_S)


async def _measure(names: list[str], port: int, process: psutil.Process) -> Record:
    watch, taken = _Watch(), {"health": [], "heartbeat": [], "node": [], "run": []}
    memory_idle = process.memory_info().rss
    async with asyncio.TaskGroup() as tasks, _connected(port, ADMIN_TOKEN) as admin:
        running = [tasks.create_task(_poll_for_ever(name, port, watch)) for name in names]
        await _all_told(watch, len(names))
        await asyncio.sleep(2.0)
        running.append(tasks.create_task(_ask_for_ever(names, port, taken)))
        cpu_s = sum(process.cpu_times()[:2])
        frozen_s = await _told_of(_freeze(names[-1], port), watch, len(names))
        plan_bytes = watch.num_bytes
        told_s = []
        for index in range(CHANGES):
            await asyncio.sleep(1.0)
            verb = "resume" if index % 2 else "pause"
            change = admin.ask("POST", f"{transport.API}/runs/{RUN_ID}/{verb}")
            told_s.append(await _told_of(change, watch, len(names)))
        cpu_s = sum(process.cpu_times()[:2]) - cpu_s
        for task in running:
            task.cancel()
    others = [ms for kind in taken.values() for ms in kind]
    p99 = _p99(others)
    met = max(told_s) < TARGET_TOLD_S and frozen_s < TARGET_TOLD_S and p99 < TARGET_OTHER_P99_MS
    return {
        "num_nodes": len(names),
        "told_of_freeze_s": round(frozen_s, 3),
        "told_median_s": round(median(told_s), 3),
        "told_max_s": round(max(told_s), 3),
        "target_told_s": TARGET_TOLD_S,
        "other_p50_ms": round(median(others), 1),
        "other_p99_ms": round(p99, 1),
        "target_other_p99_ms": TARGET_OTHER_P99_MS,
        "other_p50_p99_ms": {kind: [round(median(ms), 1), round(_p99(ms), 1)] for kind, ms in taken.items()},
        "num_others": len(others),
        "answer_kb": round(plan_bytes / 1000, 1),
        "cpu_s_for_each_change": round(cpu_s / (CHANGES + 1), 3),
        "memory_mb_before": round(memory_idle / 1e6),
        "memory_mb": round(process.memory_info().rss / 1e6),
        "target_met": met if len(names) == TARGET_NODES else None,
    }


async def _freeze(name: str, port: int) -> tuple[int, bytes]:
    async with _connected(port, _token(name)) as line:
        body = canonical_json(AnnounceRequest(signed=_signed(name, 1)))
        return await line.ask("POST", transport.announce(RUN_ID, 1), body)


async def _told_of(change: object, watch: _Watch, num_nodes: int) -> float:
    """Seconds from sending a change until every node has been told of it."""
    watch.told_at.clear()
    began = perf_counter()
    status, reply = await change  # type: ignore[misc]
    if status >= 300:
        raise RuntimeError(f"{status} {reply[:300]!r}")
    await _all_told(watch, num_nodes)
    return max(watch.told_at) - began


async def _all_told(watch: _Watch, num_nodes: int) -> None:
    give_up_at = perf_counter() + 60
    while len(watch.told_at) < num_nodes:
        if perf_counter() > give_up_at:
            raise RuntimeError(f"{len(watch.told_at)} of {num_nodes} nodes were told")
        await asyncio.sleep(0.005)


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100)[98] if len(values) > 1 else values[0]
