"""A hub to test against: as a real process, or in a thread of the test where its disk must misbehave."""

import asyncio
import json
import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pydantic import SecretStr

from embedded_hub.files import HubFiles
from embedded_hub.main import running_hub
from embedded_hub.settings import HubSettings
from hsl_cli.demo.ports import free_ports
from hsl_model.protocol.messages import HubAddress

PATIENCE_S = 120.0  # a hub that does not do in this time what it should is broken
HTTP = httpx.Client(timeout=PATIENCE_S, trust_env=False, verify=False)


def wait_until(true: Callable[[], object], what: str) -> None:
    """Bounded polling, for things that another process does."""
    deadline = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not true():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}"
        pause.wait(0.01)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def free_port() -> int:
    """For a service that keeps it over restarts."""
    return free_ports(1)[0]


@dataclass(frozen=True)
class Login:
    """A node that can log in: its id and its key, as a file and as a line."""

    node_id: str
    key: Path
    public_key: str


def make_login(node_id: str, folder: Path) -> Login:
    key = Ed25519PrivateKey.generate()
    path = folder / f"{node_id}.{secrets.token_hex(4)}.key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return Login(node_id, path, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())


@dataclass
class Hub:
    """What tests know of a running hub, however it runs."""

    root: Path
    token: str = field(default_factory=lambda: secrets.token_hex(24))
    port: int = 0
    admin_port: int = 0

    @property
    def info(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / "hub.json").read_text())
        return found

    @property
    def admin_url(self) -> str:
        return str(self.info["admin_url"])

    def admin(self, method: str, path: str, **body: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        return HTTP.request(method, self.admin_url + path, json=body or None, headers=headers)

    def add(self, node_id: str) -> Login:
        """A new node with a key of its own."""
        login = make_login(node_id, self.root)
        assert self.admin("PUT", f"/nodes/{node_id}").is_success
        assert self.admin("PUT", f"/nodes/{node_id}/key", ssh_public_key=login.public_key).is_success
        return login

    def address(self, login: Login, **changes: Any) -> HubAddress:
        info = self.info
        known = {"host": info["host"], "port": info["port"], "host_key": info["host_key"]}
        return HubAddress(**{**known, "username": login.node_id, **changes})

    def folder(self, node_id: str) -> Path:
        """A node's folder on the hub's disk."""
        return self.root / "files" / "nodes" / node_id

    def connect(self, login: Login) -> paramiko.Transport:
        """A stranger's connection: Paramiko as it is shipped."""
        transport = paramiko.Transport(socket.create_connection(("127.0.0.1", self.info["port"]), timeout=PATIENCE_S))
        try:
            transport.connect(username=login.node_id, pkey=paramiko.Ed25519Key.from_private_key_file(str(login.key)))
        except BaseException:
            transport.close()
            raise
        return transport


class HubProcess(Hub, AbstractContextManager["HubProcess"]):
    """`python -m embedded_hub`. Ports stay the same over restarts."""

    module = "embedded_hub"
    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.port, self.admin_port = free_ports(2)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            assert self.stop() == 0, "the hub did not end in order"

    def start(self) -> None:
        ready = self.root / "hub.json"
        ready.unlink(missing_ok=True)
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module],
                env=self.environment(),
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: ready.exists() or self.process is None or self.process.poll() is not None, "hub.json")
        assert ready.exists(), (self.root / "log").read_text()

    def settings(self) -> dict[str, str]:
        return {
            "ROOT": str(self.root),
            "PORT": str(self.port),
            "ADMIN_PORT": str(self.admin_port),
            "ADMIN_TOKEN": self.token,
        }

    def environment(self) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("HSL_")}
        return {**clean, **{f"HSL_HUB_{key}": value for key, value in self.settings().items()}}

    def limit_files(self, num_bytes: int) -> None:
        """A limit of the kernel: a disk that is full, for this process only."""
        assert self.process is not None
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        self.process = None
        return code

    def log(self) -> str:
        return (self.root / "log").read_text()


class HubThread(Hub, AbstractContextManager["HubThread"]):
    """A hub in this process, on a disk that the test provides."""

    def __init__(self, root: Path, files: Callable[[Path], HubFiles] = HubFiles, **known: Any) -> None:
        super().__init__(root, **known)
        self._files = files
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="hub")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        if self._failure is not None:
            self._thread.join(PATIENCE_S)
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - thread boundary: raised again in the test
            self._failure = error
            self._ready.set()

    async def _serve(self) -> None:
        settings = HubSettings(
            root=self.root, port=self.port, admin_port=self.admin_port, admin_token=SecretStr(self.token)
        )
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with running_hub(settings, self._files(settings.files_folder)):
            self._ready.set()
            await self._end.wait()
