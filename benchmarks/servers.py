"""SFTP servers to measure against: the hubs, and OpenSSH's with the hubs' layout in a folder of its own."""

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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from coordinator.hub.admin import HubAdmin
from coordinator.hub.embedded import EmbeddedHubAdmin
from coordinator.hub.sftpgo import SftpgoHubAdmin
from hsl_cli.demo.ports import free_ports
from hsl_model.protocol.messages import HubAddress
from node_agent.keys import NodeKeys
from sftpgo_hub.errors import ProgramMissingError
from sftpgo_hub.program import find_program

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


class Hub(Server):
    """One of the product's hubs, as its own process with its own admin."""

    def __init__(self, process: psutil.Process, admin: HubAdmin) -> None:
        self._process, self._admin = process, admin

    @property
    def process(self) -> psutil.Process:
        return self._process

    def address(self) -> HubAddress:
        return self._admin.address(NODE)

    def clear(self) -> None:
        self._admin.release(NODE, tuple(file.name for file in self._admin.list(NODE)))


class Embedded(Hub):
    name = "embedded"
    takes_openssh_client = (
        False  # the hub leaves the end of a session to the client, and `sftp` leaves it to the server
    )


class Sftpgo(Hub):
    name = "sftpgo"


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
    with _running_hub("embedded_hub", folder, {"HSL_HUB_PORT": "0", "HSL_HUB_ADMIN_PORT": "0"}) as (
        process,
        url,
        token,
    ):
        admin = EmbeddedHubAdmin(url, token)
        yield from _with_node(Embedded(process, admin), admin, keys)


@contextmanager
def sftpgo(folder: Path, keys: NodeKeys) -> Iterator[Server]:
    port, admin_port = free_ports(2)
    ports = {"HSL_HUB_PORT": str(port), "HSL_HUB_ADMIN_PORT": str(admin_port), **sftpgo_environment()}
    with _running_hub("sftpgo_hub", folder, ports) as (process, url, token):
        admin = SftpgoHubAdmin(url, token)
        yield from _with_node(Sftpgo(process, admin), admin, keys)


def sftpgo_environment() -> dict[str, str]:
    """What SFTPGo's supervisor needs beyond the embedded hub's settings."""
    rest, metrics = free_ports(2)
    return {"HSL_HUB_REST_PORT": str(rest), "HSL_HUB_METRICS_PORT": str(metrics)}


def why_no_sftpgo() -> str | None:
    try:
        find_program()
    except ProgramMissingError as error:
        return error.sentence()
    return None


@contextmanager
def _running_hub(module: str, folder: Path, ports: Mapping[str, str]) -> Iterator[tuple[psutil.Process, str, str]]:
    """The process, the URL of its admin API and the token for it."""
    root, token = folder / "hub", secrets.token_hex(24)
    settings = {"HSL_HUB_ROOT": str(root), "HSL_HUB_ADMIN_TOKEN": token, "HSL_HUB_LOG_LEVEL": "warning"}
    environment = {**os.environ, **settings, **ports}
    with (folder / "hub.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", module], env=environment, stdout=log, stderr=log)
    try:
        ready = root / "hub.json"
        _wait(lambda: ready.exists() or process.poll() is not None)
        yield psutil.Process(process.pid), json.loads(ready.read_text())["admin_url"], token
    finally:
        process.terminate()
        process.wait()


def _with_node(hub: Hub, admin: EmbeddedHubAdmin | SftpgoHubAdmin, keys: NodeKeys) -> Iterator[Server]:
    try:
        admin.ensure_node(NODE)
        admin.set_key(NODE, keys.ssh_public_key)
        yield hub
    finally:
        admin.close()


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
