"""Leaving is as sure as joining: what a node that was connected can do after its cut, and what the others notice.

SFTPGo by itself lets an open connection live on with the rights of its login; the first test shows it, so that nobody
takes the restart for superstition.
"""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import paramiko
import psutil
import pytest

from hsl_model.protocol.paths import NODES
from hsl_model.protocol.retry import TRANSIENT
from node_agent.exchange import open_exchange
from node_agent.exchange.base import Exchange, ExchangeError
from sftpgo_hub.program import find_program
from tests.embedded_hub.helpers import HTTP, PATIENCE_S, Login, make_login, wait_until
from tests.node_agent.exchange.helpers import MIB, Content, Watch, make_content
from tests.sftpgo.helpers import SftpgoProcess

pytestmark = pytest.mark.sftpgo

SHA = "ab" * 32
GONE = (OSError, EOFError, paramiko.SSHException)


class Connected:
    """A node's connections from before: one with open files, one that was never used."""

    def __init__(self, hub: SftpgoProcess, login: Login, other: Login) -> None:
        self.hub, self.login = hub, login
        self.path, self.folder = f"{NODES}/{login.node_id}", hub.folder(login.node_id)
        (hub.folder(other.node_id) / f"{SHA}.safetensors").write_bytes(b"y" * 10 * MIB)
        self.busy, self.idle = hub.connect(login), hub.connect(login)
        sftp = self.channel(self.busy)
        self.writing = sftp.open(f"{self.path}/{SHA}.part", "wb")
        self.writing.write(b"x" * MIB)
        self.reading = sftp.open(f"{NODES}/{other.node_id}/{SHA}.safetensors", "rb")
        self.reading.read(100)

    def channel(self, transport: paramiko.Transport) -> paramiko.SFTPClient:
        sftp = transport.open_sftp_client()
        assert sftp is not None
        channel = sftp.get_channel()
        assert channel is not None
        channel.settimeout(PATIENCE_S)
        return sftp

    def attempts(self) -> dict[str, Callable[[], object]]:
        """Everything that it could still try."""
        return {
            "write on the open file": lambda: self.write(self.writing),
            "read on the open file": lambda: self.reading.read(100),
            "read on a new channel": lambda: self.channel(self.busy).listdir(self.path),
            "write on a new channel": lambda: self.create(self.busy, "cd" * 32),
            "read on the idle connection": lambda: self.channel(self.idle).listdir(self.path),
            "write on the idle connection": lambda: self.create(self.idle, "ef" * 32),
            "run a command": lambda: self.idle.open_session(timeout=PATIENCE_S).exec_command("sha256sum /nodes"),
            "log in again": lambda: self.hub.connect(self.login).close(),
        }

    def create(self, transport: paramiko.Transport, sha256: str) -> None:
        with self.channel(transport).open(f"{self.path}/{sha256}.part", "wb") as file:
            self.write(file)

    def write(self, file: paramiko.SFTPFile) -> None:
        file.write(b"z" * 100)
        file.stat()  # an answer of the server, for a write alone may only fill a buffer

    def succeeded(self) -> list[str]:
        found = []
        for name, attempt in self.attempts().items():
            try:
                attempt()
            except GONE:
                continue
            found.append(name)
        return found

    def close(self) -> None:
        self.busy.close()
        self.idle.close()


@pytest.fixture
def nodes(sftpgo: SftpgoProcess, new_node: Callable[[], Login]) -> Iterator[tuple[Connected, Login]]:
    leaving, staying = new_node(), new_node()
    connected = Connected(sftpgo, leaving, staying)
    yield connected, staying
    connected.close()


def test_disabling_alone_ends_nothing(sftpgo: SftpgoProcess, nodes: tuple[Connected, Login]) -> None:
    """SFTPGo's own ways, all of them: why a cut must restart it. And a cut that was broken off here is finished."""
    connected, _ = nodes
    node_id = connected.login.node_id
    user = {**sftpgo.user(node_id), "status": 0}
    assert sftpgo.rest("PUT", f"/users/{node_id}", params={"disconnect": 0}, json=user).status_code == 200
    assert set(connected.attempts()) - {"log in again"} == set(connected.succeeded())
    admin = sftpgo.open_admin()
    admin.cut(node_id)
    assert connected.succeeded() == []
    assert not sftpgo.user(node_id).get("public_keys")
    admin.close()


class MidWay(Watch):
    """Stops half-way until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.is_half, self.go_on = threading.Event(), threading.Event()

    def moved(self, done: int, total: int) -> None:
        super().moved(done, total)
        if done >= total // 2 and not self.is_half.is_set():
            self.is_half.set()
            assert self.go_on.wait(PATIENCE_S)


def test_a_cut_node_can_do_nothing_more_and_the_others_finish(
    sftpgo: SftpgoProcess,
    nodes: tuple[Connected, Login],
    new_node: Callable[[], Login],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    connected, staying = nodes
    watch, content = MidWay(), make_content(tmp_path, 12 * MIB)
    exchange = open_exchange(sftpgo.address(staying), staying.key, staying.node_id)
    transfer = Transfer(exchange, staying, content, watch)
    transfer.start()
    assert watch.is_half.wait(PATIENCE_S)

    admin, began = sftpgo.open_admin(), time.monotonic()
    admin.cut(connected.login.node_id)
    took_s = time.monotonic() - began
    before = {path.name: path.read_bytes() for path in connected.folder.iterdir()}
    assert connected.succeeded() == []
    assert {path.name: path.read_bytes() for path in connected.folder.iterdir()} == before
    watch.go_on.set()

    transfer.join(PATIENCE_S)
    assert transfer.outcome is None
    assert transfer.num_interruptions >= 1, "the cut did not come in mid-transfer: the test proves nothing"
    assert transfer.resumed_at >= len(content) // 2 - 2 * MIB
    final = sftpgo.folder(staying.node_id) / f"{content.sha256}.safetensors"
    assert final.read_bytes() == content.data
    exchange.close()
    admin.close()
    with capsys.disabled():
        print(f"\nthe cut took {took_s:.2f} s; the other node resumed at {transfer.resumed_at} of {len(content)} bytes")


class Transfer(threading.Thread):
    """An upload as the agent does it: what is transient is tried again."""

    def __init__(self, exchange: Exchange, login: Login, content: Content, watch: Watch) -> None:
        super().__init__(name="transfer")
        self._exchange, self._login, self._content, self._watch = exchange, login, content, watch
        self.num_interruptions, self.resumed_at = 0, 0
        self.outcome: BaseException | None = AssertionError("it never ended")

    def run(self) -> None:
        try:
            while not self._is_done():
                pass
            self.outcome = None
        except BaseException as error:  # noqa: BLE001 - thread boundary: looked at by the test
            self.outcome = error

    def _is_done(self) -> bool:
        try:
            self._exchange.put_tensors(self._content.path, self._login.node_id, self._content.sha256, self._watch)
        except ExchangeError as error:
            if not TRANSIENT[error.kind]:
                raise
            self.num_interruptions += 1
            self._watch = Watch()
            threading.Event().wait(0.05)
            return False
        self.resumed_at = self._watch.start
        return True


def test_a_new_key_ends_the_old_ones_sessions(
    sftpgo: SftpgoProcess, nodes: tuple[Connected, Login], tmp_path: Path
) -> None:
    connected, _ = nodes
    node_id = connected.login.node_id
    new, admin = make_login(node_id, tmp_path), sftpgo.open_admin()
    before = sftpgo.server_pid
    admin.set_key(node_id, connected.login.public_key)
    assert sftpgo.server_pid == before, "the same key again changes nothing"
    admin.set_key(node_id, new.public_key)
    assert connected.succeeded() == []
    sftpgo.connect(new).close()
    admin.close()


def test_a_first_key_and_a_second_cut_disturb_nobody(sftpgo: SftpgoProcess, tmp_path: Path) -> None:
    """Each restart interrupts every transfer: only a node that could have a session is worth one."""
    admin, before = sftpgo.open_admin(), sftpgo.server_pid
    admin.ensure_node("quiet-1")
    admin.set_key("quiet-1", make_login("quiet-1", tmp_path).public_key)
    admin.cut("never-seen")
    assert sftpgo.server_pid == before
    admin.cut("quiet-1")
    after = sftpgo.server_pid
    assert after != before
    admin.cut("quiet-1")
    assert sftpgo.server_pid == after
    admin.close()


def test_a_server_that_is_killed_comes_back(private_sftpgo: SftpgoProcess) -> None:
    hub = private_sftpgo
    login, address = hub.add("site-1"), hub.info
    for _ in range(2):
        killed = hub.server_pid
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda killed=killed: is_back(hub, login, killed), "SFTPGo to come back")
    assert hub.info == address


def is_back(hub: SftpgoProcess, login: Login, killed: int) -> bool:
    try:
        hub.connect(login).close()
        return hub.server_pid != killed
    except (*GONE, IndexError):
        return False


def test_a_supervisor_that_is_killed_leaves_no_server_behind(private_sftpgo: SftpgoProcess) -> None:
    hub = private_sftpgo
    login, before, pid = hub.add("site-1"), hub.info, hub.server_pid
    hub.stop(signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pid), "the kernel to end SFTPGo")
    with pytest.raises(ConnectionRefusedError):
        hub.connect(login)
    hub.start()
    assert hub.info == before
    hub.connect(login).close()


def test_nobody_but_the_coordinator_restarts_it(sftpgo: SftpgoProcess) -> None:
    before = sftpgo.server_pid
    for headers in ({}, {"Authorization": "Bearer " + "x" * 30}):
        for method, path in (("POST", "/restart"), ("GET", "/address")):
            reply = HTTP.request(method, sftpgo.admin_url + path, headers=headers)
            assert (reply.status_code, reply.json()["code"]) == (401, "hub_token_wrong")
    assert sftpgo.server_pid == before
    assert sftpgo.token not in sftpgo.log()


def test_a_ban_locks_out_neither_the_coordinator_nor_the_health_check(private_sftpgo: SftpgoProcess) -> None:
    hub = private_sftpgo
    login, admin = hub.add("site-1"), hub.open_admin()
    stranger = make_login("unknown", hub.root)
    wait_until(lambda: guess(hub, stranger, "127.0.0.2") == "banned", "a guessing address to be banned")
    with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2"), timeout=PATIENCE_S) as there:
        assert there.get(f"{hub.rest_url}/healthz").status_code == 403, "a ban covers REST, so it must not hit us"
        assert there.get(f"http://127.0.0.1:{hub.metrics_port}/healthz").text == "ok"
        assert "sftpgo_" in there.get(f"http://127.0.0.1:{hub.metrics_port}/metrics").text
    for _ in range(60):  # more than enough to be banned elsewhere
        assert guess(hub, stranger, "127.0.0.1") == "refused"
    hub.connect(login).close()
    assert admin.healthy()
    ping = [str(find_program()), "ping", "-c", str(hub.root / "sftpgo")]
    assert subprocess.run(ping, env={}, capture_output=True, check=False).returncode == 0
    admin.close()


def guess(hub: SftpgoProcess, login: Login, source: str) -> str:
    """One try to log in from an address."""
    raw = socket.create_connection(("127.0.0.1", hub.port), PATIENCE_S, (source, 0))
    try:
        transport = paramiko.Transport(raw)
    except GONE:
        return "banned"
    try:
        transport.connect(username=login.node_id, pkey=paramiko.Ed25519Key.from_private_key_file(str(login.key)))
    except paramiko.AuthenticationException:
        return "refused"
    except GONE:
        return "banned"
    finally:
        transport.close()
    return "let in"
