"""One SSH connection to the hub, kept and made anew when it is lost. Channels on it are opened per transfer.

The hub is pinned: without the host key of the enrolment nothing is sent, not even a user name. One key is offered,
from the agent's own file; no ssh-agent, no keys of the home folder.
"""

import base64
import re
import shlex
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko
from paramiko.pkey import UnknownKeyType
from paramiko.ssh_exception import SSHException

from hsl_model.protocol.messages import HubAddress
from hsl_model.protocol.retry import FailureKind
from node_agent.exchange.base import ExchangeError
from node_agent.exchange.pipeline import MOST_DOWNLOAD_IN_FLIGHT
from node_agent.proxy import Proxy, ProxyRefusedError, connected

CONNECT_S = 10.0  # a firewall that drops packets would hold a connect for minutes
HANDSHAKE_S = 20.0  # a frozen hub accepts the connection and then never speaks; for each step, and thrice for all
KEEPALIVE_S = 15  # address translation in firewalls forgets silent connections, often after 60 s
DEAD_LINE_MS = 30_000  # bytes that nobody acknowledges end the connection; without this a pulled cable takes 15 minutes
STALL_S = 30.0  # a hub that is alive but answers nothing ends the transfer, which then resumes
HASH_BYTES_PER_S = 20_000_000  # the slowest disk a hub should have: bounds the wait for the hub's own SHA-256
NUM_EXEC_TRIES = 3  # SFTPGo closes a permitted command's channel before answering in about 0.3 % of the calls

MAX_PACKET = 256 << 10  # what we accept in one packet: a READ's answer should not be cut in two
# What the hub may send before we have read it. A transfer asks for less where the hub is near (`pipeline`), because
# Paramiko moves the whole backlog at every read; on a long line this is what a channel can have in flight.
WINDOW = MOST_DOWNLOAD_IN_FLIGHT + (1 << 20)
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")  # twice as fast as its default (CTR and a MAC)
_RECV_BYTES = 256 << 10
_HASH_LINE = re.compile(r"^([0-9a-f]{64})\s")


class _BufferedSocket:
    """Serves Paramiko's many small reads from few large ones, and ends writes that the hub does not take.

    Paramiko repeats a write for ever while the peer's buffers are full; counted here, so that a frozen hub is noticed
    also where the kernel has no TCP_USER_TIMEOUT.
    """

    def __init__(self, sock: socket.socket, stall_s: float) -> None:
        self._socket = sock
        self._stall_s = stall_s
        self._stalled_s = 0.0
        self._data = b""
        self._position = 0

    def recv(self, count: int) -> bytes:
        if self._position >= len(self._data):
            self._data, self._position = self._socket.recv(_RECV_BYTES), 0
        piece = self._data[self._position : self._position + count]
        self._position += len(piece)
        return piece

    def send(self, data: bytes) -> int:
        try:
            sent = self._socket.send(data)
        except TimeoutError:
            self._stalled_s += self._socket.gettimeout() or 0.0
            if self._stalled_s >= self._stall_s:
                raise ConnectionAbortedError("the hub takes no more bytes") from None
            raise
        self._stalled_s = 0.0
        return sent

    def __getattr__(self, name: str) -> object:
        return getattr(self._socket, name)


class Link:
    """Raises what Paramiko and the socket raise; the callers translate. Only the keys are read at once."""

    def __init__(self, hub: HubAddress, ssh_key: Path, stall_s: float = STALL_S, proxy: Proxy | None = None) -> None:
        self._hub = hub
        self._proxy = proxy
        self._pinned = _public_key(hub.host_key)
        self._key = _private_key(ssh_key)
        self.stall_s = stall_s
        self._transport: paramiko.Transport | None = None
        self._sftp: paramiko.SFTPClient | None = None
        self._hashes_here = False  # the hub refused to hash: found out once per connection

    def sftp(self) -> paramiko.SFTPClient:
        """For single questions: stat, rename, remove, list. Never used while a transfer runs on the same channel."""
        transport = self._connected()
        if self._sftp is None:
            self._sftp = paramiko.SFTPClient(self._channel(transport, "sftp"))
        return self._sftp

    def sftp_channel(self) -> paramiko.Channel:
        """A fresh channel that speaks SFTP, for one transfer."""
        return self._channel(self._connected(), "sftp")

    def sha256(self, path: str, num_bytes: int) -> str | None:
        """The SHA-256 by the hub's own reckoning; None if it cannot say, so that the file must be read back."""
        transport = self._connected()
        if self._hashes_here:
            return None
        for _ in range(NUM_EXEC_TRIES):
            try:
                status, output = self._run(transport, f"sha256sum {shlex.quote(path)}", num_bytes)
            except SSHException as error:
                if "channel closed" not in str(error).lower():
                    raise
                continue
            if status == 0 and (found := _HASH_LINE.match(output)):
                return found[1]
            if "too many open sessions" in output.lower():
                raise SSHException("too many open sessions")
            if "no such file" in output.lower():
                raise FileNotFoundError(2, "no such file")
            break
        self._hashes_here = True
        return None

    def close(self) -> None:
        transport, self._transport, self._sftp, self._hashes_here = self._transport, None, None, False
        if transport is not None:
            transport.close()

    def _connected(self) -> paramiko.Transport:
        if self._transport is not None and self._transport.is_active():
            return self._transport
        self.close()
        transport = self._new_transport()
        try:
            with _within(3 * HANDSHAKE_S, transport):
                transport.connect(hostkey=self._pinned, username=self._hub.username, pkey=self._key)
        except BaseException:
            transport.close()
            raise
        transport.set_keepalive(KEEPALIVE_S)
        self._transport = transport
        return transport

    def _new_transport(self) -> paramiko.Transport:
        sock = self._new_socket()
        try:
            _tune(sock)
            wrapped = _BufferedSocket(sock, self.stall_s)
            transport = paramiko.Transport(wrapped, default_window_size=WINDOW, default_max_packet_size=MAX_PACKET)  # type: ignore[arg-type]  # it asks only for what _BufferedSocket has
        except BaseException:
            sock.close()
            raise
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = HANDSHAKE_S
        transport.channel_timeout = self.stall_s
        transport.get_security_options().ciphers = CIPHERS
        return transport

    def _new_socket(self) -> socket.socket:
        try:
            return connected(self._hub.host, self._hub.port, self._proxy, CONNECT_S)
        except ProxyRefusedError as error:
            reason = error.sentence()
            raise ExchangeError(kind=error.kind, doing="Connecting to the hub", reason=reason) from error

    def _channel(self, transport: paramiko.Transport, subsystem: str) -> paramiko.Channel:
        channel = transport.open_session(timeout=self.stall_s)
        channel.settimeout(self.stall_s)
        with _within(self.stall_s, transport):
            channel.invoke_subsystem(subsystem)
        return channel

    def _run(self, transport: paramiko.Transport, command: str, num_bytes: int) -> tuple[int, str]:
        """Exit status and at most 4 KiB of what the command says."""
        patience_s = self.stall_s + num_bytes / HASH_BYTES_PER_S
        with transport.open_session(timeout=self.stall_s) as channel, _within(patience_s, transport):
            channel.settimeout(patience_s)
            channel.exec_command(command)
            output = b""
            while len(output) < 4096 and (piece := channel.recv(4096)):
                output += piece
            return channel.recv_exit_status(), output.decode("utf-8", "replace")


def host_key_of(host: str, port: int, proxy: Proxy | None, kind: str | None = None) -> str:
    """The key that whoever answers there shows, as a line: nothing is sent, not even a user name. For `hsl node check`.

    `kind`: of its keys the one to ask for, e.g. ssh-ed25519. Raises what Paramiko and the socket raise, and
    `ProxyRefusedError`.
    """
    sock = connected(host, port, proxy, CONNECT_S)
    try:
        transport = paramiko.Transport(sock)
    except BaseException:
        sock.close()
        raise
    try:
        transport.banner_timeout = transport.handshake_timeout = HANDSHAKE_S
        if kind is not None:
            transport.get_security_options().key_types = (kind,)
        transport.start_client(timeout=HANDSHAKE_S)
        key = transport.get_remote_server_key()
    finally:
        transport.close()
    return f"{key.get_name()} {key.get_base64()}"


@contextmanager
def _within(seconds: float, transport: paramiko.Transport) -> Iterator[None]:
    """Raises `TimeoutError` if the block takes longer: the connection is closed under it, which ends all waiting.

    Paramiko has no patience of its own for the answers to a subsystem or a command and for an exit status, and for a
    handshake only until the hub's first packet: a hub that falls silent there would hold the agent for ever.
    """
    is_over = threading.Event()

    def give_up() -> None:
        is_over.set()
        transport.close()

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (SSHException, OSError, EOFError) as error:
        if is_over.is_set():
            raise TimeoutError(f"no answer within {seconds} s") from error
        raise
    finally:
        timer.cancel()
    if is_over.is_set():  # an exit status that never came is no error to Paramiko
        raise TimeoutError(f"no answer within {seconds} s")


def _public_key(line: str) -> paramiko.PKey:
    """An OpenSSH public key line, `ssh-ed25519 AAAA… comment`."""
    try:
        kind, encoded = line.split()[:2]
        return paramiko.PKey.from_type_string(kind, base64.b64decode(encoded))
    except (ValueError, SSHException, UnknownKeyType) as error:
        reason = "the pinned host key cannot be read; enrol this node again."
        raise ExchangeError(kind=FailureKind.HOST_KEY, doing="Connecting to the hub", reason=reason) from error


def _private_key(path: Path) -> paramiko.Ed25519Key:
    try:
        return paramiko.Ed25519Key.from_private_key_file(str(path))
    except (ValueError, SSHException) as error:
        reason = f"{path.name} is not an Ed25519 key in OpenSSH format; enrol this node again."
        raise ExchangeError(kind=FailureKind.DENIED, doing="Connecting to the hub", reason=reason) from error


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 20),
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 4),
        ("TCP_USER_TIMEOUT", DEAD_LINE_MS),
    ):
        if (option := getattr(socket, name, None)) is not None:  # not on every system
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
