"""SFTP servers to measure against: the embedded hub, and OpenSSH's with the hub's layout in a folder of its own."""

import json
import os
import pwd
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from coordinator.hub.embedded import EmbeddedHubAdmin
from hsl_cli.demo.ports import free_ports
from hsl_model.protocol.messages import HubAddress
from node_agent.keys import NodeKeys

NODE = "bench"


class Server(ABC):
    """A running server with one node, `NODE`. The key of the benchmark is let in."""

    name: str
    takes_openssh_client: bool = True

    @property
    @abstractmethod
    def process(self) -> psutil.Process: ...

    @abstractmethod
    def address(self) -> HubAddress: ...

    @abstractmethod
    def clear(self) -> None:
        """Empty the node's folder."""

    def cpu_s(self) -> float:
        """Of all its processes that live or have been waited for."""
        total = 0.0
        for process in (self.process, *self.process.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total


class Embedded(Server):
    name = "embedded"
    takes_openssh_client = (
        False  # the hub leaves the end of a session to the client, and `sftp` leaves it to the server
    )

    def __init__(self, process: psutil.Process, admin: EmbeddedHubAdmin) -> None:
        self._process, self._admin = process, admin

    @property
    def process(self) -> psutil.Process:
        return self._process

    def address(self) -> HubAddress:
        return self._admin.address(NODE)

    def clear(self) -> None:
        self._admin.release(NODE, tuple(file.name for file in self._admin.list(NODE)))


class OpenSsh(Server):
    name = "openssh"

    def __init__(self, process: psutil.Process, address: HubAddress, folder: Path) -> None:
        self._process, self._address, self._folder = process, address, folder

    @property
    def process(self) -> psutil.Process:
        return self._process

    def address(self) -> HubAddress:
        return self._address

    def clear(self) -> None:
        for path in self._folder.iterdir():
            path.unlink()


@contextmanager
def embedded(folder: Path, keys: NodeKeys) -> Iterator[Server]:
    root, token = folder / "hub", secrets.token_hex(24)
    settings = {"ROOT": str(root), "PORT": "0", "ADMIN_PORT": "0", "ADMIN_TOKEN": token, "LOG_LEVEL": "warning"}
    environment = {**os.environ, **{f"HSL_HUB_{key}": value for key, value in settings.items()}}
    process = subprocess.Popen([sys.executable, "-m", "embedded_hub"], env=environment)
    try:
        ready = root / "hub.json"
        _wait(lambda: ready.exists() or process.poll() is not None)
        admin = EmbeddedHubAdmin(json.loads(ready.read_text())["admin_url"], token)
        try:
            admin.ensure_node(NODE)
            admin.set_key(NODE, keys.ssh_public_key)
            yield Embedded(psutil.Process(process.pid), admin)
        finally:
            admin.close()
    finally:
        process.terminate()
        process.wait()


def why_no_openssh() -> str | None:
    if os.geteuid() != 0:
        return "OpenSSH's server is measured by root only: it gives the hub's layout by chroot"
    if not Path("/usr/sbin/sshd").exists() or shutil.which("sftp") is None:
        return "OpenSSH is not installed (Debian: openssh-server, openssh-client)"
    return None


@contextmanager
def openssh(folder: Path, keys: NodeKeys) -> Iterator[Server]:
    """A throw-away sshd on loopback, in a chroot that holds `/nodes/bench`, `sha256sum` and a shell to start it."""
    (port,) = free_ports(1)
    # sshd wants every folder above its chroot to be root's alone, which a temporary folder is not.
    with tempfile.TemporaryDirectory(dir="/run", prefix="hsl-bench-") as name:
        root = Path(name)
        root.chmod(0o755)
        files = root / "nodes" / NODE
        files.mkdir(parents=True)
        subprocess.run(["mount", "--bind", _made(folder / "openssh-files"), files], check=True)
        try:
            for program in (pwd.getpwuid(0).pw_shell, _which("sha256sum")):
                _copy_with_libraries(Path(program), root)
            with _running_sshd(root, port, folder, keys) as found:
                yield OpenSsh(*found, files)
        finally:
            subprocess.run(["umount", files], check=True)


@contextmanager
def _running_sshd(root: Path, port: int, folder: Path, keys: NodeKeys) -> Iterator[tuple[psutil.Process, HubAddress]]:
    host_key, config = folder / "host_key", folder / "sshd_config"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", host_key], check=True)
    (folder / "authorized_keys").write_text(keys.ssh_public_key + "\n")
    Path("/run/sshd").mkdir(exist_ok=True)
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nAuthorizedKeysFile {folder}/authorized_keys\n"
        "StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nPidFile none\n"
        f"MaxSessions 64\nSubsystem sftp internal-sftp\nChrootDirectory {root}\n"
    )
    process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", config, "-E", folder / "sshd.log"])
    try:
        _wait(lambda: "listening" in _text(folder / "sshd.log").lower() or process.poll() is not None)
        public_key = " ".join((folder / "host_key.pub").read_text().split()[:2])
        address = HubAddress(host="127.0.0.1", port=port, username="root", host_key=public_key)
        yield psutil.Process(process.pid), address
    finally:
        process.terminate()
        process.wait()


def _copy_with_libraries(program: Path, root: Path) -> None:
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for path in (program, *map(Path, re.findall(r"(/\S+) \(0x", listed))):
        target = root / str(path).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path.resolve(), target)


def _which(program: str) -> str:
    found = shutil.which(program)
    assert found is not None, program
    return found


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _wait(true: Callable[[], object]) -> None:
    pause = threading.Event()
    for _ in range(600):
        if true():
            return
        pause.wait(0.1)
