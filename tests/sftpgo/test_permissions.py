"""The permission matrix on the real SFTPGo: every operation, on every kind of path, by both of two nodes.

A few cells differ from the embedded hub's on purpose; they are listed with the reason, and only they may.
"""

import hashlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import paramiko
import psutil
import pytest

from hsl_model.protocol.paths import COORDINATOR_USER, NODES
from tests.embedded_hub.helpers import HTTP, HubProcess, Login
from tests.embedded_hub.operations import (
    ABSENT,
    ALLOWED,
    DENIED,
    FAILURE,
    MANIFEST,
    MATRIX,
    NEW,
    OPERATIONS,
    SHA,
    UNSUPPORTED,
    contents,
    furnish,
    read,
    run,
    verdict,
    write,
)
from tests.sftpgo.helpers import SftpgoProcess

pytestmark = pytest.mark.sftpgo

# operation: verdict in the own folder, in another node's, in /nodes, in /
TABLE: dict[str, tuple[str, str, str, str]] = {
    "create": (ALLOWED, DENIED, DENIED, DENIED),
    "create final": (ALLOWED, DENIED, DENIED, DENIED),
    "create other name": (DENIED, DENIED, DENIED, DENIED),
    "create hidden": (ALLOWED, DENIED, DENIED, DENIED),
    "overwrite part": (ALLOWED, DENIED, DENIED, DENIED),
    "resume part": (ALLOWED, DENIED, DENIED, DENIED),
    "overwrite final": (ALLOWED, DENIED, DENIED, DENIED),
    "change final": (ALLOWED, DENIED, DENIED, DENIED),
    "append": (ALLOWED, DENIED, DENIED, DENIED),
    "read final": (ALLOWED, ALLOWED, ALLOWED, DENIED),
    "read manifest": (ALLOWED, ALLOWED, ALLOWED, DENIED),
    "read part": (ALLOWED, ABSENT, ABSENT, DENIED),
    "list": (ALLOWED, ALLOWED, ALLOWED, ALLOWED),
    "stat final": (ALLOWED, ALLOWED, ALLOWED, ALLOWED),
    "stat part": (ALLOWED, ABSENT, ABSENT, ALLOWED),
    "stat missing": (ABSENT, ABSENT, ABSENT, ABSENT),
    "remove final": (ALLOWED, DENIED, DENIED, DENIED),
    "remove part": (ALLOWED, DENIED, DENIED, DENIED),
    "commit": (ALLOWED, DENIED, DENIED, DENIED),
    "commit onto": (ALLOWED, DENIED, DENIED, DENIED),
    "rename final": (ALLOWED, DENIED, DENIED, DENIED),
    "rename to part": (ALLOWED, DENIED, DENIED, DENIED),
    "mkdir": (DENIED, DENIED, DENIED, DENIED),
    "rmdir": (DENIED, DENIED, DENIED, DENIED),
    "chmod": (DENIED, DENIED, DENIED, DENIED),
    "truncate": (ALLOWED, DENIED, DENIED, DENIED),
    "symlink": (UNSUPPORTED, UNSUPPORTED, UNSUPPORTED, UNSUPPORTED),
    "readlink": (FAILURE, FAILURE, FAILURE, FAILURE),
    "plain rename": (ALLOWED, DENIED, DENIED, DENIED),
}

# Where the embedded hub answers otherwise, and why. Nowhere is SFTPGo the wider one in another node's folder.
OWN_FINALS = "SFTPGo tells a part from a final name only by hiding it: in its own folder a node may write both"
NO_SUCH_THING = "the embedded hub does not serve this at all"
HIDDEN_FIRST = "the embedded hub hides a part before it asks for rights; SFTPGo asks for rights first"
OUTSIDE = "the embedded hub knows no names outside the layout; for SFTPGo they are forbidden or just names"
DIFFERENCES = {
    "create final": OWN_FINALS,
    "overwrite final": OWN_FINALS,
    "change final": OWN_FINALS,
    "rename final": OWN_FINALS,
    "rename to part": OWN_FINALS,
    "remove part": HIDDEN_FIRST,
    "commit": HIDDEN_FIRST,
    "commit onto": HIDDEN_FIRST,
    "create other name": OUTSIDE,
    "create hidden": OUTSIDE,
    "append": NO_SUCH_THING,
    "mkdir": NO_SUCH_THING,
    "rmdir": NO_SUCH_THING,
    "chmod": NO_SUCH_THING,
    "truncate": NO_SUCH_THING,
    "readlink": NO_SUCH_THING,
    "plain rename": NO_SUCH_THING,
}

Count = Callable[[str, int], None]


@dataclass
class Client:
    transport: paramiko.Transport
    sftp: paramiko.SFTPClient
    login: Login

    @property
    def path(self) -> str:
        return f"{NODES}/{self.login.node_id}"


def open_client(hub: HubProcess, login: Login) -> Client:
    transport = hub.connect(login)
    sftp = transport.open_sftp_client()
    assert sftp is not None
    channel = sftp.get_channel()
    assert channel is not None
    channel.settimeout(120)
    return Client(transport, sftp, login)


@pytest.fixture
def pair(sftpgo: SftpgoProcess, new_node: Callable[[], Login]) -> Iterator[tuple[Client, Client]]:
    clients = open_client(sftpgo, new_node()), open_client(sftpgo, new_node())
    yield clients
    for client in clients:
        client.transport.close()


def tidy(folder: Path) -> None:
    """Files of the layout in it, fresh, and nothing else of what an operation may have left."""
    for path in folder.iterdir():
        if path.is_file() or path.is_symlink():
            path.unlink()
        elif path.name == "sub":
            path.rmdir()
    for name in (f"{SHA}.safetensors", f"{SHA}.part", MANIFEST):
        (folder / name).write_bytes(name.encode())


def test_the_matrix(sftpgo: SftpgoProcess, pair: tuple[Client, Client], count: Count) -> None:
    files = sftpgo.root / "files"
    for me, other in (pair, pair[::-1]):
        # A path that takes a detour has the verdict of where it leads.
        columns = [
            (me.path, 0),
            (other.path, 1),
            (NODES, 2),
            ("", 3),
            (f"/nodes/../..{me.path}", 0),
            (f"{me.path}/../{other.login.node_id}", 1),
            (f"{me.path}/..", 2),
            (f"{me.path}/../../../..", 3),
        ]
        folders = [sftpgo.folder(me.login.node_id), sftpgo.folder(other.login.node_id), files / "nodes", files]
        for name, operation in OPERATIONS.items():
            for path, column in columns:
                for folder in folders:
                    tidy(folder)
                theirs = {folder: contents_of_files(folder) for folder in folders[1:]}
                found = verdict(lambda: operation(me.sftp, path or "/"))  # noqa: B023 - called at once
                assert found == TABLE[name][column], (name, path)
                assert theirs == {folder: contents_of_files(folder) for folder in folders[1:]}, (name, path)
                count(f"permission cells on SFTPGo, {'allowed' if found == ALLOWED else 'refused'}", 1)
    for folder in (files, files / "nodes"):
        for name in contents_of_files(folder):
            (folder / name).unlink()


def contents_of_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_what_the_embedded_hub_does_otherwise() -> None:
    """Both tables are checked over the wire; here they are held against each other."""
    assert {name for name, row in TABLE.items() if row[:2] != MATRIX[name]} == set(DIFFERENCES)
    wider = [name for name, row in TABLE.items() if row[1] == ALLOWED and MATRIX[name][1] != ALLOWED]
    assert wider == []


def test_every_way_around_the_own_folder_is_closed(
    sftpgo: SftpgoProcess, pair: tuple[Client, Client], count: Count
) -> None:
    me, other = pair
    mine, theirs, sftp = me.path, other.path, me.sftp
    furnish(sftpgo.folder(me.login.node_id))
    before = furnish(sftpgo.folder(other.login.node_id))
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: read(sftp, f"{mine}/../../../sftpgo/sftpgo.db"), DENIED),
        (lambda: read(sftp, "/../../../../etc/passwd"), DENIED),
        (lambda: read(sftp, "/etc/passwd"), DENIED),
        (lambda: sftp.posix_rename(f"{mine}/{SHA}.part", f"{theirs}/{SHA}.safetensors"), DENIED),
        (lambda: sftp.posix_rename(f"{mine}/{SHA}.part", f"{theirs}/{NEW}.safetensors"), DENIED),
        (lambda: sftp.posix_rename(f"{mine}/{SHA}.part", f"/nodes/{NEW}.safetensors"), DENIED),
        (lambda: sftp.posix_rename(f"{mine}/{SHA}.part", f"/{NEW}.safetensors"), DENIED),
        (lambda: sftp.posix_rename(f"{theirs}/{SHA}.safetensors", f"{mine}/{NEW}.safetensors"), DENIED),
        (lambda: sftp.posix_rename(f"{theirs}/{SHA}.part", f"{mine}/{NEW}.safetensors"), DENIED),
        (lambda: sftp.posix_rename(f"{mine}/{NEW}.part", f"{mine}/{NEW}.safetensors"), ABSENT),
        (lambda: sftp.posix_rename(mine, f"{NODES}/elsewhere"), DENIED),
        (lambda: sftp.posix_rename(theirs, f"{mine}/{NEW}.safetensors"), DENIED),
        (lambda: sftp.remove(NODES), FAILURE),
        (lambda: sftp.remove(mine), FAILURE),
        (lambda: sftp.rmdir(NODES), DENIED),
        (lambda: write(sftp, f"{NODES}/{me.login.node_id.upper()}/{NEW}.part"), DENIED),
        (lambda: write(sftp, f"{NODES}/{me.login.node_id}2/{NEW}.part"), DENIED),
        (lambda: write(sftp, f"{NODES}/nobody/{NEW}.part"), DENIED),
        (lambda: sftp.listdir(f"{NODES}/nobody"), ABSENT),
    ]
    count("ways around the own folder, tried on SFTPGo", len(cases))
    for number, (operation, expected) in enumerate(cases):
        assert verdict(operation) == expected, number
    assert contents(sftpgo.folder(other.login.node_id)) == before
    assert sftp.normalize("../../..") == "/"
    assert sftp.listdir("/") == ["nodes"]


def test_others_parts_are_hidden(sftpgo: SftpgoProcess, pair: tuple[Client, Client]) -> None:
    me, other = pair
    for client in pair:
        furnish(sftpgo.folder(client.login.node_id))
    assert sorted(me.sftp.listdir(me.path)) == [f"{SHA}.part", f"{SHA}.safetensors", MANIFEST]
    assert sorted(me.sftp.listdir(other.path)) == [f"{SHA}.safetensors", MANIFEST]


def test_links_cannot_be_made_and_only_a_person_with_a_shell_could_lay_one(
    sftpgo: SftpgoProcess, pair: tuple[Client, Client], tmp_path: Path
) -> None:
    """Out of the hub no link leads. Within it SFTPGo judges by the path that was asked for, so a link that somebody
    laid on its disk opens the other folder: nothing but nodes and SFTPGo may write there (docs/security.md)."""
    me, other = pair
    secret = tmp_path / "secret"
    secret.write_text("secret")
    furnish(sftpgo.folder(other.login.node_id))
    (sftpgo.folder(me.login.node_id) / f"{SHA}.part").symlink_to(secret)
    for operation in (lambda: read(me.sftp, f"{me.path}/{SHA}.part"), lambda: write(me.sftp, f"{me.path}/{SHA}.part")):
        assert verdict(operation) == DENIED
    assert secret.read_text() == "secret"
    for link in (other.path, f"../{other.login.node_id}"):
        assert verdict(lambda: me.sftp.symlink(link, f"{me.path}/{NEW}.part")) == UNSUPPORTED  # noqa: B023
    (sftpgo.folder(me.login.node_id) / "link").symlink_to(f"../{other.login.node_id}")
    assert verdict(lambda: read(me.sftp, f"{me.path}/link/{SHA}.safetensors")) == ALLOWED


def test_the_hash_command(sftpgo: SftpgoProcess, pair: tuple[Client, Client]) -> None:
    me, other = pair
    for client in pair:
        furnish(sftpgo.folder(client.login.node_id))
    digest = hashlib.sha256(f"{SHA}.safetensors".encode()).hexdigest()
    for path in (f"{me.path}/{SHA}.safetensors", f"{other.path}/{SHA}.safetensors"):
        assert hashed(me, path) == (0, f"{digest}  {path}\n")
    assert hashed(me, f"{me.path}/{SHA}.part")[0] == 0
    for hidden in (f"{other.path}/{SHA}.part", f"{me.path}/{NEW}.part", "/etc/passwd", f"{me.path}/../../../hub.json"):
        status, text = hashed(me, hidden)
        assert (status, "no such file" in text) == (1, True), hidden
    assert hashed(me, me.path)[0] == 1


def hashed(client: Client, path: str) -> tuple[int, str]:
    """SFTPGo closes the channel of a permitted command too early in some calls of a thousand."""
    for _ in range(5):
        try:
            return run(client.transport, f"sha256sum {path}")
        except paramiko.SSHException as error:
            if "Channel closed" not in str(error):
                raise
    raise AssertionError(f"sha256sum {path} was refused five times")


@pytest.mark.parametrize(
    "command", ["id", "md5sum /x", "sha1sum /x", "scp -f /x", "scp -t /x", "cd", "pwd", "sh -c id"]
)
def test_no_other_command_runs(pair: tuple[Client, Client], command: str) -> None:
    me = pair[0]
    with pytest.raises(paramiko.SSHException, match="Channel closed"):
        run(me.transport, command)
    assert me.sftp.listdir("/") == ["nodes"]  # connection and channel live on


def test_no_shell_no_terminal_no_forwarding(pair: tuple[Client, Client]) -> None:
    transport = pair[0].transport
    with transport.open_session(timeout=120) as channel, pytest.raises(paramiko.SSHException):
        channel.invoke_shell()
    with transport.open_session(timeout=120) as channel, pytest.raises(paramiko.SSHException):
        channel.get_pty()
    with pytest.raises(paramiko.ChannelException):
        transport.open_channel("direct-tcpip", ("127.0.0.1", 22), ("127.0.0.1", 1), timeout=120)
    with pytest.raises(paramiko.SSHException):
        transport.request_port_forward("127.0.0.1", 0)


def test_keys_only_and_gcm_only(sftpgo: SftpgoProcess, pair: tuple[Client, Client]) -> None:
    me = pair[0]
    assert me.transport.local_cipher.endswith("-gcm@openssh.com")
    for attempt in (
        lambda transport: transport.auth_password(me.login.node_id, "guess"),
        lambda transport: transport.auth_interactive(me.login.node_id, lambda *_: ["guess"]),
        lambda transport: transport.auth_password(COORDINATOR_USER, sftpgo.token),
    ):
        transport = paramiko.Transport(socket.create_connection(("127.0.0.1", sftpgo.port), timeout=120))
        transport.start_client(timeout=120)
        with pytest.raises(paramiko.BadAuthenticationType) as caught:
            attempt(transport)
        assert caught.value.allowed_types == ["publickey"]
        transport.close()
    transport = paramiko.Transport(socket.create_connection(("127.0.0.1", sftpgo.port), timeout=120))
    transport.get_security_options().ciphers = ("aes128-ctr",)
    with pytest.raises(paramiko.SSHException):
        transport.start_client(timeout=120)
    transport.close()


def test_the_same_login_opens_no_other_protocol(sftpgo: SftpgoProcess, pair: tuple[Client, Client]) -> None:
    """Neither without a password, nor with one that somebody might give the user one day."""
    me = pair[0]
    login = (me.login.node_id, "A-Password-Of-Its-Own-1")
    for path in ("/api/v2/user/token", "/api/v2/token"):
        assert HTTP.get(sftpgo.rest_url + path, auth=login).status_code == 401
    user = {**sftpgo.user(me.login.node_id), "password": login[1]}
    for lifted in ("", "denied_protocols", "denied_login_methods"):  # each of the two alone is enough
        filters = {key: value for key, value in user["filters"].items() if key != lifted}
        reply = sftpgo.rest("PUT", f"/users/{me.login.node_id}", json={**user, "filters": filters})
        assert reply.status_code == 200
        assert HTTP.get(f"{sftpgo.rest_url}/api/v2/user/token", auth=login).status_code == 403, lifted
    for page in ("/web/client/login", "/web/admin/login", "/web/admin/setup", "/openapi/openapi.yaml"):
        assert HTTP.get(sftpgo.rest_url + page).status_code == 404
    listening = [one.laddr for one in psutil.Process(sftpgo.server_pid).net_connections() if one.status == "LISTEN"]
    assert {address.port for address in listening} == {sftpgo.port, sftpgo.rest_port, sftpgo.metrics_port}
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_the_coordinator_lists_makes_folders_and_deletes_but_never_reads(
    sftpgo: SftpgoProcess, pair: tuple[Client, Client]
) -> None:
    me = pair[0]
    furnish(sftpgo.folder(me.login.node_id))
    token = HTTP.get(f"{sftpgo.rest_url}/api/v2/user/token", auth=(COORDINATOR_USER, sftpgo.token)).json()
    file = f"{me.path}/{SHA}.safetensors"

    def ask(method: str, what: str, **content: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token['access_token']}"}
        return HTTP.request(method, f"{sftpgo.rest_url}/api/v2/user/{what}", headers=headers, **content)

    cases = {
        "list": (ask("GET", "dirs", params={"path": me.path}), 200),
        "read": (ask("GET", "files", params={"path": file}), 403),
        "write": (ask("POST", "files/upload", params={"path": file}, content=b"x"), 403),
        "rename": (ask("PATCH", "files", params={"path": file, "target": f"{me.path}/{NEW}.part"}), 403),
        "remove a folder": (ask("DELETE", "dirs", params={"path": me.path}), 403),
        "share": (ask("POST", "shares", json={"name": "x", "scope": 1, "paths": [me.path]}), 403),
        "change its password": (ask("PUT", "changepwd", json={}), 403),
        "read outside": (ask("GET", "files", params={"path": "/../../sftpgo/sftpgo.db"}), 404),
    }
    found = {name: reply.status_code for name, (reply, _) in cases.items()}
    assert found == {name: status for name, (_, status) in cases.items()}
    with pytest.raises(httpx.RemoteProtocolError):  # it ends the connection where the first file would begin
        ask("POST", "streamzip", json=[file])
    assert contents(sftpgo.folder(me.login.node_id))[f"{SHA}.safetensors"] == f"{SHA}.safetensors".encode()
