"""How fast a model file goes to the embedded hub and back: our exchange, and stock Paramiko as the yardstick.

One hub, one client process, loopback, AES-GCM for both, the published network's 94.9 MB. The clients take turns,
so that a slow spell of the machine hits both; medians of `num_runs`. Our `put` holds everything a round pays for: look,
upload, SHA-256 on the hub, fsync and rename; our `get` the SHA-256 of the whole file and its fsync. Paramiko's `put` is
its upload and the same rename; its `get` the download alone. MB are 10**6 bytes; connecting is not counted.
"""

import hashlib
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko
import psutil

from coordinator.hub.embedded import EmbeddedHubAdmin
from hsl_model.protocol.paths import part_path, tensor_path
from node_agent.exchange import open_exchange
from node_agent.keys import NodeKeys, ensure_keys

NUM_BYTES = 94_900_000
NODE = "bench"


class _Watch:
    def moved(self, done: int, total: int) -> None:
        pass

    def cancelled(self) -> bool:
        return False


@dataclass
class _Bench:
    folder: Path
    hub: psutil.Process
    admin: EmbeddedHubAdmin
    keys: NodeKeys
    rows: dict[tuple[str, str], list[tuple[float, float, float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.source, self.target = self.folder / "source", self.folder / "target"
        data = os.urandom(NUM_BYTES)
        self.source.write_bytes(data)
        self.sha256 = hashlib.sha256(data).hexdigest()

    def measure(self, client: str, op: str, call: Callable[[], object]) -> None:
        """Wall seconds, CPU seconds of this process and of the hub."""
        hub_before, cpu_before, before = _cpu(self.hub), time.process_time(), time.perf_counter()
        call()
        wall_s, cpu_s = time.perf_counter() - before, time.process_time() - cpu_before
        self.rows.setdefault((client, op), []).append((wall_s, cpu_s, _cpu(self.hub) - hub_before))

    def clear(self) -> None:
        if self.target.exists():
            assert hashlib.sha256(self.target.read_bytes()).hexdigest() == self.sha256
        self.target.unlink(missing_ok=True)
        self.admin.release(NODE, tuple(file.name for file in self.admin.list(NODE)))

    def ours(self) -> None:
        exchange = open_exchange(self.admin.address(NODE), self.keys.ssh_key, NODE)
        try:
            exchange.list_own()  # connects
            self.measure("exchange", "put", lambda: exchange.put_tensors(self.source, NODE, self.sha256, _Watch()))
            self.measure(
                "exchange", "get", lambda: exchange.get_tensors(NODE, self.sha256, NUM_BYTES, self.target, _Watch())
            )
        finally:
            exchange.close()

    def stock(self) -> None:
        address = self.admin.address(NODE)
        key = paramiko.Ed25519Key.from_private_key_file(str(self.keys.ssh_key))
        transport = paramiko.Transport(socket.create_connection((address.host, address.port)))
        try:
            transport.connect(username=NODE, pkey=key)
            sftp = paramiko.SFTPClient.from_transport(transport)
            assert sftp is not None
            self.measure("paramiko", "put", lambda: self._stock_put(sftp))
            self.measure("paramiko", "get", lambda: sftp.get(tensor_path(NODE, self.sha256), str(self.target)))
        finally:
            transport.close()

    def _stock_put(self, sftp: paramiko.SFTPClient) -> None:
        part = part_path(NODE, self.sha256)
        sftp.put(str(self.source), part)
        sftp.posix_rename(part, tensor_path(NODE, self.sha256))

    def result(self, client: str, op: str) -> dict[str, Any]:
        wall, cpu, hub = zip(*self.rows[client, op], strict=True)
        rates = [NUM_BYTES / 1e6 / seconds for seconds in wall]
        return {
            "case": f"{op} by {client}",
            "num_bytes": NUM_BYTES,
            "num_runs": len(wall),
            "mb_per_s": round(statistics.median(rates), 1),
            "mb_per_s_low": round(min(rates), 1),
            "mb_per_s_high": round(max(rates), 1),
            "wall_s": round(statistics.median(wall), 3),
            "client_cpu_s_per_gb": round(statistics.median(cpu) / NUM_BYTES * 1e9, 2),
            "hub_cpu_s_per_gb": round(statistics.median(hub) / NUM_BYTES * 1e9, 2),
        }


def measure(num_runs: int = 5, folder: Path | None = None) -> list[dict[str, Any]]:
    """One record per client and direction. `folder`: where all files lie."""
    with tempfile.TemporaryDirectory(dir=folder) as name, _running_hub(Path(name)) as (hub, admin):
        bench = _Bench(Path(name), hub, admin, ensure_keys(Path(name) / "keys"))
        admin.ensure_node(NODE)
        admin.set_key(NODE, bench.keys.ssh_public_key)
        for _ in range(num_runs):
            for client in (bench.ours, bench.stock):
                client()
                bench.clear()
        return [bench.result(client, op) for op in ("put", "get") for client in ("exchange", "paramiko")]


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def _running_hub(folder: Path) -> Iterator[tuple[psutil.Process, EmbeddedHubAdmin]]:
    root, token = folder / "hub", secrets.token_hex(24)
    settings = {"ROOT": str(root), "PORT": "0", "ADMIN_PORT": "0", "ADMIN_TOKEN": token, "LOG_LEVEL": "warning"}
    environment = {**os.environ, **{f"HSL_HUB_{key}": value for key, value in settings.items()}}
    process = subprocess.Popen([sys.executable, "-m", "embedded_hub"], env=environment)
    try:
        ready, pause = root / "hub.json", threading.Event()
        for _ in range(600):
            if ready.exists() or process.poll() is not None:
                break
            pause.wait(0.1)
        admin = EmbeddedHubAdmin(json.loads(ready.read_text())["admin_url"], token)
        try:
            yield psutil.Process(process.pid), admin
        finally:
            admin.close()
    finally:
        process.terminate()
        process.wait()
