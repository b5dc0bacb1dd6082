"""The SSH side of the hub: who may log in, which channels are served, and ending a node's connections at once.

    connection ── key of the node? ──┬─ channel "sftp"           -> SftpSession
                                     ├─ channel `sha256sum PATH` -> one line, exit status
                                     └─ anything else            -> refused: no shell, no forwarding, no other command

Keys only. asyncssh does the transport and the login; what a channel may do is in `sftp` and `access`.
"""

import asyncio
import shlex
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import asyncssh
import structlog

from embedded_hub.files import HubFiles
from embedded_hub.settings import HubSettings
from embedded_hub.sftp import MAX_PACKET, SftpSession
from embedded_hub.users import Users
from embedded_hub.wire import BadMessageError

CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")  # one pass for cipher and MAC
WINDOW = 4 << 20  # bytes a node may send ahead on one channel
LOGIN_S = 30  # a connection that never logs in must not stay
KEEPALIVE_S = 15  # with three unanswered ones: a node whose line was cut leaves no open files behind
SHA256 = "sha256sum"

_log = structlog.get_logger(__name__)


class Connections:
    """Every live connection by node, from its first word on, so that none is missed when the node is cut."""

    def __init__(self) -> None:
        self._by_node: defaultdict[str, set[asyncssh.SSHServerConnection]] = defaultdict(set)

    def add(self, node_id: str, connection: asyncssh.SSHServerConnection) -> None:
        self._by_node[node_id].add(connection)

    def remove(self, node_id: str, connection: asyncssh.SSHServerConnection) -> None:
        self._by_node[node_id].discard(connection)
        if not self._by_node[node_id]:
            del self._by_node[node_id]

    def is_live(self, node_id: str, connection: asyncssh.SSHServerConnection) -> bool:
        return connection in self._by_node.get(node_id, ())

    def end(self, node_id: str) -> int:
        """Abort all of a node's connections; not another byte of theirs is served. How many there were."""
        ended = self._by_node.pop(node_id, set())
        for connection in ended:
            connection.abort()
        return len(ended)

    def end_all(self) -> None:
        for node_id in list(self._by_node):
            self.end(node_id)


@dataclass(frozen=True)
class HubParts:
    """What the SSH side and the admin API share."""

    users: Users
    files: HubFiles
    connections: Connections


class HubServer(asyncssh.SSHServer):
    """One per connection."""

    def __init__(self, parts: HubParts) -> None:
        self._users = parts.users
        self._files = parts.files
        self._connections = parts.connections
        self._connection: asyncssh.SSHServerConnection | None = None
        self._node_id = ""

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._connections.remove(self._node_id, self._connection)
        _log.info("connection_lost", node_id=self._node_id, error=type(exc).__name__ if exc else None)

    def begin_auth(self, username: str) -> bool:
        if self._connection is not None:
            self._connections.remove(self._node_id, self._connection)
            self._connections.add(username, self._connection)
        self._node_id = username
        return True

    def auth_completed(self) -> None:
        _log.info("logged_in", node_id=self._node_id)

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        allowed = self._users.may_log_in(username, key)
        if not allowed:
            _log.warning("login_refused", node_id=username)
        return allowed

    def session_requested(self) -> "HubSession":
        return HubSession(self._files, self._node_id, self._is_live)

    def _is_live(self) -> bool:
        return self._connection is not None and self._connections.is_live(self._node_id, self._connection)


class HubSession(asyncssh.SSHServerSession[bytes]):
    """One channel: SFTP, or one `sha256sum`."""

    def __init__(self, files: HubFiles, node_id: str, is_live: Callable[[], bool]) -> None:
        self._files = files
        self._node_id = node_id
        self._is_live = is_live
        self._channel: asyncssh.SSHServerChannel[bytes] | None = None
        self._sftp: SftpSession | None = None
        self._path: str | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._channel = None
        if self._sftp is not None:
            self._sftp.close()

    def subsystem_requested(self, subsystem: str) -> bool:
        if subsystem != "sftp":
            return False
        self._sftp = SftpSession(self._files, self._node_id, self._send, self._alive)
        return True

    def exec_requested(self, command: str) -> bool:
        try:
            words = shlex.split(command)
        except ValueError:
            return False
        if len(words) != 2 or words[0] != SHA256:
            return False
        self._path = words[1]
        return True

    def session_started(self) -> None:
        if self._path is not None:
            self._task = asyncio.get_running_loop().create_task(self._hash(self._path))

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        del datatype
        if self._sftp is None or self._channel is None or not self._is_live():
            return
        try:
            self._sftp.received(data)
        except BadMessageError:
            _log.warning("not_sftp", node_id=self._node_id)
            self._channel.abort()

    def eof_received(self) -> bool:
        """OpenSSH's client says so when it is done, and waits for the exit status and the end of the channel."""
        if self._sftp is not None and self._channel is not None and not self._channel.is_closing():
            self._channel.exit(0)
        return False

    def pause_writing(self) -> None:
        if self._sftp is not None and self._channel is not None:
            self._sftp.pause()
            self._channel.pause_reading()

    def resume_writing(self) -> None:
        if self._sftp is None or self._channel is None:
            return
        try:
            self._sftp.resume()
        except BadMessageError:
            self._channel.abort()
            return
        if not self._sftp.is_paused:
            self._channel.resume_reading()

    def _alive(self) -> bool:
        return self._channel is not None and self._is_live()

    def _send(self, answers: bytes) -> None:
        if self._channel is not None and not self._channel.is_closing():
            self._channel.write(answers)

    async def _hash(self, path: str) -> None:
        """Answer as coreutils and SFTPGo do: digest, two spaces, path; errors on stdout with exit status 1."""
        try:
            digest = await asyncio.to_thread(self._files.sha256, self._node_id, path.encode())
            line, status = f"{digest}  {path}\n", 0
        except OSError as error:
            what = "no such file or directory" if isinstance(error, FileNotFoundError) else "failure"
            line, status = f"{SHA256}: {path} {what}\n", 1
        if self._channel is not None and self._alive():
            self._channel.write(line.encode())
            self._channel.exit(status)


async def listen(settings: HubSettings, host_key: asyncssh.SSHKey, parts: HubParts) -> asyncssh.SSHAcceptor:
    return await asyncssh.listen(
        settings.host,
        settings.port,
        server_factory=lambda: HubServer(parts),
        server_host_keys=[host_key],
        encryption_algs=CIPHERS,
        compression_algs=None,  # weights do not compress
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_host=None,
        allow_pty=False,
        agent_forwarding=False,
        x11_forwarding=False,
        encoding=None,
        window=WINDOW,
        max_pktsize=MAX_PACKET,
        login_timeout=LOGIN_S,
        keepalive_interval=KEEPALIVE_S,
    )
