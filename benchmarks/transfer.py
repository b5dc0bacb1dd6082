"""How fast a model file goes to a hub and back: our exchange, OpenSSH's `sftp` as the yardstick, and stock Paramiko.

Servers: the embedded hub, SFTPGo and OpenSSH's; round trips: loopback, and 50 ms by a line without other limits. One
client process, one connection, one channel, AES-GCM, the published network's 94.9 MB. The clients take turns, so that a
slow spell of the machine hits all; medians of `num_runs`.

Our `put` holds everything a round pays for: look, upload, SHA-256 on the hub, rename; our `get` the SHA-256 of the
whole file and its fsync. Beside that stands the speed of the bytes alone (`moving`), as the watch of the transfer saw
them. `sftp` and Paramiko only move the bytes, and rename after a put. MB are 10**6 bytes; connecting is not counted.
"""

import hashlib
import os
import resource
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import paramiko

from benchmarks.delay import delayed
from benchmarks.servers import NODE, Server, embedded, openssh, sftpgo, why_no_openssh, why_no_sftpgo
from hsl_model.protocol.messages import HubAddress
from hsl_model.protocol.paths import part_path, tensor_path
from node_agent.exchange import open_exchange
from node_agent.keys import NodeKeys, ensure_keys

NUM_BYTES = 94_900_000
ROUND_TRIPS_S = (0.0, 0.05)
LEAST_OF_SFTP = {"put": 0.85, "get": 0.75}  # nearby, of OpenSSH's client in the same run
LEAST_MB_PER_S = {"put": 35.0, "get": 100.0}  # on a long line
MOST_CPU_S_PER_GB = 3.0  # of our get
PATIENCE_S = 300  # a client that takes longer hangs


@dataclass
class _Watch:
    """When bytes moved: from where the transfer said it begins to when the last byte was acknowledged."""

    began_s: float | None = None
    ended_s: float = 0.0

    def moved(self, done: int, total: int) -> None:
        now_s = time.perf_counter()
        self.began_s = now_s if self.began_s is None else self.began_s
        if done == total and not self.ended_s:
            self.ended_s = now_s

    def cancelled(self) -> bool:
        return False


@dataclass(frozen=True)
class _Run:
    wall_s: float
    moving_s: float
    cpu_s: float
    server_cpu_s: float


@dataclass
class _Bench:
    folder: Path
    server: Server
    keys: NodeKeys
    address: HubAddress  # of the server, or of the line before it
    rows: dict[tuple[str, str], list[_Run]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.source, self.target = self.folder / "source", self.folder / "target"
        if not self.source.exists():
            self.source.write_bytes(os.urandom(NUM_BYTES))
        self.sha256 = hashlib.sha256(self.source.read_bytes()).hexdigest()
        self.final, self.part = tensor_path(NODE, self.sha256), part_path(NODE, self.sha256)
        known = self.folder / "known_hosts"
        known.write_text(f"[{self.address.host}]:{self.address.port} {self.address.host_key}\n")
        self._sftp = ["sftp", "-q", "-b", "-", "-P", str(self.address.port), "-i", str(self.keys.ssh_key)]
        for option in ("Ciphers=aes128-gcm@openssh.com", f"UserKnownHostsFile={known}", "IdentitiesOnly=yes"):
            self._sftp += ["-o", option]
        self._sftp.append(f"{self.address.username}@{self.address.host}")

    def measure(self, client: str, op: str, call: Callable[[], object], watch: _Watch | None = None) -> None:
        """Wall seconds, CPU seconds of the client and of the server."""
        server_before, cpu_before, before = self.server.cpu_s(), _own_cpu_s(), time.perf_counter()
        call()
        wall_s, cpu_s = time.perf_counter() - before, _own_cpu_s() - cpu_before
        moving_s = wall_s if watch is None or watch.began_s is None else watch.ended_s - watch.began_s
        run = _Run(wall_s, moving_s, cpu_s, self.server.cpu_s() - server_before)
        self.rows.setdefault((client, op), []).append(run)

    def clear(self) -> None:
        if self.target.exists():
            assert hashlib.sha256(self.target.read_bytes()).hexdigest() == self.sha256
        self.target.unlink(missing_ok=True)
        self.server.clear()

    def ours(self) -> None:
        exchange = open_exchange(self.address, self.keys.ssh_key, NODE)
        try:
            exchange.list_own()  # connects
            up, down = _Watch(), _Watch()
            self.measure("exchange", "put", lambda: exchange.put_tensors(self.source, NODE, self.sha256, up), up)
            get = partial(exchange.get_tensors, NODE, self.sha256, NUM_BYTES, self.target, down)
            self.measure("exchange", "get", get, down)
        finally:
            exchange.close()

    def openssh(self) -> None:
        """Each command is a session: what an empty one takes is measured in between, and subtracted."""
        self.measure("sftp", "connect", lambda: self._batch("pwd"))
        self.measure(
            "sftp", "put", lambda: self._batch(f"put {self.source} {self.part}\nrename {self.part} {self.final}")
        )
        self.measure("sftp", "get", lambda: self._batch(f"get {self.final} {self.target}"))

    def _batch(self, commands: str) -> None:
        given = f"{commands}\n"
        subprocess.run(self._sftp, input=given, text=True, check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE_S)

    def stock(self) -> None:
        key = paramiko.Ed25519Key.from_private_key_file(str(self.keys.ssh_key))
        transport = paramiko.Transport(socket.create_connection((self.address.host, self.address.port)))
        try:
            transport.connect(username=self.address.username, pkey=key)
            sftp = paramiko.SFTPClient.from_transport(transport)
            assert sftp is not None
            self.measure("paramiko", "put", lambda: self._stock_put(sftp))
            self.measure("paramiko", "get", lambda: sftp.get(self.final, str(self.target)))
        finally:
            transport.close()

    def _stock_put(self, sftp: paramiko.SFTPClient) -> None:
        sftp.put(str(self.source), self.part)
        sftp.posix_rename(self.part, self.final)

    def seconds(self, client: str, op: str) -> tuple[list[float], list[float]]:
        """Of the whole operation, and while bytes moved."""
        runs = self.rows[client, op]
        empty = self.rows.get((client, "connect"), [])
        connect_s = statistics.median(run.wall_s for run in empty) if empty else 0.0
        return [run.wall_s - connect_s for run in runs], [run.moving_s - connect_s for run in runs]

    def result(self, client: str, op: str) -> dict[str, Any]:
        whole_s, moving_s = self.seconds(client, op)
        runs, rates = self.rows[client, op], [NUM_BYTES / 1e6 / seconds for seconds in whole_s]
        return {
            "case": f"{op} by {client}",
            "server": self.server.name,
            "num_bytes": NUM_BYTES,
            "num_runs": len(runs),
            "mb_per_s": round(statistics.median(rates), 1),
            "mb_per_s_low": round(min(rates), 1),
            "mb_per_s_high": round(max(rates), 1),
            "mb_per_s_moving": round(NUM_BYTES / 1e6 / statistics.median(moving_s), 1),
            "wall_s": round(statistics.median(whole_s), 3),
            "client_cpu_s_per_gb": round(statistics.median(run.cpu_s for run in runs) / NUM_BYTES * 1e9, 2),
            "server_cpu_s_per_gb": round(statistics.median(run.server_cpu_s for run in runs) / NUM_BYTES * 1e9, 2),
        }


def measure(num_runs: int = 5, folder: Path | None = None) -> Iterator[dict[str, Any]]:
    """One record per server, round trip, client and direction. `folder`: where all files lie."""
    absent = {"embedded": None, "sftpgo": why_no_sftpgo(), "openssh": why_no_openssh()}
    for name, start in {"embedded": embedded, "sftpgo": sftpgo, "openssh": openssh}.items():
        if absent[name] is not None:
            yield {"case": "skipped", "server": name, "reason": absent[name]}
            continue
        with tempfile.TemporaryDirectory(dir=folder) as workdir:
            yield from _measure_server(Path(workdir), start, num_runs)


def _measure_server(folder: Path, start: Callable[..., Any], num_runs: int) -> Iterator[dict[str, Any]]:
    keys = ensure_keys(folder / "keys")
    with start(folder, keys) as server:
        for round_trip_s in ROUND_TRIPS_S:
            with _bench(folder, server, keys, round_trip_s) as bench:
                clients: dict[str, Callable[[], None]] = {"exchange": bench.ours}
                if server.takes_openssh_client:
                    clients["sftp"] = bench.openssh
                if not round_trip_s:
                    clients["paramiko"] = bench.stock
                for _ in range(num_runs):
                    for client in clients.values():
                        client()
                        bench.clear()
                yield from _records(bench, clients, round_trip_s)


@contextmanager
def _bench(folder: Path, server: Server, keys: NodeKeys, round_trip_s: float) -> Iterator[_Bench]:
    address = server.address()
    with delayed(address.port, round_trip_s) as port:
        yield _Bench(folder, server, keys, address.model_copy(update={"port": port}))


def _records(bench: _Bench, clients: Mapping[str, object], round_trip_s: float) -> Iterator[dict[str, Any]]:
    for op in ("put", "get"):
        for client in clients:
            record = {**bench.result(client, op), "round_trip_s": round_trip_s}
            if client == "exchange":
                record |= _judged(bench, op, record, is_far=round_trip_s > 0, has_yardstick="sftp" in clients)
            yield record


def _judged(bench: _Bench, op: str, record: Mapping[str, Any], *, is_far: bool, has_yardstick: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if has_yardstick:
        (ours, moving), (theirs, _) = bench.seconds("exchange", op), bench.seconds("sftp", op)
        found["of_sftp"] = round(statistics.median(theirs) / statistics.median(ours), 2)
        found["of_sftp_moving"] = round(statistics.median(theirs) / statistics.median(moving), 2)
    if is_far:
        found["target_met"] = record["mb_per_s_moving"] >= LEAST_MB_PER_S[op]
    elif has_yardstick and bench.server.name != "embedded":
        found["target_met"] = found["of_sftp_moving"] >= LEAST_OF_SFTP[op]
    if op == "get" and "target_met" in found:
        found["target_met"] = found["target_met"] and record["client_cpu_s_per_gb"] <= MOST_CPU_S_PER_GB
    return found


def _own_cpu_s() -> float:
    """Of this process and of the clients it has started and waited for."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        total += used.ru_utime + used.ru_stime
    return total
